import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  constant,
  cosine,
  linear,
  type MetricSchedule,
  oneCycle,
  type PlateauState,
  plateau,
  type Schedule,
  sequence,
  warmup,
} from "./schedules.ts";

/** What scripts/fixtures/schedules.py writes: PyTorch's learning rates at 50 steps, all from 0.05. */
const fixture = JSON.parse(
  readFileSync(new URL("../../test/fixtures/optimizers/schedules.json", import.meta.url), "utf8"),
) as { metrics: number[]; rates: Record<string, number[]> };

/** Of the largest learning rate: PyTorch's cosine is a recurrence, whose roundings add up. */
const tolerance = 1e-12;

function expectTrajectory(name: string, rates: readonly number[]): void {
  const expected = fixture.rates[name]!;
  const largest = Math.max(...expected);
  expect(expected).toHaveLength(50);
  expected.forEach((rate, step) => {
    expect(Math.abs(rates[step]! - rate), `${name}, step ${step}`).toBeLessThanOrEqual(tolerance * largest);
  });
}

describe("PyTorch's schedules over 50 steps", () => {
  const cases: Record<string, Schedule> = {
    constant: constant(0.05),
    linear: linear(0.05, { steps: 30, to: 0.01 }),
    cosine: cosine(0.05, { steps: 50, to: 1e-3 }),
    "warmup cosine": warmup(cosine(0.05, { steps: 42 }), { steps: 8, from: 0.1 }),
    "warmup linear": warmup(linear(0.05, { steps: 40 }), { steps: 10 }),
    "one cycle": oneCycle(0.05, { steps: 50 }),
    "one cycle, linear": oneCycle(0.05, {
      steps: 50,
      anneal: "linear",
      pctStart: 0.2,
      divFactor: 10,
      finalDivFactor: 100,
    }),
    "one cycle, three phases": oneCycle(0.05, { steps: 50, threePhase: true }),
  };
  it.each(Object.entries(cases))("%s", (name, schedule) => {
    expectTrajectory(
      name,
      Array.from({ length: 50 }, (_, step) => schedule(step)),
    );
  });

  const plateaus: Record<string, MetricSchedule> = {
    plateau: plateau(0.05, { patience: 3, factor: 0.5 }),
    "plateau, max": plateau(0.05, {
      mode: "max",
      patience: 1,
      factor: 0.3,
      threshold: 0.01,
      thresholdMode: "abs",
      cooldown: 2,
      minLearningRate: 1e-3,
    }),
  };
  it.each(Object.entries(plateaus))("%s, its state going through JSON after each", (name, schedule) => {
    let state = schedule.init();
    const rates = fixture.metrics.map((metric, step) => {
      const rate = schedule.rate(step, state);
      state = JSON.parse(JSON.stringify(schedule.observe(metric, state))) as PlateauState;
      return rate;
    });
    expectTrajectory(name, rates);
    expect(new Set(rates).size).toBeGreaterThan(2);
  });
});

describe("composed", () => {
  it("the next one begins at its own step 0, and each stays at its end", () => {
    const schedule = sequence(constant(1), 2, linear(4, { steps: 2, to: 2 }));
    expect([0, 1, 2, 3, 4, 100].map(schedule)).toEqual([1, 1, 4, 3, 2, 2]);
    expect(cosine(1, { steps: 4 })(9)).toBe(0);
    expect(oneCycle(1, { steps: 4, divFactor: 4, finalDivFactor: 10 })(400)).toBeCloseTo(0.025, 12);
  });

  it("a warm-up of no steps is none, and one before a number rises to it", () => {
    expect(warmup(0.5, { steps: 0 })(0)).toBe(0.5);
    expect([0, 1, 2, 3, 9].map(warmup(0.5, { steps: 4 }))).toEqual([0, 0.125, 0.25, 0.375, 0.5]);
  });

  it("a plateau over another schedule takes its share of it, and never more", () => {
    const schedule = plateau(linear(1, { steps: 10 }), { patience: 0, factor: 0.5, minLearningRate: 0.3 });
    const state = schedule.observe(1, schedule.observe(1, schedule.init()));
    expect(state).toEqual({ best: 1, bad: 0, cooldown: 0, scale: 0.5 });
    expect([0, 2, 8].map((step) => schedule.rate(step, state))).toEqual([0.5, 0.4, expect.closeTo(0.2, 12)]);
  });
});

describe("options out of range", () => {
  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("constant refuses %d", (learningRate) => {
    expect(() => constant(learningRate)).toThrow(`learning rate: expected a number above 0, got ${learningRate}`);
  });

  const cases: [() => unknown, string | RegExp][] = [
    [() => linear(1, { steps: 0 }), "linear: steps: expected a whole number of 1 or more, got 0"],
    [() => cosine(-1, { steps: 1.5, to: -2 }), /cosine: 3 faults\n.*learning rate.*got -1.*\n.*got 1\.5\n.*got -2/],
    [() => sequence(constant(1), -1, constant(1)), "sequence: steps: expected a whole number of 0 or more, got -1"],
    [() => warmup(1, { steps: 2, from: 2 }), "warmup: from: expected a share of 0 to 1, got 2"],
    [() => oneCycle(1, { steps: 1, pctStart: 0 }), /oneCycle: 2 faults\n.*steps.*got 1\n.*pctStart.*got 0/],
    [() => plateau(1, { factor: 1, patience: -1 }), /plateau: 2 faults\n.*patience.*got -1\n.*factor.*got 1/],
  ];
  it.each(cases)("%s", (make, message) => {
    expect(make).toThrow(message);
  });
});
