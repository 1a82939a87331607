// An adapter from two models, a base and what somebody made of it by training all of it: the difference of each layer's
// weights, cut to its largest singular triplets (Eckart and Young 1936). What an adapter cannot say, changed biases and other
// weights, is reported.
import { throwFaults } from "../errors.ts";
import { type Matrix, transpose } from "../linalg/matrix.ts";
import type { Svd } from "../linalg/svd.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { dilationFault } from "../lora/factors.ts";
import { adapterKeys } from "../lora/keys.ts";
import { storesFanInFirst } from "../lora/saved.ts";
import { selectSites } from "../lora/targets.ts";
import { behindIdentity, producers, storedValue } from "../onnx/graph.ts";
import { floatValues, type Model, type StoredTensor } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { checkRankChoice, type RankChoice } from "./checks.ts";
import { ungrouped } from "./merge.ts";
import { type ModuleError, share } from "./resize.ts";
import { adapterOf, type Thin, type ThinModule } from "./thin.ts";
import { denseSvd, frobenius, rankForEnergyOf, truncated } from "./thin-svd.ts";

export interface ExtractOptions extends RankChoice {
  /** Layers to look at, as in a LoraConfig; default: every layer that can have an adapter. */
  readonly targetModules?: readonly string[] | string;
  readonly excludeModules?: readonly string[] | string;
  /** Layers whose weights changed by at most this share (Frobenius) are left out: rounding. Default 1e-7. */
  readonly threshold?: number;
  /** For adapter_config.json, where the models do not say it. */
  readonly config?: Pick<LoraConfig, "fanInFanOut" | "baseModelNameOrPath" | "taskType">;
}

/** A stored value beside the layers' weights that is another in the tuned model: it is in no adapter. */
export interface OtherDifference {
  readonly name: string;
  /** Frobenius norm of the difference as a share of the base's; null where there is none: other types or shapes, missing. */
  readonly relativeDifference: number | null;
}

export interface Extracted {
  readonly adapter: Adapter;
  /** What each layer's approximation has lost; an error of 1e-8 or less is rounding. */
  readonly modules: readonly ModuleError[];
  readonly relativeError: number;
  /** Layers of the same weights in both. */
  readonly unchanged: readonly string[];
  /** Layers whose weights are computed by the graph or no float32: they were not compared. */
  readonly unread: readonly string[];
  readonly others: readonly OtherDifference[];
}

/**
 * The adapter that turns `base` into `tuned`, as far as its rank allows; scale 1. Layers are matched by module path. A Conv's
 * rank is rounded up to a multiple of its groups.
 *
 * @throws LowrankError "config" for options out of range; "model" that lists every layer that only one model has, has another
 * shape there, or cannot have an adapter, and when nothing differs.
 * @example const { adapter, relativeError, others } = extract(base, tuned, { r: 8 });
 */
export function extract(base: Model, tuned: Model, options: ExtractOptions): Extracted {
  checkRankChoice(options, "extract");
  const { pairs, unread } = pairsOf(base, tuned, options);
  const { threshold = 1e-7 } = options;
  const changed: { module: ThinModule; lost: number; whole: number }[] = [];
  const unchanged: string[] = [];
  const faults: string[] = [];
  for (const pair of pairs) {
    const delta = differenceOf(pair);
    const whole = frobenius(delta);
    if (whole <= threshold * frobenius(delta.before)) {
      unchanged.push(pair.site.modulePath);
      continue;
    }
    const fault = Number.isFinite(whole) ? dilationFault(pair.site, pair.site.modulePath) : notFinite(pair.site);
    if (fault !== undefined) faults.push(fault);
    else changed.push({ ...approximate(pair.site, delta, options), whole });
  }
  if (faults.length === 0 && changed.length === 0) faults.push("expected a layer whose weights differ, got none");
  throwFaults("model", "extract", faults);
  const modules = changed.map(({ module }) => module);
  const paths = new Set(modules.map(({ path }) => path));
  const extracted = sites(base).filter(({ modulePath }) => paths.has(modulePath));
  const config = resolveConfig({
    fanInFanOut: storesFanInFirst(base.graph, extracted),
    ...options.config,
    targetModules: [...paths],
  });
  const all = (key: "lost" | "whole"): number => Math.hypot(...changed.map((entry) => entry[key]));
  return {
    adapter: adapterOf(config, modules),
    modules: changed.map(({ module: { path, r }, lost, whole }) => ({ path, r, relativeError: share(lost, whole) })),
    relativeError: share(all("lost"), all("whole")),
    unchanged,
    unread,
    others: otherDifferences(base, tuned),
  };
}

const notFinite = ({ modulePath }: Site): string => `${modulePath}: expected finite weights, got NaN or infinity`;

/** A layer in both models. */
interface Pair {
  readonly site: Site;
  readonly tunedSite: Site;
  readonly before: Float32Array;
  readonly after: Float32Array;
}

function pairsOf(base: Model, tuned: Model, options: ExtractOptions): { pairs: Pair[]; unread: string[] } {
  const chosen = chosenSites(base, options);
  const others = new Map(wholeLayers(tuned).map((site) => [adapterKeys(site.modulePath, site.kind).a, site]));
  const [valueOfBase, valueOfTuned] = [weightReader(base), weightReader(tuned)];
  const pairs = new Map<string, Pair>();
  const [faults, unread]: [string[], string[]] = [[], []];
  for (const site of chosen) {
    const { a } = adapterKeys(site.modulePath, site.kind);
    const tunedSite = others.get(a);
    if (pairs.has(a)) continue; // a layer that is called twice
    if (tunedSite === undefined) faults.push(`${site.modulePath}: the tuned model has no such layer`);
    else if (shapeOf(site) !== shapeOf(tunedSite))
      faults.push(`${site.modulePath}: expected ${shapeOf(site)} as in the base, got ${shapeOf(tunedSite)}`);
    else {
      const [before, after] = [valueOfBase(site), valueOfTuned(tunedSite)];
      if (before === undefined || after === undefined) unread.push(site.modulePath);
      else pairs.set(a, { site, tunedSite, before, after });
    }
  }
  if (options.targetModules === undefined && options.excludeModules === undefined) {
    const known = new Set(chosen.map((site) => adapterKeys(site.modulePath, site.kind).a));
    for (const [key, { modulePath }] of others)
      if (!known.has(key)) faults.push(`${modulePath}: the base has no such layer`);
  }
  throwFaults("model", "extract", faults);
  return { pairs: [...pairs.values()], unread };
}

