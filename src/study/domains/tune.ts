// One domain: the base before, and after tuning it in four ways: LoRA, LoRA with replay, all weights, the head alone.
// Adapters start by EVA (Paischer et al. 2024, arXiv:2410.07170), A at the principal components of what each layer reads of
// the domain: from random directions an epoch is too short where inputs are far from the base's own (inverted colours).
import { writeAdapter } from "../../adapter/peft.ts";
import type { ImageSet } from "../../data/idx.ts";
import { selectByLabel } from "../../data/preprocess.ts";
import { parseTransform, transformImages } from "../../data/transforms/transforms.ts";
import type { AdaptedModel } from "../../lora/adapted.ts";
import { attachLora } from "../../lora/attach.ts";
import type { Adapter } from "../../lora/config.ts";
import { attachAll, withWeights } from "../../lora/full.ts";
import { parameterCount } from "../../lora/init.ts";
import type { Model } from "../../onnx/model.ts";
import { summary } from "../../onnx/summary.ts";
import { writeModel } from "../../onnx/write.ts";
import { createRandom } from "../../random.ts";
import type { SessionOptions } from "../../runtime/session.ts";
import { initEva } from "../../train/eva.ts";
import { type AdapterSession, createSession } from "../../train/infer.ts";
import type { Batch } from "../../train/step.ts";
import { train, trainAll } from "../../train/train.ts";
import { epochBatches, mixedBatches, range } from "../batches.ts";
import { evaluationOf, readDigits } from "../evaluate.ts";
import { linearModules } from "../network.ts";
import type { DomainResult, MethodResult } from "./result.ts";
import type { Domain, DomainOptions } from "./suite.ts";

export interface TuneContext {
  readonly options: DomainOptions;
  readonly base: Model;
  readonly train: ImageSet;
  readonly test: ImageSet;
  readonly signal: AbortSignal;
  readonly session: SessionOptions;
}

/** The base with room for the suite's adapters. */
export function attachDomains(base: Model, { rank, alpha }: DomainOptions): AdaptedModel {
  return attachLora(base, {
    r: rank,
    loraAlpha: alpha,
    targetModules: linearModules,
    baseModelNameOrPath: "base.onnx",
  });
}

/** A domain's images; `part` names the set, whose images draw their own numbers. */
export function domainImages(domain: Domain, set: ImageSet, part: "train" | "test", seed: number): ImageSet {
  if (domain.digit !== null) return selected(set, selectByLabel(set.labels, domain.digit));
  if (domain.transform === null) return set;
  const first = part === "train" ? 0 : 1_000_000; // no image of one set draws what one of the other does
  const images = transformImages({ data: set.images, height: 28, width: 28 }, parseTransform(domain.transform), {
    seed,
    first,
  });
  return { ...set, images };
}

/** Some images of a set. */
export function selected(set: ImageSet, indices: Int32Array): ImageSet {
  const pixels = set.images.length / set.count;
  const images = new Uint8Array(indices.length * pixels);
  indices.forEach((index, row) => {
    images.set(set.images.subarray(index * pixels, (index + 1) * pixels), row * pixels);
  });
  return { images, labels: Uint8Array.from(indices, (index) => set.labels[index]!), count: indices.length };
}

/** Two sets, one after the other. */
function joined(one: ImageSet, other: ImageSet): ImageSet {
  const images = new Uint8Array(one.images.length + other.images.length);
  images.set(one.images);
  images.set(other.images, one.images.length);
  const labels = new Uint8Array(one.count + other.count);
  labels.set(one.labels);
  labels.set(other.labels, one.count);
  return { images, labels, count: one.count + other.count };
}

/** Tunes and tests; returns the LoRA adapter too. Throws the signal's reason when it is stopped. */
export async function tuneDomain(
  domain: Domain,
  context: TuneContext,
): Promise<{ readonly result: DomainResult; readonly adapter: Adapter }> {
  const { options, base } = context;
  const target = domainImages(domain, context.train, "train", options.seed);
  const test = domainImages(domain, context.test, "test", options.seed);
  const plain = attachDomains(base, options);
  // EVA may give ranks to the layers that gain most; here each keeps its own, so that all adapters are of one shape.
  const { adapted: lora, adapter: start } = await initEva(plain, samples(target, options), {
    ...context.session,
    rho: 1,
    seed: options.seed,
  }).finally(() => plain.dispose());
  // The head is among the modules to save, and so trained whole instead of adapted.
  const head = attachLora(base, { targetModules: [linearModules[2]], modulesToSave: [linearModules[2]] });
  const session = await createSession(lora, context.session);
  try {
    const before = await accuracyOf(session, test, null, context.signal);
    const own = await tuneAdapter({ adapted: lora, start, session }, target, test, null, context);
    const replay = await tuneAdapter({ adapted: lora, start, session }, target, test, context.train, context);
    const full = await tuneAll(target, test, context);
    const headOnly = await tuneAdapter({ adapted: head, start: null, session: null }, target, test, null, context);
    const methods = { lora: own.result, replay: replay.result, full, head: headOnly.result };
    return { result: { name: domain.name, before, methods }, adapter: own.adapter };
  } finally {
    await session.dispose();
    await lora.dispose();
    await head.dispose();
  }
}

