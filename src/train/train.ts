// The trainer: what can be asked of it, and what it gives back. The loop itself is in loop.ts.
import { throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { currentWeights } from "../lora/full.ts";
import { initAdapter } from "../lora/init.ts";
import { resumeFrom } from "../lora/residual.ts";
import { scaleOf } from "../lora/scale.ts";
import type { Random } from "../random.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import type { EmaOptions } from "./averaging.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { isDataSource } from "./data-source.ts";
import {
  type EarlyStopping,
  type EvaluationOptions,
  type EvaluationRecord,
  type Every,
  everyFaults,
  openEvaluator,
  watchedMetric,
} from "./evaluation.ts";
import type { TrainingData } from "./feed.ts";
import { type LoopState, type Run, runLoop, startState } from "./loop.ts";
import { type LoraFaOptions, loraFa } from "./lora-fa.ts";
import type { TrainingPrecision } from "./loss-scale.ts";
import { crossEntropy, type Loss } from "./losses.ts";
import { throwMisfits } from "./misfits.ts";
import { adam, type Optimizer } from "./optimizers.ts";
import { placedOn } from "./place.ts";
import { openPrefix, type Prefix, type PrefixCacheOptions, type PrefixPlan } from "./prefix.ts";
import { asTensors, restoreCheckpoint } from "./resume.ts";
import { constant, isMetricSchedule, type MetricSchedule, type Schedule } from "./schedules.ts";
import { compileStep, copyParameters, loadParameters, parameterFaults } from "./step.ts";

export type { Batches, TrainingData } from "./feed.ts";

export interface TrainOptions extends SessionOptions {
  /** Default: cross entropy on the first output. */
  readonly loss?: Loss;
  /** Default: Adam. */
  readonly optimizer?: Optimizer;
  /** A number, or a schedule. Default 0.001. */
  readonly learningRate?: number | Schedule | MetricSchedule;
  /** A parameter's own learning rate is the step's times this, by its key (1: the same). */
  readonly learningRateFactor?: (key: string) => number;
  /** At most this many steps in all, those before `resume` included; default: as many as the data gives. */
  readonly steps?: number;
  /** Passes over the data; default 1, or as many as `steps` takes where the data has passes without end. */
  readonly epochs?: number;
  /** Batches that make up one step, weighted as one batch that holds them all; the last of a pass may be fewer. Default 1. */
  readonly accumulate?: number;
  /**
   * float16: products of matrices and convolutions are computed in it, and the loss is scaled so that gradients do not vanish; a
   * batch for which the scale was too large is passed over. What is trained stays float32. Default float32.
   */
  readonly precision?: TrainingPrecision;
  /** Gradients whose norm, taken over all of them, is larger are shortened to it. Default: never. */
  readonly clipNorm?: number;
  /** Look for NaN and infinity in the gradients of each step; costs a pass over them. Default: for adapters alone. */
  readonly checkGradients?: boolean;
  /** Keep a moving average of the parameters; evaluations are of it then. */
  readonly ema?: EmaOptions;
  readonly evaluation?: EvaluationOptions;
  /** End training when the watched metric (`evaluation.best`) gets no better. */
  readonly earlyStopping?: EarlyStopping;
  /** Checkpoints as training goes on, and at its end; default: after each pass. Training waits for `save`. */
  readonly checkpoint?: { readonly every?: Every; save(checkpoint: Checkpoint): void | Promise<void> };
  /** Go on from here, with the same model, data and options: the end is the same, bit for bit. */
  readonly resume?: Checkpoint;
  /** Generators that a source draws from beyond its position: checkpoints hold their states, and nothing is prefetched. */
  readonly random?: Readonly<Record<string, Random>>;
  /** Ask a source for its next batch while the present one is run. Default true. */
  readonly prefetch?: boolean;
  /** Stops between two steps; what was learnt until then is returned, with `history.stopped`. */
  readonly signal?: AbortSignal;
  /** Called after each step. Keep it short: training waits for it. */
  readonly onStep?: (progress: StepProgress) => void;
  /** Called after each evaluation; training waits for it. */
  readonly onEvaluation?: (evaluation: EvaluationProgress) => void | Promise<void>;
  /** Seed of a fresh adapter and of its dropout; default 0. */
  readonly seed?: number;
  /**
   * What lies below the lowest parameter gives the same for an example in every pass: it runs once, and its outputs are kept,
   * where the data is a source whose batches have `keys`, has several passes, and all fits (default: 1 GiB of memory). False:
   * it runs each time.
   */
  readonly prefixCache?: PrefixCacheOptions | false;
  /**
   * Hold less in memory: most activations are computed again when gradients need them, which takes up to one more forward pass
   * in a step. Default false.
   */
  readonly checkpointActivations?: boolean;
  /** Told before the first step, where there is a part that could run once. */
  readonly onPrefix?: (plan: PrefixPlan) => void;
  /**
   * LoRA-FA (`train` only): A stays as it starts, and no gradient of it is computed. Without another `optimizer`, B is trained
   * by AdamW on projected gradients, as in PEFT.
   */
  readonly loraFa?: LoraFaOptions;
}

export interface StepProgress {
  /** 1-based. */
  readonly step: number;
  readonly loss: number;
  readonly learningRate: number;
  /** Of all gradients, before clipping; where it was taken. */
  readonly gradientNorm?: number;
}

export interface EvaluationProgress extends EvaluationRecord {
  /** Whether it is the best so far. */
  readonly best: boolean;
}

export interface History {
  /** The loss of each step, before its update. */
  readonly losses: Float32Array;
  readonly evaluations: readonly EvaluationRecord[];
  /** Whether `signal` ended it. */
  readonly stopped: boolean;
  /** What ended it: the data, `steps`, `signal`, or the patience of early stopping. */
  readonly end: "data" | "steps" | "signal" | "patience";
  /** Time in steps, in seconds, since training was begun or resumed; what came before (building, loading) is not in it. */
  readonly seconds: number;
}

/** The best evaluation of a run, and T: what was evaluated. */
export type BestOf<T> = T & { readonly metric: string; readonly value: number; readonly step: number };

export interface Trained {
  /** As it was after the last step. */
  readonly adapter: Adapter;
  /** At the best evaluation; null without evaluations. */
  readonly best: BestOf<{ readonly adapter: Adapter }> | null;
  /** The moving average; null without `ema`. */
  readonly averaged: Adapter | null;
  readonly history: History;
}

export interface TrainedWeights {
  /** As they were after the last step, by name. */
  readonly tensors: Map<string, Tensor>;
  /** At the best evaluation; null without evaluations. */
  readonly best: BestOf<{ readonly tensors: ReadonlyMap<string, Tensor> }> | null;
  /** The moving average; null without `ema`. */
  readonly averaged: ReadonlyMap<string, Tensor> | null;
  readonly history: History;
}

/**
 * Trains an adapter.
 *
 * @param options.adapter where to start; default: `initAdapter`.
 * @throws LowrankError "config" for bad options, "adapter" for one that does not fit, "data" for batches that do not fit, or a
 * loss, gradient or evaluation that is not finite.
 * @example
 * const { adapter, history } = await train(attachLora(model, { r: 8 }), batches, { learningRate: 1e-3 });
 */
export async function train(
  adapted: AdaptedModel,
  data: TrainingData,
  options: TrainOptions & { readonly adapter?: Adapter } = {},
): Promise<Trained> {
  const { adapted: ready, adapter: given } =
    options.adapter === undefined ? initAdapter(adapted, options) : resumeFrom(adapted, options.adapter);
  const { adapter: start, ownKeys, faults } = placedOn(ready, given);
  throwMisfits([...faults, ...parameterFaults(ready, start.tensors), ...scaleFaults(ready, start.config)]);
  const frozen = options.loraFa === undefined ? null : loraFa(ready, start.tensors, options.loraFa);
  const result = await runTraining(frozen?.adapted ?? ready, start.tensors, data, {
    checkGradients: true,
    ...(frozen && { optimizer: frozen.optimizer }),
    ...options,
  });
  const { tensors, best, averaged, history } = result;
  // What is frozen (LoRA-FA's A) stays as it was at the start; keys and configuration are the adapter's own.
  const adapterOf = (values: ReadonlyMap<string, Tensor>): Adapter => ({
    ...start,
    config: given.config,
    tensors: new Map([...start.tensors, ...values].map(([key, value]) => [ownKeys.get(key) ?? key, value])),
  });
  return {
    adapter: adapterOf(tensors),
    best: best && { metric: best.metric, value: best.value, step: best.step, adapter: adapterOf(best.tensors) },
    averaged: averaged && adapterOf(averaged),
    history,
  };
}

/**
 * Trains a whole model (`attachAll`). Returns the new weights by name, for `withWeights`.
 *
 * @example const { tensors } = await trainAll(attachAll(model), batches); const trained = withWeights(model, tensors);
 */
export async function trainAll(
  adapted: AdaptedModel,
  data: TrainingData,
  options: TrainOptions = {},
): Promise<TrainedWeights> {
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
  data: TrainingData,
  options: TrainOptions,
): Promise<TrainedWeights> {
  throwFaults("config", "train", optionFaults(data, options));
  const prefix = await prefixFor(adapted, data, options);
  if (prefix === null) return runWhole(adapted, start, data, options);
  try {
    const { evaluation } = options;
    const sets = Object.entries(evaluation?.sets ?? {}).map(([name, set]) => [name, prefix.through(set)] as const);
    return await runWhole(prefix.adapted, start, prefix.through(data), {
      ...options,
      ...(prefix.threads !== undefined && { threads: prefix.threads }),
      ...(evaluation !== undefined && { evaluation: { ...evaluation, sets: Object.fromEntries(sets) } }),
    });
  } finally {
    await prefix.dispose();
  }
}

/** The part that runs once for each example, if there is one that pays. */
async function prefixFor(adapted: AdaptedModel, data: TrainingData, options: TrainOptions): Promise<Prefix | null> {
  const { prefixCache, random, steps, accumulate = 1 } = options;
  // What draws from generators that a checkpoint holds must not be asked for a batch more.
  if (prefixCache === false || random !== undefined) return null;
  const batches = isDataSource(data) ? data.batchesPerEpoch : undefined;
  const bySteps =
    steps === undefined ? 1 : batches === undefined ? Number.POSITIVE_INFINITY : (steps * accumulate) / batches;
  const passes = Math.min(
    options.epochs ?? Number.POSITIVE_INFINITY,
    steps === undefined ? (options.epochs ?? 1) : bySteps,
  );
  const { prefix, plan } = await openPrefix({ adapted, data, passes, session: options, ...prefixCache });
  if (plan !== null) options.onPrefix?.(plan);
  return prefix;
}

async function runWhole(
  adapted: AdaptedModel,
  start: ReadonlyMap<string, Tensor>,
  data: TrainingData,
  options: TrainOptions,
): Promise<TrainedWeights> {
  const { learningRate = 0.001, optimizer = adam(), loss = crossEntropy() } = options;
  const schedule = typeof learningRate === "number" ? constant(learningRate) : learningRate;
  const evaluator =
    options.evaluation === undefined ? null : await openEvaluator(adapted, loss, options.evaluation, options);
  try {
    const step = await compileStep(adapted, loss, optimizer, options);
    try {
      loadParameters(step, adapted, new Map(adapted.parameters.map(({ key }) => [key, start.get(key)!])));
      const run: Run = { adapted, step, loss, optimizer, learningRate: schedule, evaluator, options };
      const state = startState(run);
      if (options.resume !== undefined) restoreCheckpoint(run, state, options.resume);
      const history = await runLoop(run, state, data);
      return resultOf(run, state, history);
    } finally {
      await step.dispose();
    }
  } finally {
    await evaluator?.dispose();
  }
}

function resultOf({ adapted, step }: Run, { best, average }: LoopState, history: History): TrainedWeights {
  return {
    tensors: copyParameters(step, adapted),
    best: best && { metric: best.metric, value: best.value, step: best.step, tensors: best.parameters },
    averaged: average && asTensors(adapted, average.values),
    history,
  };
}

/** All that can be said against options before anything is compiled. */
function optionFaults(data: TrainingData, options: TrainOptions): string[] {
  const { steps = 0, epochs = 1, accumulate = 1, clipNorm = 1, learningRate = 1 } = options;
  const faults: string[] = [];
  if (!(steps >= 0) || !(Number.isInteger(steps) || steps === Number.POSITIVE_INFINITY)) {
    faults.push(`steps: expected a whole number of 0 or more, got ${steps}`);
  }
  if (!(epochs >= 0) || !(Number.isInteger(epochs) || epochs === Number.POSITIVE_INFINITY)) {
    faults.push(`epochs: expected a whole number of 0 or more, got ${epochs}`);
  }
  if (!(Number.isSafeInteger(accumulate) && accumulate >= 1)) {
    faults.push(`accumulate: expected a whole number of 1 or more, got ${accumulate}`);
  }
  if (!(clipNorm > 0)) faults.push(`clipNorm: expected a number above 0, got ${clipNorm}`);
  if (options.checkpoint !== undefined) faults.push(...everyFaults("checkpoint", options.checkpoint.every ?? {}));
  if (options.random !== undefined && !isDataSource(data)) {
    faults.push("random: expected a source of data that can be entered anywhere, got batches to be gone over again");
  }
  return [...faults, ...evaluationFaults(options, learningRate)];
}

function evaluationFaults(
  { evaluation, earlyStopping }: TrainOptions,
  learningRate: number | Schedule | MetricSchedule,
): string[] {
  const faults = everyFaults("evaluation", evaluation?.every ?? {});
  const { patience = 1, minDelta = 0 } = earlyStopping ?? {};
  if (!(Number.isSafeInteger(patience) && patience >= 1)) {
    faults.push(`earlyStopping: patience: expected a whole number of 1 or more, got ${patience}`);
  }
  if (!(minDelta >= 0)) faults.push(`earlyStopping: minDelta: expected 0 or more, got ${minDelta}`);
  if (evaluation === undefined) {
    const needs = "expected an evaluation to watch, got none; give `evaluation`";
    if (earlyStopping !== undefined) faults.push(`earlyStopping: ${needs}`);
    if (isMetricSchedule(learningRate)) faults.push(`learningRate: ${needs}`);
  } else if (isMetricSchedule(learningRate)) {
    const { metric, mode } = watchedMetric(evaluation);
    if (learningRate.mode !== mode) {
      faults.push(`learningRate: expected a plateau of mode ${mode}, as ${metric} has, got ${learningRate.mode}`);
    }
  }
  return faults;
}
