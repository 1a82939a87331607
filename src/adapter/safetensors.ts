// safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes without a gap. Reading checks
// all that FORMATS.md lists before any tensor is made; writing gives the bytes that the reference writer gives
// (safetensors 0.8, src/tensor.rs). Format: https://huggingface.co/docs/safetensors
import { LowrankError, throwFaults } from "../errors.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor, toBytes } from "../tensor.ts";
import {
  compareCodePoints,
  decodeUtf8,
  describe,
  isWellFormed,
  type JsonObject,
  parseJson,
  quote,
  RawNumber,
} from "./json.ts";

/** What a safetensors file holds: the strings of `__metadata__`, and the tensors in the header's order. */
export interface Safetensors {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** The reference reader's limit. */
const maxHeaderBytes = 100_000_000;

/** A file can have a fault for each of millions of tensors; a person reads the first few. */
const maxFaults = 20;

/** In the order in which the reference writer lays tensors out: larger elements first. */
const dtypes: readonly (readonly [dtype: string, type: TensorType])[] = [
  ["U64", "uint64"],
  ["I64", "int64"],
  ["F64", "float64"],
  ["F32", "float32"],
  ["U32", "uint32"],
  ["I32", "int32"],
  ["BF16", "bfloat16"],
  ["F16", "float16"],
  ["U16", "uint16"],
  ["I16", "int16"],
  ["I8", "int8"],
  ["U8", "uint8"],
  ["BOOL", "bool"],
];

const typeOfDtype: ReadonlyMap<string, TensorType> = new Map(dtypes);

/** Defined by the format, but without an array type in JavaScript. */
const unsupportedDtypes: ReadonlySet<string> = new Set([
  ...["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0", "C64"],
]);

/**
 * Reads a safetensors file. Tensors are views of `bytes` where its alignment allows it: do not change `bytes` afterwards.
 *
 * `name` stands before the message when the file is damaged or hostile (LowrankError "adapter", with every fault).
 *
 * @example
 * const { tensors } = readSafetensors(bytes, "adapter_model.safetensors");
 */
export function readSafetensors(bytes: Uint8Array, name: string): Safetensors {
  const faults: string[] = [];
  const file = scanSafetensors(bytes, faults);
  throwFaults("adapter", name, faults);
  return file;
}

/** As `readSafetensors`, but adds to `faults` instead of throwing; what it returns is empty when there were any. */
export function scanSafetensors(bytes: Uint8Array, faults: string[]): Safetensors {
  // A Node Buffer's slice() does not copy as a Uint8Array's does, so that views of it are made from a plain one.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: string[] = [];
  const header = readHeader(plain, plain.length, found);
  const file = header === null ? null : readTensors(header, plain.subarray(header.end), found);
  faults.push(...found.slice(0, maxFaults));
  if (found.length > maxFaults) faults.push(`and ${found.length - maxFaults} more`);
  return file !== null && found.length === 0 ? file : { metadata: new Map(), tensors: new Map() };
}

/** One tensor of a file: its bytes are those from `begin` to `end`, counted from the end of the header. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** How many bytes of a file its header takes, by the first eight. */
export function safetensorsHeaderBytes(start: Uint8Array): number {
  const length = start.length < 8 ? 0 : Number(new DataView(start.buffer, start.byteOffset).getBigUint64(0, true));
  return 8 + Math.min(length, maxHeaderBytes);
}

/**
 * Where the tensors of a file are, by its header and its size: as `readSafetensors`, without their bytes.
 *
 * @throws LowrankError "adapter" with every fault.
 */
export function safetensorsLayout(
  header: Uint8Array,
  size: number,
  name: string,
): { readonly entries: readonly SafetensorsEntry[]; readonly dataStart: number } {
  const faults: string[] = [];
  const read = readHeader(header, size, faults);
  if (read !== null) readMetadata(read.entries, faults);
  const entries = read === null ? null : readEntries(read.entries, size - read.end, faults);
  throwFaults("adapter", name, faults.slice(0, maxFaults));
  return { entries: entries!, dataStart: read!.end };
}

interface Header {
  readonly entries: JsonObject;
  /** Bytes before the tensors' own. */
  readonly end: number;
}

/** `bytes` are the file's first, its header among them; `size` is that of the file. */
function readHeader(bytes: Uint8Array, size: number, faults: string[]): Header | null {
  if (bytes.length < 8) {
    faults.push(`expected at least 8 bytes of header length, got ${bytes.length}; the file is empty or truncated`);
    return null;
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  if (length > maxHeaderBytes) {
    faults.push(`expected a header of at most ${maxHeaderBytes} bytes, got ${length}; this is no safetensors file`);
    return null;
  }
  const end = 8 + Number(length);
  if (end > bytes.length) {
    faults.push(`expected a header of ${length} bytes, got ${size - 8}; the file is truncated`);
    return null;
  }
  const text = decodeUtf8(bytes.subarray(8, end));
  if (text === null) {
    faults.push("expected a header of UTF-8 text, got other bytes");
    return null;
  }
  try {
    const value = parseJson(text, faults);
    if (value instanceof Map) return { entries: value, end };
    faults.push(`expected a header that is a JSON object, got ${describe(value)}`);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    faults.push(`expected a header of JSON: ${error.message}`);
  }
  return null;
}

function readEntries(entries: JsonObject, dataBytes: number, faults: string[]): SafetensorsEntry[] | null {
  const known: SafetensorsEntry[] = [];
  const spans: Span[] = [];
  let named = 0;
  for (const [name, value] of entries) {
    if (name === "__metadata__") continue;
    named++;
    const where = `tensor ${quote(name)}`;
    if (name === "__proto__") faults.push(`${where}: a name that no tensor may have`);
    if (!(value instanceof Map)) {
      faults.push(`${where}: expected an object of dtype, shape and data_offsets, got ${describe(value)}`);
      continue;
    }
    const span = readSpan(where, value, faults);
    const entry = readEntry(name, where, value, span, faults);
    if (span !== null) spans.push(span);
    if (entry !== null) known.push(entry);
  }
  // One tensor of unknown place would make a hole of every other.
  if (spans.length === named) checkLayout(spans, dataBytes, faults);
  return faults.length > 0 ? null : known;
}

function readTensors({ entries }: Header, data: Uint8Array, faults: string[]): Safetensors | null {
  const metadata = readMetadata(entries, faults);
  const known = readEntries(entries, data.length, faults);
  if (known === null) return null;
  const tensors = new Map<string, Tensor>();
  for (const { name, type, dims, begin, end } of known) {
    const bytes = data.subarray(begin, end);
    if (type === "bool" && bytes.some((byte) => byte > 1)) {
      faults.push(`tensor ${quote(name)}: expected BOOL bytes of 0 or 1, got others`);
    }
    tensors.set(name, tensor(type, dims, fromBytes(type, bytes)));
  }
  return { metadata, tensors };
}

function readMetadata(entries: JsonObject, faults: string[]): Map<string, string> {
  const metadata = new Map<string, string>();
  const value = entries.get("__metadata__");
  if (value === undefined) return metadata;
  if (!(value instanceof Map)) {
    faults.push(`__metadata__: expected an object of strings, got ${describe(value)}`);
    return metadata;
  }
  for (const [key, item] of value) {
    if (typeof item === "string") metadata.set(key, item);
    else faults.push(`__metadata__ ${quote(key)}: expected a string, got ${describe(item)}`);
  }
  return metadata;
}

interface Span {
  readonly where: string;
  readonly begin: number;
  readonly end: number;
}

function readSpan(where: string, value: JsonObject, faults: string[]): Span | null {
  const offsets = readIntegers(value, "data_offsets", where, faults);
  if (offsets === null) return null;
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length !== 2) {
    faults.push(`${where}: expected data_offsets [begin, end], got a list of ${offsets.length}`);
    return null;
  }
  if (end < begin) {
    faults.push(`${where}: expected data_offsets that end after they begin, got [${begin}, ${end}]`);
    return null;
  }
  return { where, begin, end };
}

function readEntry(
  name: string,
  where: string,
  value: JsonObject,
  span: Span | null,
  faults: string[],
): SafetensorsEntry | null {
  for (const key of value.keys()) {
    if (key === "dtype" || key === "shape" || key === "data_offsets") continue;
    faults.push(`${where}: expected dtype, shape and data_offsets alone, got ${quote(key)} too`);
  }
  const type = readDtype(where, value, faults);
  const dims = readIntegers(value, "shape", where, faults);
  if (type === null || dims === null || span === null) return null;
  // A zero does not excuse what multiplies past 2^53 beside it: strides of such a shape overflow elsewhere.
  const size = dims.reduce((product, dim) => product * Math.max(dim, 1), elementBytes(type));
  if (!Number.isSafeInteger(size)) {
    faults.push(`${where}: expected a shape of under 2^53 bytes, got [${showDims(dims)}]`);
    return null;
  }
  const bytes = dims.includes(0) ? 0 : size;
  if (bytes !== span.end - span.begin) {
    const shape = `[${showDims(dims)}] of ${describe(value.get("dtype"))}`;
    faults.push(`${where}: expected ${bytes} bytes for ${shape}, got ${span.end - span.begin}`);
    return null;
  }
  return { name, type, dims, begin: span.begin, end: span.end };
}

function readDtype(where: string, value: JsonObject, faults: string[]): TensorType | null {
  const dtype = value.get("dtype");
  if (typeof dtype !== "string") {
    faults.push(`${where}: expected a dtype, got ${describe(dtype)}`);
    return null;
  }
  const type = typeOfDtype.get(dtype);
  if (type !== undefined) return type;
  const what = unsupportedDtypes.has(dtype) ? `${dtype}, which is not supported; convert it` : quote(dtype);
  faults.push(`${where}: expected a dtype of ${[...typeOfDtype.keys()].join(", ")}, got ${what}`);
  return null;
}

/** A list of integers from 0 to 2^53 - 1, written as integers. */
function readIntegers(value: JsonObject, key: string, where: string, faults: string[]): number[] | null {
  const list = value.get(key);
  if (!Array.isArray(list)) {
    faults.push(`${where}: expected ${key} to be a list, got ${describe(list)}`);
    return null;
  }
  const integers: number[] = [];
  for (const item of list) {
    if (item instanceof RawNumber && /^\d+$/.test(item.text) && Number.isSafeInteger(Number(item.text))) {
      integers.push(Number(item.text));
      continue;
    }
    faults.push(`${where}: expected ${key} of whole numbers from 0 to 2^53 - 1, got ${describe(item)}`);
    return null;
  }
  return integers;
}

/** The spans, in order, must cover the data exactly: no hole, no overlap, nothing before, nothing after. */
function checkLayout(spans: readonly Span[], length: number, faults: string[]): void {
  let covered = 0;
  for (const { where, begin, end } of [...spans].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin > covered)
      faults.push(`${where}: expected to begin at ${covered}, got ${begin}; there is a hole before it`);
    if (begin < covered)
      faults.push(`${where}: expected to begin at ${covered}, got ${begin}; it overlaps another tensor`);
    covered = Math.max(covered, end);
  }
  if (covered > length) faults.push(`expected ${covered} bytes of data, got ${length}; the file is truncated`);
  if (covered < length) faults.push(`expected ${covered} bytes of data, got ${length}; there are trailing bytes`);
}

