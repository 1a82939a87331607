import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toHalf } from "./half.ts";

const bits = (type: "float16" | "bfloat16", value: number): number => toHalf(type, [value])[0]!;

/** The value of a bit pattern, by the formats' definition. */
function valueOfBits(pattern: number, fraction: number, bias: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern & 0x7fff) >> fraction;
  const rest = (pattern & ((1 << fraction) - 1)) / 2 ** fraction;
  if (exponent === 2 * bias + 1) return rest === 0 ? sign * Infinity : Number.NaN;
  return sign * (exponent === 0 ? rest * 2 ** (1 - bias) : (1 + rest) * 2 ** (exponent - bias));
}

describe("rounding to 16 bits", () => {
  it("gives known patterns", () => {
    const known: [number, number, number][] = [
      [0, 0x0000, 0x0000],
      [-0, 0x8000, 0x8000],
      [1, 0x3c00, 0x3f80],
      [-2, 0xc000, 0xc000],
      [65504, 0x7bff, 0x4780],
      [65520, 0x7c00, 0x4780], // half way to the next float16, which is infinity
      [65519.99, 0x7bff, 0x4780],
      [2 ** -24, 0x0001, 0x3380],
      [2 ** -25, 0x0000, 0x3300], // a tie goes to the even 0
      [2 ** -25 * 1.01, 0x0001, 0x3301],
      [1 + 2 ** -11, 0x3c00, 0x3f80],
      [1 + 3 * 2 ** -11, 0x3c02, 0x3f80],
      [Infinity, 0x7c00, 0x7f80],
      [-1e300, 0xfc00, 0xff80],
    ];
    for (const [value, half, brain] of known) {
      expect([value, bits("float16", value), bits("bfloat16", value)]).toEqual([value, half, brain]);
    }
    expect(bits("float16", Number.NaN) & 0x7fff).toBeGreaterThan(0x7c00);
    expect(bits("bfloat16", Number.NaN) & 0x7fff).toBeGreaterThan(0x7f80);
  });

  it.each([
    ["float16", 10, 15],
    ["bfloat16", 7, 127],
  ] as const)("keeps every %s value, and takes the nearer neighbour of all others", (type, fraction, bias) => {
    for (let pattern = 0; pattern < 0x10000; pattern++) {
      const value = valueOfBits(pattern, fraction, bias);
      if (!Number.isNaN(value) && bits(type, value) !== pattern) throw new Error(`${pattern} is not kept`);
    }
    const largest = (2 - 2 ** -fraction) * 2 ** bias;
    fc.assert(
      fc.property(fc.double({ min: -largest, max: largest, noNaN: true }), (value) => {
        const pattern = bits(type, value);
        const error = Math.abs(valueOfBits(pattern, fraction, bias) - value);
        const others = [pattern - 1, pattern + 1].filter((one) => one >= 0 && one < 0x10000);
        for (const other of others) {
          const gap = Math.abs(valueOfBits(other, fraction, bias) - value);
          if (!Number.isNaN(gap)) expect(error).toBeLessThanOrEqual(gap);
        }
      }),
    );
  });
});
