// `.onnx_adapter` files to and from named tensors. Schema: ONNX Runtime 1.30, onnxruntime/lora/adapter_format
// (adapter_schema.fbs): Adapter { format_version, adapter_version, model_version, parameters }, Parameter { name, dims,
// data_type, raw_data }. What the tensors mean is said in onnx-adapter.ts.
import { LowrankError, throwFaults } from "../errors.ts";
import { elementCode, elementType, isTensorType } from "../onnx/elements.ts";
import { elementBytes, fromBytes, type Tensor, tensor, toBytes } from "../tensor.ts";
import { BufferFault, type BufferVector, follow, rootTable, tableAt } from "./flatbuffer.ts";
import { decodeUtf8, isWellFormed, quote } from "./json.ts";

/** What an `.onnx_adapter` file holds. */
export interface OnnxAdapterFile {
  readonly adapterVersion: number;
  readonly modelVersion: number;
  /** By the names of the model's inputs. */
  readonly parameters: ReadonlyMap<string, Tensor>;
}

const identifier = "TORT";
/** The only version there is. The schema's default is 0, so that it must be written out. */
const formatVersion = 1;
/** Offsets are unsigned, but FlatBuffers keeps to 2 GiB. */
const maxBytes = 2 ** 31 - 1;
const maxDims = 8;
const maxNameBytes = 4096;
/** A file can have a fault for each of millions of parameters; a person reads the first few. */
const maxFaults = 20;

/**
 * Reads an `.onnx_adapter` file. Tensors are views of `bytes` where its alignment allows it: do not change `bytes` afterwards.
 * Adds to `faults` everything that is wrong with a damaged or hostile file, and returns null then.
 */
export function scanOnnxAdapter(bytes: Uint8Array, faults: string[]): OnnxAdapterFile | null {
  const found: string[] = [];
  const file = readFile(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found);
  faults.push(...found.slice(0, maxFaults));
  if (found.length > maxFaults) faults.push(`and ${found.length - maxFaults} more`);
  return found.length === 0 ? file : null;
}

function readFile(view: DataView, faults: string[]): OnnxAdapterFile | null {
  return guarded(faults, "", () => {
    const root = rootTable(view, identifier);
    const version = root.int32(0, 0);
    if (version !== formatVersion) faults.push(`format_version: expected ${formatVersion}, got ${version}`);
    const list = root.vector(3, 4) ?? { length: 0, start: 0 };
    const parameters = new Map<string, Tensor>();
    const spans: (BufferVector & { readonly name: string })[] = [];
    // A hostile list can name one parameter millions of times.
    for (let i = 0; i < list.length && faults.length <= 10 * maxFaults; i++) {
      const parameter = guarded(faults, `parameter ${i}: `, () =>
        readParameter(view, follow(view, list.start + 4 * i)),
      );
      if (parameter === null) continue;
      if (parameters.has(parameter.name))
        faults.push(`${quote(parameter.name)}: expected one parameter of this name, got two`);
      parameters.set(parameter.name, parameter.value);
      spans.push({ name: parameter.name, ...parameter.data });
    }
    checkOverlap(spans, faults);
    return { adapterVersion: root.int32(1, 0), modelVersion: root.int32(2, 0), parameters };
  });
}

/** What `read` gives, or null and a fault for a BufferFault. */
function guarded<T>(faults: string[], where: string, read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof BufferFault)) throw error;
    faults.push(where + error.message);
    return null;
  }
}

function readParameter(view: DataView, at: number): { name: string; value: Tensor; data: BufferVector } {
  const table = tableAt(view, at);
  const name = readName(view, table.vector(0, 1));
  const where = quote(name);
  const dims = readDims(view, where, table.vector(1, 8));
  const code = table.int32(2, 0);
  const type = elementType(code);
  if (type === undefined || !isTensorType(type))
    throw new BufferFault(`${where}: expected the data_type of numbers, got ${type === undefined ? code : type}`);
  // A zero does not excuse what multiplies past 2^53 beside it.
  const size = dims.reduce((product, dim) => product * Math.max(dim, 1), elementBytes(type));
  if (!Number.isSafeInteger(size))
    throw new BufferFault(`${where}: expected a shape of under 2^53 bytes, got [${dims}]`);
  const data = table.vector(3, 1) ?? { length: 0, start: 0 };
  const expected = dims.includes(0) ? 0 : size;
  if (data.length !== expected)
    throw new BufferFault(`${where}: expected ${expected} bytes for [${dims}] of ${type}, got ${data.length}`);
  const bytes = new Uint8Array(view.buffer, view.byteOffset + data.start, data.length);
  return { name, value: tensor(type, dims, fromBytes(type, bytes)), data };
}

