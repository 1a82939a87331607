// Arrays: IDX files, one a column, and safetensors files, whose tensors are the columns. The first dimension counts the rows.
// Small files are held in memory, where a cell is a view of the file's bytes. Of larger ones only the header is read at first;
// rows lie one after the other in each array, so that a block of rows is one part of the file for each column. A gzip archive is
// unpacked whole.
import { type FileHandle, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { readSafetensors, safetensorsHeaderBytes, safetensorsLayout } from "../../adapter/safetensors.ts";
import { LowrankError, throwFaults } from "../../errors.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType } from "../../tensor.ts";
import { systemFault } from "../files.ts";
import { unpack } from "../gzip.ts";
import { idxLayout, idxValues, maxIdxHeaderBytes, parseIdx } from "../idx.ts";
import { lasting, type RowMemory } from "../row-memory.ts";
import { type Column, memoryTable, type NumberArray, type Row, type Table } from "../table.ts";
import { fill, openFile } from "./file-bytes.ts";
import { defaultMemoryBytes } from "./kept-blocks.ts";

export interface ArrayOptions {
  /** Files up to this many bytes are held in memory; default 256 MiB. */
  readonly memoryBytes?: number;
}

/** Archives are unpacked up to this size. */
const maxUnpackedBytes = 2 ** 31;

/** About so many bytes of rows are read together. */
const blockBytes = 256 * 1024;

/** About so many are shuffled together. */
const windowBytes = 8 * 2 ** 20;

/** One column: all its values in memory, or where they are in a file. */
interface ArrayColumn {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
  /** The values of rows first … first + count - 1. */
  read(first: number, count: number, memory: RowMemory): Promise<NumberArray>;
  /** All values, where they are in memory. */
  readonly data?: NumberArray;
}

/**
 * Opens a safetensors file.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openSafetensors(path: string, options: ArrayOptions = {}): Promise<Table> {
  const size = await sizeOf(path);
  const files = new OpenFiles();
  try {
    if (size <= (options.memoryBytes ?? defaultMemoryBytes)) {
      const { tensors } = readSafetensors(await readWhole(path), path);
      return arrayTable("safetensors", path, [...tensors].map(inMemory), files);
    }
    const handle = await files.open(path);
    const lengthBytes = await beginning(path, handle, 8);
    const header = await beginning(path, handle, Math.min(size, safetensorsHeaderBytes(lengthBytes)));
    const { entries, dataStart } = safetensorsLayout(header, size, path);
    const columns = entries.map(({ name, type, dims, begin }) => {
      const decode = (bytes: Uint8Array): NumberArray => safetensorsValues(path, name, type, bytes);
      return inFile({ path, handle, start: dataStart + begin, decode }, { name, type, dims });
    });
    return arrayTable("safetensors", path, columns, files);
  } catch (error) {
    await files.close();
    // The reader belongs to adapters, and says so in its code.
    if (!(error instanceof LowrankError) || error.code !== "adapter") throw error;
    throw new LowrankError("data", error.message, { faults: error.faults, cause: error });
  }
}

/**
 * Opens an IDX file of examples with its labels: given two files, the one of one dimension holds them; given one, the file
 * called as MNIST's would be (`images-idx3` and `labels-idx1`) is taken when it is there.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openIdx(paths: readonly string[], options: ArrayOptions = {}): Promise<Table> {
  const all = [...paths];
  const partner = all.length === 1 ? await labelsBeside(all[0]!) : null;
  if (partner !== null) all.push(partner);
  const files = new OpenFiles();
  try {
    const columns: ArrayColumn[] = [];
    for (const path of all) columns.push(await idxColumn(path, files, options.memoryBytes ?? defaultMemoryBytes));
    if (new Set(columns.map(({ name }) => name)).size < columns.length) {
      throw new LowrankError(
        "data",
        `${all.join(", ")}: expected one file of examples and one of labels; open others apart`,
      );
    }
    return arrayTable("idx", all[0]!, columns, files);
  } catch (error) {
    await files.close();
    throw error;
  }
}

async function idxColumn(path: string, files: OpenFiles, memoryBytes: number): Promise<ArrayColumn> {
  const nameOf = (dims: readonly number[]): string => (dims.length === 1 ? "label" : "image");
  const size = await sizeOf(path);
  const handle = size > memoryBytes ? await files.open(path) : null;
  const header = handle === null ? null : await beginning(path, handle, Math.min(size, maxIdxHeaderBytes));
  const isPacked = header !== null && header[0] === 0x1f && header[1] === 0x8b;
  if (handle === null || header === null || isPacked) {
    if (size > maxUnpackedBytes) {
      throw new LowrankError("data", `${path}: expected an archive of at most ${maxUnpackedBytes} bytes, got ${size}`);
    }
    const array = parseIdx(await unpack(await readWhole(path), path, maxUnpackedBytes), path);
    return inMemory([nameOf(array.dims), array]);
  }
  const { type, dims, start } = idxLayout(header, size, path);
  const decode = (bytes: Uint8Array): NumberArray => idxValues(type, bytes);
  return inFile({ path, handle, start, decode }, { name: nameOf(dims), type, dims });
}

/** Files that are read in parts, to be closed together. */
class OpenFiles {
  readonly #handles: FileHandle[] = [];

  async open(path: string): Promise<FileHandle> {
    const handle = await openFile(path);
    this.#handles.push(handle);
    return handle;
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.splice(0)) await handle.close();
  }
}

