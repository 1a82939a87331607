// EVA (Paischer, Hauzenberger, Schmied, Alkin, Deisenroth and Hochreiter 2024, arXiv:2410.07170): A starts as the directions in
// which a layer's inputs vary most, and ranks go where they explain most. The procedure is that of PEFT 0.21
// (tuners/lora/eva.py): incremental PCA over the batches, again and again, until the components that are needed stand still.
import { LowrankError, throwFaults } from "../errors.ts";
import { addBatch, type Components } from "../linalg/incremental-pca.ts";
import type { Matrix } from "../linalg/matrix.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { initAdapter } from "../lora/init.ts";
import { alphaOf } from "../lora/scale.ts";
import { type Site, sites } from "../onnx/sites.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type Activations, openActivations } from "./activations.ts";
import type { Batch } from "./step.ts";

/** PEFT's EvaConfig. */
export interface EvaOptions extends SessionOptions {
  /** A layer's rank may grow to rho * r, at the cost of others; 1 leaves all as they are. Default 2. */
  readonly rho?: number;
  /** A component stands still when its cosine with the one before is at least this; default 0.99. */
  readonly tau?: number;
  /** Divides each component by the root of its singular value; default false. */
  readonly whiten?: boolean;
  /** Alpha grows with the rank, so that the scale stays; default true. */
  readonly adjustScalingFactors?: boolean;
  /** Leaves out tokens whose label is -100, where labels are [batch, tokens]; default true. */
  readonly useLabelMask?: boolean;
  /** Seed of the layers that EVA does not know (Conv, Embedding), which start as with `true`; default 0. */
  readonly seed?: number;
}

type Sample = Pick<Batch, "inputs"> & Partial<Pick<Batch, "labels">>;

/** Batches after which components that do not stand still are an error. */
const maxBatches = 10_000;

/**
 * An adapter that starts from a sample of data: A has the principal components of each Linear layer's inputs, B is zero, and the
 * ranks (of the same sum as before) are given out by the share of variance that each component explains. Layers that are left
 * without a rank are not adapted. Tokens that `attention_mask` hides do not count.
 *
 * @param samples a few batches; they are kept, and gone through until the components stand still.
 * @throws LowrankError "config" for options out of range, or a rank that is too large for a layer; "data" for no batches, or
 * batches of fewer rows than a layer needs components.
 * @example
 * const { adapted, adapter } = await initEva(attachLora(model, { r: 8 }), batches.slice(0, 16));
 */
export async function initEva(
  adapted: AdaptedModel,
  samples: Iterable<Sample> | AsyncIterable<Sample>,
  options: EvaOptions = {},
): Promise<{ adapted: AdaptedModel; adapter: Adapter }> {
  const { rho = 2, tau = 0.99, whiten = false, adjustScalingFactors = true, useLabelMask = true, seed = 0 } = options;
  const { config } = adapted;
  if (config === null) throw new LowrankError("config", "initEva: the model has no LoRA branches; use attachLora");
  throwFaults("config", "initEva", [
    ...(rho >= 1 && Number.isFinite(rho) ? [] : [`rho: expected a number of 1 or more, got ${rho}`]),
    ...(tau >= 0 && tau <= 1 ? [] : [`tau: expected a number from 0 to 1, got ${tau}`]),
  ]);
  const kept = await copies(samples);
  const search = await startSearch(adapted, kept[0]!, { rho, useLabelMask }, options);
  try {
    const ranks = await search.run(kept, tau);
    const found = new Map(
      [...ranks].map(([path, rank]) => [path, componentsOf(search.componentsFor(path), rank, whiten)]),
    );
    // What PEFT would have written beside "eva"; without it, it warns of its absence.
    const evaConfig = {
      ...{ adjust_scaling_factors: adjustScalingFactors, label_mask_value: -100, rho, tau },
      ...{ use_label_mask: useLabelMask, whiten },
    };
    return adopt(adapted, config, found, { adjustScalingFactors, seed, evaConfig });
  } finally {
    await search.activations.dispose();
  }
}

/** Batches may be filled again by whoever makes them. */
async function copies(samples: Iterable<Sample> | AsyncIterable<Sample>): Promise<Sample[]> {
  const kept: Sample[] = [];
  const copy = (value: Tensor): Tensor => ({ ...value, data: value.data.slice() }) as Tensor;
  for await (const { inputs, labels } of samples) {
    const own = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, copy(value)]));
    kept.push({ inputs: own, ...(labels && { labels: copy(labels) }) });
  }
  if (kept.length === 0) throw new LowrankError("data", "initEva: expected batches, got none");
  return kept;
}

interface Reading {
  readonly rho: number;
  readonly useLabelMask: boolean;
}

