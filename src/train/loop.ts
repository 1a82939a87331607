// The loop of training: batches to gradients, gradients to a step, and after it what is due: averaging, evaluation, a
// checkpoint. It knows no difference between an adapter and a whole model. All that it remembers from one step to the next is
// in `LoopState`, which a checkpoint holds whole: that, and drawing nothing from anywhere else, is why resuming is exact.
import { LowrankError } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Tensor } from "../tensor.ts";
import { createAverage, type MovingAverage } from "./averaging.ts";
import { type DataPosition, isDataSource, startPosition } from "./data-source.ts";
import {
  type EvaluationRecord,
  type Evaluator,
  isBetter,
  isDue,
  observeStopping,
  type StoppingState,
  type Watched,
} from "./evaluation.ts";
import { type FeedItem, openFeed, type TrainingData } from "./feed.ts";
import { type Accumulator, clipGradients, createAccumulator, gradientNorm, sumOfSquares } from "./gradients.ts";
import { type Loss, weightOf } from "./losses.ts";
import type { NamedArrays, Optimizer, OptimizerState } from "./optimizers.ts";
import { asTensors, captureCheckpoint } from "./resume.ts";
import { isMetricSchedule, type MetricSchedule, type PlateauState, type Schedule } from "./schedules.ts";
import type { Batch, TrainingStep } from "./step.ts";
import type { History, TrainOptions } from "./train.ts";

/** What stays the same throughout a run. */
export interface Run {
  readonly adapted: AdaptedModel;
  readonly step: TrainingStep;
  readonly loss: Loss;
  readonly optimizer: Optimizer;
  readonly learningRate: Schedule | MetricSchedule;
  readonly evaluator: Evaluator | null;
  readonly options: TrainOptions;
}

/** The best evaluation so far, and a copy of what was evaluated. */
export interface Best extends Watched {
  readonly value: number;
  readonly step: number;
  readonly parameters: ReadonlyMap<string, Tensor>;
}

/** What changes; with the parameters themselves, all of it. */
export interface LoopState {
  step: number;
  position: DataPosition;
  readonly optimizer: OptimizerState;
  readonly average: MovingAverage | null;
  plateau: PlateauState | null;
  stopping: StoppingState | null;
  best: Best | null;
  readonly losses: number[];
  readonly evaluations: EvaluationRecord[];
}

/** A fresh state; nothing has been trained yet. */
export function startState({ step, adapted, optimizer, learningRate, options }: Run): LoopState {
  const { learningRateFactor } = options;
  const about = adapted.parameters.map(({ key, dims }) => {
    return [key, { dims, ...(learningRateFactor && { learningRateFactor: learningRateFactor(key) }) }] as const;
  });
  return {
    step: 0,
    position: startPosition,
    optimizer: optimizer.init(step.parameters, step.arena, new Map(about)),
    average: options.ema === undefined ? null : createAverage(step.parameters, options.ema),
    plateau: isMetricSchedule(learningRate) ? learningRate.init() : null,
    stopping: options.earlyStopping === undefined ? null : { best: null, bad: 0 },
    best: null,
    losses: [],
    evaluations: [],
  };
}

/** Trains from `state` on, and changes it and the step's parameters. */
export async function runLoop(run: Run, state: LoopState, data: TrainingData): Promise<History> {
  const { options } = run;
  const { steps = Number.POSITIVE_INFINITY, signal, accumulate = 1 } = options;
  const begun = performance.now();
  const sums = accumulate > 1 ? createAccumulator(run.step.gradients) : null;
  const saved: Saved = { step: -1, position: null, evaluations: 0 };
  let end: History["end"] = state.step >= steps ? "steps" : "data";
  if (options.evaluation?.atStart === true && state.step === 0) await evaluate(run, state);
  if (isExhausted(run, state)) end = "patience";
  else if (end === "data") {
    for await (const item of openFeed(data, feedOptions(options, data, state.position))) {
      if (signal?.aborted === true) {
        end = "signal";
        break;
      }
      const stepped = await advance(run, state, item, sums);
      if (stepped || item.endsPass) await afterStep(run, state, item, stepped, saved);
      if (isExhausted(run, state)) end = "patience";
      else if (state.step >= steps) end = "steps";
      // Before the next batch is asked for: it may be long in coming.
      if (end !== "data") break;
    }
  }
  if (end !== "signal" && run.evaluator !== null) await evaluate(run, state);
  if (options.checkpoint !== undefined && !isSaved(state, saved)) await save(run, state, saved);
  return {
    losses: Float32Array.from(state.losses),
    evaluations: state.evaluations,
    stopped: end === "signal",
    end,
    seconds: (performance.now() - begun) / 1000,
  };
}

function feedOptions({ epochs, steps, prefetch = true, random }: TrainOptions, data: TrainingData, from: DataPosition) {
  const endless = steps !== undefined && (typeof data === "function" || isDataSource(data));
  return {
    from,
    epochs: epochs ?? (endless ? Number.POSITIVE_INFINITY : 1),
    prefetch: prefetch && random === undefined,
  };
}