/** Batches of the target that EVA looks at. */
const sampleBatches = 16;
const sampleRows = 64;

/** A few batches of the target's images; no batch may have fewer rows than EVA seeks components. */
function* samples(target: ImageSet, { rank, seed }: DomainOptions): Generator<Batch> {
  const rows = Math.min(target.count, Math.max(sampleRows, 2 * rank));
  const indices = range(target.count);
  createRandom(seed, "eva").shuffle(indices);
  const batches = Math.min(sampleBatches, Math.floor(target.count / rows));
  yield* epochBatches(target, indices.subarray(0, batches * rows), rows, 1, createRandom(seed, "eva order"));
}

/** What is tuned, from where (null: afresh), and a session that runs it if there is one. */
interface Tuned {
  readonly adapted: AdaptedModel;
  readonly start: Adapter | null;
  readonly session: AdapterSession | null;
}

/** Of each batch with replay, the share of plain digits. */
const replayShare = 0.25;

/** How adapters are tuned, beside the options: results of another way are not mixed with this one's. */
export const tuningNotes: { readonly start: "eva"; readonly replay: number } = { start: "eva", replay: replayShare };

/**
 * One epoch over the target's images. With `replay`, a quarter of each batch is plain digits, in a third more steps: the
 * target's images are seen as often.
 */
async function tuneAdapter(
  { adapted, start, session: shared }: Tuned,
  target: ImageSet,
  test: ImageSet,
  replay: ImageSet | null,
  context: TuneContext,
): Promise<{ adapter: Adapter; result: MethodResult }> {
  const { options, signal } = context;
  const { batch, seed } = options;
  const plain = replay === null ? 0 : Math.max(1, Math.round(replayShare * batch));
  const { adapter, history } = await train(adapted, tuningBatches(target, replay, plain, options), {
    ...context.session,
    learningRate: options.learningRate,
    steps: Math.ceil(target.count / (batch - plain)),
    seed,
    signal,
    ...(start && { adapter: start }),
  });
  signal.throwIfAborted();
  const session = shared ?? (await createSession(adapted, context.session));
  try {
    return {
      adapter,
      result: {
        target: await accuracyOf(session, test, adapter, signal),
        plain: await accuracyOf(session, context.test, adapter, signal),
        parameters: parameterCount(adapted),
        bytes: [...writeAdapter(adapter).values()].reduce((sum, file) => sum + file.length, 0),
        seconds: history.seconds,
      },
    };
  } finally {
    if (shared === null) await session.dispose();
  }
}

/** Batches of the target's images, `plain` of each from the images of `replay`. */
function tuningBatches(
  target: ImageSet,
  replay: ImageSet | null,
  plain: number,
  { batch, seed }: DomainOptions,
): Generator<Batch> {
  const random = createRandom(seed, "tune");
  if (replay === null) return epochBatches(target, range(target.count), batch, 1, random);
  const second = range(replay.count).map((index) => index + target.count);
  return mixedBatches(joined(target, replay), [
    { indices: range(target.count), count: batch - plain, random },
    { indices: second, count: plain, random: createRandom(seed, "replay") },
  ]);
}

/** The same epoch with every weight trained. */
async function tuneAll(target: ImageSet, test: ImageSet, context: TuneContext): Promise<MethodResult> {
  const { options, base, signal } = context;
  const trainable = attachAll(base);
  const batches = epochBatches(target, range(target.count), options.batch, 1, createRandom(options.seed, "tune"));
  const { tensors, history } = await trainAll(trainable, batches, {
    ...context.session,
    learningRate: options.learningRate,
    signal,
  });
  await trainable.dispose();
  signal.throwIfAborted();
  const tuned = withWeights(base, tensors);
  const session = await createSession(tuned, context.session);
  try {
    return {
      target: await accuracyOf(session, test, null, signal),
      plain: await accuracyOf(session, context.test, null, signal),
      parameters: summary(base).parameters,
      bytes: writeModel(tuned).length,
      seconds: history.seconds,
    };
  } finally {
    await session.dispose();
  }
}

/** Share of a set's images that are read rightly. */
export async function accuracyOf(
  session: AdapterSession,
  set: ImageSet,
  adapter: Adapter | null,
  signal: AbortSignal,
): Promise<number> {
  const { predictions } = await readDigits(session, set, adapter, signal);
  return evaluationOf(predictions, set.labels).accuracy;
}
