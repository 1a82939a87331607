// Parquet, read with hyparquet (and hyparquet-compressors for what is not Snappy): a row group is a block, so that memory
// holds a few of them whatever the file's size. Lists of numbers become one cell, dates their ISO text. Before anything is read
// here, another process has read it all: damage that makes the library loop or fill memory ends that one (parquet-trial.ts).
import { type FileHandle, open } from "node:fs/promises";
import type { AsyncBuffer, FileMetaData } from "hyparquet";
import { LowrankError } from "../../errors.ts";
import { systemFault } from "../files.ts";
import { loadPackage } from "../package.ts";
import { blockOf, type Cell, type Column, type Row, type Table } from "../table.ts";
import { tryParquet } from "./parquet-trial.ts";

/** A row group is decoded as a whole: larger ones would not fit beside a model. */
const maxGroupBytes = 2 ** 30;

/** What is in memory while rows are shuffled, as it is in the file without compression. */
const windowBytes = 32 * 2 ** 20;

/** "PAR1" at both ends, and the length of what is between. */
const leastBytes = 12;

/**
 * Opens a Parquet file.
 *
 * @throws LowrankError "file" when it cannot be read, "data" for a file that is broken, and "config" when hyparquet is missing.
 */
export async function openParquet(path: string): Promise<Table> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await loadPackage(
    "hyparquet",
    `reading ${path}`,
    () => import("hyparquet"),
  );
  const { compressors } = await loadPackage(
    "hyparquet-compressors",
    `reading ${path}`,
    () => import("hyparquet-compressors"),
  );
  const handle = await open(path).catch((error: unknown) => {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  });
  try {
    const { size } = await handle.stat();
    if (size < leastBytes) {
      throw new LowrankError("data", `${path}: no Parquet file that can be read: it has ${size} bytes`);
    }
    await tryParquet(path);
    const file = bufferOf(handle, size);
    const metadata = await broken(path, () => parquetMetadataAsync(file));
    const blocks = checkedGroups(path, metadata);
    const columns = parquetSchema(metadata).children.map(({ element }): Column => ({ name: element.name }));
    const names = columns.map(({ name }) => name);
    return {
      format: "parquet",
      columns,
      length: blocks.at(-1)!,
      blocks,
      windowBlocks: windowOf(metadata),
      faulty: [],
      labels: null,
      read: async (block) => {
        const [rowStart, rowEnd] = [blocks[block]!, blocks[block + 1]!];
        const where = `${path}, row group ${block}`;
        const rows = await broken(where, () => parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd }));
        if (rows.length !== rowEnd - rowStart) {
          throw new LowrankError("data", `${where}: expected ${rowEnd - rowStart} rows, got ${rows.length}`);
        }
        return rows.map((row): Row => names.map((name) => cellOf(row[name])));
      },
      where: (row) => {
        const group = blockOf(blocks, row);
        return Promise.resolve(`${path}, row group ${group}, row ${row - blocks[group]!}`);
      },
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** A file as hyparquet reads it: pieces, when they are needed. */
function bufferOf(handle: FileHandle, byteLength: number): AsyncBuffer {
  const piece = async (start: number, end: number): Promise<ArrayBuffer> => {
    const [from, to] = [start < 0 ? byteLength + start : start, Math.min(end, byteLength)];
    if (!(from >= 0 && to >= from && to - from <= maxGroupBytes)) {
      throw new RangeError(`bytes ${from} to ${to} of ${byteLength} are asked for`);
    }
    const bytes = new Uint8Array(to - from);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, from);
    if (bytesRead < bytes.length) throw new RangeError("the file ends before its data does");
    return bytes.buffer;
  };
  return {
    byteLength,
    slice: (start, end = byteLength) => {
      const promised = piece(start, end);
      // Pieces are fetched ahead; one that nobody waits for, since another has failed, must not end the process.
      promised.catch(() => undefined);
      return promised;
    },
  };
}

/** The first row of each row group, and the number of rows at the end. */
function checkedGroups(path: string, { row_groups: groups, num_rows: total }: FileMetaData): Float64Array {
  const starts = [0];
  for (const [index, { num_rows: rows, total_byte_size: bytes }] of groups.entries()) {
    if (rows < 0n || bytes < 0n || bytes > maxGroupBytes) {
      throw new LowrankError(
        "data",
        `${path}, row group ${index}: expected at most ${maxGroupBytes} bytes, got ${bytes} for ${rows} rows; write smaller row groups`,
      );
    }
    starts.push(starts[index]! + Number(rows));
  }
  if (starts.at(-1) === Number(total)) return Float64Array.from(starts);
  throw new LowrankError("data", `${path}: expected ${total} rows in its row groups, got ${starts.at(-1)}`);
}

/** As many row groups as are small enough together: they are often of tens of megabytes. */
function windowOf({ row_groups: groups }: FileMetaData): number {
  const largest = groups.reduce((most, { total_byte_size: bytes }) => Math.max(most, Number(bytes)), 1);
  return Math.max(1, Math.floor(windowBytes / largest));
}

/** What hyparquet gives for one value. */
function cellOf(value: unknown): Cell {
  if (value === undefined || value === null) return null;
  return value instanceof Date ? value.toISOString() : (value as Cell);
}

/** Runs a part of the reading; what the library says of a broken file becomes an error of ours. */
async function broken<T>(where: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof LowrankError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowrankError("data", `${where}: no Parquet file that can be read: ${reason}`, { cause });
  }
}
