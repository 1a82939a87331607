// Arrays in memory: IDX files, one a column, and safetensors files, whose tensors are the columns. The first dimension counts
// the rows; a cell is a view of the file's bytes.
import { readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { readSafetensors } from "../../adapter/safetensors.ts";
import { LowrankError, throwFaults } from "../../errors.ts";
import type { Tensor } from "../../tensor.ts";
import { systemFault } from "../files.ts";
import { unpack } from "../gzip.ts";
import { parseIdx } from "../idx.ts";
import { type Column, memoryTable, type NumberArray, type Row, type Table } from "../table.ts";

/** These files are held in memory; larger data belongs in a format that is read in blocks. */
const maxBytes = 2 ** 31;

/**
 * Opens a safetensors file.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openSafetensors(path: string): Promise<Table> {
  const bytes = await readWhole(path);
  try {
    return arrayTable("safetensors", path, readSafetensors(bytes, path).tensors);
  } catch (error) {
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
export async function openIdx(paths: readonly string[]): Promise<Table> {
  const all = [...paths];
  const partner = all.length === 1 ? await labelsBeside(all[0]!) : null;
  if (partner !== null) all.push(partner);
  const arrays = await Promise.all(
    all.map(async (path) => parseIdx(await unpack(await readWhole(path), path, maxBytes), path)),
  );
  const columns = new Map<string, Tensor>();
  for (const array of arrays) columns.set(array.dims.length === 1 ? "label" : "image", array);
  if (columns.size < arrays.length) {
    throw new LowrankError(
      "data",
      `${all.join(", ")}: expected one file of examples and one of labels; open others apart`,
    );
  }
  return arrayTable("idx", all[0]!, columns);
}

function arrayTable(format: string, path: string, tensors: ReadonlyMap<string, Tensor>): Table {
  const length = [...tensors.values()][0]?.dims[0] ?? 0;
  const faults: string[] = [];
  if (tensors.size === 0) faults.push("expected a tensor or more, got none");
  for (const [name, { type, dims }] of tensors) {
    if (dims.length === 0) faults.push(`${name}: expected rows along a first dimension, got a scalar`);
    else if (dims[0] !== length) faults.push(`${name}: expected ${length} rows as in the first tensor, got ${dims[0]}`);
    if (type === "float16" || type === "bfloat16") faults.push(`${name}: expected float32 or integers, got ${type}`);
  }
  throwFaults("data", path, faults);
  const columns: Column[] = [...tensors].map(([name, { dims }]) => ({ name, dims: dims.slice(1) }));
  const sources = [...tensors.values()].map(({ dims, data }) => {
    const width = dims.slice(1).reduce((product, dim) => product * dim, 1);
    return { data: data as NumberArray, width, isScalar: dims.length === 1 };
  });
  const at = (row: number): Row =>
    sources.map(({ data, width, isScalar }) => (isScalar ? data[row]! : data.subarray(row * width, (row + 1) * width)));
  return memoryTable({ format, columns, length, at, where: (row) => `${path}: row ${row}` });
}

async function readWhole(path: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size > maxBytes) throw new LowrankError("data", `${path}: expected at most ${maxBytes} bytes, got ${size}`);
    return await readFile(path);
  } catch (error) {
    if (error instanceof LowrankError) throw error;
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
