import { readFileSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { LowrankError } from "../errors.ts";
import { type Arena, createArena, kernelsOf } from "./arena.ts";
import {
  type AdamOptions,
  adam,
  adamw,
  copyState,
  type NamedArrays,
  type OptimizerState,
  restoreState,
} from "./optimizers.ts";

/**
 * Torch divides where we multiply by the inverse, and fuses some operations: after 20 steps the two are 2.2 roundings
 * apart, and equally far from double precision. A rounding is 2^-24 of the largest value that the number has had.
 */
const ROUNDINGS = 4;
const FLOAT32_ROUNDING = 2 ** -24;
/** Second moments only grow and shrink by sums of squares: relative. Below the floor ours differs on purpose (adam.ts). */
const SECOND_MOMENT_TOLERANCE = 1e-6;
const SECOND_MOMENT_FLOOR = 1e-30;

type Values = Record<string, number[]>;

/** What scripts/fixtures/optimizers.py writes. */
interface Fixture {
  start: Values;
  gradients: Values[];
  cases: {
    optimizer: "adam" | "adamw";
    learningRate: number;
    options: AdamOptions;
    parameters: Values[];
    state: { m: Values; v: Values };
  }[];
}

const fixturePath = new URL("../../test/fixtures/optimizers/adam.json", import.meta.url);
const fixture = JSON.parse(readFileSync(fixturePath, "utf8")) as Fixture;
const makers = { adam, adamw };

/** Arrays of these values in `arena`, in their order. */
function place(values: Values, arena: Arena): Map<string, Float32Array> {
  return new Map(
    Object.entries(values).map(([name, data]) => {
      const array = arena.allocate(data.length);
      array.set(data);
      return [name, array];
    }),
  );
}

function arenaFor(values: Values, plain = false): Arena {
  const lengths = Object.values(values).map(({ length }) => length);
  return createArena([...lengths, ...lengths, ...lengths, ...lengths], { plain });
}

function setAll(arrays: NamedArrays, values: Values): void {
  for (const [name, array] of arrays) array.set(values[name]!);
}

function toValues(arrays: NamedArrays): Values {
  return Object.fromEntries([...arrays].map(([name, array]) => [name, [...array]]));
}

/** The fixture's first `steps` steps with Adam's defaults and L2 decay; the state is there to go on with. */
function trained(arena: Arena, steps: number) {
  const optimizer = adam({ weightDecay: 0.1 });
  const parameters = place(fixture.start, arena);
  const gradients = place(fixture.start, arena);
  const state = optimizer.init(parameters, arena);
  const go = (from: number, to: number) => {
    for (const values of fixture.gradients.slice(from, to)) {
      setAll(gradients, values);
      optimizer.update(parameters, gradients, state, 1e-2);
    }
  };
  go(0, steps);
  return { optimizer, parameters, gradients, state, go };
}

/** The largest absolute value of name[i] in the fixture's steps up to and including `step`. */
function largest(steps: Values[], name: string, i: number, step: number): number {
  return Math.max(...steps.slice(0, step + 1).map((values) => Math.abs(values[name]![i]!)));
}

/** Asserts that each actual value is as near to its expected one as `tolerance` says. */
function expectNear(
  actual: NamedArrays,
  expected: Values,
  what: string,
  tolerance: (name: string, i: number, value: number) => number,
): void {
  expect([...actual.keys()]).toEqual(Object.keys(expected));
  for (const [name, array] of actual) {
    expected[name]!.forEach((value, i) => {
      const difference = Math.abs(array[i]! - value);
      expect(difference, `${what}: ${name}[${i}]`).toBeLessThanOrEqual(tolerance(name, i, value));
    });
  }
}

describe.each([false, true])("the trajectory of torch.optim, plain arrays: %s", (plain) => {
  it.each(fixture.cases)("$optimizer, learning rate $learningRate, $options", (expected) => {
    const optimizer = makers[expected.optimizer](expected.options);
    const arena = arenaFor(fixture.start, plain);
    const parameters = place(fixture.start, arena);
    const gradients = place(fixture.start, arena);
    const state = optimizer.init(parameters, arena);
    const history = [fixture.start, ...expected.parameters];
    const rounding = ROUNDINGS * FLOAT32_ROUNDING;
    fixture.gradients.forEach((values, step) => {
      setAll(gradients, values);
      optimizer.update(parameters, gradients, state, expected.learningRate);
      const near = (name: string, i: number) =>
        rounding * (largest(history, name, i, step + 1) + expected.learningRate);
      expectNear(parameters, expected.parameters[step]!, `step ${step}`, near);
    });
    expect(state.step).toBe(20);

    const decay = optimizer.hyperparameters.weightDecay!;
    const nearFirst = (name: string, i: number) =>
      rounding * (largest(fixture.gradients, name, i, 20) + decay * largest(history, name, i, 20));
    expectNear(state.slots.get("m")!, expected.state.m, "m", nearFirst);
    const nearSecond = (_name: string, _i: number, value: number) =>
      SECOND_MOMENT_TOLERANCE * value + SECOND_MOMENT_FLOOR;
    expectNear(state.slots.get("v")!, expected.state.v, "v", nearSecond);
  });
});

describe("adam and adamw", () => {
  it.each([adam(), adamw({ weightDecay: 0 })])("$name reaches the minimum of a quadratic", (optimizer) => {
    // f(x) = sum of c (x - target)^2 / 2, with curvatures from 0.01 to 100.
    const target = [3, -1, 0.5, 0, -7];
    const curvature = [0.01, 1, 100, 10, 0.1];
    const arena = arenaFor({ x: target });
    const parameters = place({ x: target.map(() => 0) }, arena);
    const gradients = place({ x: target }, arena);
    const state = optimizer.init(parameters, arena);
    const [x, g] = [parameters.get("x")!, gradients.get("x")!];
    for (let step = 0; step < 3000; step++) {
      for (let i = 0; i < x.length; i++) g[i] = curvature[i]! * (x[i]! - target[i]!);
      optimizer.update(parameters, gradients, state, 0.1 * 0.998 ** step);
    }
    target.forEach((value, i) => {
      expect(x[i]).toBeCloseTo(value, 3);
    });
  });

  it("have torch's defaults, also for options that are undefined", () => {
    const given = { beta1: undefined, weightDecay: undefined } as unknown as AdamOptions;
    expect(adam(given).hyperparameters).toEqual({ beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 });
    expect(adamw().hyperparameters).toEqual({ beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 });
    expect(adam().slots).toEqual(["m", "v"]);
  });

  it("refuse options with all their faults", () => {
    const make = () => adamw({ beta1: 1, beta2: Number.NaN, epsilon: 1e-60, weightDecay: -1 });
    expect(make).toThrow(LowrankError);
    expect(make).toThrow(
      [
        "adamw: 4 faults",
        "  - beta1: expected a number in [0, 1), got 1",
        "  - beta2: expected a number in [0, 1), got NaN",
        "  - epsilon: expected a number above 0, got 1e-60; try 1e-8",
        "  - weightDecay: expected a finite number, 0 or more, got -1",
      ].join("\n"),
    );
  });
});

describe("update", () => {
  const SHORT = { a: [1, 2, 3], b: [4, 5] };

  it.each([-1, Number.NaN, Number.POSITIVE_INFINITY])("refuses the learning rate %d and changes nothing", (rate) => {
    const { optimizer, parameters, gradients, state } = trained(arenaFor(fixture.start), 1);
    const before = toValues(parameters);
    expect(() => optimizer.update(parameters, gradients, state, rate)).toThrow(
      `learningRate: expected a finite number`,
    );
    expect(toValues(parameters)).toEqual(before);
    expect(state.step).toBe(1);
  });

  it("at a learning rate of zero moves the state but no parameter", () => {
    for (const plain of [false, true]) {
      const arena = arenaFor(SHORT, plain);
      const parameters = place(SHORT, arena);
      const gradients = place({ a: [1, 0, -1], b: [1e-20, 1e20] }, arena);
      const state = adamw().init(parameters, arena);
      adamw().update(parameters, gradients, state, 0);
      expect(toValues(parameters)).toEqual(SHORT);
      expect([...state.slots.get("m")!.get("a")!]).toEqual([Math.fround(1 - 0.9), 0, -Math.fround(1 - 0.9)]);
    }
  });

  it("names every array that is missing or has another length, and changes nothing", () => {
    const arena = arenaFor(SHORT);
    const parameters = place(SHORT, arena);
    const state = adam().init(parameters, arena);
    const incomplete: OptimizerState = { step: 0, slots: new Map([["m", state.slots.get("m")!]]) };
    const update = () => adam().update(parameters, new Map([["a", new Float32Array(2)]]), incomplete, 1e-3);
    expect(update).toThrow(
      [
        "adam: 4 faults",
        "  - gradients.a: expected 3 values, got 2",
        "  - gradients.b: expected 2 values, got none",
        "  - state v.a: expected 3 values, got none",
        "  - state v.b: expected 2 values, got none",
      ].join("\n"),
    );
    expect(incomplete.step).toBe(0);
    expect(toValues(parameters)).toEqual(SHORT);
  });

  it("follows other maps, when a step brings them", () => {
    const arena = arenaFor(SHORT);
    const parameters = place(SHORT, arena);
    const optimizer = adam();
    const state = optimizer.init(parameters, arena);
    const zero = new Map([...parameters].map(([name, { length }]) => [name, new Float32Array(length)]));
    optimizer.update(parameters, zero, state, 1e-2);
    expect(toValues(parameters)).toEqual(SHORT);
    optimizer.update(parameters, new Map(zero).set("b", Float32Array.of(1, -1)), state, 1e-2);
    expect(toValues(parameters).a).toEqual(SHORT.a);
    expect(parameters.get("b")![0]).toBeLessThan(4);
    expect(parameters.get("b")![1]).toBeGreaterThan(5);
  });

  it("updates arrays that were allocated one after another in one call, padding included", () => {
    const arena = arenaFor(SHORT);
    const parameters = place(SHORT, arena);
    const gradients = place({ a: [1, 1, 1], b: [1, 1] }, arena);
    const optimizer = adamw();
    const state = optimizer.init(parameters, arena);
    const call = vi.spyOn(kernelsOf(parameters.get("a")!)!, "adam");
    for (let step = 0; step < 3; step++) optimizer.update(parameters, gradients, state, 1e-2);
    // a takes 3 of its 16 floats, b 2.
    expect(call.mock.calls.map((given) => given[4])).toEqual([18, 18, 18]);
    for (const arrays of [parameters, gradients, state.slots.get("m")!]) {
      const { buffer, byteOffset } = arrays.get("a")!;
      expect([...new Float32Array(buffer, byteOffset, 16).subarray(3)]).toEqual(new Array(13).fill(0));
    }
  });

  it("leaves what lies between two views alone", () => {
    // a and b are parts of one allocation; the two floats between them are another's.
    const optimizer = adam({ weightDecay: 0.1 });
    const arena = createArena([16, 16, 16, 16]);
    const [p, g, m, v] = [16, 16, 16, 16].map((length) => arena.allocate(length).fill(1)) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const parts = (array: Float32Array) =>
      new Map([
        ["a", array.subarray(0, 6)],
        ["b", array.subarray(8, 16)],
      ]);
    const slots = new Map([
      ["m", parts(m)],
      ["v", parts(v)],
    ]);
    optimizer.update(parts(p), parts(g), { step: 0, slots }, 1e-2);
    for (const array of [p, m, v]) expect([...array.subarray(6, 8)]).toEqual([1, 1]);
    for (const index of [0, 5, 8, 15]) expect(p[index]).toBeLessThan(1);
  });

  it("does not depend on where the arrays lie", () => {
    const together = trained(arenaFor(fixture.start), 20);
    const apart = trained(arenaFor(fixture.start, true), 20);
    // Parameters and gradients in the arena in another order than the state: no two can be updated in one call.
    const arena = arenaFor(fixture.start);
    const reversed = Object.fromEntries(Object.entries(fixture.start).reverse());
    const mixed = { optimizer: adam({ weightDecay: 0.1 }), parameters: place(fixture.start, arena) };
    const gradients = place(reversed, arena);
    const state = mixed.optimizer.init(mixed.parameters, arena);
    for (const values of fixture.gradients) {
      setAll(gradients, values);
      mixed.optimizer.update(mixed.parameters, gradients, state, 1e-2);
    }
    expect(toValues(apart.parameters)).toEqual(toValues(together.parameters));
    expect(toValues(mixed.parameters)).toEqual(toValues(together.parameters));
    expect(toValues(state.slots.get("v")!)).toEqual(toValues(together.state.slots.get("v")!));
  });
});

describe("copyState and restoreState", () => {
  it("continue bit for bit", () => {
    const whole = trained(arenaFor(fixture.start), 20);
    const half = trained(arenaFor(fixture.start), 8);
    const saved = copyState(half.state);
    const weights = toValues(half.parameters);
    half.go(8, 20); // the copy must not follow

    const resumed = trained(arenaFor(fixture.start), 0);
    setAll(resumed.parameters, weights);
    restoreState(resumed.state, saved);
    expect(resumed.state.step).toBe(8);
    resumed.go(8, 20);
    expect(toValues(resumed.parameters)).toEqual(toValues(whole.parameters));
    for (const slot of ["m", "v"]) {
      expect(toValues(resumed.state.slots.get(slot)!)).toEqual(toValues(whole.state.slots.get(slot)!));
    }
  });

  it("refuse another model's state with all faults, and change nothing", () => {
    const { state } = trained(arenaFor(fixture.start), 2);
    const before = copyState(state);
    const m = new Map(state.slots.get("m")).set("head", new Float32Array(2)).set("scale", new Float32Array(3));
    const restore = () => restoreState(state, { step: 1.5, slots: new Map([["m", m]]) });
    expect(restore).toThrow(LowrankError);
    expect(restore).toThrow("optimizer state: 8 faults");
    expect(restore).toThrow("step: expected a whole number, got 1.5");
    expect(restore).toThrow("m.scale: expected 1 values, got 3");
    expect(restore).toThrow("v.weight: expected 15 values, got none");
    expect(restore).toThrow("m.head: expected no such array, got one; is it another model's?");
    expect(state).toEqual(before);
  });
});
