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
import { type Budget, type Choice, largestRank, ownRank, ranksWithin } from "./ranks.ts";
import { type Piece, type Replacement, rewritten } from "./rewrite.ts";
import { factorsOf, normOnData, productOf, type Spectrum, spectrumOf, type Weight, whitening } from "./spectrum.ts";

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
  return finish(model, ready, chosenLayers(ready, options), options, new Map());
}

export interface CompressWithOptions extends CompressOptions, SessionOptions {}

/**
 * `compress`, with the data that the model is for: of all layers of a rank, each is the one whose results on the batches are
 * nearest to the original's (Wang et al. 2024, arXiv:2403.07378); energy, error and size count what the data shows. Some hundred
 * rows are enough; labels are not needed.
 *
 * @throws LowrankError as `compress`; "data" for no batches or values that are not finite.
 * @example
 * const { model: small } = await compressWith(model, batches.slice(0, 8), { rank: 64 });
 */
export async function compressWith(model: Model, samples: Samples, options: CompressWithOptions): Promise<Compressed> {
  checkOptions(options);
  const ready = prepared(model, options);
  const layers = chosenLayers(ready, options);
  const readable = layers.filter(({ weight }) => weight !== null).map(({ site }) => site);
  const { device, threads } = options;
  const session = { ...(device !== undefined && { device }), ...(threads !== undefined && { threads }) };
  return finish(model, ready, layers, options, await inputMoments(ready, readable, samples, session));
}

/** DequantizeLinear has an axis since operator set 13. */
function prepared(model: Model, { quantize }: CompressOptions): Model {
  return quantize === "int8" && (model.opsets.get("") ?? 0) < 13 ? upgradeModel(model) : model;
}

function finish(
  original: Model,
  model: Model,
  layers: readonly Layer[],
  options: CompressOptions,
  moments: ReadonlyMap<Site, Matrix>,
): Compressed {
  const plans = planOf(model, layers, options, moments);
  const done = plans.map((plan) => apply(plan, options, moments.get(plan.layer.site)));
  const replacements = done.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
  const small = replacements.length === 0 ? original : rewritten(model, replacements);
  const parameters = (part: "before" | "after"): number =>
    done.reduce((sum, { report }) => sum + report.parameters[part], 0);
  const before = floatsIn(original);
  return {
    model: small,
    layers: done.map(({ report }) => report),
    parameters: { before, after: before - parameters("before") + parameters("after") },
    bytes: { before: weightBytes(original), after: weightBytes(small) },
  };
}

/** A layer and what shall become of it. */
interface Plan {
  readonly layer: Layer;
  readonly rank: number | null;
  readonly spectrum: Spectrum | null;
  readonly reason: string | null;
}

function planOf(
  model: Model,
  layers: readonly Layer[],
  options: CompressOptions,
  moments: ReadonlyMap<Site, Matrix>,
): Plan[] {
  const isFactorizing = [options.rank, options.energy, options.error, options.size].some(
    (value) => value !== undefined,
  );
  const candidates = layers.flatMap((layer): { layer: Layer; choice: Choice }[] => {
    if (!isFactorizing || layer.weight === null || wouldNotShrink(layer, options.rank ?? 1) !== null) return [];
    return [{ layer, choice: choiceOf(layer, layer.weight, options, moments.get(layer.site)) }];
  });
  const choices = candidates.map(({ choice }) => choice);
  const ranks =
    options.size === undefined
      ? choices.map((choice) => ownRank(choice, options))
      : ranksWithin(choices, budgetFor(model, layers, choices, options));
  const found = new Map(candidates.map(({ layer, choice }, index) => [layer, { choice, rank: ranks[index]! }]));
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

function choiceOf(layer: Layer, weight: Weight, options: CompressOptions, moments: Matrix | undefined): Choice {
  const { out, into } = weight;
  const factor = moments && whitening(moments);
  return {
    path: layer.site.modulePath,
    out,
    into,
    spectrum: spectrumOf(weight, options.rank ?? largestRank(out, into), factor),
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

function apply({ layer, rank, spectrum, reason }: Plan, options: CompressOptions, moments: Matrix | undefined): Done {
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
      ...errorsOf(weight, pieces, moments),
    },
  };
}

/** How far the product of the pieces, as they are stored, is from the weight. */
function errorsOf(
  weight: Weight,
  pieces: readonly Piece[],
  moments: Matrix | undefined,
): Pick<CompressedLayer, "relativeError" | "dataError"> {
  const [first, last] = pieces.map((piece) => piece.quantized?.values ?? piece.weight.values);
  const r = pieces[0]!.weight.out;
  const product = last === undefined ? first! : productOf({ r, a: first!, b: last }, weight);
  const lost = Float32Array.from(weight.values, (value, index) => value - product[index]!);
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  return {
    relativeError: share(norm(Float64Array.from(lost)), norm(Float64Array.from(weight.values))),
    dataError:
      moments === undefined
        ? null
        : share(normOnData({ ...weight, values: lost }, moments), normOnData(weight, moments)),
  };
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
