// A model made smaller without training: Linear layers factorized into two thin ones by truncated SVD, their weights in fewer
// bits, or both. Methods and sources: spectrum.ts, ranks.ts, quantize.ts.
import { LowrankError } from "../errors.ts";
import type { Matrix } from "../linalg/matrix.ts";
import { norm } from "../linalg/qr.ts";
import { rawByteLength } from "../onnx/elements.ts";
import { constantValue, prune } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { elementCount } from "../tensor.ts";
import { chosenLayers, type Layer } from "./layers.ts";
import { inputMoments, type Samples } from "./moments.ts";
import { type CompressOptions, checkOptions, type QuantizedForm } from "./options.ts";
import { quantized, storageBytes } from "./quantize.ts";
import { type Budget, type Choice, isShort, largestRank, ownRank, ranksWithin } from "./ranks.ts";
import { type Piece, type Replacement, rewritten } from "./rewrite.ts";
import { leastSide, runtimeNormOnData, runtimeSpectrum } from "./runtime-spectrum.ts";
import {
  factorsOf,
  normOnData,
  productOf,
  ridged,
  type Spectrum,
  spectrumOf,
  type Weight,
  whitening,
} from "./spectrum.ts";

export interface Change {
  readonly before: number;
  readonly after: number;
}

/** What has become of a chosen layer. */
export interface CompressedLayer {
  readonly modulePath: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Of the two thin layers `<path>.0` and `<path>.1`; null where it is still one. */
  readonly rank: number | null;
  readonly quantized: QuantizedForm | null;
  /** Why it is not factorized, or not changed at all; null where it was done as asked. */
  readonly reason: string | null;
  /** Weights, without the bias. */
  readonly parameters: Change;
  /** Of the weights, scales included. */
  readonly bytes: Change;
  /** Multiplications and additions for one row of inputs. */
  readonly operations: Change;
  /** |W - W'| / |W| in the Frobenius norm, quantization included. */
  readonly relativeError: number;
  /** The same of the layer's results on the data; null without data. */
  readonly dataError: number | null;
}

export interface Compressed {
  readonly model: Model;
  readonly layers: readonly CompressedLayer[];
  /** Of all weights and constants of the model that are floats, or codes for them. */
  readonly parameters: Change;
  /** Of all weights and constants of the model. */
  readonly bytes: Change;
  /** The same with a part of it done: what each layer, or each of the two ways, costs by itself. */
  readonly variant: (choice: Variant) => Model;
}

export interface Variant {
  /** Only these layers are changed; default all. */
  readonly only?: readonly string[];
  /** Whether weights are stored in fewer bits, where that was asked for; default true. */
  readonly quantized?: boolean;
}

/**
 * The model with chosen Linear layers factorized: W [out, in] becomes B A with A [r, in] at `<path>.0` and B [out, r], with the
 * bias, at `<path>.1`. A layer that would not shrink (r (in + out) >= in out) stays whole, and the report says so. With
 * `quantize`, all chosen layers, factorized or whole, are stored in fewer bits.
 *
 * @throws LowrankError "config" for options out of range, targets that match no layer, and a size that rank 1 exceeds.
 * @example
 * const { model: small, layers } = compress(model, { size: 0.25 });
 */
export function compress(model: Model, options: CompressOptions): Compressed {
  checkOptions(options);
  const ready = prepared(model, options);
  const steps = finish(model, ready, chosenLayers(ready, options), options, new Map());
  let next = steps.next();
  while (!next.done) next = steps.next(answered(next.value));
  return next.value;
}

export interface CompressWithOptions extends CompressOptions, SessionOptions {}

/**
 * `compress`, with the data that the model is for: of all layers of a rank, each is the one whose results on the batches are
 * nearest to the original's (Wang et al. 2024, arXiv:2403.07378); energy, error and size count what the data shows. Some hundred
 * rows are enough; labels are not needed. Without batches (null) it is `compress` with the products of large layers on the
 * runtime: at 4096 x 4096 minutes become seconds, and errors are up to one per cent above the least ones.
 *
 * @throws LowrankError as `compress`; "data" for no batches or values that are not finite.
 * @example
 * const { model: small } = await compressWith(model, batches.slice(0, 8), { rank: 64 });
 */
