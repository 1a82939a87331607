// The learning rate range test: a few steps in which the learning rate rises from almost nothing until the loss runs away, to
// see between which bounds training learns. Method: Smith 2017, "Cyclical Learning Rates for Training Neural Networks",
// arXiv:1506.01186, section 3.3; the exponential rise, the smoothing and the choice of a rate ("valley") are fastai's.
import { LowrankError, throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { currentWeights } from "../lora/full.ts";
import { initAdapter } from "../lora/init.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { startPosition } from "./data-source.ts";
import { openFeed, type TrainingData } from "./feed.ts";
import { crossEntropy, type Loss } from "./losses.ts";
import { adam, type Optimizer } from "./optimizers.ts";
import { compileStep, loadParameters, type TrainingStep } from "./step.ts";

export interface FindOptions extends SessionOptions {
  /** Default: cross entropy on the first output. */
  readonly loss?: Loss;
  /** Default: Adam. */
  readonly optimizer?: Optimizer;
  /** The first learning rate; default 1e-7. */
  readonly from?: number;
  /** The last one; default 10. */
  readonly to?: number;
  /** Steps from the one to the other; default 100. Data that ends before is gone over again where it can be. */
  readonly steps?: number;
  /** How much of the running loss is kept at each step, in [0, 1); default 0.98. */
  readonly smoothing?: number;
  /** It ends when the running loss is so many times its minimum; default 4. */
  readonly divergence?: number;
  /** Where to start; default: a fresh adapter, or the model's weights. It is not changed. */
  readonly adapter?: Adapter;
  /** Seed of a fresh adapter; default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

export interface LearningRateCurve {
  /** The learning rate of each step. */
  readonly rates: Float64Array;
  /** The loss of each step, before its update. */
  readonly losses: Float64Array;
  /** The running mean of the losses, corrected for its start (as Adam's moments are). */
  readonly smoothed: Float64Array;
  /** The middle of the rates over which the running loss falls; null when it falls nowhere. */
  readonly suggestion: number | null;
  /** Whether the loss ran away, so that the upper bound is known. */
  readonly diverged: boolean;
}

/**
 * The loss over rising learning rates, and a rate in the middle of where it falls. Nothing that was given is changed.
 *
 * @throws LowrankError "config" for options out of range, "data" for data of fewer than ten steps.
 * @example
 * const { suggestion } = await findLearningRate(adapted, source);
 * await train(adapted, source, { learningRate: suggestion ?? 1e-3 });
 */
export async function findLearningRate(
  adapted: AdaptedModel,
  data: TrainingData,
  options: FindOptions = {},
): Promise<LearningRateCurve> {
  const { optimizer = adam(), loss = crossEntropy() } = options;
  const { from = 1e-7, to = 10, steps = 100, smoothing = 0.98, divergence = 4 } = options;
  const faults: string[] = [];
  if (!(from > 0 && to > from && Number.isFinite(to)))
    faults.push(`from, to: expected 0 < from < to, got ${from}, ${to}`);
  if (!(Number.isSafeInteger(steps) && steps >= leastSteps)) {
    faults.push(`steps: expected a whole number of ${leastSteps} or more, got ${steps}`);
  }
  if (!(smoothing >= 0 && smoothing < 1)) faults.push(`smoothing: expected a number in [0, 1), got ${smoothing}`);
  if (!(divergence > 1)) faults.push(`divergence: expected a number above 1, got ${divergence}`);
  throwFaults("config", "findLearningRate", faults);
  const start =
    adapted.config === null
      ? currentWeights(adapted)
      : (options.adapter ?? initAdapter(adapted, options).adapter).tensors;
  const step = await compileStep(adapted, loss, optimizer, options);
  try {
    loadParameters(step, adapted, start);
    const sweep = { from, to, steps, smoothing, divergence };
    const { rates, losses, smoothed, diverged } = await rise(step, optimizer, data, sweep, options.signal);
    if (losses.length < leastSteps && !diverged) {
      throw new LowrankError(
        "data",
        `findLearningRate: expected batches for ${leastSteps} steps or more, got ${losses.length}; give a source, or an array`,
      );
    }
    return {
      rates: Float64Array.from(rates),
      losses: Float64Array.from(losses),
      smoothed: Float64Array.from(smoothed),
      suggestion: valley(rates, smoothed),
      diverged,
    };
  } finally {
    await step.dispose();
  }
}

/** With fewer, there is no curve to see anything in. */
const leastSteps = 10;

interface Sweep {
  readonly from: number;
  readonly to: number;
  readonly steps: number;
  readonly smoothing: number;
  readonly divergence: number;
}

interface Found {
  readonly rates: number[];
  readonly losses: number[];
  readonly smoothed: number[];
  diverged: boolean;
}

/** rate(t) = from (to / from)^(t / (steps - 1)). */
async function rise(
  step: TrainingStep,
  optimizer: Optimizer,
  data: TrainingData,
  { from, to, steps, smoothing, divergence }: Sweep,
  signal: AbortSignal | undefined,
): Promise<Found> {
  const found: Found = { rates: [], losses: [], smoothed: [], diverged: false };
  const state = optimizer.init(step.parameters, step.arena);
  // An array is gone over again; an iterable that can be gone over once is.
  const again = Array.isArray(data) || typeof data === "function" || "batches" in data;
  const feed = openFeed(data, { from: startPosition, epochs: again ? Number.POSITIVE_INFINITY : 1, prefetch: true });
  let [running, least] = [0, Number.POSITIVE_INFINITY];
  for await (const { batch } of feed) {
    signal?.throwIfAborted();
    if (batch === null) continue;
    const loss = await step.run(batch);
    const index = found.losses.length;
    running = smoothing * running + (1 - smoothing) * loss;
    const smoothed = running / (1 - smoothing ** (index + 1));
    found.diverged = !Number.isFinite(loss) || smoothed > divergence * least;
    if (found.diverged) break;
    least = Math.min(least, smoothed);
    const rate = from * (to / from) ** (index / (steps - 1));
    found.rates.push(rate);
    found.losses.push(loss);
    found.smoothed.push(smoothed);
    if (found.losses.length === steps) break;
    optimizer.update(step.parameters, step.gradients, state, rate);
  }
  return found;
}

/**
 * fastai's "valley": the rate in the middle of the longest run of falling values, which need not stand next to each other; the
 * first tenth, where the running loss is still noise, and the last five points, where it runs away, are left out.
 */
function valley(rates: readonly number[], smoothed: readonly number[]): number | null {
  const from = Math.floor(smoothed.length / 10);
  const values = smoothed.slice(from, -5);
  // lengths[i]: of the longest falling sequence that ends at i.
  const lengths = values.map(() => 1);
  let end = 0;
  for (let i = 1; i < values.length; i++) {
    for (let j = 0; j < i; j++) {
      if (values[i]! < values[j]!) lengths[i] = Math.max(lengths[i]!, lengths[j]! + 1);
    }
    if (lengths[i]! > (lengths[end] ?? 0)) end = i;
  }
  const length = lengths[end] ?? 0;
  if (length < 2) return null;
  const third = length / 3;
  return rates[from + Math.max(end - length, 0) + Math.floor(third) + Math.floor(third / 2)]!;
}