/** The components of one value that layers read. */
interface Tracked {
  readonly value: string;
  /** Components that are followed. */
  readonly count: number;
  found: Components | null;
  /** Of each component, whether it stood still in the last batch. */
  still: readonly boolean[];
  isDone: boolean;
}

async function startSearch(
  adapted: AdaptedModel,
  first: Sample,
  reading: Reading,
  options: SessionOptions,
): Promise<Search> {
  const own = new Map(sites(adapted.base).map((site) => [site.modulePath, site]));
  const layers = adapted.sites
    .filter(({ site }) => site.kind === "Linear")
    .map(({ site, r }): Layer => ({ site: own.get(site.modulePath) ?? site, r, max: roundHalfEven(r * reading.rho) }));
  throwFaults(
    "config",
    "initEva",
    layers
      .filter(({ max, site }) => max > site.inFeatures)
      .map(
        ({ max, site: { modulePath, inFeatures } }) =>
          `${modulePath}: ${max} components of ${inFeatures} features; lower r or rho`,
      ),
  );
  const activations = await openActivations(
    adapted.base,
    layers.map(({ site }) => site),
    options,
  );
  try {
    return new Search(layers, activations, await activations.run(first.inputs), reading);
  } catch (error) {
    await activations.dispose();
    throw error;
  }
}

interface Layer {
  readonly site: Site;
  readonly r: number;
  readonly max: number;
}

class Search {
  readonly activations: Activations;
  readonly #reading: Reading;
  readonly #budget: number;
  /** By module path, in PEFT's order: layers of inputs of their own, then those that share another's. */
  readonly #places: ReadonlyMap<string, Tracked>;
  readonly #max = new Map<string, number>();
  /** Of layers that share their inputs: the first of them. */
  readonly #first = new Map<string, string>();

  constructor(
    layers: readonly Layer[],
    activations: Activations,
    values: ReadonlyMap<string, Tensor>,
    reading: Reading,
  ) {
    this.activations = activations;
    this.#reading = reading;
    this.#budget = layers.reduce((sum, { r }) => sum + r, 0);
    const groups: Layer[][] = [];
    for (const layer of layers) {
      const own = values.get(inputOf(layer));
      const group = groups.find(([first]) => sameValues(values.get(inputOf(first!)), own));
      if (group === undefined) groups.push([layer]);
      else group.push(layer);
    }
    const tracked = groups.map((group): readonly [Layer[], Tracked] => {
      const count = Math.max(...group.map(({ max }) => max));
      for (const { site } of group) this.#max.set(site.modulePath, count);
      return [group, { value: inputOf(group[0]!), count, found: null, still: [], isDone: false }];
    });
    const places = new Map(tracked.map(([[first], own]) => [first!.site.modulePath, own]));
    for (const [[first, ...others], own] of tracked) {
      for (const { site } of others) {
        places.set(site.modulePath, own);
        this.#first.set(site.modulePath, first!.site.modulePath);
      }
    }
    this.#places = places;
  }

  componentsFor(path: string): Components {
    return this.#places.get(path)!.found!;
  }

