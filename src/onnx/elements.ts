// ONNX's element types: their codes in TensorProto.data_type, their names, and how many bits a value takes.
import type { TensorType } from "../tensor.ts";

const types = [
  ["float32", 1, 32],
  ["uint8", 2, 8],
  ["int8", 3, 8],
  ["uint16", 4, 16],
  ["int16", 5, 16],
  ["int32", 6, 32],
  ["int64", 7, 64],
  ["string", 8, 0],
  ["bool", 9, 8],
  ["float16", 10, 16],
  ["float64", 11, 64],
  ["uint32", 12, 32],
  ["uint64", 13, 64],
  ["complex64", 14, 64],
  ["complex128", 15, 128],
  ["bfloat16", 16, 16],
  ["float8e4m3fn", 17, 8],
  ["float8e4m3fnuz", 18, 8],
  ["float8e5m2", 19, 8],
  ["float8e5m2fnuz", 20, 8],
  ["uint4", 21, 4],
  ["int4", 22, 4],
  ["float4e2m1", 23, 4],
  ["float8e8m0", 24, 8],
  ["uint2", 25, 2],
  ["int2", 26, 2],
] as const;

/** An ONNX element type by name; those of TensorType are readable as typed arrays. */
export type ElementType = (typeof types)[number][0];

const byCode: ReadonlyMap<number, ElementType> = new Map(types.map(([name, code]) => [code, name]));
const codes: ReadonlyMap<string, number> = new Map(types.map(([name, code]) => [name, code]));
const bits: ReadonlyMap<string, number> = new Map(types.map(([name, , width]) => [name, width]));

/** The element type of a TensorProto.DataType code, or undefined for 0 and unknown codes. */
export function elementType(code: number): ElementType | undefined {
  return byCode.get(code);
}

/** The TensorProto.DataType code of an element type. */
export function elementCode(type: ElementType): number {
  return codes.get(type)!;
}

/** Bytes that `count` values of `type` take in raw_data: sub-byte types are packed; strings have no raw form (NaN). */
export function rawByteLength(type: ElementType, count: number): number {
  const width = bits.get(type)!;
  return width === 0 ? Number.NaN : Math.ceil((count * width) / 8);
}

/** Whether JavaScript has a typed array for this element type. */
export function isTensorType(type: ElementType): type is TensorType {
  return (codes.get(type) as number) <= 16 && type !== "string" && !type.startsWith("complex");
}