/** The rows of a packed layer are extracted with it. */
function wholeLayers(model: Model): Site[] {
  return sites(model).filter(({ part }) => part === undefined);
}

function chosenSites(base: Model, { targetModules, excludeModules }: ExtractOptions): readonly Site[] {
  const all = wholeLayers(base);
  if (targetModules === undefined && excludeModules === undefined) return all;
  const targets = targetModules ?? [...new Set(all.map(({ modulePath }) => modulePath))];
  return selectSites(resolveConfig({ targetModules: targets, excludeModules: excludeModules ?? null }), all);
}

function shapeOf({ kind, outFeatures, inFeatures, kernel }: Site): string {
  return `${kind} [${[outFeatures, inFeatures, ...kernel].join(", ")}]`;
}

function weightReader({ graph }: Model): (site: Site) => Float32Array | undefined {
  const made = producers(graph);
  return ({ weight }) => {
    const stored = storedValue(graph, made, weight);
    return stored?.type === "float32" ? floatValues(weight, stored) : undefined;
  };
}

/** W of the tuned model less that of the base, [out, in * kernel] in float64, and the base's. */
function differenceOf({ site, tunedSite, before, after }: Pair): Matrix & { readonly before: Matrix } {
  const [from, to] = [rowsOf(site, before), rowsOf(tunedSite, after)];
  return { ...to, data: to.data.map((value, index) => value - from.data[index]!), before: from };
}

function rowsOf(site: Site, weight: Float32Array): Matrix {
  const { layout, outFeatures, inFeatures } = site;
  const data = Float64Array.from(ungrouped(site, weight));
  return layout === "in,out"
    ? transpose({ rows: inFeatures, columns: outFeatures, data })
    : { rows: outFeatures, columns: data.length / outFeatures, data };
}

/** The best factors of a difference, each group's rows by themselves. */
function approximate(
  { modulePath, kind, groups, outFeatures, inFeatures, kernel }: Site,
  { columns, data }: Matrix,
  { r, energy }: RankChoice,
): { module: ThinModule; lost: number } {
  const rows = outFeatures / groups;
  const parts = Array.from({ length: groups }, (_, group): Matrix => {
    return { rows, columns, data: data.subarray(group * rows * columns, (group + 1) * rows * columns) };
  });
  const most = Math.min(rows, columns);
  const fixed = r === undefined ? undefined : Math.min(most, Math.ceil(r / groups));
  const factorizations = parts.map((part) => denseSvd(part, fixed === undefined ? { energy: energy! } : { r: fixed }));
  const enough = ({ s }: Svd, index: number): number => rankForEnergyOf(s, energy!, frobenius(parts[index]!));
  const perGroup = fixed ?? Math.max(...factorizations.map(enough));
  const blocks = factorizations.map((factorization): Thin => truncated(factorization, perGroup));
  const lost = factorizations.map(({ s }, index) => {
    const kept = s.subarray(0, perGroup).reduce((sum, value) => sum + value * value, 0);
    return Math.max(0, frobenius(parts[index]!) ** 2 - kept);
  });
  const module: ThinModule = {
    ...{ path: modulePath, keys: adapterKeys(modulePath, kind), r: perGroup * groups, scale: 1, out: outFeatures },
    inDims: [inFeatures, ...kernel],
    blocks,
  };
  return { module, lost: Math.sqrt(lost.reduce((sum, value) => sum + value, 0)) };
}

/** Initializers of the base that are no layer's weight and that the tuned model has differently, or not at all. */
function otherDifferences(base: Model, tuned: Model): OtherDifference[] {
  const weightsOf = (model: Model): Set<string> => {
    const made = producers(model.graph);
    return new Set(sites(model).map(({ weight }) => behindIdentity(made, weight)));
  };
  const weights = weightsOf(base);
  return [...base.graph.initializers].flatMap(([name, before]): OtherDifference[] => {
    if (weights.has(name)) return [];
    const after = tuned.graph.initializers.get(name);
    if (after !== undefined && isSame(before, after)) return [];
    return [{ name, relativeDifference: after === undefined ? null : relativeDifference(before, after) }];
  });
}

function isSame(a: StoredTensor, b: StoredTensor): boolean {
  if (a === b) return true;
  if (a.type !== b.type || a.dims.join() !== b.dims.join() || a.bytes.length !== b.bytes.length) return false;
  return a.bytes.every((byte, index) => byte === b.bytes[index]);
}

function relativeDifference(a: StoredTensor, b: StoredTensor): number | null {
  if (a.type !== "float32" || b.type !== "float32" || a.dims.join() !== b.dims.join()) return null;
  const [before, after] = [floatValues("base", a), floatValues("tuned", b)];
  let [changed, whole] = [0, 0];
  for (const [index, value] of before.entries()) {
    changed += (after[index]! - value) ** 2;
    whole += value ** 2;
  }
  return whole === 0 ? null : Math.sqrt(changed / whole);
}