export async function compressWith(
  model: Model,
  samples: Samples | null,
  options: CompressWithOptions,
): Promise<Compressed> {
  checkOptions(options);
  const ready = prepared(model, options);
  const layers = chosenLayers(ready, options);
  const readable = layers.filter(({ weight }) => weight !== null).map(({ site }) => site);
  const { device, threads } = options;
  const session = { ...(device !== undefined && { device }), ...(threads !== undefined && { threads }) };
  const moments = samples === null ? new Map<Site, Matrix>() : await inputMoments(ready, readable, samples, session);
  const steps = finish(model, ready, layers, options, moments);
  let next = steps.next();
  while (!next.done) next = steps.next(await answeredByRuntime(next.value, session));
  return next.value;
}

/** What is asked for on the way: it is computed at once, or by the runtime, which promises it. */
type Question =
  | {
      readonly what: "spectrum";
      readonly weight: Weight;
      /** Triplets that are wanted, and how many may be of use in the end: what is computed whole gives these. */
      readonly count: number;
      readonly most: number;
      readonly moments: Matrix | undefined;
    }
  | { readonly what: "norm on data"; readonly weight: Weight; readonly moments: Matrix };
type Answer = Spectrum | number;
type Steps<T> = Generator<Question, T, Answer>;

function answered(question: Question): Answer {
  const { weight, moments } = question;
  if (question.what === "norm on data") return normOnData(weight, question.moments);
  return spectrumOf(weight, question.most, moments && whitening(ridged(moments)));
}

async function answeredByRuntime(question: Question, session: SessionOptions): Promise<Answer> {
  const { weight, moments } = question;
  if (Math.min(weight.out, weight.into) < leastSide) return answered(question);
  if (question.what === "norm on data") return runtimeNormOnData(weight, question.moments, session);
  return runtimeSpectrum(weight, question.count, moments && ridged(moments), session);
}

/** DequantizeLinear has an axis since operator set 13. */
function prepared(model: Model, { quantize }: CompressOptions): Model {
  return quantize === "int8" && (model.opsets.get("") ?? 0) < 13 ? upgradeModel(model) : model;
}

function* finish(
  original: Model,
  model: Model,
  layers: readonly Layer[],
  options: CompressOptions,
  moments: ReadonlyMap<Site, Matrix>,
): Steps<Compressed> {
  const plans = yield* planOf(model, layers, options, moments);
  const done: Done[] = [];
  for (const plan of plans) done.push(yield* apply(plan, options, moments.get(plan.layer.site)));
  const replacements = done.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
  const variant = ({ only, quantized = true }: Variant): Model => {
    const chosen = replacements.filter(({ site }) => only?.includes(site.modulePath) ?? true);
    const made = quantized ? chosen : chosen.flatMap(inFloats);
    return made.length === 0 ? original : rewritten(model, made);
  };
  const small = variant({});
  const parameters = (part: "before" | "after"): number =>
    done.reduce((sum, { report }) => sum + report.parameters[part], 0);
  const before = floatsIn(original);
  return {
    model: small,
    layers: done.map(({ report }) => report),
    parameters: { before, after: before - parameters("before") + parameters("after") },
    bytes: { before: weightBytes(original), after: weightBytes(small) },
    variant,
  };
}

/** Factors as they are before they are quantized; a layer of one piece is then as it was. */
function inFloats({ site, pieces }: Replacement): Replacement[] {
  return pieces.length === 1 ? [] : [{ site, pieces: pieces.map((piece) => ({ ...piece, quantized: null })) }];
}

/** A layer and what shall become of it. */
interface Plan {
  readonly layer: Layer;
  readonly rank: number | null;
  readonly spectrum: Spectrum | null;
  readonly reason: string | null;
}

