// CSV (RFC 4180): quoted cells with doubled quotes and line ends, LF or CRLF; commas, semicolons or tabs, whichever the first
// record has most of. A table of nothing but numbers that fits in memory is kept as float32 from the opening pass on;
// others are read in blocks. A first record with any cell that is no number is the header, else columns are c0, c1, ….
import { LowrankError } from "../../errors.ts";
import { cellNumber } from "../fields.ts";
import { compactNumbers, openNumberText } from "../number-text.ts";
import type { RowMemory } from "../row-memory.ts";
import { type Cell, type Floats, memoryTable, type Reads, type Row, type Table } from "../table.ts";
import { defaultMemoryBytes, keptReader } from "./kept-blocks.ts";
import { decode, type LinesFile, openLines, type Span } from "./lines.ts";

export interface CsvOptions {
  /** Whether the first record names the columns; default: when any of its cells is no number. */
  readonly header?: boolean;
  /** Numbers up to this many bytes are kept in memory; default 256 MiB. */
  readonly memoryBytes?: number;
}

/**
 * Opens a CSV file.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openCsv(path: string, options: CsvOptions = {}): Promise<Table> {
  const { memoryBytes = defaultMemoryBytes } = options;
  let names: string[] | null = null;
  let delimiter = ",";
  let numbers: NumberRows | null = null;
  const file = await openLines(path, {
    quotes: true,
    visit(text) {
      if (names === null) {
        delimiter = likelyDelimiter(text);
        const first = splitRecord(text, delimiter);
        if (typeof first === "string") throw new LowrankError("data", `${path}:1: ${first}`);
        const isHeader = options.header ?? first.some((cell) => !isNumber(cell));
        names = isHeader ? checkedNames(path, first) : first.map((_, index) => `c${index}`);
        numbers = numberRows(names.length, memoryBytes);
        if (isHeader) return "skip";
      }
      const cells = splitRecord(text, delimiter);
      const fault =
        typeof cells === "string"
          ? cells
          : cells.length === names.length
            ? null
            : `expected ${names.length} cells as in the first record, got ${cells.length}`;
      if (numbers !== null && !numbers.add(fault === null ? (cells as string[]) : null)) numbers = null;
      return fault;
    },
  });
  const columns = ((names as string[] | null) ?? []).map((name) => ({ name }));
  const { rows: length, faulty } = file;
  const kept = numbers as NumberRows | null;
  if (kept !== null && length > 0) {
    const faults = new Set(faulty.map(({ row }) => row));
    const at = (row: number): Row | null => (faults.has(row) ? null : kept.at(row));
    const table = memoryTable({ format: "csv", columns, length, faulty, at, where: () => path });
    return { ...table, where: file.where, close: file.close };
  }
  const toRow = (text: string): Row => splitRecord(text, delimiter) as string[];
  const read = (block: number): Promise<readonly (Row | null)[]> => file.read(block, toRow);
  const reader = keptReader(file.blocks.length - 1, memoryBytes, (reads) =>
    numbersReader(file, { width: columns.length, delimiter, reads }),
  );
  return { ...file, format: "csv", columns, length, labels: null, read, reader };
}

interface NumberRow extends Row {
  readonly numbers: Floats;
  [column: number]: Cell;
}

/** Reads what is wanted of records that were split before: the numbers in one array, other cells as text beside it. */
function numbersReader(
  file: LinesFile,
  { width, delimiter, reads }: { readonly width: number; readonly delimiter: string; readonly reads: Reads },
): Table["read"] {
  const isNumber = new Set(reads.numbers);
  const rowOf = (numbers: Floats, textOf: (column: number) => string): Row => {
    const row: NumberRow = { length: width, numbers };
    for (const column of reads.cells) row[column] = textOf(column);
    return row;
  };
  const splitRow = (record: Uint8Array, memory: RowMemory | undefined): Row => {
    const cells = splitRecord(decode(record), delimiter) as string[];
    const numbers = cells.map((cell, column) => (isNumber.has(column) ? cellNumber(cell) : Number.NaN));
    return rowOf(compactNumbers(numbers, memory), (column) => cells[column]!);
  };
  const rowsOf = (bytes: Buffer, spans: readonly (Span | null)[], memory: RowMemory | undefined): (Row | null)[] => {
    const text = openNumberText(bytes);
    let nextQuote = bytes.indexOf(quote);
    return spans.map((span) => {
      if (span === null) return null;
      const { start, end } = span;
      if (nextQuote >= 0 && nextQuote < start) nextQuote = bytes.indexOf(quote, start);
      const hasQuotes = nextQuote >= 0 && nextQuote < end;
      const isPlain = !hasQuotes && bytes[start] !== byteOrderMark;
      const found = isPlain ? text?.cells(start, end, delimiter.charCodeAt(0)) : null;
      if (found?.count !== width) return splitRow(bytes.subarray(start, end), memory);
      const textOf = (column: number): string =>
        bytes.toString("utf8", column === 0 ? start : found.endOf(column - 1) + 1, found.endOf(column));
      for (const column of found.unread) {
        if (isNumber.has(column)) found.set(column, cellNumber(textOf(column)));
      }
      return rowOf(found.numbers(memory), textOf);
    });
  };
  return (block, memory) => file.withSpans(block, (bytes, spans) => rowsOf(bytes, spans, memory));
}

