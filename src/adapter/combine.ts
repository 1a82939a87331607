// Adapters joined into one, by the methods and the mathematics of PEFT 0.21 (add_weighted_adapter in tuners/lora/model.py): on
// the factors (linear, ties, dare_*, magnitude_prune; all weighted by sqrt(|w s|), the sign on A), exactly (cat), or on the
// updates s B A with an SVD behind (svd, *_svd). What differs: rsLoRA's scale is part of the factors afterwards (PEFT
// would apply sqrt(r) once more), ranks may differ from module to module, and a Conv's groups stay apart.
import { LowrankError, throwFaults } from "../errors.ts";
import { type Matrix, matrix } from "../linalg/matrix.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { createRandom } from "../random.ts";
import { elementCount } from "../tensor.ts";
import { electedMean, keepLargest, keepMasked, type MajoritySignMethod, weightedSum } from "./prune.ts";
import { checkGroups } from "./resize.ts";
import { adapterOf, deltaOf, type Thin, type ThinModule, thinModules } from "./thin.ts";
import { concatenated, denseSvd, padded, thinSvd, truncated } from "./thin-svd.ts";

/** PEFT's combination_type. */
export type CombineMethod =
  | "linear"
  | "cat"
  | "svd"
  | "ties"
  | "ties_svd"
  | "dare_linear"
  | "dare_linear_svd"
  | "dare_ties"
  | "dare_ties_svd"
  | "magnitude_prune"
  | "magnitude_prune_svd";

export const combineMethods: readonly CombineMethod[] = [
  ...(["linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd"] as const),
  ...(["dare_ties", "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd"] as const),
];

/** What DARE draws a mask for: a factor, or the whole update [out, in * kernel]. */
export interface MaskRequest {
  /** Index among the adapters. */
  readonly adapter: number;
  readonly path: string;
  readonly part: "A" | "B" | "delta";
  readonly length: number;
  readonly density: number;
}

export interface CombineOptions {
  /** One for each adapter; negative ones subtract. Default 1 each. */
  readonly weights?: readonly number[];
  /** Default "linear". */
  readonly method?: CombineMethod;
  /** The fraction of values that pruning keeps, for all methods but linear, cat and svd; 1 keeps all. */
  readonly density?: number;
  /** For the ties methods; default "total". */
  readonly majoritySignMethod?: MajoritySignMethod;
  /** Rank of the result, for the svd methods; default: the largest of the adapters'. */
  readonly r?: number;
  /** Of DARE's masks; default 0. */
  readonly seed?: number;
  /** DARE's masks, 0 or 1 for each value, instead of drawn ones. */
  readonly mask?: (request: MaskRequest) => ArrayLike<number>;
}

/**
 * One adapter that does what several do together, each with its weight. Its updates have scale 1. A module that only some
 * adapters have is combined from those. One adapter of weight 1 comes back as it is; one of another weight is combined by
 * "linear", whatever the method, as in PEFT.
 *
 * linear, ties, dare_linear, dare_ties and magnitude_prune work on A and B, need equal ranks, and are rough: products of sums
 * are no sums of products. cat is exact, its rank the sum of ranks. The svd methods work on the updates and keep the best rank r.
 *
 * @throws LowrankError "config" for options out of range or ranks that differ; "adapter" for tensors beyond A and B, shapes
 * that differ, or target modules that are lists in one adapter and an expression in another.
 * @example const both = combine([style, facts], { weights: [0.7, 0.5], method: "cat" });
 */
export function combine(adapters: readonly Adapter[], options: CombineOptions = {}): Adapter {
  const weights = options.weights ?? adapters.map(() => 1);
  const method = adapters.length === 1 ? "linear" : (options.method ?? "linear");
  checkOptions(adapters, weights, method, options);
  const places = placesOf(adapters.map((adapter, index) => thinModules(adapter, `adapter ${index + 1} to combine`)));
  const first = adapters[0]!;
  if (adapters.length === 1 && weights[0] === 1) return first;
  const join = joins(method, places, weights, options);
  const config = { ...targetsOf(adapters, places), useRslora: false };
  return adapterOf(config, places.map(join));
}

/** The update of `a` less that of `b`, exactly: its rank is the sum of both. */
export function subtract(a: Adapter, b: Adapter): Adapter {
  return combine([a, b], { weights: [1, -1], method: "cat" });
}

/** One module of the result: what the adapters that have it have there. */
interface Place {
  readonly path: string;
  readonly parts: readonly { readonly adapter: number; readonly module: ThinModule }[];
}

