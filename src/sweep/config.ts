// What a sweep's configuration file says, checked: base options of tune, and either a search over some of them or a fleet of
// rows that each train one adapter. All faults are told at once, with the nearest name for a key that is none.
import { throwFaults } from "../errors.ts";
import { nearest } from "../nearest.ts";
import { show } from "../tune/kinds.ts";
import { type OptionName, optionsOf } from "../tune/option-table.ts";
import type { ConfigFile } from "../tune/settings.ts";
import { type Dimension, readDimension } from "./space.ts";

/** Base options of tune as they were written; checked with each trial's own. */
export type BaseOptions = Readonly<Record<string, unknown>>;

export interface GridSearch {
  readonly type: "grid";
  readonly space: ReadonlyMap<OptionName, Dimension>;
}

export interface RandomSearch {
  readonly type: "random";
  readonly space: ReadonlyMap<OptionName, Dimension>;
  readonly trials: number;
  readonly seed: number;
}

/** Successive halving without barriers: Li et al. 2018, arXiv:1810.05934, algorithm 2. */
export interface HalvingSearch {
  readonly type: "asha";
  readonly space: ReadonlyMap<OptionName, Dimension>;
  readonly trials: number;
  readonly seed: number;
  /** One in so many goes on from each rung; the steps of a rung are so many times those of the one before. */
  readonly eta: number;
  /** Steps of the first rung; those of the last are the `steps` of tune. */
  readonly minSteps: number;
}

export type Search = GridSearch | RandomSearch | HalvingSearch;

export interface FleetSource {
  /** CSV or JSONL with one row for each training; null for rows that stand in the configuration. */
  readonly file: string | null;
  readonly rows: readonly Readonly<Record<string, unknown>>[];
}

export interface SweepConfig {
  /** The file that it was read from. */
  readonly where: string;
  readonly tune: BaseOptions;
  readonly search: Search | null;
  readonly fleet: FleetSource | null;
  /** `target/accuracy`; null: what the trials choose their best by. */
  readonly metric: string | null;
  /** null: max for accuracies, min for all else. */
  readonly mode: "min" | "max" | null;
  /** How often a trial that crashed is tried again. */
  readonly retries: number;
  /** On a queue, 0 goes before 1, and so on. */
  readonly priority: number;
  readonly out: string | null;
}

/** Options that a sweep decides itself. */
export const ownOptions: readonly OptionName[] = ["out", "resume", "findLr"];

/** The options of tune that a sweep's file may have. */
export const sweepable: readonly OptionName[] = optionsOf("tune")
  .map(([name]) => name)
  .filter((name) => !ownOptions.includes(name));

const topKeys = ["$schema", "tune", "search", "fleet", "metric", "mode", "retries", "priority", "out"];
const searchKeys: Readonly<Record<Search["type"], readonly string[]>> = {
  grid: ["type", "space"],
  random: ["type", "space", "trials", "seed"],
  asha: ["type", "space", "trials", "seed", "eta", "minSteps"],
};

type Faults = string[];
type Mapping = Readonly<Record<string, unknown>>;

/**
 * A sweep's configuration from its parsed file.
 *
 * @throws LowrankError "config" with every unknown key, the nearest to it, and every faulty value.
 * @example readSweepConfig(parseConfigFile("sweep.yaml", text))
 */
export function readSweepConfig({ where, values }: ConfigFile): SweepConfig {
  const faults: Faults = [];
  unknownKeys(faults, "", values, topKeys);
  const tune = mappingAt(faults, values, "tune") ?? {};
  unknownKeys(faults, "tune.", tune, ["$schema", ...sweepable]);
  for (const name of ownOptions) {
    if (Object.hasOwn(tune, name)) faults.push(`tune.${name}: a sweep decides this itself; leave it out`);
  }
  if ((values.search === undefined) === (values.fleet === undefined)) {
    faults.push(`expected search or fleet, got ${values.search === undefined ? "neither" : "both"}`);
  }
  const search = values.search === undefined ? null : readSearch(faults, values, tune);
  const fleet = values.fleet === undefined ? null : readFleet(faults, values.fleet);
  const config: SweepConfig = {
    where,
    tune: Object.fromEntries(Object.entries(tune).filter(([key]) => key !== "$schema")),
    search,
    fleet,
    metric: textAt(faults, values, "metric"),
    mode: choiceAt(faults, values, "mode", ["min", "max"]),
    retries: wholeAt(faults, "", values, "retries", 2, 0, 100),
    priority: wholeAt(faults, "", values, "priority", 0, 0, 1000),
    out: textAt(faults, values, "out"),
  };
  if (config.metric !== null && !/^[a-z]+\/[a-z_]+$/.test(config.metric)) {
    faults.push(`metric: expected set/name such as target/accuracy or retained/loss, got ${show(config.metric)}`);
  }
  throwFaults("config", where, faults);
  return config;
}

function readSearch(faults: Faults, values: Mapping, tune: Mapping): Search | null {
  const given = mappingAt(faults, values, "search");
  if (given === null) return null;
  const types = Object.keys(searchKeys) as Search["type"][];
  const type = types.find((name) => name === given.type);
  if (type === undefined) {
    faults.push(`search.type: expected ${types.join(", ")}, got ${show(given.type)}`);
    return null;
  }
  unknownKeys(faults, "search.", given, searchKeys[type]);
  const space = readSpace(faults, given, tune, type);
  if (type === "grid") return { type, space };
  const trials = wholeAt(faults, "search.", given, "trials", null, 1, 1_000_000);
  const seed = wholeAt(faults, "search.", given, "seed", 0, 0, Number.MAX_SAFE_INTEGER);
  if (type === "random") return { type, space, trials, seed };
  const eta = wholeAt(faults, "search.", given, "eta", 3, 2, 100);
  const minSteps = wholeAt(faults, "search.", given, "minSteps", null, 1, Number.MAX_SAFE_INTEGER);
  const search = { type, space, trials, seed, eta, minSteps };
  checkRungs(faults, search, tune);
  return search;
}

