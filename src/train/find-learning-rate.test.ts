import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { snapshot } from "../lora/testing/models.ts";
import { findLearningRate } from "./find-learning-rate.ts";
import { sgd } from "./optimizers.ts";
import { fixtureBatches, fixtureModel } from "./testing/fixture.ts";
import { train } from "./train.ts";

const batches = [...fixtureBatches(5)];

describe("findLearningRate", () => {
  it("raises the rate evenly in its logarithm, and suggests one that learns", async () => {
    const adapted = attachLora(fixtureModel(), { r: 2 });
    const before = snapshot(adapted.base);
    const { rates, losses, smoothed, suggestion } = await findLearningRate(adapted, batches, { smoothing: 0.5 });
    expect(rates[0]).toBe(1e-7);
    expect(rates[1]! / rates[0]!).toBeCloseTo(1e8 ** (1 / 99), 10);
    expect([losses.length, smoothed.length]).toEqual([rates.length, rates.length]);
    expect(smoothed[0]).toBeCloseTo(losses[0]!, 12);
    // 0.5 of the one before, 0.5 of its own, and the start taken out: (0.25 a + 0.5 b) / 0.75.
    expect(smoothed[1]).toBeCloseTo((losses[0]! + 2 * losses[1]!) / 3, 12);
    expect(suggestion).toBeGreaterThan(1e-5);
    expect(suggestion).toBeLessThan(1);
    expect(snapshot(adapted.base)).toEqual(before);
    const { history } = await train(adapted, batches, { epochs: 12, learningRate: suggestion! });
    expect(history.losses.at(-5)).toBeLessThan(history.losses[0]! * 0.8);
  });

  it("ends when the loss runs away, on a quadratic just past the largest rate that can work", async () => {
    const options = { optimizer: sgd(), from: 1e-3, to: 1e4, steps: 200, smoothing: 0 };
    const { diverged, rates, losses } = await findLearningRate(attachAll(fixtureModel()), batches, options);
    expect(diverged).toBe(true);
    expect(rates.at(-1)).toBeLessThan(1e4);
    expect(losses.every(Number.isFinite)).toBe(true);
  });

  it("is the same twice, and goes over a function's passes", async () => {
    const run = () => findLearningRate(attachLora(fixtureModel()), () => fixtureBatches(3), { steps: 20, to: 1e-2 });
    expect(await run()).toEqual(await run());
    expect((await run()).rates).toHaveLength(20);
  });

  it("refuses options out of range, all at once, and data that is too short", async () => {
    const wrong = { from: 1, to: 0.1, steps: 3, smoothing: 1, divergence: 1 };
    await expect(findLearningRate(attachLora(fixtureModel()), batches, wrong)).rejects.toMatchObject({
      code: "config",
      faults: [
        "from, to: expected 0 < from < to, got 1, 0.1",
        "steps: expected a whole number of 10 or more, got 3",
        "smoothing: expected a number in [0, 1), got 1",
        "divergence: expected a number above 1, got 1",
      ],
    });
    await expect(findLearningRate(attachLora(fixtureModel()), fixtureBatches(4))).rejects.toThrow(
      /got 4; give a source/,
    );
    const aborted = findLearningRate(attachLora(fixtureModel()), batches, {
      signal: AbortSignal.abort(new Error("no")),
    });
    await expect(aborted).rejects.toThrow("no");
  });
});
