// The wanted values of JSON lines that were parsed before, from their bytes: lists of numbers by number-text.ts, other plain
// values one by one; what is not wanted is passed over. Lines with escapes, and wanted values that are nested, or numbers of
// more digits than a double has, are left to JSON.parse. Values are those that it gives, but lists of numbers are typed arrays.
import { compactNumbers, type NumberText, openNumberText } from "../number-text.ts";
import type { RowMemory } from "../row-memory.ts";
import type { Cell, Row, Table } from "../table.ts";
import { decode, type LinesFile, type Span } from "./lines.ts";

export interface WantedValues {
  /** Columns of a row; those that are not wanted are null. */
  readonly width: number;
  /** The wanted keys with their columns. */
  readonly columns: ReadonlyMap<string, number>;
  /** Reads a line that is left, all of it. */
  readonly toRow: (text: string) => Row;
}

/** Reads blocks of lines in which each was found to be a JSON object. */
export function wantedReader(file: LinesFile, { width, columns, toRow }: WantedValues): Table["read"] {
  return (block, memory) =>
    file.withSpans(block, (bytes, spans) => {
      const readLine = lineReader(bytes, openNumberText(bytes), columns, memory);
      return spans.map((span) => {
        if (span === null) return null;
        const cells = new Array<Cell>(width).fill(null);
        if (readLine(span, cells)) return cells;
        const row = toRow(decode(bytes.subarray(span.start, span.end)));
        for (const column of columns.values()) cells[column] = compact(row[column]!, memory);
        return cells;
      });
    });
}

function compact(cell: Cell, memory: RowMemory | undefined): Cell {
  return Array.isArray(cell) && cell.length > 0 && cell.every((item) => typeof item === "number")
    ? compactNumbers(cell as readonly number[], memory)
    : cell;
}

const [tab, space, quote, comma, colon, backslash] = [9, 32, 34, 44, 58, 92];
const [openList, closeList, openObject, closeObject] = [91, 93, 123, 125];

/** Writes a line's values into `cells`; false when the line is to be left to JSON.parse. */
function lineReader(
  bytes: Buffer,
  numbers: NumberText | null,
  columns: ReadonlyMap<string, number>,
  memory: RowMemory | undefined,
): (line: Span, cells: Cell[]) => boolean {
  /** The value at `at`, and where it ends; null when it is to be left. */
  const readValue = (at: number): { value: Cell; end: number } | null => {
    if (bytes[at] === quote) {
      const end = bytes.indexOf(quote, at + 1);
      return end < 0 ? null : { value: bytes.toString("utf8", at + 1, end), end: end + 1 };
    }
    if (bytes[at] === openList) {
      const end = bytes.indexOf(closeList, at + 1);
      const found = end < 0 ? null : numbers?.cells(at + 1, end, comma);
      return found?.unread.length === 0 ? { value: found.numbers(memory), end: end + 1 } : null;
    }
    if (bytes[at] === openObject) return null;
    const end = endOfValue(bytes, at);
    return { value: JSON.parse(bytes.toString("latin1", at, end)) as Cell, end };
  };

  let nextEscape = bytes.indexOf(backslash);
  return ({ start, end }, cells) => {
    if (nextEscape >= 0 && nextEscape < start) nextEscape = bytes.indexOf(backslash, start);
    if (nextEscape >= 0 && nextEscape < end) return false;
    let at = afterSpace(bytes, start);
    if (bytes[at] !== openObject) return false;
    do {
      at = afterSpace(bytes, at + 1);
      if (bytes[at] !== quote) return false;
      const keyEnd = bytes.indexOf(quote, at + 1);
      const column = columns.get(bytes.toString("utf8", at + 1, keyEnd));
      at = afterSpace(bytes, keyEnd + 1);
      if (keyEnd < 0 || bytes[at] !== colon) return false;
      at = afterSpace(bytes, at + 1);
      if (column === undefined) at = endOfValue(bytes, at);
      else {
        const read = readValue(at);
        if (read === null) return false;
        cells[column] = read.value;
        at = read.end;
      }
      at = afterSpace(bytes, at);
    } while (at < end && bytes[at] === comma);
    return at < end && bytes[at] === closeObject;
  };
}

function afterSpace(bytes: Uint8Array, from: number): number {
  let at = from;
  while (bytes[at] === space || bytes[at] === tab) at++;
  return at;
}

/** Behind the value at `from`, in which nothing is escaped. */
function endOfValue(bytes: Buffer, from: number): number {
  for (let [at, depth] = [from, 0]; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte === quote) {
      const end = bytes.indexOf(quote, at + 1);
      at = end < 0 ? bytes.length : end;
      if (depth === 0) return at + 1;
    } else if (byte === openList || byte === openObject) depth++;
    else if (byte === closeList || byte === closeObject) {
      if (depth === 0) return at; // the end of what the value is in
      if (--depth === 0) return at + 1;
    } else if (depth === 0 && (byte === comma || byte === space || byte === tab)) return at;
  }
  return bytes.length;
}
