// Which rows of a table are meant: a bit for each, since a list of row numbers would outgrow memory on large files. With
// the count of chosen rows before each block, the n-th chosen row is found without looking at the others.
import { createRandom } from "../random.ts";
import type { Row, Table } from "./table.ts";

/** Chosen rows of a table. */
export interface Selection {
  /** Bit row % 8 of byte row / 8 says whether a row is in. */
  readonly bits: Uint8Array;
  readonly count: number;
}

/** All rows but the faulty ones. */
export function allRows({ length, faulty }: Table): Selection {
  const bits = new Uint8Array(Math.ceil(length / 8)).fill(255);
  if (length % 8 !== 0) bits[bits.length - 1] = (1 << (length % 8)) - 1;
  for (const { row } of faulty) bits[Math.floor(row / 8)]! &= ~(1 << (row % 8));
  return { bits, count: length - faulty.length };
}

/** Whether a row is in. */
export function isChosen({ bits }: Selection, row: number): boolean {
  return (bits[Math.floor(row / 8)]! & (1 << (row % 8))) !== 0;
}

/** The chosen rows among first … end - 1. */
export function chosenRows(selection: Selection, first: number, end: number): number[] {
  const rows: number[] = [];
  for (let row = first; row < end; row++) if (isChosen(selection, row)) rows.push(row);
  return rows;
}

/** The chosen rows for which `keep` holds; reads each of them. */
export async function narrow(
  table: Table,
  selection: Selection,
  keep: (row: Row, number: number) => boolean | Promise<boolean>,
): Promise<Selection> {
  const bits = new Uint8Array(selection.bits.length);
  let count = 0;
  for await (const { row, number } of rowsOf(table, selection)) {
    const kept = keep(row, number);
    if (!(typeof kept === "boolean" ? kept : await kept)) continue;
    bits[Math.floor(number / 8)]! |= 1 << (number % 8);
    count++;
  }
  return { bits, count };
}

/** The first `count` chosen rows. */
export function firstRows(selection: Selection, count: number): Selection {
  const bits = new Uint8Array(selection.bits.length);
  let taken = 0;
  for (let row = 0; taken < count && row < bits.length * 8; row++) {
    if (!isChosen(selection, row)) continue;
    bits[Math.floor(row / 8)]! |= 1 << (row % 8);
    taken++;
  }
  return { bits, count: taken };
}

/** The rows that are in `whole` but not in `part`. */
export function without(whole: Selection, part: Selection): Selection {
  return {
    bits: whole.bits.map((byte, index) => byte & ~part.bits[index]!),
    count: whole.count - part.count,
  };
}

/** The chosen rows in their order, with their numbers. */
export async function* rowsOf(
  table: Table,
  selection: Selection,
): AsyncGenerator<{ readonly row: Row; readonly number: number }> {
  const { blocks } = table;
  for (let block = 0; block + 1 < blocks.length; block++) {
    const numbers = chosenRows(selection, blocks[block]!, blocks[block + 1]!);
    if (numbers.length === 0) continue;
    const rows = await table.read(block);
    for (const number of numbers) yield { row: rows[number - blocks[block]!]!, number };
  }
}

/**
 * A number in [0, 1) from a row's content: FNV-1a (Fowler, Noll & Vo) over its cells, 32 bits, and MurmurHash3's finish
 * (Appleby), without which short rows would lie close together. Equal rows get equal numbers, wherever they stand.
 */
export function rowHasher(seed: number): (row: Row) => number {
  const start = createRandom(seed, "split").uint32();
  return (row) => {
    let hash = start;
    for (let column = 0; column < row.length; column++) hash = hashCell(hash, row[column]!);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
  };
}

const prime = 0x01000193;
const float = new Float64Array(1);
const halves = new Int32Array(float.buffer);

function hashCell(start: number, cell: Row[number]): number {
  let hash = start;
  if (typeof cell === "number") {
    float[0] = cell;
    return Math.imul(Math.imul(hash ^ halves[0]!, prime) ^ halves[1]!, prime);
  }
  if (typeof cell === "object" && cell !== null) {
    const items: ArrayLike<Row[number]> = "length" in cell ? (cell as ArrayLike<Row[number]>) : Object.values(cell);
    for (let at = 0; at < items.length; at++) hash = hashCell(hash, items[at]!);
    return Math.imul(hash ^ items.length, prime);
  }
  const text = String(cell);
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), prime);
  return Math.imul(hash ^ 0x1ff, prime);
}
