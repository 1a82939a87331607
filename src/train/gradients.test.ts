import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createArena } from "./arena.ts";
import { clipGradients, gradientNorm, squaresTwin, sumOfSquares } from "./gradients.ts";

describe("sumOfSquares", () => {
  it("gives the same bits in the kernel and in its twin, NaN and infinities included", () => {
    fc.assert(
      fc.property(fc.array(fc.float(), { maxLength: 40 }), (values) => {
        const array = createArena([values.length]).allocate(values.length);
        array.set(values);
        expect(sumOfSquares(array)).toBe(squaresTwin(array));
        expect(sumOfSquares(array.slice())).toBe(squaresTwin(array));
      }),
      { numRuns: 300 },
    );
  });

  it("does not overflow where float32 would", () => {
    expect(sumOfSquares(Float32Array.of(3e38, 4e38 / 2))).toBeCloseTo(1.3e77, -75);
  });
});

describe("gradientNorm and clipGradients", () => {
  const arrays = () =>
    new Map([
      ["a", Float32Array.of(3, 0)],
      ["b", Float32Array.of(-4)],
    ]);

  it("are torch.nn.utils.clip_grad_norm_: all arrays as one vector", () => {
    const gradients = arrays();
    expect(gradientNorm(gradients)).toEqual({ norm: 5, faulty: null });
    clipGradients(gradients, 5, 1);
    // 1 / (5 + 1e-6)
    const factor = Math.fround(1 / 5.000001);
    expect([...gradients.get("a")!]).toEqual([Math.fround(3 * factor), 0]);
    expect([...gradients.get("b")!]).toEqual([Math.fround(-4 * factor)]);
    const short = arrays();
    clipGradients(short, 5, 6);
    expect(short).toEqual(arrays());
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])("names the first array with %d in it", (value) => {
    const gradients = arrays().set("c", Float32Array.of(1, value)).set("d", Float32Array.of(value));
    expect(gradientNorm(gradients).faulty).toBe("c");
  });
});
