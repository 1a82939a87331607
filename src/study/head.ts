// One network's part of the study: STUDY's steps 2 to 10, in their order.
import { merge } from "../adapter/merge.ts";
import { writeAdapter } from "../adapter/peft.ts";
import { selectByLabel } from "../data/preprocess.ts";
import { matrix } from "../linalg/matrix.ts";
import { lowRankSingularValues } from "../linalg/svd.ts";
import type { AdaptedModel, AdaptedSite } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { attachAll, withWeights } from "../lora/full.ts";
import { initAdapter, parameterCount } from "../lora/init.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { summary } from "../onnx/summary.ts";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { readFileChecked } from "../runs/files.ts";
import { createSession } from "../train/infer.ts";
import type { Batches } from "../train/train.ts";
import { type History, train, trainAll } from "../train/train.ts";
import { epochBatches, mixedBatches, range } from "./batches.ts";
import { compressionCurve } from "./compression.ts";
import type { StudyContext } from "./context.ts";
import {
  confusionOf,
  deadDigits,
  digitCount,
  evaluationOf,
  largestDifference,
  type Readings,
  readDigits,
} from "./evaluate.ts";
import * as tell from "./narrate.ts";
import { linearModules, studyNetwork } from "./network.ts";
import { effectiveWeightError, hashWeights, sameWeights } from "./proof.ts";
import type { DeadOutput, Evaluation, Head, HeadDetail, HeadSummary, LayerRow, LossPoint, Misread } from "./result.ts";

export interface HeadResult {
  readonly summary: HeadSummary;
  readonly detail: HeadDetail;
}

/** Names of what one network leaves in the run folder; `prefix` keeps two networks apart. */
function fileNames(prefix: string, replay: boolean): HeadSummary["files"] {
  return {
    base: `${prefix}base.onnx`,
    adapter: `${prefix}adapter`,
    replayAdapter: replay ? `${prefix}adapter-replay` : null,
    merged: `${prefix}merged.onnx`,
  };
}

/** Runs one network from its first weight to its comparison. Throws the signal's reason when it is aborted. */
export async function runHead(head: Head, prefix: string, context: StudyContext): Promise<HeadResult> {
  const begun = performance.now();
  const { options, voice } = context;
  const files = fileNames(prefix, options.replay > 0);
  tell.headIntroduction(voice, head);

  const base = await trainBase(head, files.base, context);
  const digit = options.digit ?? indexOfLargest(base.evaluation.wrong);
  tell.baseResult(voice, base, digit, options.digit !== null, head);

  const adapted = attachLora(base.model, {
    r: options.rank,
    loraAlpha: options.alpha,
    targetModules: linearModules,
    baseModelNameOrPath: files.base,
  });
  const parameters = countParameters(base.model, adapted);
  tell.parameters(voice, parameters, layersOf(base.model, options.rank));

  const tuned = await tune(head, "tuned", digit, 0, adapted, context);
  await context.run.writeFolder(files.adapter, writeAdapter(tuned.adapter));
  const replayed = options.replay > 0 ? await tune(head, "replay", digit, options.replay, adapted, context) : null;
  if (replayed && files.replayAdapter)
    await context.run.writeFolder(files.replayAdapter, writeAdapter(replayed.adapter));
  const merged = merge(base.model, tuned.adapter);
  await context.run.write(files.merged, writeModel(merged));

  const readings = await readAll(adapted, merged, tuned.adapter, replayed?.adapter ?? null, context);
  const proofs = await prove(base, adapted, tuned.adapter, files.base, context);
  const compression = head === "linear" ? await compressionCurve(base.model, context) : null;
  const labels = context.test.labels;
  const result: HeadSummary = {
    parameters,
    layers: layersOf(base.model, options.rank),
    base: { ...base.evaluation, ...speedOf(base.history), deadOutputs: base.dead },
    digit,
    digitChosen: options.digit === null ? "most wrong" : "by option",
    enabled: { ...evaluationOf(readings.enabled.predictions, labels), ...speedOf(tuned.history) },
    disabled: evaluationOf(readings.disabled.predictions, labels),
    disabledMatchesBase: largestDifference(readings.disabled, base.readings) === 0,
    replay: readings.replay && {
      ...evaluationOf(readings.replay.predictions, labels),
      meanLoss: meanOf(replayed!.history.losses),
      fraction: options.replay,
    },
    frozenWeightsUnchanged: proofs.unchanged,
    effectiveWeightMatches: { maxAbsDiff: proofs.effectiveError },
    mergedMatchesEnabled: { maxAbsDiff: largestDifference(readings.merged, readings.enabled) },
    compression,
    files,
    seconds: (performance.now() - begun) / 1000,
  };
  tell.proofs(voice, result);
  tell.comparison(voice, result, labels);
  if (compression !== null) tell.compression(voice, base, compression);
  context.recordEvaluation(`${head}/enabled`, result.enabled);
  context.recordEvaluation(`${head}/disabled`, result.disabled);
  if (result.replay) context.recordEvaluation(`${head}/replay`, result.replay);
  return { summary: result, detail: detailOf(base, adapted, tuned, replayed, readings, context) };
}

