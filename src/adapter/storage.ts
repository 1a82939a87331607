// The types that adapter files hold tensors in. In memory every tensor is float32; `storage` remembers what its file had, so
// that rewriting gives the same bytes, and `quantizeAdapter` rounds to a smaller type. float16 and bfloat16 round to nearest,
// ties to even (IEEE 754-2019); int8 is symmetric with one scale for each row, max |row| / 127 (ONNX's DequantizeLinear
// without a zero point).
import { LowrankError, throwFaults } from "../errors.ts";
import type { Adapter, StorageType } from "../lora/config.ts";
import { bfloat16ToFloat32, float16ToFloat32, toHalf } from "../onnx/half.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { quote } from "./json.ts";

/** What `quantizeAdapter` gives. */
export interface QuantizedAdapter {
  /** float32 values that the type holds exactly, and `storage` that names it. */
  readonly adapter: Adapter;
  /** The largest |x - rounded x|, relative to the largest |x| of the tensor that it is in. */
  readonly relativeError: number;
  /** The key of that tensor. */
  readonly worst: string;
}

/**
 * The adapter with its values rounded to a smaller type, in which writers then store it. With int8, tensors of one dimension
 * (biases, magnitudes) stay as they are.
 *
 * PEFT's and mlx-lm's files hold float16 and bfloat16; int8 needs an `.onnx_adapter` (`writeOnnxAdapter`), whose model
 * dequantizes it (`withAdapterInputs`).
 *
 * @throws LowrankError "adapter" that lists every value that the type cannot hold, and tensors that are not float32.
 * @example
 * const { adapter: half, relativeError } = quantizeAdapter(adapter, "float16");
 * const files = writeAdapter(half); // half the size
 */
export function quantizeAdapter(adapter: Adapter, type: StorageType): QuantizedAdapter {
  const faults: string[] = [];
  const tensors = new Map<string, Tensor>();
  const storage = new Map<string, StorageType>();
  let worst = { key: "", relativeError: 0 };
  for (const [key, value] of adapter.tensors) {
    if (value.type !== "float32") {
      faults.push(`${quote(key)}: expected float32, got ${value.type}`);
      continue;
    }
    if (type === "int8" && value.dims.length < 2) {
      tensors.set(key, value);
      continue;
    }
    const rounded = roundTo(value, type);
    const at = rounded.findIndex((x) => !Number.isFinite(x));
    if (at >= 0) {
      faults.push(`${quote(key)}: expected values that ${type} can hold, got ${value.data[at]} at ${at}`);
      continue;
    }
    const relativeError = largestError(value.data, rounded);
    if (relativeError > worst.relativeError || worst.key === "") worst = { key, relativeError };
    tensors.set(key, tensor("float32", value.dims, rounded));
    storage.set(key, type);
  }
  throwFaults("adapter", `adapter to quantize to ${type}`, faults);
  return {
    adapter: { config: adapter.config, tensors, storage },
    relativeError: worst.relativeError,
    worst: worst.key,
  };
}

/** The tensors as a file holds them: in their stored type where that is exact, else as they are. int8 is left to its writers. */
export function storedTensors({ tensors, storage }: Pick<Adapter, "tensors" | "storage">): Map<string, Tensor> {
  return new Map(
    [...tensors].map(([key, value]) => {
      const type = storage?.get(key);
      if (value.type !== "float32" || type === undefined || type === "int8") return [key, value] as const;
      return [key, exactly(value, type) ?? value] as const;
    }),
  );
}

/** The same values in a half type; undefined when it does not hold all of them. */
function exactly(value: Tensor<"float32">, type: "float16" | "bfloat16"): Tensor | undefined {
  const half = halved(value, type);
  const back = toFloat32(half)!.data;
  return value.data.every((x, i) => Object.is(x, back[i])) ? half : undefined;
}

/** The nearest values of a half type. */
export function halved(value: Tensor<"float32">, type: "float16" | "bfloat16"): Tensor {
  return tensor(type, value.dims, toHalf(type, value.data));
}

/** The same values as float32, where that is exact: null for other types than float16 and bfloat16. */
export function toFloat32(value: Tensor): Tensor<"float32"> | null {
  switch (value.type) {
    case "float32":
      return value;
    case "float16":
      return tensor("float32", value.dims, float16ToFloat32(value.data));
    case "bfloat16":
      return tensor("float32", value.dims, bfloat16ToFloat32(value.data));
    default:
      return null;
  }
}

/** int8 values with one scale for each row: row i of the matrix is about `scales[i]` times row i of `values`. */
export interface QuantizedRows {
  readonly values: Int8Array; // [rows, columns]
  readonly scales: Float32Array; // [rows]
}

/** Rows of finite values as int8. What has been quantized so before gives the same values and scales again. */
export function quantizeRows(data: Float32Array, rows: number): QuantizedRows {
  const columns = rows === 0 ? 0 : data.length / rows;
  const values = new Int8Array(data.length);
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    let largest = 0;
    for (let i = start; i < start + columns; i++) largest = Math.max(largest, Math.abs(data[i]!));
    const scale = scaleFor(largest);
    scales[row] = scale;
    if (scale === 0) continue;
    for (let i = start; i < start + columns; i++) {
      values[i] = Math.max(-127, Math.min(127, roundHalfEven(data[i]! / scale)));
    }
  }
  return { values, scales };
}

/** What rows of int8 stand for, as ONNX's DequantizeLinear computes it. */
export function dequantizeRows({ values, scales }: QuantizedRows): Float32Array {
  const columns = scales.length === 0 ? 0 : values.length / scales.length;
  return Float32Array.from(values, (value, i) => value * scales[Math.floor(i / columns)]!);
}

/** largest / 127, moved by a unit where needed so that the scale of what it quantizes to is itself. */
function scaleFor(largest: number): number {
  let scale = Math.fround(largest / 127);
  for (let tries = 0; tries < 4; tries++) {
    const next = Math.fround(Math.fround(127 * scale) / 127);
    if (next === scale) break;
    scale = next;
  }
  return scale;
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

function roundTo(value: Tensor<"float32">, type: StorageType): Float32Array {
  if (type !== "int8") return toFloat32(halved(value, type))!.data;
  // NaN and infinity have no scale: they are the caller's fault to report.
  const at = value.data.findIndex((x) => !Number.isFinite(x));
  if (at >= 0) return value.data;
  const rounded = dequantizeRows(quantizeRows(value.data, value.dims[0]!));
  // 127 scales can round to just above the largest float32.
  return rounded.some((x) => !Number.isFinite(x)) ? value.data.map(() => Number.POSITIVE_INFINITY) : rounded;
}

function largestError(exact: Float32Array, rounded: Float32Array): number {
  let error = 0;
  let largest = 0;
  for (let i = 0; i < exact.length; i++) {
    error = Math.max(error, Math.abs(exact[i]! - rounded[i]!));
    largest = Math.max(largest, Math.abs(exact[i]!));
  }
  return largest === 0 ? 0 : error / largest;
}

/** A type's name from outside, or LowrankError "config". */
export function storageType(name: string): StorageType | "float32" {
  if (name === "float32" || name === "float16" || name === "bfloat16" || name === "int8") return name;
  throw new LowrankError("config", `dtype: expected float32, float16, bfloat16 or int8, got ${quote(name)}`);
}