function checkOptions(
  adapters: readonly Adapter[],
  weights: readonly number[],
  method: CombineMethod,
  { density, r }: CombineOptions,
): void {
  const faults: string[] = [];
  if (adapters.length === 0) faults.push("adapters: expected one or more, got none");
  if (!combineMethods.includes(method))
    faults.push(`method: expected one of ${combineMethods.join(", ")}, got ${method}`);
  if (weights.length !== adapters.length)
    faults.push(`weights: expected ${adapters.length}, one for each adapter, got ${weights.length}`);
  for (const weight of weights) if (!Number.isFinite(weight)) faults.push(`weights: expected numbers, got ${weight}`);
  const isDare = method.startsWith("dare");
  const isInRange = density !== undefined && density >= 0 && (density > 0 || !isDare) && density <= 1;
  if (prunes(method) && !isInRange)
    faults.push(
      `density: expected a fraction ${isDare ? "above 0" : "of 0 or more"}, at most 1, for ${method}, got ${density}`,
    );
  if (r !== undefined && (!Number.isInteger(r) || r < 1))
    faults.push(`r: expected a whole number of 1 or more, got ${r}`);
  else if (r !== undefined && !method.endsWith("svd"))
    faults.push(`r: only the svd methods have a rank of their own, got ${r} for ${method}; resize the result`);
  throwFaults("config", "combine", faults);
}

function prunes(method: CombineMethod): boolean {
  return method !== "linear" && method !== "cat" && method !== "svd";
}

function placesOf(adapters: readonly (readonly ThinModule[])[]): Place[] {
  const parts = new Map<string, { adapter: number; module: ThinModule }[]>();
  for (const [adapter, modules] of adapters.entries()) {
    for (const module of modules) parts.set(module.keys.a, [...(parts.get(module.keys.a) ?? []), { adapter, module }]);
  }
  const places = [...parts.values()].map((list): Place => ({ path: list[0]!.module.path, parts: list }));
  const shape = ({ out, inDims, blocks }: ThinModule): string =>
    `[${out}, ${inDims.join(", ")}]${blocks.length === 1 ? "" : ` in ${blocks.length} groups`}`;
  const faults = places.flatMap(({ path, parts: [own, ...others] }) =>
    others
      .filter(({ module }) => shape(module) !== shape(own!.module))
      .map(
        ({ module, adapter }) =>
          `${path}: expected ${shape(own!.module)}, got ${shape(module)} in adapter ${adapter + 1}`,
      ),
  );
  throwFaults("adapter", "combine", faults);
  return places;
}

/** The first adapter's configuration with the targets of all, as PEFT joins them. */
function targetsOf(adapters: readonly Adapter[], places: readonly Place[]): AdapterConfig {
  const { config } = adapters[0]!;
  const targets = adapters.map((adapter) => adapter.config.targetModules);
  const isSame = (key: "targetModules" | "excludeModules"): boolean =>
    adapters.every((adapter) => JSON.stringify(adapter.config[key]) === JSON.stringify(config[key]));
  const paths = places.map(({ path }) => path);
  if (!isSame("excludeModules")) return { ...config, targetModules: paths, excludeModules: null };
  if (isSame("targetModules")) return config;
  const lists = targets.filter((target) => typeof target !== "string");
  if (lists.length === targets.length) return { ...config, targetModules: [...new Set(lists.flat())] };
  if (targets.includes("all-linear")) return { ...config, targetModules: paths };
  if (lists.length > 0) {
    throw new LowrankError(
      "adapter",
      "combine: expected targetModules that are all lists or all expressions, got both; write them as lists",
    );
  }
  return { ...config, targetModules: targets.map((target) => `(${target})`).join("|") };
}

type Join = (place: Place) => ThinModule;

function joins(
  method: CombineMethod,
  places: readonly Place[],
  weights: readonly number[],
  options: CombineOptions,
): Join {
  if (method === "cat") return (place) => concatenate(place, weights);
  if (!method.endsWith("svd")) {
    checkSameRanks(places, method);
    return (place) => onFactors(place, method, weights, options);
  }
  const modules = places.flatMap(({ parts }) => parts.map(({ module }) => module));
  const r = options.r ?? Math.max(...modules.map((module) => module.r));
  checkGroups(
    places.map(({ parts }) => parts[0]!.module),
    r,
    "combine",
  ); // of one shape in all adapters
  if (method === "svd") return (place) => bestOfSum(place, weights, r);
  return (place) => bestOfUpdates(place, method, weights, r, options);
}

function checkSameRanks(places: readonly Place[], method: CombineMethod): void {
  const faults = places.flatMap(({ path, parts }) => {
    const ranks = parts.map(({ module }) => module.r);
    if (new Set(ranks).size === 1) return [];
    return [
      `${path}: expected equal ranks for ${method}, got ${ranks.join(", ")}; use cat or an svd method, or resize`,
    ];
  });
  throwFaults("config", "combine", faults);
}

const scaleOne = (module: ThinModule, blocks: readonly Thin[]): ThinModule => ({
  ...module,
  scale: 1,
  r: blocks.length * blocks[0]!.b.columns,
  blocks,
});

