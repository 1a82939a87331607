// float16 and bfloat16 to float32, exactly (every value of either format is a float32 value, and infinities, the sign of
// zero and NaN payloads are kept), and back, rounded to nearest, ties to even. Formats: IEEE 754-2019 binary16 (1 sign, 5 exponent, 10 fraction bits); bfloat16 is
// the upper half of a binary32.

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

/** The nearest IEEE binary16 bit patterns; what lies at 65520 or beyond becomes infinite, as IEEE 754 has it. */
export function float32ToFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = toFloat16(bits[i]!);
  return out;
}

function toFloat16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff); // NaN, made quiet
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above
  if (magnitude >= 0x38800000) return sign | ((roundOff(magnitude, 13) >>> 13) - 0x1c000); // bias 127 becomes bias 15
  // Below 2^-14: the fraction with its leading 1, shifted until its unit is 2^-24.
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return sign;
  return sign | (roundOff((magnitude & 0x7fffff) | 0x800000, shift) >>> shift);
}

/** The nearest bfloat16 bit patterns; what lies beyond its largest value by half a unit becomes infinite. */
export function float32ToBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const isNumber = (bits[i]! & 0x7fffffff) <= 0x7f800000;
    out[i] = isNumber ? roundOff(bits[i]!, 16) >>> 16 : (bits[i]! >>> 16) | 0x40;
  }
  return out;
}

/** Adds what makes cutting the lower `count` bits off round to nearest, ties to even. */
function roundOff(bits: number, count: number): number {
  return bits + (2 ** (count - 1) - 1) + ((bits >>> count) & 1);
}
