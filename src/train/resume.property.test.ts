// Whatever a run is made of, going on from any of its checkpoints ends in the bytes of the run that was never stopped.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { writeAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import { type Checkpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { adafactor, adam, adamw, lion, type Optimizer, sgd } from "./optimizers.ts";
import {
  constant,
  cosine,
  linear,
  type MetricSchedule,
  oneCycle,
  plateau,
  type Schedule,
  warmup,
} from "./schedules.ts";
import { evaluation, lora, source } from "./testing/task.ts";
import { type Trained, type TrainOptions, train } from "./train.ts";

const optimizers: readonly (() => Optimizer)[] = [adamw, adam, () => sgd({ momentum: 0.9 }), lion, adafactor];
const schedules: readonly ((steps: number) => Schedule | MetricSchedule)[] = [
  () => constant(0.01),
  (steps) => linear(0.01, { steps }),
  (steps) => warmup(cosine(0.01, { steps: steps - 2 }), { steps: 2 }),
  (steps) => oneCycle(0.02, { steps }),
  () => plateau(0.02, { patience: 0, threshold: 0.05 }),
];

/** A run, and the shares of its steps after which it is stopped and gone on with. */
const runs = fc.record({
  optimizer: fc.constantFrom(...optimizers),
  schedule: fc.constantFrom(...schedules),
  steps: fc.integer({ min: 4, max: 16 }),
  accumulate: fc.integer({ min: 1, max: 3 }),
  ema: fc.boolean(),
  clip: fc.boolean(),
  seed: fc.nat(1000),
  stops: fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: 1, maxLength: 2 }),
});

type Run = typeof runs extends fc.Arbitrary<infer T> ? T : never;

function optionsOf({ optimizer, schedule, steps, accumulate, ema, clip, seed }: Run): TrainOptions {
  return {
    steps,
    optimizer: optimizer(),
    learningRate: schedule(steps),
    accumulate,
    seed,
    threads: 1,
    ...(ema && { ema: { decay: 0.9 } }),
    ...(clip && { clipNorm: 0.5 }),
    evaluation: { ...evaluation, every: { steps: 3 } },
  };
}

const bytesOf = (adapter: Adapter): Uint8Array[] => [...writeAdapter(adapter).values()];

/** All that a run gives, but for its times. */
function resultOf({ adapter, averaged, best, history }: Trained): unknown {
  return {
    adapter: bytesOf(adapter),
    averaged: averaged && bytesOf(averaged),
    best: best && { ...best, adapter: bytesOf(best.adapter) },
    history: { ...history, seconds: 0 },
  };
}

describe("resuming at a random step", () => {
  it("equals the unbroken run in every byte, whatever optimizer, schedule, average and accumulation", async () => {
    await fc.assert(
      fc.asyncProperty(runs, async (run) => {
        const data = source(run.seed);
        const whole = await train(lora(), data, optionsOf(run));
        let checkpoint: Checkpoint | null = null;
        for (const stop of [...run.stops].sort()) {
          const steps = Math.max(1, Math.floor(stop * run.steps));
          const controller = new AbortController();
          const saved: Uint8Array[] = [];
          await train(lora(), data, {
            ...optionsOf(run),
            ...(checkpoint !== null && { resume: checkpoint }),
            signal: controller.signal,
            onStep: ({ step }) => step >= steps && controller.abort(),
            checkpoint: { every: { steps: 1000 }, save: (state) => void saved.push(writeCheckpoint(state)) },
          });
          // A run that stops where it began has nothing to save.
          if (saved.length > 0) checkpoint = readCheckpoint(saved.at(-1)!);
        }
        const resumed = await train(lora(), data, { ...optionsOf(run), resume: checkpoint! });
        expect(resultOf(resumed)).toEqual(resultOf(whole));
      }),
      { numRuns: 10 },
    );
  });
});
