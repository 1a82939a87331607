import { describe, expect, it } from "vitest";
import { isMetricSchedule, type Schedule } from "../train/schedules.ts";
import {
  bestMetric,
  chooseLoss,
  learningRateOf,
  makeLoss,
  makeMetrics,
  makeOptimizer,
  makeSchedule,
  totalSteps,
  warmupSteps,
} from "./method.ts";
import type { RunOptions } from "./option-table.ts";
import { type Flags, resolveOptions } from "./settings.ts";

const options = (flags: Flags = {}): RunOptions => resolveOptions("tune", flags);

function rates(flags: Flags, total: number, rate = 1): number[] {
  const schedule = makeSchedule(rate, total, options(flags), "min");
  if (isMetricSchedule(schedule)) throw new Error("a plateau needs its state");
  return Array.from({ length: total }, (_, step) => (schedule as Schedule)(step));
}

describe("the loss", () => {
  it("follows from the labels when it is left open, and else is as asked for", () => {
    expect(chooseLoss(options(), "tokens")).toBe("causal_lm");
    expect(chooseLoss(options(), "classes")).toBe("cross_entropy");
    expect(chooseLoss(options(), "numbers")).toBe("mse");
    expect(chooseLoss(options({ loss: "huber" }), "classes")).toBe("huber");
  });

  it("has its options, and refuses those of another", () => {
    expect(makeLoss("cross_entropy", options({ output: "logits" }))).toMatchObject({
      name: "cross_entropy",
      labels: "int64",
      output: "logits",
    });
    expect(() => makeLoss("mse", options({ labelSmoothing: "0.1", classWeights: ["1,2"] }))).toThrow(
      /loss mse: 2 faults\n {2}- labelSmoothing: .*\n {2}- classWeights:/,
    );
  });

  it("decides what is measured and what is best", () => {
    expect(Object.keys(makeMetrics("causal_lm", options()))).toEqual(["accuracy"]);
    expect(makeMetrics("mse", options())).toEqual({});
    expect(bestMetric("cross_entropy", options())).toEqual({ metric: "target/accuracy", mode: "max" });
    expect(bestMetric("cross_entropy", options({ metric: "loss" }))).toEqual({ metric: "target/loss", mode: "min" });
    expect(bestMetric("mse", options())).toEqual({ metric: "target/loss", mode: "min" });
    expect(() => bestMetric("mse", options({ metric: "accuracy" }))).toThrow("metric: expected loss with the loss mse");
    const kept = options({ metric: "retained/accuracy", retainedData: ["old.csv"] });
    expect(bestMetric("cross_entropy", kept)).toEqual({ metric: "retained/accuracy", mode: "max" });
    expect(() => bestMetric("cross_entropy", options({ metric: "retained/loss" }))).toThrow("expected --retained-data");
    expect(bestMetric("distillation", options({ metric: "agreement" }))).toEqual({
      metric: "target/agreement",
      mode: "max",
    });
  });
});

describe("the optimizer", () => {
  it.each(["adamw", "adam", "sgd", "lion", "adafactor"])("%s, with its weight decay", (name) => {
    const { name: made, hyperparameters } = makeOptimizer(options({ optimizer: name, weightDecay: "0.05" }));
    expect([made, hyperparameters.weightDecay]).toEqual([name, 0.05]);
  });

  it("gives B a rate of its own with --lora-plus-ratio", () => {
    const { name, hyperparameters } = makeOptimizer(options({ loraPlusRatio: "16" }));
    expect([name, hyperparameters.ratio]).toEqual(["loraPlus", 16]);
  });

  it("takes the learning rates that the help names", () => {
    expect(learningRateOf("tune", options())).toBe(1e-3);
    expect(learningRateOf("pretrain", options())).toBe(1e-4);
    expect(learningRateOf("tune", options({ optimizer: "lion" }))).toBe(1e-4);
    expect(learningRateOf("tune", options({ learningRate: "0.5" }))).toBe(0.5);
  });
});

describe("the schedule", () => {
  it("counts steps from passes, the last step of a pass being of fewer batches", () => {
    expect(totalSteps(10, options({ accumulate: "4", epochs: "2" }))).toBe(6);
    expect(totalSteps(10, options({ epochs: "0.05" }))).toBe(1);
    expect(totalSteps(10, options({ epochs: "2.5" }))).toBe(25);
    expect(totalSteps(10, options({ steps: "7" }))).toBe(7);
  });

  it("rises for a share of the steps, or for so many", () => {
    expect(warmupSteps(1000, options())).toBe(30);
    expect(warmupSteps(1000, options({ warmup: "12" }))).toBe(12);
    expect(warmupSteps(5, options({ warmup: "50" }))).toBe(4);
    expect(warmupSteps(1, options({ warmup: "0.5" }))).toBe(0);
  });

  it("is what its name says, after the warm-up", () => {
    expect(rates({ schedule: "constant", warmup: "2" }, 5)).toEqual([0, 0.5, 1, 1, 1]);
    expect(rates({ schedule: "linear", warmup: "0" }, 4)).toEqual([1, 0.75, 0.5, 0.25]);
    const cosine = rates({ schedule: "cosine", warmup: "0" }, 4);
    expect(cosine[2]).toBeCloseTo(0.5, 12);
    const cycle = rates({ schedule: "one-cycle", warmup: "0.5" }, 10, 25);
    expect(cycle[0]).toBeCloseTo(1, 12);
    expect(Math.max(...cycle)).toBeCloseTo(25, 12);
    expect(isMetricSchedule(makeSchedule(1, 5, options({ schedule: "plateau" }), "max"))).toBe(true);
  });
});
