// A model made smaller without training: Linear layers factorized into two thin ones by truncated SVD, their weights in fewer
// bits, or both. Methods and sources: spectrum.ts, ranks.ts, quantize.ts.
import type { Matrix } from "../linalg/matrix.ts";
import { norm } from "../linalg/qr.ts";
import type { Model } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { chosenLayers, type Layer } from "./layers.ts";
import { inputMoments, type Samples } from "./moments.ts";
import { type CompressOptions, checkOptions, type QuantizedForm } from "./options.ts";
import { floatsIn, type Plan, planOf, weightBytes } from "./plan.ts";
import { quantized, storageBytes } from "./quantize.ts";
import { type Piece, type Replacement, rewritten } from "./rewrite.ts";
import { leftFactor, type Weight } from "./spectrum.ts";
import { answered, answeredByRuntime, type Steps } from "./work.ts";

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

/** DequantizeLinear has an axis since operator set 13, and Gemm goes without a bias since 11. */
function prepared(model: Model, { quantize }: CompressOptions): Model {
  return (model.opsets.get("") ?? 0) < (quantize === "int8" ? 13 : 11) ? upgradeModel(model) : model;
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
  const parts: { path: string; weight: Weight }[] = [{ path: modulePath, weight }];
  if (spectrum !== null) {
    const { u, b } = leftFactor(spectrum, rank!);
    const values = (yield { what: "product", left: u, weight }) as Float32Array;
    const a = { out: u.out, into: inFeatures, values };
    parts.splice(0, 1, { path: `${modulePath}.0`, weight: a }, { path: `${modulePath}.1`, weight: b });
  }
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
      rank: spectrum === null ? null : pieces[0]!.weight.out,
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
  const [first, last] = pieces.map(({ weight: own, quantized: codes }) => ({
    ...own,
    values: codes?.values ?? own.values,
  }));
  const now =
    last === undefined ? first!.values : ((yield { what: "product", left: last, weight: first! }) as Float32Array);
  const lost = Float32Array.from(weight.values, (value, index) => value - now[index]!);
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  const relativeError = share(norm(Float64Array.from(lost)), norm(Float64Array.from(weight.values)));
  if (moments === undefined) return { relativeError, dataError: null };
  const what = "norm on data";
  const part = (yield { what, weight: { ...weight, values: lost }, moments }) as number;
  const whole = (yield { what, weight, moments }) as number;
  return { relativeError, dataError: share(part, whole) };
}
