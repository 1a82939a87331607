// Every optimizer against PyTorch's (Lion: its paper's) over 50 steps, and on a function whose minimum is known.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createArena } from "../arena.ts";
import { adafactor, adam, adamw, lion, type Optimizer, sgd, stateLengths } from "../optimizers.ts";
import { copyState, restoreState } from "./optimizer.ts";

type Values = Record<string, number[]>;

/** What scripts/fixtures/trajectories.py writes. */
interface Fixture {
  shapes: Record<string, number[]>;
  start: Values;
  gradients: Values[];
  cases: {
    optimizer: keyof typeof makers;
    learningRate: number;
    options: Record<string, number>;
    /** By the number of steps taken. */
    parameters: Record<string, Values>;
  }[];
}

const makers = { sgd, adam, adamw, lion, adafactor };
const fixturePath = new URL("../../../test/fixtures/optimizers/trajectories.json", import.meta.url);
const fixture = JSON.parse(readFileSync(fixturePath, "utf8")) as Fixture;

/** Of the largest element that the tensor has. */
const trajectoryTolerance = 1e-6;

/** Parameters, gradients and state of an optimizer in one arena. */
function started(optimizer: Optimizer, start: Values, shapes: Record<string, number[]>, factors: Values = {}) {
  const lengths = Object.values(start).map(({ length }) => length);
  const arena = createArena([...lengths, ...lengths, ...stateLengths(optimizer, Object.values(shapes))]);
  const place = () => new Map(Object.entries(start).map(([name, data]) => [name, arena.allocate(data.length)]));
  const [parameters, gradients] = [place(), place()];
  for (const [name, array] of parameters) array.set(start[name]!);
  const about = new Map(
    Object.entries(shapes).map(([name, dims]) => [name, { dims, learningRateFactor: factors[name]?.[0] ?? 1 }]),
  );
  const state = optimizer.init(parameters, arena, about);
  expect(arena.free).toBe(0);
  const step = (values: Values, learningRate: number): void => {
    for (const [name, array] of gradients) array.set(values[name]!);
    optimizer.update(parameters, gradients, state, learningRate);
  };
  return { parameters, state, step };
}

describe("50 steps of the reference", () => {
  it.each(fixture.cases)("$optimizer $options", (expected) => {
    const optimizer = makers[expected.optimizer](expected.options);
    const { parameters, step } = started(optimizer, fixture.start, fixture.shapes);
    let compared = 0;
    fixture.gradients.forEach((gradients, before) => {
      step(gradients, expected.learningRate);
      const reference = expected.parameters[before + 1];
      if (reference === undefined) return;
      for (const [name, values] of Object.entries(reference)) {
        const largest = Math.max(...values.map(Math.abs));
        values.forEach((value, i) => {
          const difference = Math.abs(parameters.get(name)![i]! - value);
          expect(difference, `step ${before + 1}: ${name}[${i}]`).toBeLessThanOrEqual(trajectoryTolerance * largest);
          compared++;
        });
      }
    });
    expect(compared).toBe(9 * 45);
  });
});

const quadratic = { target: [3, -1, 0.5, 0, -7, 2], curvature: [0.05, 1, 10, 3, 0.1, 0.5] };

describe("the minimum of a quadratic", () => {
  const cases: [string, Optimizer, (step: number) => number, number][] = [
    ["sgd", sgd(), () => 0.15, 2000],
    ["sgd with momentum", sgd({ momentum: 0.9 }), () => 0.02, 1500],
    ["sgd with Nesterov's", sgd({ momentum: 0.9, nesterov: true }), () => 0.02, 1500],
    ["lion", lion(), (step) => 0.05 * 0.997 ** step, 3000],
    ["adafactor", adafactor(), (step) => 0.1 * 0.997 ** step, 3000],
  ];
  it.each(cases)("is reached by %s", (_, optimizer, schedule, steps) => {
    const { target, curvature } = quadratic;
    const { parameters, step } = started(optimizer, { x: target.map(() => 0) }, { x: [2, 3] });
    const x = parameters.get("x")!;
    for (let count = 0; count < steps; count++) {
      step({ x: curvature.map((c, i) => c * (x[i]! - target[i]!)) }, schedule(count));
    }
    target.forEach((value, i) => {
      expect(x[i]).toBeCloseTo(value, 3);
    });
  });
});

