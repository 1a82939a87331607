import { describe, expect, it } from "vitest";
import { bfloat16ToFloat32, float16ToFloat32 } from "./half.ts";

const all = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The value by the definition: sign, exponent with its bias, fraction. */
function byDefinition(bits: number, exponentBits: number): number {
  const fractionBits = 15 - exponentBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = bits >> 15 === 1 ? -1 : 1;
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1);
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias);
}

describe.each([
  ["float16ToFloat32", float16ToFloat32, 5, 13],
  ["bfloat16ToFloat32", bfloat16ToFloat32, 8, 16],
] as const)("%s", (_, convert, exponentBits, shift) => {
  it("gives the exact value of all 65,536 patterns", () => {
    const values = convert(all);
    const wrong = Array.from(all).filter((bits) => !Object.is(values[bits], byDefinition(bits, exponentBits)));
    expect(wrong).toEqual([]);
  });

  it("keeps the sign and payload of NaN", () => {
    const bits = 0xffc1; // a negative NaN in both formats
    const payload = bits & (2 ** (15 - exponentBits) - 1);
    const out = new Uint32Array(convert(Uint16Array.of(bits)).buffer)[0]!;
    expect(out).toBe(0xff800000 + payload * 2 ** shift);
  });
});
