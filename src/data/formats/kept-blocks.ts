// What was read of a file of lines stays in memory where all of it fits there: numbers in arrays take less than their text, and a
// later pass need not read text again. Whether it fits is foretold from the blocks that were read so far, so that a large file
// takes no more memory than it would without.
import type { Cell, Reads, Row, Table } from "../table.ts";

/** Memory for what is kept of one file: 256 MiB. */
export const defaultMemoryBytes: number = 256 * 2 ** 20;

/** About what a row takes beside its values. */
const rowBytes = 400;

/** Readers of a table; those of the same cells share what they keep. */
export function keptReader(
  blocks: number,
  memoryBytes: number,
  makeReader: (reads: Reads) => Table["read"],
): (reads: Reads) => Table["read"] {
  const readers = new Map<string, Table["read"]>();
  return (reads) => {
    const key = JSON.stringify([reads.numbers, reads.cells]);
    const reader = readers.get(key) ?? keeping(makeReader(reads), blocks, memoryBytes);
    readers.set(key, reader);
    return reader;
  };
}

function keeping(read: Table["read"], blocks: number, memoryBytes: number): Table["read"] {
  const kept = new Map<number, readonly (Row | null)[]>();
  let [bytes, fits] = [0, true];
  return async (block, memory) => {
    const before = kept.get(block);
    if (before !== undefined) return before;
    const rows = await read(block, fits ? undefined : memory);
    if (!fits || kept.has(block)) return rows;
    kept.set(block, rows);
    for (const row of rows) bytes += bytesOfRow(row);
    fits = (bytes / kept.size) * blocks <= memoryBytes;
    if (!fits) kept.clear();
    return rows;
  };
}

function bytesOfRow(row: Row | null): number {
  if (row === null) return 0;
  return (Object.values(row) as Cell[]).reduce<number>((sum, cell) => sum + bytesOfCell(cell), rowBytes);
}

function bytesOfCell(cell: Cell): number {
  if (typeof cell === "string") return 2 * cell.length;
  if (typeof cell !== "object" || cell === null) return 8;
  if (ArrayBuffer.isView(cell)) return cell.byteLength;
  return Object.values(cell as readonly Cell[]).reduce<number>((sum, item) => sum + 16 + bytesOfCell(item), 0);
}