describe.each([sgd({ momentum: 0.9 }), adamw(), lion({ weightDecay: 0.1 }), adafactor()])("$name", (optimizer) => {
  it("goes on from a saved state bit for bit", () => {
    const whole = started(optimizer, fixture.start, fixture.shapes);
    for (const gradients of fixture.gradients.slice(0, 12)) whole.step(gradients, 1e-2);
    const half = started(optimizer, fixture.start, fixture.shapes);
    for (const gradients of fixture.gradients.slice(0, 5)) half.step(gradients, 1e-2);
    const resumed = started(optimizer, fixture.start, fixture.shapes);
    for (const [name, array] of resumed.parameters) array.set(half.parameters.get(name)!);
    restoreState(resumed.state, copyState(half.state));
    for (const gradients of fixture.gradients.slice(5, 12)) resumed.step(gradients, 1e-2);
    expect(resumed.parameters).toEqual(whole.parameters);
    expect(resumed.state).toEqual(whole.state);
  });

  it("gives each parameter its own learning rate, when it has one", () => {
    const own = started(optimizer, fixture.start, fixture.shapes, { bias: [4], weight: [0] });
    const plain = started(optimizer, fixture.start, fixture.shapes);
    const fast = started(optimizer, fixture.start, fixture.shapes);
    for (const gradients of fixture.gradients.slice(0, 6)) {
      own.step(gradients, 2e-2);
      plain.step(gradients, 2e-2);
      fast.step(gradients, 8e-2);
    }
    expect([...own.parameters.get("weight")!]).toEqual(fixture.start.weight!.map(Math.fround));
    expect(own.parameters.get("bias")).toEqual(fast.parameters.get("bias"));
    expect(own.parameters.get("kernel")).toEqual(plain.parameters.get("kernel"));
    expect(own.parameters.get("bias")).not.toEqual(plain.parameters.get("bias"));
  });

  it("leaves no denormal numbers in its state when gradients die out", () => {
    const zero = Object.fromEntries(Object.entries(fixture.start).map(([name, data]) => [name, data.map(() => 0)]));
    const { state, step } = started(optimizer, fixture.start, fixture.shapes);
    step(fixture.gradients[0]!, 1e-3);
    for (let count = 0; count < 3000; count++) step(zero, 1e-3);
    for (const arrays of state.slots.values()) {
      for (const array of arrays.values()) {
        expect(array.every((value) => value === 0 || Math.abs(value) >= 2 ** -126)).toBe(true);
      }
    }
  });
});

describe("the kernels of SGD and Lion", () => {
  const optimizers = [
    sgd({ momentum: 0.9 }),
    sgd({ momentum: 0.8, nesterov: true, weightDecay: 0.1 }),
    sgd({ momentum: 0.5, dampening: 0.5 }),
    lion(),
    lion({ weightDecay: 0.2, beta1: 0.5 }),
  ];
  const float = fc.oneof(fc.float(), fc.constantFrom(0, -0, 1e-31, -1e-31, 1e-38, 3e38).map(Math.fround));
  it("and their twins agree bit for bit, tails, NaN and infinities included", () => {
    const weights = fc.array(fc.tuple(float, float), { minLength: 1, maxLength: 23 });
    fc.assert(
      fc.property(fc.constantFrom(...optimizers), weights, (optimizer, values) => {
        const sides = [false, true].map((plain) => {
          const arena = createArena([values.length, values.length, values.length], { plain });
          const place = (at: 0 | 1) => {
            const array = arena.allocate(values.length);
            array.set(values.map((pair) => pair[at]));
            return new Map([["x", array]]);
          };
          const [parameters, gradients] = [place(0), place(1)];
          const state = optimizer.init(parameters, arena);
          for (let step = 0; step < 3; step++) optimizer.update(parameters, gradients, state, 0.01);
          return [parameters, state.slots];
        });
        expect(sides[0]).toEqual(sides[1]);
      }),
      { numRuns: 300 },
    );
  });
});

describe("options out of range", () => {
  const cases: [() => unknown, string][] = [
    [() => sgd({ momentum: 1 }), "sgd: momentum: expected a number in [0, 1), got 1"],
    [() => sgd({ nesterov: true }), "sgd: nesterov: expected a momentum above 0 and no dampening, got 0 and 0"],
    [() => sgd({ dampening: 2 }), "sgd: dampening: expected 0 to 1, got 2"],
    [() => lion({ beta2: -1 }), "lion: beta2: expected a number in [0, 1), got -1"],
    [() => lion({ weightDecay: Number.NaN }), "lion: weightDecay: expected a finite number, 0 or more, got NaN"],
    [() => adafactor({ clippingThreshold: 0.5 }), "adafactor: clippingThreshold: expected 1 or more, got 0.5"],
    [() => adafactor({ beta2Decay: 0.8 }), "adafactor: beta2Decay: expected 0 or less, got 0.8"],
    [() => adafactor({ epsilon1: 0 }), "adafactor: epsilon1: expected a number above 0, got 0"],
  ];
  it.each(cases)("%s: %s", (make, message) => {
    expect(make).toThrow(message);
  });

  it("of a parameter's own learning rate, and arrays that do not fit", () => {
    expect(() => started(lion(), { x: [1] }, { x: [1] }, { x: [-2] })).toThrow(
      "optimizer: x: expected a learning rate factor of 0 or more, got -2",
    );
    const { parameters, state } = started(adafactor(), { x: [1, 2, 3, 4] }, { x: [2, 2] });
    const wrong = new Map([["x", new Float32Array(3)]]);
    expect(() => adafactor().update(parameters, wrong, { ...state, slots: new Map() }, 0.1)).toThrow(
      /4 faults\n.*gradients\.x: expected 4 values, got 3\n.*state row\.x: expected 2 values, got none/,
    );
    expect(state.step).toBe(0);
  });
});