/** The weighted sum of a block's products, scales included, as one product. */
function sumOfBlocks({ parts }: Place, block: number, weights: readonly number[]): Thin {
  return concatenated(
    parts.map(({ module }) => module.blocks[block]!),
    parts.map(({ adapter, module }) => weights[adapter]! * module.scale),
  );
}

function concatenate(place: Place, weights: readonly number[]): ThinModule {
  const { module } = place.parts[0]!;
  return scaleOne(
    module,
    module.blocks.map((_, block) => sumOfBlocks(place, block, weights)),
  );
}

/** "svd": the sum as thin factors, and its best approximation. */
function bestOfSum(place: Place, weights: readonly number[], r: number): ThinModule {
  const { module } = place.parts[0]!;
  const blocks = module.blocks.map((_, block) => {
    const sum = sumOfBlocks(place, block, weights);
    const perBlock = r / module.blocks.length;
    return perBlock >= sum.b.columns ? padded(sum, perBlock) : truncated(thinSvd(sum), perBlock, "b");
  });
  return scaleOne(module, blocks);
}

/** linear, ties, …: A and B are joined each by itself; products of square roots make the weight, the sign is A's. */
function onFactors(
  place: Place,
  method: CombineMethod,
  weights: readonly number[],
  options: CombineOptions,
): ThinModule {
  const { module } = place.parts[0]!;
  const total = place.parts.map(({ adapter, module: { scale } }) => weights[adapter]! * scale);
  const part = (name: "A" | "B"): Float64Array => {
    const key = name === "A" ? "a" : "b";
    const tasks = place.parts.map((own) => flat(own.module.blocks.map((block) => block[key])));
    const roots = total.map((weight) => Math.sqrt(Math.abs(weight)) * (name === "A" && weight < 0 ? -1 : 1));
    return joinTasks(place, name, tasks, roots, method, options);
  };
  const [a, b] = [part("A"), part("B")];
  const blocks = module.blocks.map(
    (block, index): Thin => ({ b: sliced(b, block.b, index), a: sliced(a, block.a, index) }),
  );
  return scaleOne(module, blocks);
}

function flat(parts: readonly Matrix[]): Float64Array {
  const data = new Float64Array(parts.reduce((sum, part) => sum + part.data.length, 0));
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return data;
}

/** Part `index` of values that lie together, in the shape of `like`. */
function sliced(values: Float64Array, like: Matrix, index: number): Matrix {
  const size = like.data.length;
  return matrix(like.rows, like.columns, values.subarray(index * size, (index + 1) * size));
}

/** ties_svd, …: whole updates are joined, and the best approximation of what comes out is kept. */
function bestOfUpdates(
  place: Place,
  method: CombineMethod,
  weights: readonly number[],
  r: number,
  options: CombineOptions,
): ThinModule {
  const { module } = place.parts[0]!;
  const tasks = place.parts.map((part) => deltaOf(part.module).data);
  const own = place.parts.map(({ adapter }) => weights[adapter]!);
  const joined = joinTasks(place, "delta", tasks, own, method, options);
  const perBlock = r / module.blocks.length;
  const like = { rows: module.out / module.blocks.length, columns: elementCount(module.inDims) };
  const blocks = module.blocks.map((_, index): Thin => {
    const size = like.rows * like.columns;
    const delta = { ...like, data: joined.subarray(index * size, (index + 1) * size) };
    return truncated(denseSvd(delta, { r: perBlock }), perBlock, "b");
  });
  return scaleOne(module, blocks);
}

function joinTasks(
  { path, parts }: Place,
  part: MaskRequest["part"],
  tasks: readonly Float64Array[],
  weights: readonly number[],
  method: CombineMethod,
  options: CombineOptions,
): Float64Array {
  const { density = 1, majoritySignMethod = "total", seed = 0 } = options;
  const pruned = tasks.map((values, index) => {
    if (!prunes(method) || density === 1) return values;
    if (!method.startsWith("dare")) return keepLargest(values, density);
    const { adapter } = parts[index]!;
    const request = { adapter, path, part, length: values.length, density };
    const mask = options.mask?.(request) ?? drawMask(request, seed);
    if (mask.length !== values.length)
      throw new LowrankError(
        "config",
        `combine: mask of ${path}: expected ${values.length} values, got ${mask.length}`,
      );
    return keepMasked(values, mask, density);
  });
  return method.includes("ties") ? electedMean(pruned, weights, majoritySignMethod) : weightedSum(pruned, weights);
}

/** Each place has a stream of its own, so that another module more changes no mask. */
function drawMask({ adapter, path, part, length, density }: MaskRequest, seed: number): Uint8Array {
  const random = createRandom(seed, `dare/${adapter}/${path}/${part}`);
  return Uint8Array.from({ length }, () => (random.uniform() < density ? 1 : 0));
}