function inMemory([name, { type, dims, data }]: readonly [string, Tensor]): ArrayColumn {
  const values = data as NumberArray;
  const width = rowWidth(dims);
  const read = (first: number, count: number): Promise<NumberArray> =>
    Promise.resolve(values.subarray(first * width, (first + count) * width));
  return { name, type, dims, data: values, read };
}

interface Place {
  readonly path: string;
  readonly handle: FileHandle;
  /** Where the first row begins. */
  readonly start: number;
  readonly decode: (bytes: Uint8Array) => NumberArray;
}

function inFile(
  { path, handle, start, decode }: Place,
  column: Pick<ArrayColumn, "name" | "type" | "dims">,
): ArrayColumn {
  const rowBytes = rowWidth(column.dims) * elementBytes(column.type);
  return {
    ...column,
    async read(first, count, memory) {
      const bytes = memory.bytes(count * rowBytes);
      await fill(path, handle, bytes, start + first * rowBytes);
      return decode(bytes);
    },
  };
}

function safetensorsValues(path: string, name: string, type: TensorType, bytes: Uint8Array): NumberArray {
  if (type === "bool" && bytes.some((byte) => byte > 1)) {
    throw new LowrankError("data", `${path}: tensor "${name}": expected BOOL bytes of 0 or 1, got others`);
  }
  return fromBytes(type, bytes) as NumberArray;
}

function arrayTable(format: string, path: string, arrays: readonly ArrayColumn[], files: OpenFiles): Table {
  const length = arrays[0]?.dims[0] ?? 0;
  const faults: string[] = [];
  if (arrays.length === 0) faults.push("expected a tensor or more, got none");
  for (const { name, type, dims } of arrays) {
    if (dims.length === 0) faults.push(`${name}: expected rows along a first dimension, got a scalar`);
    else if (dims[0] !== length) faults.push(`${name}: expected ${length} rows as in the first tensor, got ${dims[0]}`);
    if (type === "float16" || type === "bfloat16") faults.push(`${name}: expected float32 or integers, got ${type}`);
  }
  throwFaults("data", path, faults);
  const columns: Column[] = arrays.map(({ name, dims }) => ({ name, dims: dims.slice(1) }));
  const cells = arrays.map(({ dims }) => cellReader(dims));
  const where = (row: number): string => `${path}: row ${row}`;
  const data = arrays.flatMap((array) => array.data ?? []);
  if (data.length === arrays.length) {
    const at = (row: number): Row => cells.map((cell, column) => cell(data[column]!, row));
    return { ...memoryTable({ format, columns, length, at, where }), close: () => files.close() };
  }
  const rowBytes = sum(arrays.map(bytesOfRow));
  const blockRows = Math.max(1, Math.floor(blockBytes / rowBytes));
  return {
    format,
    columns,
    length,
    labels: null,
    faulty: [],
    // Fewer where a block is a large row: blocks are shuffled too, so that the order is no worse for it.
    windowBlocks: Math.max(1, Math.floor(windowBytes / (blockRows * rowBytes))),
    blocks: Float64Array.from({ length: Math.ceil(length / blockRows) + 1 }, (_, block) =>
      Math.min(block * blockRows, length),
    ),
    async read(block, memory = lasting) {
      const first = block * blockRows;
      const count = Math.min(blockRows, length - first);
      const values = await Promise.all(arrays.map((array) => array.read(first, count, memory)));
      return Array.from({ length: count }, (_, row) => cells.map((cell, column) => cell(values[column]!, row)));
    },
    where: (row) => Promise.resolve(where(row)),
    close: () => files.close(),
  };
}

/** The cell of a row among the values of several: a number, or a view. */
function cellReader(dims: readonly number[]): (values: NumberArray, row: number) => Row[number] {
  const width = rowWidth(dims);
  if (dims.length === 1) return (values, row) => values[row]!;
  return (values, row) => values.subarray(row * width, (row + 1) * width);
}

/** Values in a row. */
function rowWidth(dims: readonly number[]): number {
  return dims.slice(1).reduce((product, dim) => product * dim, 1);
}

function bytesOfRow({ type, dims }: ArrayColumn): number {
  return rowWidth(dims) * elementBytes(type);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

async function beginning(path: string, handle: FileHandle, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await fill(path, handle, bytes, 0);
  return bytes;
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
}

async function readWhole(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
}

/** The labels' file, packed or not, whatever the images' file is. */
async function labelsBeside(path: string): Promise<string | null> {
  const name = basename(path);
  const partner = name.replace("images", "labels").replace(/idx\d/, "idx1");
  if (partner === name) return null;
  const plain = partner.replace(/\.gz$/, "");
  for (const candidate of [partner, plain, `${plain}.gz`]) {
    const beside = join(dirname(path), candidate);
    if (await exists(beside)) return beside;
  }
  return null;
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null)) !== null;
}
