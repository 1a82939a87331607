// What every format becomes: rows by number, a row being the cells of the columns in their order. Rows come in blocks that
// are read together (a quarter megabyte of lines, a row group), so that a file of any size needs memory for a few of them
// only; a table that is in memory gives single rows at once. A format is one file in formats/ that makes one of these.
import type { RowMemory } from "./row-memory.ts";

/** What one cell holds; null where a row has nothing. Arrays are numbers of any shape, row-major. */
export type Cell = null | boolean | number | bigint | string | NumberArray | readonly Cell[] | CellObject;

export interface CellObject {
  readonly [key: string]: Cell;
}

export type NumberArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/** Numbers as float32 where that holds each of them exactly. */
export type Floats = Float32Array | Float64Array;

/** The cells of one row, by the number of their column. A row of numbers may be a view of an array. */
export interface Row extends ArrayLike<Cell> {
  /** Given by `Table.reader` for text: what Number makes of cells, and NaN where the cell itself is to be asked. */
  readonly numbers?: Floats;
}

/** All that is read of each row, by columns, so that a format need not make the rest. */
export interface Reads {
  /** Only the numbers in these cells count: 7 may stand for the text 007. */
  readonly numbers: readonly number[];
  readonly cells: readonly number[];
}

/** A column: its name, and the shape of its cells where the file says it (an IDX file, a tensor). */
export interface Column {
  readonly name: string;
  readonly dims?: readonly number[];
  /** Cells are paths of image files, to be decoded when they are needed. */
  readonly image?: boolean;
}

/** A row that cannot be read. */
export interface FaultyRow {
  readonly row: number;
  /** What is wrong, after file and line: `train.jsonl:12: …`. */
  readonly fault: string;
}

export interface Table {
  readonly format: string;
  readonly columns: readonly Column[];
  /** Rows, the faulty ones included. */
  readonly length: number;
  /** The first row of each block, and at the end `length`. */
  readonly blocks: Float64Array;
  /** At most so many blocks are to be in memory at once while rows are shuffled; default: any number. */
  readonly windowBlocks?: number;
  /** Rows that cannot be read, in their order; reading them gives null. */
  readonly faulty: readonly FaultyRow[];
  /** Class names, where the format has them (a folder of folders). */
  readonly labels: readonly string[] | null;
  /** The rows of one block; null for a faulty one. Given a memory, their numbers may lie in it. */
  read(block: number, memory?: RowMemory): Promise<readonly (Row | null)[]>;
  /** As `read`, of rows that were checked, in less time: what `reads` leaves out may be missing or null. */
  reader?(reads: Reads): Table["read"];
  /** One row of a table that is in memory; absent otherwise. */
  readonly at?: (row: number) => Row | null;
  /** File and line (or row) of a row, for messages. */
  where(row: number): Promise<string>;
  close(): Promise<void>;
}

/** Rows that a block of a table in memory has; only passes over all of it read by blocks. */
const memoryBlock = 4096;

/** A table whose rows are in memory. */
export function memoryTable(
  table: Pick<Table, "format" | "columns" | "length"> &
    Partial<Pick<Table, "labels" | "faulty">> & { at(row: number): Row | null; where(row: number): string },
): Table {
  const { length } = table;
  return {
    format: table.format,
    columns: table.columns,
    length,
    labels: table.labels ?? null,
    faulty: table.faulty ?? [],
    at: table.at,
    blocks: Float64Array.from({ length: Math.ceil(length / memoryBlock) + 1 }, (_, block) =>
      Math.min(block * memoryBlock, length),
    ),
    read: (block) => {
      const first = block * memoryBlock;
      const rows = Array.from({ length: Math.min(memoryBlock, length - first) }, (_, row) => table.at(first + row));
      return Promise.resolve(rows);
    },
    where: (row) => Promise.resolve(table.where(row)),
    close: () => Promise.resolve(),
  };
}

/** Which block holds a row. */
export function blockOf(blocks: ArrayLike<number>, row: number): number {
  let low = 0;
  let high = blocks.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (blocks[middle]! <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Several tables as one, in their order. Columns are matched by name; a table without one has null there. */
export function joinTables(tables: readonly Table[]): Table {
  if (tables.length === 1) return tables[0]!;
  const columns = [
    ...new Map(tables.flatMap((table) => table.columns.map((column) => [column.name, column]))).values(),
  ];
  const offsets = runningSums(tables.map((table) => table.length));
  const adapt = tables.map((table) => rowAdapter(table.columns, columns));
  const starts = tables.flatMap((table, index) =>
    [...table.blocks.subarray(0, -1)].map((row) => row + offsets[index]!),
  );
  const blocksBefore = runningSums(tables.map((table) => table.blocks.length - 1));
  const length = offsets.at(-1)!;
  const locate = (position: number, bounds: readonly number[]): number => {
    let index = 0;
    while (position >= bounds[index + 1]!) index++;
    return index;
  };
  const adapted = (row: Row | null, index: number): Row | null => row && (adapt[index]?.(row) ?? row);
  const at = (row: number): Row | null => {
    const index = locate(row, offsets);
    return adapted(tables[index]!.at!(row - offsets[index]!), index);
  };
  const readers =
    (blockReaders: readonly Table["read"][]): Table["read"] =>
    async (block, memory) => {
      const index = locate(block, blocksBefore);
      const rows = await blockReaders[index]!(block - blocksBefore[index]!, memory);
      return adapt[index] === null ? rows : rows.map((row) => adapted(row, index));
    };
  return {
    format: [...new Set(tables.map(({ format }) => format))].join(", "),
    columns,
    length,
    labels: tables.find(({ labels }) => labels !== null)?.labels ?? null,
    faulty: tables.flatMap((table, index) =>
      table.faulty.map(({ row, fault }) => ({ row: row + offsets[index]!, fault })),
    ),
    blocks: Float64Array.from([...starts, length]),
    windowBlocks: Math.min(...tables.map(({ windowBlocks = Number.POSITIVE_INFINITY }) => windowBlocks)),
    read: readers(tables.map(({ read }) => read)),
    ...(tables.every((table) => table.at) ? { at } : {}),
    // Where columns are numbered anew, so would be what is read of them.
    ...(adapt.every((one) => one === null) && {
      reader: (reads) => readers(tables.map(({ read, reader }) => reader?.(reads) ?? read)),
    }),
    where(row) {
      const index = locate(row, offsets);
      return tables[index]!.where(row - offsets[index]!);
    },
    async close() {
      for (const table of tables) await table.close();
    },
  };
}

/** Rows with their columns as in `to`; null when they are that already. */
function rowAdapter(from: readonly Column[], to: readonly Column[]): ((row: Row) => Row) | null {
  const places = to.map(({ name }) => from.findIndex((column) => column.name === name));
  if (from.length === to.length && places.every((place, index) => place === index)) return null;
  return (row) => places.map((place) => (place < 0 ? null : row[place]!));
}

/** 0, and the sum of each beginning of `counts`. */
function runningSums(counts: readonly number[]): number[] {
  const sums = [0];
  for (const count of counts) sums.push(sums.at(-1)! + count);
  return sums;
}
