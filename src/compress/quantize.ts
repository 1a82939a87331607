// Weights in fewer bits, symmetric around zero: int8 with a scale for each output (ONNX's DequantizeLinear along that axis)
// and int4 in blocks of 32 along each row (com.microsoft.MatMulNBits: ONNX Runtime, docs/ContribOperators.md).
import { elementBytes, type TensorType } from "../tensor.ts";
import type { QuantizedForm } from "./options.ts";

/** Values of a row that share a scale, in 4 bits. */
export const blockSize = 32;

/** W [out, in] in fewer bits. */
export interface QuantizedRows {
  /** int8: [out, in]; int4: [out, blocks, 16], the even element of a pair in the low half of a byte. */
  readonly codes: Uint8Array;
  /** int8: [out]; int4: [out, blocks]. */
  readonly scales: Float32Array;
  /** What the codes mean, [out, in]. */
  readonly values: Float32Array;
}

/** Bytes that W [out, in] takes, with its scales. */
export function storageBytes(
  form: QuantizedForm | undefined,
  out: number,
  into: number,
  type: TensorType = "float32",
): number {
  if (form === "int8") return out * into + 4 * out;
  if (form === "int4") return out * Math.ceil(into / blockSize) * (blockSize / 2 + 4);
  return out * into * elementBytes(type);
}

/** The nearest codes to a weight [out, in]; an error is at most half a step, the largest value of a row or block is 127 or 8 steps. */
export function quantized(form: QuantizedForm, weight: Float32Array, out: number, into: number): QuantizedRows {
  return form === "int8" ? inRows(weight, out, into) : inBlocks(weight, out, into);
}

function inRows(weight: Float32Array, out: number, into: number): QuantizedRows {
  const codes = new Int8Array(weight.length);
  const scales = new Float32Array(out);
  const values = new Float32Array(weight.length);
  for (let row = 0; row < out; row++) {
    const own = weight.subarray(row * into, (row + 1) * into);
    const scale = stepOf(Math.abs(extreme(own)) / 127);
    scales[row] = scale;
    own.forEach((value, column) => {
      const code = clamp(Math.round(value / scale), -127, 127);
      codes[row * into + column] = code;
      values[row * into + column] = code * scale;
    });
  }
  return { codes: new Uint8Array(codes.buffer), scales, values };
}

function inBlocks(weight: Float32Array, out: number, into: number): QuantizedRows {
  const perRow = Math.ceil(into / blockSize);
  // A code of 8 is zero: what fills up the last block counts for nothing.
  const codes = new Uint8Array((out * perRow * blockSize) / 2).fill(0x88);
  const scales = new Float32Array(out * perRow);
  const values = new Float32Array(weight.length);
  for (let row = 0; row < out; row++) {
    for (let block = 0; block < perRow; block++) {
      const from = row * into + block * blockSize;
      const own = weight.subarray(from, Math.min(from + blockSize, (row + 1) * into));
      // Codes run from -8 to 7: the value of the largest size becomes -8, on either side of zero.
      const scale = stepOf(extreme(own) / -8);
      const at = row * perRow + block;
      scales[at] = scale;
      own.forEach((value, index) => {
        const code = clamp(Math.round(value / scale), -8, 7);
        const byte = (at * blockSize + index) >> 1;
        const shift = 4 * (index & 1);
        codes[byte] = (codes[byte]! & ~(15 << shift)) | ((code + 8) << shift);
        values[from + index] = code * scale;
      });
    }
  }
  return { codes, scales, values };
}

/** As float32 has it, in which the runtime multiplies; 1 where all values are zero. */
function stepOf(step: number): number {
  return Math.fround(step) || 1;
}

/** The value of the largest size. */
function extreme(values: Float32Array): number {
  return values.reduce((found, value) => (Math.abs(value) > Math.abs(found) ? value : found), 0);
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