const quote = 34;
/** The first byte of one, in UTF-8. */
const byteOrderMark = 0xef;

/** One record as text; quotes where they are needed. */
export function formatRecord(cells: readonly Cell[]): string {
  return cells
    .map((cell) => (cell === null ? "" : String(cell)))
    .map((text) => (/[",;\t\r\n]|^\s|\s$|^$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text))
    .join(",");
}

/** The cells of one record, or what is wrong with it. */
export function splitRecord(text: string, delimiter: string): string[] | string {
  const hasReturn = text.includes("\r");
  const loneReturn = "a carriage return stands in a cell; save the file with lines that end in LF or CRLF";
  if (!text.includes('"')) return hasReturn ? loneReturn : text.split(delimiter);
  const cells: string[] = [];
  for (let at = 0; ; at++) {
    if (text[at] === '"') {
      let end = text.indexOf('"', at + 1);
      while (end >= 0 && text[end + 1] === '"') end = text.indexOf('"', end + 2);
      if (end < 0) return "a quote is opened and never closed";
      cells.push(text.slice(at + 1, end).replaceAll('""', '"'));
      at = end + 1;
      if (at < text.length && text[at] !== delimiter) {
        return `expected ${JSON.stringify(delimiter)} after a quoted cell, got ${JSON.stringify(text[at])}`;
      }
    } else {
      const found = text.indexOf(delimiter, at);
      const end = found < 0 ? text.length : found;
      const cell = text.slice(at, end);
      if (cell.includes('"')) return "a quote stands inside a cell; quote the whole cell and double the quotes in it";
      if (hasReturn && cell.includes("\r")) return loneReturn;
      cells.push(cell);
      at = end;
    }
    if (at >= text.length) return cells;
    if (at === text.length - 1) return [...cells, ""]; // a delimiter at the end: one more, empty cell
  }
}

function likelyDelimiter(text: string): string {
  const unquoted = text.replaceAll(/"[^"]*"/g, "");
  const count = (mark: string): number => unquoted.split(mark).length;
  return [",", ";", "\t"].reduce((best, mark) => (count(mark) > count(best) ? mark : best));
}

function checkedNames(path: string, names: readonly string[]): string[] {
  const trimmed = names.map((name) => name.trim());
  const double = trimmed.find((name, index) => trimmed.indexOf(name) !== index);
  if (double !== undefined) {
    throw new LowrankError("data", `${path}:1: two columns are called ${JSON.stringify(double)}; rename one`);
  }
  return trimmed;
}

function isNumber(text: string): boolean {
  return text.trim() !== "" && !Number.isNaN(Number(text));
}

interface NumberRows {
  /** Adds a row (null: a faulty one, as zeros). False when it is not all numbers, or there are too many. */
  add(cells: readonly string[] | null): boolean;
  at(row: number): Float32Array;
}

/** Rows of numbers in pieces of a few megabytes: growing one array would need twice the memory. */
function numberRows(width: number, maxBytes: number): NumberRows {
  const perPiece = Math.max(1, Math.floor(2 ** 20 / width));
  const pieces: Float32Array[] = [];
  let rows = 0;
  return {
    add(cells) {
      if ((rows + 1) * width * 4 > maxBytes) return false;
      if (rows % perPiece === 0) pieces.push(new Float32Array(perPiece * width));
      const target = pieces.at(-1)!;
      const start = (rows % perPiece) * width;
      rows++;
      if (cells === null) return true;
      for (let column = 0; column < width; column++) {
        const text = cells[column]!;
        const value = Number(text);
        // Whole numbers beyond float32, and codes such as 007, stay what they are: text.
        if (Number.isNaN(value) || (Number.isInteger(value) && Math.fround(value) !== value)) return false;
        if (text === "" || text.trim() === "" || (text.length > 1 && /^0\d/.test(text))) return false;
        target[start + column] = value;
      }
      return true;
    },
    at(row) {
      const start = (row % perPiece) * width;
      return pieces[Math.floor(row / perPiece)]!.subarray(start, start + width);
    },
  };
}