/** Runs a batch, and takes a step when enough batches have come together. Returns whether it did. */
async function advance(run: Run, state: LoopState, item: FeedItem, sums: Accumulator | null): Promise<boolean> {
  const { batch, next } = item;
  const where = (): string => `step ${state.step + 1}, batch that ends at epoch ${next.epoch}, index ${next.index}`;
  // Dropout draws by this number, so that a resumed run draws what the unbroken one would have.
  const index = state.step * (run.options.accumulate ?? 1) + (sums?.count ?? 0);
  let loss = batch === null ? null : await run.step.run(batch, index);
  // In float16, a batch whose gradients were scaled too far is passed over.
  if (run.step.overflowed) loss = null;
  if (sums !== null) {
    if (batch !== null && loss !== null) collect(run, batch, loss, sums, where);
    const isDue = sums.count === run.options.accumulate || (item.endsPass && sums.count > 0);
    loss = isDue ? sums.take(run.step.gradients) : null;
  }
  if (loss !== null) {
    checkLoss(loss, where);
    takeStep(run, state, loss, where);
  }
  // Between two steps, batches that are still to be used lie behind the position.
  if (sums === null || sums.count === 0) state.position = next;
  return loss !== null;
}

/** Adds a batch to those that a step will be made of; one whose labels are all ignored counts for nothing. */
function collect(run: Run, batch: Batch, loss: number, sums: Accumulator, where: () => string): void {
  const weight = weightOf(run.loss, batch.labels);
  if (weight > 0) checkLoss(loss, where);
  sums.add(run.step.gradients, loss, weight);
}

function takeStep(run: Run, state: LoopState, loss: number, where: () => string): void {
  const { step, optimizer, options } = run;
  const norm = checkedNorm(step.gradients, options, where);
  if (options.clipNorm !== undefined) clipGradients(step.gradients, norm!, options.clipNorm);
  const learningRate = rateOf(run, state);
  optimizer.update(step.parameters, step.gradients, state.optimizer, learningRate);
  state.step++;
  state.losses.push(loss);
  state.average?.update(step.parameters, state.step);
  options.onStep?.({ step: state.step, loss, learningRate, ...(norm !== null && { gradientNorm: norm }) });
}

/** The norm of the gradients, where it is wanted; throws when one of them is not finite. */
function checkedNorm(gradients: NamedArrays, options: TrainOptions, where: () => string): number | null {
  if (options.clipNorm === undefined && options.checkGradients !== true) return null;
  const { norm, faulty } = gradientNorm(gradients);
  if (faulty === null) return norm;
  throw new LowrankError(
    "data",
    `${where()}: the gradient of ${faulty} is not finite; lower the learning rate, or look for extreme values in the batch`,
  );
}

function rateOf({ learningRate }: Run, { step, plateau }: LoopState): number {
  return isMetricSchedule(learningRate) ? learningRate.rate(step, plateau!) : learningRate(step);
}

function checkLoss(loss: number, where: () => string): void {
  if (Number.isFinite(loss)) return;
  throw new LowrankError(
    "data",
    `${where()}: the loss is ${loss}; look for NaN in the batch, or lower the learning rate`,
  );
}

/** Evaluation and checkpoint, when they are due. */
async function afterStep(run: Run, state: LoopState, item: FeedItem, stepped: boolean, saved: Saved): Promise<void> {
  const { evaluation, checkpoint } = run.options;
  const epochsDone = item.endsPass ? item.next.epoch : null;
  if (evaluation !== undefined && isDue(evaluation.every ?? { epochs: 1 }, state.step, stepped, epochsDone)) {
    await evaluate(run, state);
  }
  if (checkpoint !== undefined && isDue(checkpoint.every ?? { epochs: 1 }, state.step, stepped, epochsDone)) {
    await save(run, state, saved);
  }
}

/** Evaluates the averaged parameters where there are any, else the parameters; once for a step. */
async function evaluate(run: Run, state: LoopState): Promise<void> {
  const { evaluator, options } = run;
  if (evaluator === null || state.evaluations.at(-1)?.step === state.step) return;
  const evaluated = state.step > 0 && state.average !== null ? state.average.values : run.step.parameters;
  const values = await evaluator.run(evaluated);
  const { metric, mode } = evaluator.watched;
  const value = values[metric]!;
  if (!Number.isFinite(value)) {
    throw new LowrankError(
      "data",
      `evaluation after step ${state.step}: ${metric} is ${value}; lower the learning rate, or look for NaN in its batches`,
    );
  }
  const record = { step: state.step, epoch: state.position.epoch, values };
  state.evaluations.push(record);
  const better = isBetter(value, state.best?.value ?? null, mode);
  if (better) state.best = { metric, mode, value, step: state.step, parameters: asTensors(run.adapted, evaluated) };
  if (state.stopping !== null) {
    state.stopping = observeStopping(state.stopping, value, mode, options.earlyStopping!);
  }
  if (isMetricSchedule(run.learningRate)) state.plateau = run.learningRate.observe(value, state.plateau!);
  await options.onEvaluation?.({ ...record, best: better });
}

function isExhausted({ options }: Run, { stopping }: LoopState): boolean {
  return stopping !== null && stopping.bad >= options.earlyStopping!.patience;
}

/** How far the state was when it was last saved. */
interface Saved {
  step: number;
  position: DataPosition | null;
  evaluations: number;
}

function isSaved({ step, position, evaluations }: LoopState, saved: Saved): boolean {
  return saved.step === step && saved.position === position && saved.evaluations === evaluations.length;
}

/** Hands out a checkpoint, after making sure that it is worth keeping. */
async function save(run: Run, state: LoopState, saved: Saved): Promise<void> {
  for (const [key, array] of run.step.parameters) {
    if (Number.isFinite(sumOfSquares(array))) continue;
    throw new LowrankError(
      "data",
      `step ${state.step}: ${key} is not finite any more; lower the learning rate and go on from the checkpoint before`,
    );
  }
  await run.options.checkpoint!.save(captureCheckpoint(run, state));
  Object.assign(saved, { step: state.step, position: state.position, evaluations: state.evaluations.length });
}
