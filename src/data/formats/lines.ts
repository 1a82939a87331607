// Files of lines, of any size: an opening pass reads each line once and keeps for every quarter megabyte where it begins
// (three numbers), so that a later read of any block costs one read of the file. 10 GB of lines are 40,000 blocks: a
// megabyte of index. All faulty lines are found in the opening pass, before anything is trained.
import { isUtf8 } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { LowrankError } from "../../errors.ts";
import type { FaultyRow, Row } from "../table.ts";
import { fill, openFile } from "./file-bytes.ts";

/** A line may be this long: a hostile file without line ends is not read into memory. */
export const maxLineBytes: number = 16 * 2 ** 20;

/** Beyond this many faulty rows a file is no file of this format. */
const maxFaulty = 10_000;

/** A file of so many blocks, as many as a window of the shuffled order has, stays in memory, parsed: each pass goes over it again. */
const smallFileBlocks = 32;

/** Blocks that stay of a larger file. A window holds its own rows, so more would only be there twice. */
const keptBlocks = 2;

const blockBytes = 256 * 1024;

/** One line (or, with quotes, one record of several lines) in a block's bytes. */
export interface Span {
  readonly start: number;
  readonly end: number;
  /** Line in the block, from 0. */
  readonly line: number;
}

export interface LinesOptions {
  /** Line ends between double quotes belong to the record (CSV). */
  readonly quotes: boolean;
  /** Is shown each record of the opening pass; says what is wrong with it, else null. "skip": it is no row (a header). */
  visit(text: string): string | null | "skip";
}

export interface LinesFile {
  readonly rows: number;
  readonly blocks: Float64Array;
  readonly faulty: readonly FaultyRow[];
  /** Reads a block, giving each record's text to `parse`. */
  read(block: number, parse: (text: string) => Row): Promise<readonly (Row | null)[]>;
  /**
   * Reads a block and shows its bytes to `make`, with where its records are in them, null for faulty ones. The bytes are valid
   * only until it returns: the next block is read into the same memory.
   */
  withSpans<T>(block: number, make: (bytes: Buffer, spans: readonly (Span | null)[]) => T): Promise<T>;
  where(row: number): Promise<string>;
  close(): Promise<void>;
}

/**
 * Opens a file of lines and reads all of it once.
 *
 * @throws LowrankError "file" when it cannot be read, "data" for what is no text of lines.
 */
export async function openLines(path: string, options: LinesOptions): Promise<LinesFile> {
  const handle = await openFile(path);
  try {
    return linesFile(path, handle, options, await indexFile(path, handle, options));
  } catch (error) {
    await handle.close();
    throw error;
  }
}

interface Index {
  readonly offsets: number[]; // and at the end the file's size
  readonly rows: number[]; // first row of each block, and at the end their number
  readonly lines: number[]; // first line of each block, from 1
  readonly faulty: FaultyRow[];
  readonly skipped: Map<number, Set<number>>; // records of each block that are no rows
}

async function indexFile(path: string, handle: FileHandle, options: LinesOptions): Promise<Index> {
  const index: Index = { offsets: [0], rows: [0], lines: [1], faulty: [], skipped: new Map() };
  const { size } = await handle.stat();
  const buffer = Buffer.allocUnsafeSlow(Math.min(size, blockBytes)); // of which indexOf is several times as fast
  let [offset, row, line] = [0, 0, 1];
  while (offset < size) {
    const block = await nextBlock(path, handle, buffer, { offset, size, line, quotes: options.quotes });
    for (const [number, span] of block.spans.entries()) {
      const fault = visitSpan(block.bytes, span, options);
      if (fault === "skip") {
        const inBlock = index.offsets.length - 1;
        index.skipped.set(inBlock, (index.skipped.get(inBlock) ?? new Set()).add(number));
        continue;
      }
      if (fault !== null) index.faulty.push({ row, fault: `${path}:${line + span.line}: ${fault}` });
      if (index.faulty.length > maxFaulty) throw tooMany(path, index.faulty);
      row++;
    }
    offset += block.consumed;
    line += block.lines;
    index.offsets.push(offset);
    index.rows.push(row);
    index.lines.push(line);
  }
  return index;
}

function visitSpan(bytes: Uint8Array, { start, end }: Span, { visit }: LinesOptions): string | null | "skip" {
  const slice = bytes.subarray(start, end);
  if (!isUtf8(slice)) return "expected UTF-8 text, got other bytes; save the file as UTF-8";
  if (slice.includes(0)) return "expected text, got a NUL byte";
  return visit(decode(slice));
}

function tooMany(path: string, faulty: readonly FaultyRow[]): LowrankError {
  const first = faulty.slice(0, 3).map(({ fault }) => `\n  - ${fault}`);
  return new LowrankError("data", `${path}: over ${maxFaulty} faulty rows; is it of another format?${first.join("")}`, {
    faults: faulty.map(({ fault }) => fault),
  });
}

interface Block {
  readonly bytes: Uint8Array;
  readonly spans: readonly Span[];
  readonly consumed: number;
  readonly lines: number;
}

interface Place {
  readonly offset: number;
  readonly size: number;
  readonly line: number;
  readonly quotes: boolean;
}