/** Rungs need a known end, an evaluation at each, and enough trials that one reaches the last. */
function checkRungs(faults: Faults, search: HalvingSearch, tune: Mapping): void {
  const { trials, eta, minSteps, space } = search;
  if (typeof tune.steps !== "number") {
    faults.push("tune.steps: expected the steps of the last rung, got none; asha counts in steps, not epochs");
    return;
  }
  if (space.has("steps") || space.has("evalEvery"))
    faults.push("search.space: asha decides steps and evalEvery itself");
  if (minSteps > tune.steps) faults.push(`search.minSteps: expected at most ${tune.steps}, got ${minSteps}`);
  const rungs = rungSteps(search, tune.steps).length;
  if (trials < eta ** (rungs - 1)) {
    faults.push(
      `search.trials: expected at least ${eta ** (rungs - 1)}, so that one reaches the last of ${rungs} rungs, got ${trials}`,
    );
  }
  const { evalEvery } = tune;
  if (typeof evalEvery === "number" && minSteps % evalEvery !== 0) {
    faults.push(`tune.evalEvery: expected a divisor of search.minSteps, so that rungs are measured, got ${evalEvery}`);
  }
}

/** The steps that each rung trains up to: minSteps times powers of eta, and at last all. */
export function rungSteps({ eta, minSteps }: Pick<HalvingSearch, "eta" | "minSteps">, steps: number): number[] {
  const rungs: number[] = [];
  for (let at = minSteps; at < steps; at *= eta) rungs.push(at);
  return [...rungs, steps];
}

function readSpace(faults: Faults, given: Mapping, tune: Mapping, type: Search["type"]): Map<OptionName, Dimension> {
  const space = new Map<OptionName, Dimension>();
  const values = mappingAt(faults, given, "space", "search.");
  if (values === null) return space;
  unknownKeys(faults, "search.space.", values, sweepable);
  for (const [name, value] of Object.entries(values)) {
    if (!sweepable.includes(name as OptionName)) continue;
    const where = `search.space.${name}`;
    if (Object.hasOwn(tune, name)) faults.push(`${where}: tune has a value for it as well; leave one of them out`);
    const dimension = readDimension(value);
    if (typeof dimension === "string") faults.push(`${where}: ${dimension}`);
    else if (type === "grid" && dimension.kind !== "choice") {
      faults.push(`${where}: expected a list of values, since this is a grid, got ${show(value)}`);
    } else space.set(name as OptionName, dimension);
  }
  if (Object.keys(values).length === 0) faults.push("search.space: expected options and their values, got none");
  return space;
}

function readFleet(faults: Faults, given: unknown): FleetSource | null {
  if (Array.isArray(given)) {
    const rows = given.filter(isMapping);
    if (rows.length !== given.length || rows.length === 0) {
      faults.push("fleet: expected a list of mappings, one for each training, got another");
    }
    return { file: null, rows };
  }
  if (!isMapping(given)) {
    faults.push(`fleet: expected a list of rows, or file: a CSV or JSONL file, got ${show(given)}`);
    return null;
  }
  unknownKeys(faults, "fleet.", given, ["file"]);
  const file = textAt(faults, given, "file", "fleet.");
  if (file === null) faults.push("fleet.file: expected a CSV or JSONL file, got none");
  return { file, rows: [] };
}

function unknownKeys(faults: Faults, prefix: string, given: Mapping, known: readonly string[]): void {
  for (const key of Object.keys(given)) {
    if (known.includes(key) || ownOptions.includes(key as OptionName)) continue;
    faults.push(`${prefix}${key} is no key; did you mean ${prefix}${nearest(key, known, 1)[0]}?`);
  }
}

export function isMapping(value: unknown): value is Mapping {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function mappingAt(faults: Faults, values: Mapping, key: string, prefix = ""): Mapping | null {
  const value = values[key];
  if (isMapping(value)) return value;
  faults.push(`${prefix}${key}: expected a mapping, got ${value === undefined ? "none" : show(value)}`);
  return null;
}

function textAt(faults: Faults, values: Mapping, key: string, prefix = ""): string | null {
  const value = values[key] ?? null;
  if (value === null || (typeof value === "string" && value !== "")) return value;
  faults.push(`${prefix}${key}: expected text, got ${show(value)}`);
  return null;
}

function choiceAt<T extends string>(faults: Faults, values: Mapping, key: string, choices: readonly T[]): T | null {
  const value = values[key] ?? null;
  if (value === null || choices.includes(value as T)) return value as T | null;
  faults.push(`${key}: expected ${choices.join(" or ")}, got ${show(value)}`);
  return null;
}

function wholeAt(
  faults: Faults,
  prefix: string,
  values: Mapping,
  key: string,
  missing: number | null,
  from: number,
  to: number,
): number {
  const value = values[key] ?? missing;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= from && value <= to) return value;
  faults.push(
    `${prefix}${key}: expected a whole number from ${from} to ${to}, got ${value === null ? "none" : show(value)}`,
  );
  return from;
}