function readName(view: DataView, vector: BufferVector | undefined): string {
  if (vector === undefined || vector.length === 0) throw new BufferFault("expected a name, got none");
  if (vector.length > maxNameBytes)
    throw new BufferFault(`expected a name of at most ${maxNameBytes} bytes, got ${vector.length}`);
  const name = decodeUtf8(new Uint8Array(view.buffer, view.byteOffset + vector.start, vector.length));
  if (name === null || name.includes("\0")) throw new BufferFault("expected a name of UTF-8 text, got other bytes");
  return name;
}

function readDims(view: DataView, where: string, vector: BufferVector | undefined): number[] {
  if (vector === undefined) return []; // a scalar
  if (vector.length > maxDims)
    throw new BufferFault(`${where}: expected at most ${maxDims} dimensions, got ${vector.length}`);
  return Array.from({ length: vector.length }, (_, i) => {
    const dim = view.getBigInt64(vector.start + 8 * i, true);
    if (dim < 0n || dim > Number.MAX_SAFE_INTEGER)
      throw new BufferFault(`${where}: expected dimensions from 0 to 2^53 - 1, got ${dim}`);
    return Number(dim);
  });
}

/** Shared data would be a small file that becomes a large adapter. */
function checkOverlap(spans: readonly (BufferVector & { readonly name: string })[], faults: string[]): void {
  let end = 0;
  for (const { name, start, length } of spans.filter((span) => span.length > 0).sort((a, b) => a.start - b.start)) {
    if (start < end) faults.push(`${quote(name)}: its data overlaps another parameter's`);
    end = Math.max(end, start + length);
  }
}

/** The bytes of an `.onnx_adapter` file. Data begins at multiples of 8. Throws LowrankError "adapter" for names and sizes that do not fit. */
export function encodeOnnxAdapter({ adapterVersion, modelVersion, parameters }: OnnxAdapterFile): Uint8Array {
  const faults: string[] = [];
  const utf8 = new TextEncoder();
  // Root offset and identifier, then the vtables, the root's table, and the offsets of the parameters.
  const [adapterVtable, parameterVtable, adapterTable, list] = [8, 20, 32, 52] as const;
  let end = list + 4 + 4 * parameters.size;
  const placed = [...parameters].map(([name, { type, dims, data }]) => {
    const nameBytes = utf8.encode(name);
    if (nameBytes.length === 0 || nameBytes.length > maxNameBytes || name.includes("\0") || !isWellFormed(name))
      faults.push(`${quote(name)}: expected a name of 1 to ${maxNameBytes} bytes of text`);
    if (dims.length > maxDims)
      faults.push(`${quote(name)}: expected at most ${maxDims} dimensions, got ${dims.length}`);
    const table = align(end, 4);
    const nameAt = table + 20;
    const dimsAt = align(nameAt + 4 + nameBytes.length + 1 + 4, 8) - 4; // the count; its elements are aligned
    const dataAt = dimsAt + 4 + 8 * dims.length + 4;
    end = dataAt + 4 + data.byteLength;
    return { table, nameAt, nameBytes, dimsAt, dims, dataAt, data: toBytes(data), code: elementCode(type) };
  });
  throwFaults("adapter", "onnx_adapter", faults);
  if (end > maxBytes)
    throw new LowrankError("adapter", `onnx_adapter: expected under 2 GiB, got ${end} bytes; split it`);

  const bytes = new Uint8Array(align(end, 8));
  const view = new DataView(bytes.buffer);
  const u32 = (at: number, value: number): void => view.setUint32(at, value, true);
  const pointTo = (at: number, target: number): void => u32(at, target - at);
  u32(0, adapterTable);
  bytes.set(utf8.encode(identifier), 4);
  for (const vtable of [adapterVtable, parameterVtable]) {
    // Both have four fields of four bytes: 12 bytes of vtable, 20 of table.
    for (const [i, value] of [12, 20, 4, 8, 12, 16].entries()) view.setUint16(vtable + 2 * i, value, true);
  }
  for (const [i, value] of [adapterTable - adapterVtable, formatVersion, adapterVersion, modelVersion].entries())
    view.setInt32(adapterTable + 4 * i, value, true);
  pointTo(adapterTable + 16, list);
  u32(list, placed.length);
  for (const [i, { table, nameAt, nameBytes, dimsAt, dims, dataAt, data, code }] of placed.entries()) {
    pointTo(list + 4 + 4 * i, table);
    u32(table, table - parameterVtable);
    pointTo(table + 4, nameAt);
    pointTo(table + 8, dimsAt);
    u32(table + 12, code);
    pointTo(table + 16, dataAt);
    u32(nameAt, nameBytes.length);
    bytes.set(nameBytes, nameAt + 4);
    u32(dimsAt, dims.length);
    for (const [axis, dim] of dims.entries()) view.setBigInt64(dimsAt + 4 + 8 * axis, BigInt(dim), true);
    u32(dataAt, data.length);
    bytes.set(data, dataAt + 4);
  }
  return bytes;
}

function align(at: number, unit: number): number {
  return Math.ceil(at / unit) * unit;
}