function* planOf(
  model: Model,
  layers: readonly Layer[],
  options: CompressOptions,
  moments: ReadonlyMap<Site, Matrix>,
): Steps<Plan[]> {
  const isFactorizing = [options.rank, options.energy, options.error, options.size].some(
    (value) => value !== undefined,
  );
  const candidates = layers.filter(
    (layer) => isFactorizing && layer.weight !== null && wouldNotShrink(layer, options.rank ?? 1) === null,
  );
  const choices: Choice[] = [];
  for (const layer of candidates) {
    choices.push(yield* choiceOf(layer, firstCount(layer, options), options, moments.get(layer.site)));
  }
  let ranks = ranksOf(model, layers, choices, options);
  // Spectra are computed as far as they are needed.
  for (let at = shortOf(choices, ranks); at >= 0 && options.rank === undefined; at = shortOf(choices, ranks)) {
    const layer = candidates[at]!;
    const count = Math.min(2 * choices[at]!.spectrum.s.length, mostCount(layer));
    choices[at] = yield* choiceOf(layer, count, options, moments.get(layer.site));
    ranks = ranksOf(model, layers, choices, options);
  }
  const found = new Map(candidates.map((layer, at) => [layer, { choice: choices[at]!, rank: ranks[at]! }]));
  return layers.map((layer): Plan => {
    const chosen = found.get(layer);
    const whole = { layer, rank: null, spectrum: null };
    if (layer.weight === null || !isFactorizing) return { ...whole, reason: layer.reason };
    if (chosen === undefined) return { ...whole, reason: wouldNotShrink(layer, options.rank ?? 1) };
    const { rank, choice } = chosen;
    if (rank === null) return { ...whole, reason: "the size leaves room for the whole of it" };
    const against = wouldNotShrink(layer, rank);
    return against === null ? { layer, rank, spectrum: choice.spectrum, reason: null } : { ...whole, reason: against };
  });
}

function ranksOf(
  model: Model,
  layers: readonly Layer[],
  choices: readonly Choice[],
  options: CompressOptions,
): readonly (number | null)[] {
  if (options.size === undefined) return choices.map((choice) => ownRank(choice, options));
  return ranksWithin(choices, budgetFor(model, layers, choices, options));
}

function shortOf(choices: readonly Choice[], ranks: readonly (number | null)[]): number {
  return choices.findIndex((choice, at) => isShort(choice, ranks[at]!));
}

/** Ranks beyond it do not make a layer smaller. */
function mostCount({ site: { outFeatures, inFeatures } }: Layer): number {
  return largestRank(outFeatures, inFeatures);
}

/** How many triplets to begin with: of a large layer, some more than its share of the size would allow. */
function firstCount(layer: Layer, { rank, size }: CompressOptions): number {
  if (rank !== undefined) return rank;
  const { outFeatures, inFeatures } = layer.site;
  if (Math.min(outFeatures, inFeatures) < leastSide) return mostCount(layer);
  return Math.ceil(mostCount(layer) * Math.min(1, size === undefined ? 1 / 8 : 1.25 * size));
}

function* choiceOf(layer: Layer, count: number, options: CompressOptions, moments: Matrix | undefined): Steps<Choice> {
  const weight = layer.weight!;
  const { out, into } = weight;
  const most = options.rank ?? mostCount(layer);
  const spectrum = (yield { what: "spectrum", weight, count, most, moments }) as Spectrum;
  return {
    path: layer.site.modulePath,
    out,
    into,
    spectrum,
    cost: (rank) => costOf(layer, rank, options),
  };
}

/** Bytes or parameters of a layer's weights at a rank, or whole. */
function costOf({ site, storedType }: Layer, rank: number | null, { measure, quantize }: CompressOptions): number {
  const { outFeatures: out, inFeatures: into } = site;
  const of = (rows: number, columns: number): number =>
    measure === "parameters" ? rows * columns : storageBytes(quantize, rows, columns, storedType);
  return rank === null ? of(out, into) : of(rank, into) + of(out, rank);
}

/** What the layers whose rank is to be chosen may cost together. */
function budgetFor(
  model: Model,
  layers: readonly Layer[],
  choices: readonly Choice[],
  options: CompressOptions,
): Budget {
  const { size = 1, measure = "bytes" } = options;
  const whole = measure === "bytes" ? weightBytes(model) : floatsIn(model);
  const asItIs = { measure, rank: 1 } as const;
  // The rest: what is no layer, layers that were not chosen, and those that change in their bits at most.
  let rest = whole;
  for (const layer of layers) if (layer.weight !== null) rest -= costOf(layer, null, asItIs);
  const open = new Set(choices.map(({ path }) => path));
  for (const layer of layers) {
    if (layer.weight !== null && !open.has(layer.site.modulePath)) rest += costOf(layer, null, options);
  }
  if (choices.length > 0 || rest <= size * whole) return { budget: size * whole - rest, whole, size };
  throw new LowrankError(
    "config",
    `compress: size: expected layers to factorize, got none that would shrink; choose other targets, or quantize`,
  );
}

