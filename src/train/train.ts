// The trainer. It knows no difference between an adapter and a whole model: it runs steps over batches and lets an
// optimizer change the parameters in place.
import { LowrankError } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { currentWeights } from "../lora/full.ts";
import { initAdapter } from "../lora/init.ts";
import { scaleOf } from "../lora/scale.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { crossEntropy, type Loss } from "./losses.ts";
import { adam, type Optimizer } from "./optimizers.ts";
import { placedOn } from "./place.ts";
import { constant, type Schedule } from "./schedules.ts";
import {
  type Batch,
  compileStep,
  copyParameters,
  loadParameters,
  parameterFaults,
  type TrainingStep,
  throwMisfits,
} from "./step.ts";

/** Batches in the order of training; training ends with them. The same object may be filled again for each. */
export type Batches = Iterable<Batch> | AsyncIterable<Batch>;

export interface TrainOptions extends SessionOptions {
  /** Default: cross entropy on the first output. */
  readonly loss?: Loss;
  /** Default: Adam. */
  readonly optimizer?: Optimizer;
  /** A number, or a schedule. Default 0.001. */
  readonly learningRate?: number | Schedule;
  /** At most this many steps; default: as many as there are batches. */
  readonly steps?: number;
  /** Stops between two steps; what was learnt until then is returned, with `history.stopped`. */
  readonly signal?: AbortSignal;
  /** Called after each step. Keep it short: training waits for it. */
  readonly onStep?: (progress: StepProgress) => void;
  /** Seed of a fresh adapter; default 0. */
  readonly seed?: number;
}

export interface StepProgress {
  /** 1-based. */
  readonly step: number;
  readonly loss: number;
  readonly learningRate: number;
}

export interface History {
  /** The loss of each step, before its update. */
  readonly losses: Float32Array;
  /** Whether `signal` ended it. */
  readonly stopped: boolean;
  /** Time in steps, in seconds; what came before (building, loading) is not in it. */
  readonly seconds: number;
}

/**
 * Trains an adapter.
 *
 * @param options.adapter where to start; default: `initAdapter`.
 * @throws LowrankError "config" for bad options, "adapter" for one that does not fit, "data" for batches that do not fit or a
 * loss that is not finite.
 * @example
 * const { adapter, history } = await train(attachLora(model, { r: 8 }), batches, { learningRate: 1e-3 });
 */
export async function train(
  adapted: AdaptedModel,
  data: Batches,
  options: TrainOptions & { readonly adapter?: Adapter } = {},
): Promise<{ adapter: Adapter; history: History }> {
  const start = options.adapter ?? initAdapter(adapted, options).adapter;
  const { adapter: placed, ownKeys, faults } = placedOn(adapted, start);
  throwMisfits([...faults, ...parameterFaults(adapted, placed.tensors), ...scaleFaults(adapted, start.config)]);
  const { tensors, history } = await runTraining(adapted, placed.tensors, data, options);
  const named = new Map([...tensors].map(([key, value]) => [ownKeys.get(key) ?? key, value]));
  return { adapter: { config: start.config, tensors: named }, history };
}

/**
 * Trains a whole model (`attachAll`). Returns the new weights by name, for `withWeights`.
 *
 * @example const { tensors } = await trainAll(attachAll(model), batches); const trained = withWeights(model, tensors);
 */
export async function trainAll(
  adapted: AdaptedModel,
  data: Batches,
  options: TrainOptions = {},
): Promise<{ tensors: Map<string, Tensor>; history: History }> {
  return runTraining(adapted, currentWeights(adapted), data, options);
}

/** What an adapter learns is right only under the scale that the graph has; its own would be applied to it later. */
function scaleFaults(adapted: AdaptedModel, config: AdapterConfig): string[] {
  return adapted.sites.flatMap(({ site: { modulePath }, scale }) => {
    const own = scaleOf(config, modulePath);
    return own === scale
      ? []
      : [`${modulePath}: expected the scale ${scale}, got ${own}; attach the adapter's own config`];
  });
}

async function runTraining(
  adapted: AdaptedModel,
  start: ReadonlyMap<string, Tensor>,
  data: Batches,
  options: TrainOptions,
): Promise<{ tensors: Map<string, Tensor>; history: History }> {
  const { steps = 0 } = options;
  if (!(steps >= 0) || !(Number.isInteger(steps) || steps === Number.POSITIVE_INFINITY)) {
    throw new LowrankError("config", `steps: expected a whole number of 0 or more, got ${steps}`);
  }
  const optimizer = options.optimizer ?? adam();
  const step = await compileStep(adapted, options.loss ?? crossEntropy(), optimizer, options);
  try {
    loadParameters(step, adapted, start);
    const history = await loop(step, optimizer, data, options);
    return { tensors: copyParameters(step, adapted), history };
  } finally {
    await step.dispose();
  }
}

async function loop(step: TrainingStep, optimizer: Optimizer, data: Batches, options: TrainOptions): Promise<History> {
  const { learningRate = 0.001, steps = Number.POSITIVE_INFINITY, signal, onStep } = options;
  const schedule = typeof learningRate === "number" ? constant(learningRate) : learningRate;
  const state = optimizer.init(step.parameters, step.arena);
  const losses: number[] = [];
  let stopped = false;
  const begun = performance.now();
  if (steps > 0) {
    for await (const batch of data) {
      stopped = signal?.aborted === true;
      if (stopped) break;
      const loss = await step.run(batch);
      if (!Number.isFinite(loss)) {
        throw new LowrankError(
          "data",
          `step ${losses.length + 1}: the loss is ${loss}; look for NaN in the batch, or lower the learning rate`,
        );
      }
      const rate = schedule(losses.length);
      optimizer.update(step.parameters, step.gradients, state, rate);
      losses.push(loss);
      onStep?.({ step: losses.length, loss, learningRate: rate });
      // Before the next batch is asked for: it may be long in coming.
      if (losses.length >= steps) break;
    }
  }
  return {
    losses: Float32Array.from(losses),
    stopped,
    seconds: (performance.now() - begun) / 1000,
  };
}
