// A tensor as plain data. Structurally a subset of onnxruntime-common's Tensor, so that one of those can be passed
// wherever one of these is asked for; no room needs the runtime for its types.

/** Element types that JavaScript has an array for, by ONNX Runtime's names, with that array. */
export interface TensorArrays {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array; // bit patterns, IEEE 754 binary16
  bfloat16: Uint16Array; // bit patterns: the upper half of a float32
  int8: Int8Array;
  uint8: Uint8Array;
  int16: Int16Array;
  uint16: Uint16Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  uint64: BigUint64Array;
  bool: Uint8Array; // 0 or 1
}

export type TensorType = keyof TensorArrays;

/** Row-major values with their shape: `data.length` is the product of `dims` (1 for a scalar, `[]`). */
export type Tensor<T extends TensorType = TensorType> = {
  [K in T]: { readonly type: K; readonly dims: readonly number[]; readonly data: TensorArrays[K] };
}[T];

const constructors: {
  [K in TensorType]: { new (buffer: ArrayBufferLike, offset?: number, length?: number): TensorArrays[K] };
} = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

const bytesPerElement: { [K in TensorType]: number } = {
  float32: 4,
  float64: 8,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  int16: 2,
  uint16: 2,
  int32: 4,
  uint32: 4,
  int64: 8,
  uint64: 8,
  bool: 1,
};

/** Bytes that one element of `type` takes. */
export function elementBytes(type: TensorType): number {
  return bytesPerElement[type];
}

/** How many elements a shape holds: the product of its dimensions, 1 for `[]`. */
export function elementCount(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** A tensor over existing values; throws `internal:` when the shape does not fit the values. */
export function tensor<T extends TensorType>(type: T, dims: readonly number[], data: TensorArrays[T]): Tensor<T> {
  if (elementCount(dims) !== data.length) {
    throw new Error(`internal: a ${type} tensor [${dims}] needs ${elementCount(dims)} values, got ${data.length}`);
  }
  return { type, dims, data } as unknown as Tensor<T>;
}

/** A float32 tensor of zeros. */
export function zeros(dims: readonly number[]): Tensor<"float32"> {
  return tensor("float32", dims, new Float32Array(elementCount(dims)));
}

/**
 * Little-endian bytes as a typed array: a view where the alignment allows it, a copy where it does not.
 * `bytes.length` must be a multiple of the element size.
 */
export function fromBytes<T extends TensorType>(type: T, bytes: Uint8Array): TensorArrays[T] {
  const size = elementBytes(type);
  if (bytes.length % size !== 0) throw new Error(`internal: ${bytes.length} bytes are no whole number of ${type}`);
  // Not slice(): on a Node Buffer that is another view.
  const aligned = bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
  return new constructors[type](aligned.buffer, aligned.byteOffset, aligned.length / size);
}

/** The bytes of a typed array, as a view. */
export function toBytes(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
