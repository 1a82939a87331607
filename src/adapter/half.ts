// float16 and bfloat16 to float32, exactly: every value of either format is a float32 value, and infinities, the sign of
// zero and NaN payloads are kept. Formats: IEEE 754-2019 binary16 (1 sign, 5 exponent, 10 fraction bits); bfloat16 is
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