function wouldNotShrink({ site }: Layer, rank: number): string | null {
  const { inFeatures: into, outFeatures: out } = site;
  if (rank <= largestRank(out, into)) return null;
  const most = largestRank(out, into);
  const wanted = Number.isFinite(rank) ? `rank ${rank}` : `a rank over ${most}`;
  return `${wanted} would not shrink it: ${into} x ${out} is smaller from rank ${most} down`;
}

interface Done {
  readonly replacement: Replacement | null;
  readonly report: CompressedLayer;
}

function* apply(
  { layer, rank, spectrum, reason }: Plan,
  options: CompressOptions,
  moments: Matrix | undefined,
): Steps<Done> {
  const { site, weight, storedType } = layer;
  const { modulePath, inFeatures, outFeatures } = site;
  const { quantize } = options;
  const whole = inFeatures * outFeatures;
  const about = { modulePath, inFeatures, outFeatures, reason };
  const size = site.quantized === undefined ? storageBytes(undefined, outFeatures, inFeatures, storedType) : 0;
  if (weight === null || (spectrum === null && quantize === undefined)) {
    const same = (value: number): Change => ({ before: value, after: value });
    const dataError = moments === undefined ? null : 0;
    const sizes = { parameters: same(whole), bytes: same(size), operations: same(2 * whole) };
    return {
      replacement: null,
      report: { ...about, rank: null, quantized: null, ...sizes, relativeError: 0, dataError },
    };
  }
  const factors = spectrum === null ? null : factorsOf(weight, spectrum, rank!);
  const parts: { path: string; weight: Weight }[] =
    factors === null
      ? [{ path: modulePath, weight }]
      : [
          { path: `${modulePath}.0`, weight: { out: factors.r, into: inFeatures, values: factors.a } },
          { path: `${modulePath}.1`, weight: { out: outFeatures, into: factors.r, values: factors.b } },
        ];
  const pieces = parts.map((part): Piece => {
    const { out, into, values } = part.weight;
    return {
      ...part,
      storedType,
      quantized: quantize ? { form: quantize, ...quantized(quantize, values, out, into) } : null,
    };
  });
  const after = pieces.reduce((sum, { weight: { values } }) => sum + values.length, 0);
  const bytes = pieces.reduce((sum, p) => sum + storageBytes(quantize, p.weight.out, p.weight.into, storedType), 0);
  return {
    replacement: { site, pieces },
    report: {
      ...about,
      rank: factors?.r ?? null,
      quantized: quantize ?? null,
      parameters: { before: whole, after },
      bytes: { before: size, after: bytes },
      operations: { before: 2 * whole, after: 2 * after },
      ...(yield* errorsOf(weight, pieces, moments)),
    },
  };
}

/** How far the product of the pieces, as they are stored, is from the weight. */
function* errorsOf(
  weight: Weight,
  pieces: readonly Piece[],
  moments: Matrix | undefined,
): Steps<Pick<CompressedLayer, "relativeError" | "dataError">> {
  const [first, last] = pieces.map((piece) => piece.quantized?.values ?? piece.weight.values);
  const r = pieces[0]!.weight.out;
  const product = last === undefined ? first! : productOf({ r, a: first!, b: last }, weight);
  const lost = Float32Array.from(weight.values, (value, index) => value - product[index]!);
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  const relativeError = share(norm(Float64Array.from(lost)), norm(Float64Array.from(weight.values)));
  if (moments === undefined) return { relativeError, dataError: null };
  const what = "norm on data";
  const part = (yield { what, weight: { ...weight, values: lost }, moments }) as number;
  const whole = (yield { what, weight, moments }) as number;
  return { relativeError, dataError: share(part, whole) };
}

/** Bytes of everything that a model stores and uses. */
function weightBytes({ graph }: Model): number {
  return storedIn(graph).reduce((sum, { type, dims }) => sum + rawByteLength(type, elementCount(dims)), 0);
}

function floatsIn({ graph }: Model): number {
  return storedIn(graph).reduce((sum, { type, dims }) => sum + (type.includes("float") ? elementCount(dims) : 0), 0);
}

function storedIn(graph: Model["graph"]): { type: Parameters<typeof rawByteLength>[0]; dims: readonly number[] }[] {
  const { initializers, nodes } = prune(graph);
  return [...initializers.values(), ...nodes.flatMap((node) => constantValue(node) ?? [])];
}