/** The whole records in the next quarter megabyte, or the next one if it is longer. */
async function nextBlock(path: string, handle: FileHandle, buffer: Uint8Array, place: Place): Promise<Block> {
  const { offset, size, line, quotes } = place;
  for (let want = blockBytes; ; want *= 2) {
    const length = Math.min(want, size - offset);
    const bytes = length <= buffer.length ? buffer.subarray(0, length) : Buffer.allocUnsafeSlow(length);
    await fill(path, handle, bytes, offset);
    const atEnd = offset + length === size;
    const found = splitRecords(bytes, quotes, atEnd);
    if (found.openQuote && atEnd) {
      throw new LowrankError("data", `${path}:${line + found.lines}: a quote is opened and never closed`);
    }
    if (found.consumed > 0) return { ...found, bytes };
    if (want >= maxLineBytes) {
      throw new LowrankError(
        "data",
        `${path}:${line}: expected lines of at most ${maxLineBytes} bytes, got a longer one`,
      );
    }
  }
}

const newline = 10;
const carriageReturn = 13;
const quote = 34;

/** Splits bytes at line ends outside quotes. Blank lines are no records. Without `atEnd` an unfinished record is left. */
function splitRecords(
  bytes: Uint8Array,
  quotes: boolean,
  atEnd: boolean,
): { spans: Span[]; consumed: number; lines: number; openQuote: boolean } {
  const spans: Span[] = [];
  let [start, line, firstLine, open] = [0, 0, 0, false];
  const finish = (end: number): void => {
    const last = end > start && bytes[end - 1] === carriageReturn ? end - 1 : end;
    if (!isBlank(bytes, start, last)) spans.push({ start, end: last, line: firstLine });
  };
  let nextQuote = quotes ? bytes.indexOf(quote) : -1;
  const passQuotes = (end: number): void => {
    for (; nextQuote >= 0 && nextQuote < end; nextQuote = bytes.indexOf(quote, nextQuote + 1)) open = !open;
  };
  let from = 0;
  let consumed = 0;
  for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, from)) {
    if (nextQuote >= 0 && nextQuote < at) passQuotes(at);
    from = at + 1;
    line++;
    if (open) continue;
    finish(at);
    [start, firstLine, consumed] = [from, line, from];
  }
  if (!atEnd || consumed === bytes.length) return { spans, consumed, lines: firstLine, openQuote: false };
  passQuotes(bytes.length);
  finish(bytes.length);
  return { spans, consumed: bytes.length, lines: open ? firstLine : line + 1, openQuote: open };
}

function isBlank(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (bytes[at] !== 32 && bytes[at] !== 9) return false;
  return true;
}

/** A record's text, without a byte order mark. */
export function decode(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8");
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/** Where blocks of any file are read, one after the other: memory for each would lie around until it is collected. null: in use. */
let spare: Buffer | null = null;

function linesFile(path: string, handle: FileHandle, options: LinesOptions, index: Index): LinesFile {
  const blocks = Float64Array.from(index.rows);
  const faulty = new Set(index.faulty.map(({ row }) => row));
  const kept = new Map<number, Promise<readonly (Row | null)[]>>();
  const withAllSpans = async <T>(block: number, make: (bytes: Buffer, spans: readonly Span[]) => T): Promise<T> => {
    const length = index.offsets[block + 1]! - index.offsets[block]!;
    const taken = length <= blockBytes ? (spare ?? Buffer.allocUnsafeSlow(blockBytes)) : null;
    if (taken !== null) spare = null;
    try {
      const bytes = taken?.subarray(0, length) ?? Buffer.allocUnsafeSlow(length);
      await fill(path, handle, bytes, index.offsets[block]!);
      const { spans } = splitRecords(bytes, options.quotes, true);
      const skipped = index.skipped.get(block);
      const rows = skipped === undefined ? spans : spans.filter((_, number) => !skipped.has(number));
      if (rows.length !== blocks[block + 1]! - blocks[block]!) {
        throw new LowrankError("file", `${path}: was changed while it was in use; start again`);
      }
      return make(bytes, rows);
    } finally {
      spare ??= taken;
    }
  };
  const mostKept = index.offsets.length - 1 <= smallFileBlocks ? smallFileBlocks : keptBlocks;
  const withSpans: LinesFile["withSpans"] = (block, make) =>
    withAllSpans(block, (bytes, spans) =>
      make(
        bytes,
        spans.map((span, row) => (faulty.has(blocks[block]! + row) ? null : span)),
      ),
    );
  const parseBlock = (block: number, parse: (text: string) => Row): Promise<readonly (Row | null)[]> =>
    withSpans(block, (bytes, spans) =>
      spans.map((span) => span && parse(decode(bytes.subarray(span.start, span.end)))),
    );
  return {
    rows: index.rows.at(-1)!,
    blocks,
    faulty: index.faulty,
    read(block, parse) {
      const rows = kept.get(block) ?? parseBlock(block, parse);
      kept.delete(block);
      kept.set(block, rows);
      rows.catch(() => kept.delete(block));
      if (kept.size > mostKept) kept.delete(kept.keys().next().value!);
      return rows;
    },
    withSpans,
    where(row) {
      const block = blocks.findLastIndex((first) => first <= row);
      return withAllSpans(block, (_, spans) => `${path}:${index.lines[block]! + spans[row - blocks[block]!]!.line}`);
    },
    close: () => handle.close(),
  };
}
