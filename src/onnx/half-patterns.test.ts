import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bfloat16ToFloat32, float16ToFloat32, toHalf } from "./half.ts";

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

describe.each([
  ["float16", float16ToFloat32, 0x7c00],
  ["bfloat16", bfloat16ToFloat32, 0x7f80],
] as const)("toHalf %s", (type, widen, infinity) => {
  const round = (values: Float32Array): Uint16Array => toHalf(type, values);

  it("gives every pattern of a number back", () => {
    const numbers = all.filter((bits) => (bits & 0x7fff) <= infinity);
    expect(round(widen(numbers))).toEqual(numbers);
  });

  it("takes the nearer neighbour, and of two equally near ones the even one", () => {
    const largest = infinity - 1;
    const neighbours = (low: number): [number, number] => [
      widen(Uint16Array.of(low))[0]!,
      widen(Uint16Array.of(low + 1))[0]!,
    ];
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: largest - 1 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.boolean(),
        (low, at, negative) => {
          const [below, above] = neighbours(low);
          const value = Math.fround(below + at * (above - below));
          const [toBelow, toAbove] = [value - below, above - value];
          const expected = toBelow < toAbove || (toBelow === toAbove && low % 2 === 0) ? low : low + 1;
          expect(round(Float32Array.of(negative ? -value : value))[0]).toBe(negative ? expected | 0x8000 : expected);
        },
      ),
      { numRuns: 2000 },
    );
    // Every midpoint of two neighbours is a float32 number, and goes to the even one of them.
    for (let low = 0; low < largest; low++) {
      const [below, above] = neighbours(low);
      expect(round(Float32Array.of((below + above) / 2))[0]).toBe(low % 2 === 0 ? low : low + 1);
    }
  });

  it("becomes infinite from half a unit above the largest value", () => {
    const [largest, before] = widen(Uint16Array.of(infinity - 1, infinity - 2));
    const half = largest! + (largest! - before!) / 2;
    const bits = new Uint32Array(Float32Array.of(half).buffer);
    bits[0]! -= 1;
    expect([
      ...round(Float32Array.of(half, -half, new Float32Array(bits.buffer)[0]!, Number.POSITIVE_INFINITY)),
    ]).toEqual([infinity, infinity | 0x8000, infinity - 1, infinity]);
  });
});