  /** The rank of each layer, once all components that are needed stand still. */
  async run(samples: readonly Sample[], tau: number): Promise<ReadonlyMap<string, number>> {
    let ranks: ReadonlyMap<string, number> = this.#max;
    const owners = [...this.#places].filter(([path]) => !this.#first.has(path));
    for (let index = 0; index < maxBatches; index++) {
      for (const [path, own] of owners) {
        own.isDone = own.found !== null && own.still.length > 0 && own.still.slice(0, ranks.get(path)).every(Boolean);
      }
      if (owners.every(([, own]) => own.isDone)) return ranks;
      await this.#addSample(samples[index % samples.length]!, tau);
      if (owners.every(([, own]) => own.found !== null)) ranks = this.#distribute();
      else if (index >= samples.length) this.#tooFewRows();
    }
    throw new LowrankError("data", `initEva: the components do not stand still in ${maxBatches} batches; lower tau`);
  }

  async #addSample(sample: Sample, tau: number): Promise<void> {
    const values = await this.activations.run(sample.inputs);
    for (const own of new Set(this.#places.values())) {
      if (own.isDone) continue;
      const rows = rowsOf(values.get(own.value), sample, this.#reading.useLabelMask);
      if (rows.rows < own.count) continue;
      const before = own.found;
      own.found = addBatch(before, rows, own.count);
      own.still =
        before === null ? new Array(own.count).fill(false) : cosines(before, own.found).map((cosine) => cosine >= tau);
    }
  }

  #tooFewRows(): never {
    const missing = [...this.#places].filter(([, { found }]) => found === null);
    const faults = missing.map(
      ([path, { count }]) => `${path}: expected batches of at least ${count} rows; lower r or rho, or give larger ones`,
    );
    throwFaults("data", "initEva", faults);
    throw new Error("internal: no layer lacks components");
  }

  /** As many components as there are ranks in all, by the variance that they explain. */
  #distribute(): ReadonlyMap<string, number> {
    const all = [...this.#places].flatMap(([path, { found }]) =>
      Array.from(found!.explained.subarray(0, this.#max.get(path)), (share) => ({ path, share })),
    );
    all.sort((a, b) => b.share - a.share);
    const counts = new Map([...this.#places.keys()].map((path) => [path, 0]));
    for (const { path } of all.slice(0, this.#budget)) counts.set(path, counts.get(path)! + 1);
    // Of layers that share their inputs, the first decides what has to stand still: it gets the highest rank.
    for (const [path, first] of this.#first) {
      const [own, firsts] = [counts.get(path)!, counts.get(first)!];
      if (firsts < own) counts.set(first, own).set(path, firsts);
    }
    return counts;
  }
}

function inputOf({ site }: Layer): string {
  return site.node.inputs[0]!;
}

function sameValues(a: Tensor | undefined, b: Tensor | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined || a.dims.join() !== b.dims.join()) return false;
  return a.data.every((value: number | bigint, i: number) => value === b.data[i]);
}

/** The rows [samples, features] of a layer's input that count. */
function rowsOf(value: Tensor | undefined, { inputs, labels }: Sample, useLabelMask: boolean): Matrix {
  if (value === undefined || value.type !== "float32") {
    throw new LowrankError("data", `initEva: expected float32 inputs of a layer, got ${value?.type ?? "nothing"}`);
  }
  const columns = value.dims.at(-1)!;
  const places = value.dims.slice(0, -1).join();
  const masks = [
    ...(inputs.attention_mask?.dims.join() === places ? [inputs.attention_mask] : []).map(
      (mask) => (i: number) => Number(mask.data[i]) !== 0,
    ),
    ...(useLabelMask && labels?.dims.length === 2 && labels.dims.join() === places ? [labels] : []).map(
      (mask) => (i: number) => Number(mask.data[i]) !== -100,
    ),
  ];
  const kept: number[] = [];
  for (let i = 0; i < value.data.length / columns; i++) if (masks.every((counts) => counts(i))) kept.push(i);
  const data = new Float64Array(kept.length * columns);
  for (const [to, from] of kept.entries()) {
    data.set(value.data.subarray(from * columns, (from + 1) * columns), to * columns);
  }
  return { rows: kept.length, columns, data };
}

function cosines({ components: a }: Components, { components: b }: Components): number[] {
  return Array.from({ length: a.rows }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < a.columns; j++) sum += a.data[i * a.columns + j]! * b.data[i * a.columns + j]!;
    return sum;
  });
}

/** The first `rank` components, as A. */
function componentsOf({ components, singularValues }: Components, rank: number, whiten: boolean): Tensor<"float32"> {
  const { columns, data } = components;
  const values = Float32Array.from(data.subarray(0, rank * columns), (value, i) =>
    whiten ? value / Math.sqrt(singularValues[Math.floor(i / columns)]!) : value,
  );
  return tensor("float32", [rank, columns], values);
}

interface Adopting {
  readonly adjustScalingFactors: boolean;
  readonly seed: number;
  readonly evaConfig: Readonly<Record<string, unknown>>;
}

/** The model with the ranks that were found, and A with the components. */
function adopt(
  { base, sites: adaptedSites }: AdaptedModel,
  config: AdapterConfig,
  found: ReadonlyMap<string, Tensor<"float32">>,
  { adjustScalingFactors, seed, evaConfig }: Adopting,
): { adapted: AdaptedModel; adapter: Adapter } {
  const rankPattern: Record<string, number> = {};
  const alphaPattern: Record<string, number> = {};
  const targets: string[] = [];
  for (const {
    site: { modulePath },
    r,
  } of adaptedSites) {
    const rank = found.get(modulePath)?.dims[0] ?? r;
    if (rank === 0) continue;
    targets.push(modulePath);
    const alpha = alphaOf(config, modulePath) * (adjustScalingFactors ? rank / r : 1);
    if (rank !== config.r) rankPattern[modulePath] = rank;
    if (alpha !== config.loraAlpha) alphaPattern[modulePath] = alpha;
  }
  const layers = { layersToTransform: null, layersPattern: null, excludeModules: null };
  const own = { ...config, ...layers, rankPattern, alphaPattern, targetModules: targets, initLoraWeights: true };
  const { adapted, adapter } = initAdapter(attachLora(base, own), { seed });
  const tensors = new Map(adapter.tensors);
  for (const { site, a } of adapted.sites) if (found.has(site.modulePath)) tensors.set(a, found.get(site.modulePath)!);
  const extra = { ...adapter.config.extra, eva_config: evaConfig };
  return { adapted, adapter: { config: { ...adapter.config, initLoraWeights: "eva", extra }, tensors } };
}

/** Python's round. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