/** A trained base and what its test says. */
export interface BaseRun {
  readonly model: Model;
  readonly bytes: number;
  readonly history: History;
  readonly readings: Readings;
  readonly evaluation: Evaluation;
  readonly dead: DeadOutput[];
  readonly hashes: ReadonlyMap<string, string>;
}

async function trainBase(head: Head, file: string, context: StudyContext): Promise<BaseRun> {
  const { options, train: digits, test, signal } = context;
  const random = createRandom(options.seed, "shuffle");
  const batches = epochBatches(digits, range(digits.count), options.batch, options.epochs, random);
  const steps = Math.ceil(digits.count / options.batch) * options.epochs;
  const network = studyNetwork(head, options.seed);
  const trainable = attachAll(network);
  const { tensors, history } = await withProgress(
    `${head}: training the base`,
    `${head}/base`,
    steps,
    context,
    (onStep) =>
      trainAll(trainable, batches, { ...context.session, learningRate: options.learningRate, signal, onStep }),
  );
  signal.throwIfAborted();
  const model = withWeights(network, tensors);
  const bytes = writeModel(model);
  await context.run.write(file, bytes);

  const session = await createSession(model, context.session);
  try {
    const readings = await readDigits(session, test, null, signal);
    const evaluation = evaluationOf(readings.predictions, test.labels);
    context.recordEvaluation(`${head}/base`, evaluation);
    const dead = head === "linear" ? [] : deadDigits([readings, await readDigits(session, digits, null, signal)]);
    const perDigit = imagesPerDigit(test.labels);
    return {
      model,
      bytes: bytes.length,
      history,
      readings,
      evaluation,
      dead: dead.map((digit) => ({ digit, wrong: evaluation.wrong[digit]!, images: perDigit[digit]! })),
      hashes: hashWeights(model),
    };
  } finally {
    await session.dispose();
  }
}

interface TunedRun {
  readonly adapter: Adapter;
  readonly history: History;
}

/** Fine-tunes a fresh adapter on one digit, with a share of each batch drawn from all digits. */
async function tune(
  head: Head,
  phase: string,
  digit: number,
  replay: number,
  adapted: AdaptedModel,
  context: StudyContext,
): Promise<TunedRun> {
  const { options, train: digits, signal } = context;
  const general = Math.round(options.batch * replay);
  const batches: Batches = mixedBatches(digits, [
    {
      indices: selectByLabel(digits.labels, digit),
      count: options.batch - general,
      random: createRandom(options.seed, "tune"),
    },
    { indices: range(digits.count), count: general, random: createRandom(options.seed, "replay") },
  ]);
  // STUDY: A ~ N(0, 1), B = 0.
  const { adapter } = initAdapter(adapted, { seed: options.seed, method: "normal" });
  const label = `${head}: tuning on digit ${digit}${replay > 0 ? " with replay" : ""}`;
  const run = await withProgress(label, `${head}/${phase}`, options.steps, context, (onStep) =>
    train(adapted, batches, {
      ...context.session,
      adapter,
      learningRate: options.learningRate,
      steps: options.steps,
      signal,
      onStep,
    }),
  );
  signal.throwIfAborted();
  return run;
}

type OnStep = (progress: { step: number; loss: number; learningRate: number }) => void;

/** Steps over which the running loss is averaged. */
const lossWindow = 100;

async function withProgress<T>(
  label: string,
  phase: string,
  steps: number,
  context: StudyContext,
  run: (onStep: OnStep) => Promise<T>,
): Promise<T> {
  const progress = context.voice.progress(label, steps);
  const begun = performance.now();
  let running = 0;
  try {
    const result = await run(({ step, loss, learningRate }) => {
      running += (loss - running) / Math.min(step, lossWindow);
      progress.update(step, { loss: running });
      const stepsPerSecond = (step * 1000) / (performance.now() - begun);
      context.run.metrics.append({ kind: "step", phase, step, loss, lr: learningRate, stepsPerSecond });
    });
    progress.done();
    return result;
  } catch (error) {
    progress.clear();
    throw error;
  }
}

interface AllReadings {
  readonly enabled: Readings;
  readonly disabled: Readings;
  readonly replay: Readings | null;
  readonly merged: Readings;
}

/** The test images through one session with the adapter on, off and exchanged, and through the merged model. */
async function readAll(
  adapted: AdaptedModel,
  merged: Model,
  tuned: Adapter,
  replayed: Adapter | null,
  context: StudyContext,
): Promise<AllReadings> {
  const { test, signal } = context;
  const switching = await createSession(adapted, context.session);
  const plain = await createSession(merged, context.session);
  try {
    return {
      enabled: await readDigits(switching, test, tuned, signal),
      disabled: await readDigits(switching, test, null, signal),
      replay: replayed && (await readDigits(switching, test, replayed, signal)),
      merged: await readDigits(plain, test, null, signal),
    };
  } finally {
    await switching.dispose();
    await plain.dispose();
  }
}

