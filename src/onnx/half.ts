// float16 and bfloat16 to float32, exactly, with NaN payloads and the sign of zero; and back by rounding: to nearest, ties to even, over the whole range with subnormal numbers and infinities.
// Formats: IEEE 754-2019 binary16 (5 exponent, 10 fraction bits) and the upper half of a binary32 (8 and 7).
import { LowrankError } from "../errors.ts";
import { fromBytes, tensor } from "../tensor.ts";
import type { ElementType } from "./elements.ts";
import { fromTensor, type StoredTensor } from "./model.ts";

interface Format {
  readonly fraction: number;
  /** The exponent of the smallest normal number. */
  readonly least: number;
  readonly greatest: number;
}

const formats: Readonly<Record<"float16" | "bfloat16", Format>> = {
  float16: { fraction: 10, least: -14, greatest: 15 },
  bfloat16: { fraction: 7, least: -126, greatest: 127 },
};

/**
 * The bit patterns of values rounded once to a type of 16 bits. What is too large becomes infinite.
 *
 * @example toHalf("float16", [1, 65504]); // Uint16Array [0x3c00, 0x7bff]
 */
export function toHalf(type: "float16" | "bfloat16", values: ArrayLike<number>): Uint16Array {
  if (type === "float16" && values instanceof Float32Array) return float16Of(values);
  const format = formats[type];
  return Uint16Array.from(values, (value) => bitsOf(value, format));
}

/**
 * The same for weights by the million: on the bits of float32. Adding 0.5 to a number below 2^-14 leaves its last bit at 2^-24,
 * where float16 ends; elsewhere all but the last 13 bits of the fraction are rounded by an addition (Giesen, "half to float
 * done quic").
 */
function float16Of(values: Float32Array): Uint16Array {
  const halves = new Uint16Array(values.length);
  const one = new Float32Array(1);
  const bits = new Uint32Array(one.buffer);
  for (let i = 0; i < values.length; i++) {
    one[0] = values[i]!;
    const sign = (bits[0]! >>> 16) & 0x8000;
    const size = bits[0]! & 0x7fffffff;
    let half: number;
    if (size > 0x7f800000) half = 0x7e00;
    else if (size >= 0x47800000) half = 0x7c00;
    else if (size >= 0x38800000) half = (size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13;
    else {
      one[0] = Math.abs(values[i]!) + 0.5;
      half = bits[0]! - 0x3f000000;
    }
    halves[i] = sign | half;
  }
  return halves;
}

function bitsOf(value: number, { fraction, least, greatest }: Format): number {
  const infinity = (greatest - least + 2) << fraction;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(value)) return infinity | (1 << (fraction - 1));
  const size = Math.abs(value);
  const exponent = Math.max(exponentOf(size), least);
  if (exponent > greatest) return sign | infinity;
  // In units of the last place, exactly: a scaling by a power of two. A carry runs into the exponent, as it should.
  const units = roundToEven(size * 2 ** (fraction - exponent));
  return sign | (units + ((exponent - least) << fraction));
}

/** The largest e with 2^e <= size; very small for 0, large for infinity. */
function exponentOf(size: number): number {
  if (size === 0) return -1074;
  const near = Math.floor(Math.log2(size));
  // log2 may round across a power of two.
  if (2 ** near > size) return near - 1;
  return 2 ** (near + 1) <= size ? near + 1 : near;
}

function roundToEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** float32 values of IEEE binary16 bit patterns. */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length);
  const out = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) {
    const half = bits[i]!;
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0) {
      values[i] = fraction * 2 ** -24; // zero, or subnormal: float32 holds these as normal numbers
      out[i] = out[i]! | sign;
    } else {
      const widened = exponent === 31 ? 0xff : exponent + 112; // bias 15 becomes bias 127
      out[i] = sign | (widened << 23) | (fraction << 13);
    }
  }
  return values;
}

/** float32 values of bfloat16 bit patterns. */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16;
  return new Float32Array(out.buffer);
}

/** Values as a tensor of floats, rounded once to its type. */
export function rounded(type: ElementType, dims: readonly number[], values: ArrayLike<number>): StoredTensor {
  if (type === "float16" || type === "bfloat16") return fromTensor(tensor(type, dims, toHalf(type, values)));
  return fromTensor(tensor("float32", dims, Float32Array.from(values)));
}

/** The values of stored floats as float32, exactly. Throws LowrankError "model" for other types. */
export function floatsOf({ type, bytes }: StoredTensor): Float32Array {
  if (type === "float16") return float16ToFloat32(fromBytes(type, bytes));
  if (type === "bfloat16") return bfloat16ToFloat32(fromBytes(type, bytes));
  if (type === "float32") return fromBytes(type, bytes);
  throw new LowrankError("model", `expected scales and weights that are floats, got ${type}`);
}
