import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { adamFactor, adamFactors, adamTwin, writeAdamFactors } from "./adam.ts";
import { createArena, kernelsOf } from "./arena.ts";

const defaults = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 };
const SMALLEST_NORMAL = 2 ** -126;

function factorsOf(hyper: Partial<typeof defaults>, decoupled: boolean, step: number, learningRate: number) {
  const block = new Float32Array(adamFactors);
  writeAdamFactors(block, { ...defaults, ...hyper }, decoupled, step, learningRate);
  return block;
}

describe("writeAdamFactors", () => {
  it("computes in double and rounds once", () => {
    const block = factorsOf({}, false, 1, 1e-3);
    expect(block[adamFactor.squareShare]).toBe(Math.fround(0.001));
    expect(block[adamFactor.squareShare]).not.toBe(Math.fround(1 - Math.fround(0.999)));
    expect(block[adamFactor.gradientShare]).toBe(Math.fround(1 - 0.9));
    // First step: the bias corrections are 0.1 and 0.001, so the step size is 0.01.
    expect(block[adamFactor.rootScale]).toBeCloseTo(1 / (Math.sqrt(0.001) * 0.01), 2);
    expect(block[adamFactor.epsilon]).toBeCloseTo(1e-6, 12);
  });

  it("decays the gradient for L2, and the parameter when decoupled", () => {
    const coupled = factorsOf({ weightDecay: 0.5 }, false, 3, 0.1);
    expect([coupled[adamFactor.gradientDecay], coupled[adamFactor.keep]]).toEqual([0.5, 1]);
    const decoupled = factorsOf({ weightDecay: 0.5 }, true, 3, 0.1);
    expect([decoupled[adamFactor.gradientDecay], decoupled[adamFactor.keep]]).toEqual([0, Math.fround(0.95)]);
  });
});

describe("adamTwin", () => {
  it("moves a parameter by the learning rate on the first step, against the gradient's sign", () => {
    const p = Float32Array.of(1, 1, 1);
    const m = new Float32Array(3);
    const v = new Float32Array(3);
    adamTwin(p, Float32Array.of(4, -0.25, 0), m, v, factorsOf({}, false, 1, 0.01));
    expect([...m]).toEqual([Math.fround(0.4), Math.fround(-0.025), 0]);
    expect(p[0]).toBeCloseTo(0.99, 7);
    expect(p[1]).toBeCloseTo(1.01, 7);
    expect(p[2]).toBe(1);
    expect(v[0]).toBeCloseTo(0.016, 8);
  });
});

describe("denormal numbers", () => {
  // Gradients of every size from 1e-44 to 1, then none at all: both moments decay through the denormal range.
  const count = 45;
  const sizes = Float32Array.from({ length: count }, (_, i) => 10 ** -i * (i % 2 === 0 ? 1 : -1));
  for (const beta2 of [0, 0.1, 0.9, 0.999]) {
    it(`never stay in the moments, beta2 = ${beta2}`, () => {
      const p = new Float32Array(count).fill(1);
      const g = sizes.slice();
      const m = new Float32Array(count);
      const v = new Float32Array(count);
      for (let step = 1; step <= 2000; step++) {
        if (step === 20) g.fill(0);
        adamTwin(p, g, m, v, factorsOf({ beta2 }, false, step, 1e-3));
        expect(m.every((value) => value === 0 || Math.abs(value) >= Math.fround(1e-30))).toBe(true);
        expect(v.every((value) => value >= SMALLEST_NORMAL)).toBe(true);
      }
      expect([...m]).toEqual(new Array(count).fill(0));
    });
  }
});

describe("the kernel and its twin", () => {
  const float = fc.oneof(
    fc.float({ noDefaultInfinity: true, noNaN: true, min: -4, max: 4 }),
    fc.float(), // NaN, infinities and denormals too
    fc.constantFrom(0, -0, 1e-30, -1e-30, 2.7e-17, 1e-38, -1e-40, 3.4e38).map(Math.fround),
  );
  const weight = { p: float, g: float, m: float, v: float.map(Math.abs) };
  const run = fc.record({
    weights: fc.array(fc.record(weight), { maxLength: 23 }),
    beta1: fc.double({ min: 0, max: 0.9999, noNaN: true }),
    beta2: fc.double({ min: 0, max: 0.9999, noNaN: true }),
    epsilon: fc.constantFrom(1e-8, 1e-6, 1e-15),
    weightDecay: fc.constantFrom(0, 0.01, 0.5),
    decoupled: fc.boolean(),
    learningRate: fc.constantFrom(0, 1e-40, 1e-3, 1, 1e30),
    step: fc.integer({ min: 1, max: 100_000 }),
  });

  it("agree bit for bit, tails, NaN and infinities included", () => {
    fc.assert(
      fc.property(run, ({ weights, decoupled, learningRate, step, ...hyper }) => {
        const keys = ["p", "g", "m", "v"] as const;
        const arena = createArena(keys.map(() => weights.length));
        const [p, g, m, v] = keys.map((key) => {
          const array = arena.allocate(weights.length);
          array.set(weights.map((one) => one[key]));
          return array;
        }) as [Float32Array, Float32Array, Float32Array, Float32Array];
        const twin = [p, g, m, v].map((array) => array.slice()) as [
          Float32Array,
          Float32Array,
          Float32Array,
          Float32Array,
        ];
        const kernels = kernelsOf(p)!;
        for (let i = 0; i < 3; i++) {
          const block = factorsOf(hyper, decoupled, step + i, learningRate);
          adamTwin(...twin, block);
          kernels.factors.set(block);
          kernels.adam(p.byteOffset, g.byteOffset, m.byteOffset, v.byteOffset, p.length, kernels.factors.byteOffset);
        }
        // Which NaN it is, is not laid down; whether a zero is negative is: toEqual tells 0 from -0.
        expect([p, g, m, v].map((array) => [...array])).toEqual(twin.map((array) => [...array]));
      }),
      { numRuns: 300 },
    );
  });
});
