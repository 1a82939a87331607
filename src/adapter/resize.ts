// An adapter of another rank: each s B A replaced by its best approximation (Eckart and Young 1936), with the error told; and
// an adapter made stronger or weaker.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { checkRankChoice, type RankChoice } from "./checks.ts";
import { adapterOf, type Thin, type ThinModule, thinModules, withRanks } from "./thin.ts";
import { padded, rankForEnergy, tail, thinSvd, truncated } from "./thin-svd.ts";

/** What an approximation has lost in one module. */
export interface ModuleError {
  readonly path: string;
  readonly r: number;
  /** Frobenius norm of what is missing, as a share of the update's own; 0 for an update of zero. */
  readonly relativeError: number;
}

export interface Resized {
  readonly adapter: Adapter;
  readonly modules: readonly ModuleError[];
  /** Over all modules together. */
  readonly relativeError: number;
}

/**
 * The adapter with another rank, each module's scale as it was. A larger rank adds zeros and is exact. With `energy`, modules
 * get the smallest ranks that keep that share of their squared singular values (a Conv's groups all get the largest of theirs).
 *
 * @throws LowrankError "config" for an option out of range or a rank that a Conv's groups do not divide; "adapter" for
 * tensors beyond A and B.
 * @example const { adapter: small, relativeError } = resize(adapter, 4);
 */
export function resize(adapter: Adapter, rank: number | RankChoice): Resized {
  const choice = typeof rank === "number" ? { r: rank } : rank;
  checkRankChoice(choice, "resize");
  const modules = thinModules(adapter, "resize");
  if (choice.r !== undefined) checkGroups(modules, choice.r, "resize");
  const resized = modules.map((module) => resizeModule(module, choice));
  const errors = resized.map(({ module: { path, r }, lost, whole }) => ({
    path,
    r,
    relativeError: share(lost, whole),
  }));
  const all = (key: "lost" | "whole"): number => Math.hypot(...resized.map((entry) => entry[key]));
  return {
    adapter: adapterOf(
      adapter.config,
      resized.map(({ module }) => module),
    ),
    modules: errors,
    relativeError: share(all("lost"), all("whole")),
  };
}

/** Throws LowrankError "config" that names every Conv whose groups do not divide `r`. */
export function checkGroups(modules: readonly ThinModule[], r: number, where: string): void {
  const faults = modules
    .filter(({ blocks }) => r % blocks.length !== 0)
    .map(({ path, blocks }) => `${path}: expected a rank that its ${blocks.length} groups divide, got ${r}`);
  throwFaults("config", where, faults);
}

/** A share of 0 of nothing. */
export function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

/** Frobenius norms, those of s B A, of what is lost and of all. */
interface ResizedModule {
  readonly module: ThinModule;
  readonly lost: number;
  readonly whole: number;
}

function resizeModule(module: ThinModule, { r, energy }: RankChoice): ResizedModule {
  const factorizations = module.blocks.map((block) => thinSvd(block));
  const perBlock =
    r === undefined ? Math.max(...factorizations.map(({ s }) => rankForEnergy(s, energy!))) : r / module.blocks.length;
  const blocks = module.blocks.map((block, index): Thin => {
    const grows = perBlock >= block.b.columns;
    return grows ? padded(block, perBlock) : truncated(factorizations[index]!, perBlock);
  });
  const norms = (from: number): number =>
    Math.abs(module.scale) * Math.hypot(...factorizations.map(({ s }) => tail(s, from)));
  return {
    module: { ...module, r: perBlock * blocks.length, blocks },
    lost: norms(perBlock),
    whole: norms(0),
  };
}

export interface RescaleOptions {
  /** What every update is multiplied by; default 1. Negative turns it around, 0 turns it off. */
  readonly factor?: number;
  /** The loraAlpha of every module afterwards: B is divided by what alpha gains. Default: as it is. */
  readonly loraAlpha?: number;
}

/**
 * The adapter with every update multiplied by a number, written into B; with `loraAlpha`, with that alpha everywhere.
 *
 * @throws LowrankError "config" for options out of range; "adapter" for tensors beyond A and B.
 * @example const half = rescale(adapter, { factor: 0.5 });
 */
export function rescale(adapter: Adapter, { factor = 1, loraAlpha }: RescaleOptions): Adapter {
  if (!Number.isFinite(factor)) throw new LowrankError("config", `rescale: factor: expected a number, got ${factor}`);
  if (loraAlpha !== undefined && !(loraAlpha > 0 && loraAlpha < Number.POSITIVE_INFINITY)) {
    throw new LowrankError("config", `rescale: loraAlpha: expected a number above 0, got ${loraAlpha}`);
  }
  const modules = thinModules(adapter, "rescale").map((module): ThinModule => {
    const divisor = adapter.config.useRslora ? Math.sqrt(module.r) : module.r;
    const scale = loraAlpha === undefined ? module.scale : loraAlpha / divisor;
    const times = loraAlpha === undefined ? factor : (factor * module.scale) / scale;
    const blocks = module.blocks.map(({ a, b }) => ({ a, b: { ...b, data: b.data.map((value) => value * times) } }));
    return { ...module, scale, blocks };
  });
  const { tensors } = adapterOf(adapter.config, modules);
  const { config } = adapter;
  return {
    config: loraAlpha === undefined ? config : { ...withRanks(config, modules), loraAlpha, alphaPattern: {} },
    tensors,
  };
}
