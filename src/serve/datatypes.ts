// The element types of the Open Inference Protocol v2 and of Triton's binary tensor data extension, and values between JSON,
// little-endian bytes and typed arrays.
import { elementBytes, fromBytes, type Tensor, type TensorArrays, type TensorType, toBytes } from "../tensor.ts";

/** The protocol's name of each type. */
export const datatypeOf: { readonly [T in TensorType]: string } = {
  bool: "BOOL",
  uint8: "UINT8",
  uint16: "UINT16",
  uint32: "UINT32",
  uint64: "UINT64",
  int8: "INT8",
  int16: "INT16",
  int32: "INT32",
  int64: "INT64",
  float16: "FP16",
  bfloat16: "BF16",
  float32: "FP32",
  float64: "FP64",
};

const typeOf = new Map(Object.entries(datatypeOf).map(([type, datatype]) => [datatype, type as TensorType]));

/** The type that a datatype names; undefined for BYTES and for what is none. */
export function typeOfDatatype(datatype: string): TensorType | undefined {
  return typeOf.get(datatype);
}

/** The least and the largest whole number of a type. */
const ranges: { readonly [T in TensorType]?: readonly [number, number] } = {
  uint8: [0, 2 ** 8 - 1],
  uint16: [0, 2 ** 16 - 1],
  uint32: [0, 2 ** 32 - 1],
  uint64: [0, Number.MAX_SAFE_INTEGER],
  int8: [-(2 ** 7), 2 ** 7 - 1],
  int16: [-(2 ** 15), 2 ** 15 - 1],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  int64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
};

/** A typed array of `count` elements, all zero. */
export function emptyArray<T extends TensorType>(type: T, count: number): TensorArrays[T] {
  return fromBytes(type, new Uint8Array(count * elementBytes(type)));
}

/**
 * The values of JSON data, flat or nested as the shape is. Returns why it cannot be read instead of throwing: a request's
 * faults are told together.
 */
export function fromJson(data: unknown, type: TensorType, shape: readonly number[], count: number): Tensor | string {
  if (!Array.isArray(data)) return `data: expected a list, got ${data === undefined ? "none" : typeof data}`;
  if (type === "float16" || type === "bfloat16")
    return `data: ${datatypeOf[type]} has no form in JSON; send it as binary data`;
  const isFlat = !Array.isArray(data[0]);
  if (isFlat && data.length !== count) return `data: expected ${count} values for [${shape}], got ${data.length}`;
  const into = emptyArray(type, count);
  const write = writer(type, into);
  const fault = isFlat ? writeAll(data, 0, write) : writeNested(data, shape, write);
  return fault ?? ({ type, dims: shape, data: into } as Tensor);
}

type Write = (value: unknown, at: number) => boolean;

/** Writes one value; false when it is none of the type. */
function writer(type: TensorType, into: TensorArrays[TensorType]): Write {
  if (type === "float32" || type === "float64") {
    const floats = into as Float32Array | Float64Array;
    return (value, at) => {
      if (typeof value !== "number") return false;
      floats[at] = value;
      return Number.isFinite(floats[at]);
    };
  }
  if (type === "bool") {
    const flags = into as Uint8Array;
    return (value, at) => {
      flags[at] = Number(value);
      return typeof value === "boolean" || value === 0 || value === 1;
    };
  }
  const [least, most] = ranges[type]!;
  const isWhole = (value: unknown): value is number =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
  if (into instanceof BigInt64Array || into instanceof BigUint64Array) {
    return (value, at) => {
      if (!isWhole(value)) return false;
      into[at] = BigInt(value);
      return true;
    };
  }
  const numbers = into as Int32Array;
  return (value, at) => {
    if (!isWhole(value)) return false;
    numbers[at] = value;
    return true;
  };
}

function writeAll(values: readonly unknown[], from: number, write: Write): string | undefined {
  for (let at = 0; at < values.length; at++) {
    if (!write(values[at], from + at))
      return `data: value ${from + at} is ${shown(values[at])}, which the datatype does not have`;
  }
  return undefined;
}

/** Lists in lists, each level as long as its dimension. */
function writeNested(data: readonly unknown[], shape: readonly number[], write: Write): string | undefined {
  let at = 0;
  const visit = (values: unknown, axis: number): string | undefined => {
    const size = shape[axis];
    if (!Array.isArray(values) || values.length !== size)
      return `data: expected lists nested as [${shape}], got others`;
    if (axis < shape.length - 1) {
      for (const inner of values) {
        const fault = visit(inner, axis + 1);
        if (fault !== undefined) return fault;
      }
      return undefined;
    }
    const fault = writeAll(values, at, write);
    at += values.length;
    return fault;
  };
  return visit(data, 0);
}

function shown(value: unknown): string {
  if (typeof value === "number" || typeof value === "boolean" || value === null) return String(value);
  return `a ${Array.isArray(value) ? "list" : typeof value}`;
}

/** Little-endian bytes as a tensor, or why they are none. They may be read where they are. */
export function fromBinary(
  bytes: Uint8Array,
  type: TensorType,
  shape: readonly number[],
  count: number,
): Tensor | string {
  const expected = count * elementBytes(type);
  if (bytes.length !== expected)
    return `binary_data_size: expected ${expected} bytes for [${shape}], got ${bytes.length}`;
  if (type === "bool" && bytes.some((flag) => flag > 1)) return "binary data: expected bytes of 0 and 1 for BOOL";
  return { type, dims: shape, data: fromBytes(type, bytes) } as Tensor;
}

/** The values as JSON has them: whole numbers beyond 2^53 lose digits there, NaN and infinity are null. */
export function toJson({ type, data }: Tensor): readonly (number | boolean)[] {
  if (type === "bool") return Array.from(data as Uint8Array, (flag) => flag !== 0);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Array.from(data as BigInt64Array, Number);
  return Array.from(data as Float32Array);
}

/** The values as little-endian bytes, where they are. */
export function toBinary({ data }: Tensor): Uint8Array {
  return toBytes(data);
}

/** The texts of BYTES values: each a length of 4 bytes and that many bytes of UTF-8. Returns why they are none. */
export function textsOf(bytes: Uint8Array): string[] | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const texts: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = at + 4 <= bytes.length ? view.getUint32(at, true) : Number.POSITIVE_INFINITY;
    if (at + 4 + length > bytes.length) return "binary data: a text ends past the end of the data";
    try {
      texts.push(decoder.decode(bytes.subarray(at + 4, at + 4 + length)));
    } catch {
      return "binary data: expected UTF-8";
    }
    at += 4 + length;
  }
  return texts;
}