function showDims(dims: readonly number[]): string {
  return dims.length <= 8 ? dims.join(", ") : `${dims.slice(0, 8).join(", ")}, … (${dims.length} dimensions)`;
}

/**
 * The bytes of a safetensors file, as the reference writer lays it out: larger elements first, then by name.
 * Throws LowrankError "adapter" for names that no reader could take.
 *
 * @example
 * writeSafetensors(new Map([["w", zeros([2, 3])]]), { format: "pt" });
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, Tensor>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const order = dtypes.map(([, type]) => type);
  const sorted = [...tensors].sort(
    ([nameA, a], [nameB, b]) => order.indexOf(a.type) - order.indexOf(b.type) || compareCodePoints(nameA, nameB),
  );
  checkNames(tensors, metadata ?? {});
  const parts: string[] = [];
  // The reference writes a broken header for metadata that is there and empty; leaving it out says the same.
  if (metadata !== undefined && Object.keys(metadata).length > 0)
    parts.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let offset = 0;
  for (const [name, { type, dims, data }] of sorted) {
    const dtype = dtypes[order.indexOf(type)]?.[0];
    const end = offset + data.byteLength;
    // serde and JSON.stringify escape alike: quotes, backslashes and control characters.
    const info = `{"dtype":"${dtype}","shape":[${dims.join(",")}],"data_offsets":[${offset},${end}]}`;
    parts.push(`${JSON.stringify(name)}:${info}`);
    offset = end;
  }
  const text = new TextEncoder().encode(`{${parts.join(",")}}`);
  const headerBytes = Math.ceil(text.length / 8) * 8;
  if (headerBytes > maxHeaderBytes) {
    throw new LowrankError(
      "adapter",
      `safetensors: expected a header of at most ${maxHeaderBytes} bytes, got ${headerBytes}`,
    );
  }
  const bytes = new Uint8Array(8 + headerBytes + offset);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes), true);
  bytes.fill(0x20, 8, 8 + headerBytes);
  bytes.set(text, 8);
  let at = 8 + headerBytes;
  for (const [, { data }] of sorted) {
    bytes.set(toBytes(data), at);
    at += data.byteLength;
  }
  return bytes;
}

function checkNames(tensors: ReadonlyMap<string, Tensor>, metadata: Readonly<Record<string, string>>): void {
  const faults: string[] = [];
  for (const name of tensors.keys()) {
    if (name === "__metadata__" || name === "__proto__")
      faults.push(`${name}: a name that no tensor may have; rename it`);
    if (!isWellFormed(name))
      faults.push(`tensor ${quote(name)}: expected text, got half of a surrogate pair; rename it`);
  }
  if (!Object.entries(metadata).flat().every(isWellFormed)) {
    faults.push("__metadata__: expected text, got half of a surrogate pair");
  }
  throwFaults("adapter", "safetensors", faults);
}
