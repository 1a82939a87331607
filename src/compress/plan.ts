// Which chosen layers become two thin ones, at which ranks, and what the whole model may then take.
import { LowrankError } from "../errors.ts";
import type { Matrix } from "../linalg/matrix.ts";
import { rawByteLength } from "../onnx/elements.ts";
import { constantValue, prune } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { elementCount } from "../tensor.ts";
import type { Layer } from "./layers.ts";
import type { CompressOptions } from "./options.ts";
import { storageBytes } from "./quantize.ts";
import { type Budget, type Choice, isShort, largestRank, ownRank, ranksWithin } from "./ranks.ts";
import { leastSide } from "./runtime-spectrum.ts";
import type { Spectrum } from "./spectrum.ts";
import type { Steps } from "./work.ts";

/** A layer and what shall become of it. */
export interface Plan {
  readonly layer: Layer;
  readonly rank: number | null;
  readonly spectrum: Spectrum | null;
  readonly reason: string | null;
}

/** A plan for each chosen layer, in their order. Throws LowrankError "config" for a size that cannot be met. */
export function* planOf(
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
/** Bytes of everything that a model stores and uses. */
export function weightBytes({ graph }: Model): number {
  return storedIn(graph).reduce((sum, { type, dims }) => sum + rawByteLength(type, elementCount(dims)), 0);
}

export function floatsIn({ graph }: Model): number {
  return storedIn(graph).reduce((sum, { type, dims }) => sum + (type.includes("float") ? elementCount(dims) : 0), 0);
}

function storedIn(graph: Model["graph"]): { type: Parameters<typeof rawByteLength>[0]; dims: readonly number[] }[] {
  const { initializers, nodes } = prune(graph);
  return [...initializers.values(), ...nodes.flatMap((node) => constantValue(node) ?? [])];
}