/** Frozen weights as the trainer held them, and as they lie on the disk, against those of before. */
async function prove(base: BaseRun, adapted: AdaptedModel, adapter: Adapter, file: string, context: StudyContext) {
  const onDisk = readModel(await readFileChecked(context.pathOf(file)), file);
  return {
    unchanged: sameWeights(base.hashes, hashWeights(adapted.model)) && sameWeights(base.hashes, hashWeights(onDisk)),
    effectiveError: await effectiveWeightError(adapted, adapter.tensors),
  };
}

function countParameters(model: Model, adapted: AdaptedModel): HeadSummary["parameters"] {
  const base = summary(model).parameters;
  const lora = parameterCount(adapted);
  return { base, lora, total: base + lora, percent: (100 * lora) / base };
}

function layersOf(model: Model, rank: number): LayerRow[] {
  return summary(model).rows.map((row) => ({
    name: row.name,
    outputShape: [...(row.outputShape ?? [])],
    parameters: row.parameters,
    lora: row.lora(rank),
  }));
}

function speedOf({ losses, seconds }: History): { meanLoss: number; stepsPerSecond: number; steps: number } {
  return { meanLoss: meanOf(losses), stepsPerSecond: losses.length / seconds, steps: losses.length };
}

function detailOf(
  base: BaseRun,
  adapted: AdaptedModel,
  tuned: TunedRun,
  replayed: TunedRun | null,
  readings: AllReadings,
  { test }: StudyContext,
): HeadDetail {
  const confusion = (values: Readings): number[][] => confusionOf(values.predictions, test.labels);
  return {
    lossCurves: {
      base: lossCurve(base.history.losses),
      tuned: lossCurve(tuned.history.losses),
      replay: replayed && lossCurve(replayed.history.losses),
    },
    confusion: {
      base: confusion(base.readings),
      enabled: confusion(readings.enabled),
      replay: readings.replay && confusion(readings.replay),
    },
    misread: misreadImages(base.readings, readings, test),
    singularValues: adapted.sites.map((site) => ({
      module: site.site.modulePath,
      values: singularValues(site, tuned.adapter),
    })),
    bytes: {
      base: base.bytes,
      adapter: [...writeAdapter(tuned.adapter).values()].reduce((sum, bytes) => sum + bytes.length, 0),
    },
  };
}

/** Of s B A, largest first. */
function singularValues({ site, r, scale, a, b }: AdaptedSite, { tensors }: Adapter): number[] {
  const [A, B] = [tensors.get(a)!.data as Float32Array, tensors.get(b)!.data as Float32Array];
  return [...lowRankSingularValues(matrix(site.outFeatures, r, B), matrix(r, site.inFeatures, A), scale)];
}

const maxMisread = 10;

/** Some of the base's misread images, the digits in turn. */
function misreadImages(base: Readings, readings: AllReadings, { images, labels }: StudyContext["test"]): Misread[] {
  const perDigit = Math.ceil(maxMisread / digitCount);
  const taken = Array<number>(digitCount).fill(0);
  const found: Misread[] = [];
  for (let index = 0; index < labels.length && found.length < maxMisread; index++) {
    const label = labels[index]!;
    if (base.predictions[index] === label || taken[label]! >= perDigit) continue;
    taken[label]!++;
    found.push({
      index,
      pixels: images.slice(index * 784, (index + 1) * 784),
      label,
      base: base.predictions[index]!,
      enabled: readings.enabled.predictions[index]!,
      replay: readings.replay?.predictions[index] ?? null,
    });
  }
  return found.sort((a, b) => a.label - b.label);
}

const maxCurvePoints = 300;
/** Steps that a point of a curve is the mean of, at least: the loss of one batch of ten says little. */
const leastWindow = 10;

/** Running means of the losses, at most 300 of them at equal distances. */
function lossCurve(losses: Float32Array): LossPoint[] {
  const stride = Math.ceil(losses.length / maxCurvePoints);
  const window = Math.max(stride, leastWindow);
  const points: LossPoint[] = [];
  for (let step = stride; step < losses.length + stride; step += stride) {
    const end = Math.min(step, losses.length);
    points.push({ step: end, loss: meanOf(losses.subarray(Math.max(0, end - window), end)) });
  }
  return points;
}

function meanOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function indexOfLargest(values: readonly number[]): number {
  return values.reduce((best, value, index) => (value > values[best]! ? index : best), 0);
}

/** How many images each digit has. */
export function imagesPerDigit(labels: Uint8Array): number[] {
  const counts = Array<number>(digitCount).fill(0);
  for (const label of labels) counts[label]!++;
  return counts;
}
