// From a configuration to the trials that it means. A trial's id is a hash of its options and of the content of the files that they
// name, so that the same training has the same id in every sweep, on every machine, and is done once.
import { LowrankError, throwFaults } from "../errors.ts";
import { type OptionName, optionsOf, type RunOptions } from "../tune/option-table.ts";
import { resolveOptions } from "../tune/settings.ts";
import { type BaseOptions, rungSteps, type Search, type SweepConfig } from "./config.ts";
import { type FleetRow, readFleetRows } from "./fleet.ts";
import type { HalvingPlan, Job } from "./halving.ts";
import { type Input, mapPaths, readInputs, sha256 } from "./inputs.ts";
import { gridPoints, randomPoints } from "./space.ts";

export interface Trial {
  readonly id: string;
  /** What it is called: a row of a fleet by its name; several where rows mean the same training. */
  readonly names: readonly string[];
  /** What makes it differ from the others: the point of a search, the cells of a row. */
  readonly values: Readonly<Record<string, unknown>>;
  /** Options of tune, with paths as the configuration has them. */
  readonly options: RunOptions;
}

/** Everything that a sweep is; plain JSON. */
export interface SweepPlan {
  readonly version: 1;
  /** Of the trials and how they are compared: the same sweep has the same id. */
  readonly id: string;
  readonly kind: Search["type"] | "fleet";
  readonly metric: string | null;
  readonly mode: "min" | "max" | null;
  readonly eta: number;
  /** Steps that each rung trains up to; of a sweep without halving one, null: all that tune does. */
  readonly rungs: readonly (number | null)[];
  readonly retries: number;
  readonly priority: number;
  readonly trials: readonly Trial[];
  /** By path. */
  readonly inputs: Readonly<Record<string, Input>>;
}

/** Says where and whether, not what: of no weight for a trial's id. */
const indifferent: readonly OptionName[] = ["out", "resume", "findLr", "tensorboard", "checkpointEvery"];

/**
 * The plan of a sweep. Reads and hashes every file that its trials name.
 *
 * @throws LowrankError "config" with all faults of all trials, "file" for files that cannot be read.
 */
export async function planSweep(config: SweepConfig, signal?: AbortSignal): Promise<SweepPlan> {
  const points = await pointsOf(config);
  const faults: string[] = [];
  const wanted = points.map((point) => ({ point, options: optionsOfPoint(config, point, faults) }));
  throwFaults("config", config.where, [...new Set(faults)]);
  const resolved = wanted.map(({ point, options }) => ({ point, options: options! }));
  const inputs = await readInputs(
    resolved.map(({ options }) => options),
    signal,
  );
  const trials = new Map<string, Trial>();
  for (const { point, options } of resolved) {
    const id = trialId(options, inputs);
    const names = [...(trials.get(id)?.names ?? []), point.name];
    trials.set(id, { id, names, values: point.values, options });
  }
  return completePlan(config, [...trials.values()], inputs);
}

function completePlan(config: SweepConfig, trials: readonly Trial[], inputs: ReadonlyMap<string, Input>): SweepPlan {
  const { search, metric, mode, retries, priority } = config;
  const isHalving = search?.type === "asha";
  const rungs = isHalving ? rungSteps(search, trials[0]!.options.steps!) : [null];
  const eta = isHalving ? search.eta : 2;
  if (trials.length < eta ** (rungs.length - 1)) {
    throw new LowrankError(
      "config",
      `${config.where}: search: expected ${eta ** (rungs.length - 1)} different trials at least, got ${trials.length}; widen the space`,
    );
  }
  const identity = { trials: trials.map(({ id, names }) => [id, ...names]), rungs, eta, metric, mode };
  return {
    version: 1,
    id: sha256(JSON.stringify(identity)).slice(0, idDigits),
    kind: search?.type ?? "fleet",
    metric,
    mode,
    eta,
    rungs,
    retries,
    priority,
    trials,
    inputs: Object.fromEntries(inputs),
  };
}

/** 80 bits: of a billion trials, two share an id once in two million times. */
const idDigits = 20;

interface Point {
  readonly name: string;
  readonly values: Readonly<Record<string, unknown>>;
  readonly options: BaseOptions;
}

async function pointsOf({ search, fleet, tune }: SweepConfig): Promise<Point[]> {
  if (fleet !== null) {
    const rows: FleetRow[] = await readFleetRows(fleet, tune);
    return rows.map(({ name, cells, options }) => ({ name, values: cells, options }));
  }
  if (search === null) throw new Error("internal: a sweep without search or fleet");
  const { space } = search;
  const points = search.type === "grid" ? gridPoints(space) : randomPoints(space, search.trials, search.seed);
  const digits = String(points.length).length;
  return points.map((values, at) => ({
    name: `trial-${String(at + 1).padStart(digits, "0")}`,
    values,
    options: { ...tune, ...values },
  }));
}

/** A trial's options; null where they are faulty. */
function optionsOfPoint(config: SweepConfig, point: Point, faults: string[]): RunOptions | null {
  const { name, options: values } = point;
  const { search, fleet, metric } = config;
  const where = fleet === null ? "tune" : name;
  let options: RunOptions;
  try {
    options = resolveOptions("tune", {}, { where, values });
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    faults.push(...error.faults.map((fault) => placed(fault, where, search === null ? {} : point.values)));
    return null;
  }
  if (options.model === null) faults.push(`${where}: model: expected a file, got none`);
  if (options.data === null) faults.push(`${where}: data: expected a file or folder, got none`);
  if (search !== null && options.evalData === null && options.split === 0) {
    faults.push(`${where}: expected data to compare trials on, got split 0; give evalData or a share above 0`);
  }
  const asked = /^target\/(loss|accuracy)$/.exec(metric ?? "")?.[1] as "loss" | "accuracy" | undefined;
  return {
    ...options,
    threads: options.threads ?? 1,
    metric: options.metric ?? asked ?? null,
    evalEvery: search?.type === "asha" ? (options.evalEvery ?? search.minSteps) : options.evalEvery,
  };
}

/** A fault of an option, told where it stands in the sweep's file: `search.space.r` for one that is searched. */
function placed(fault: string, where: string, searched: Point["values"]): string {
  const text = fault.startsWith(`tune: ${where}: `) ? fault.slice("tune: ".length) : fault;
  const [head = "", option = ""] = /^[^:]+: "(\w+)"/.exec(text) ?? [];
  return Object.hasOwn(searched, option) ? `search.space.${option}${text.slice(head.length)}` : text;
}

/** The hash that names a trial: its options, with what the files hold in the place of their names. */
export function trialId(options: RunOptions, inputs: ReadonlyMap<string, Input>): string {
  const hashed = mapPaths(options, (path) => inputs.get(path)!.hash);
  const names = optionsOf("tune")
    .map(([name]) => name)
    .filter((name) => !indifferent.includes(name))
    .sort();
  return sha256(JSON.stringify(["lowrank trial 1", ...names.map((name) => [name, hashed[name]])])).slice(0, idDigits);
}

/** What a job is called, in files and in queues: the trial's id, with the steps of its rung where there are several. */
export function jobKey({ trials, rungs }: SweepPlan, { trial, rung }: Job): string {
  const { id } = trials[trial]!;
  return rungs[rung] === null ? id : `${id}-${rungs[rung]}`;
}

/** All jobs that there can be, by key. */
export function allJobs(plan: SweepPlan): Map<string, Job> {
  const jobs = plan.trials.flatMap((_, trial) => plan.rungs.map((_, rung) => ({ trial, rung })));
  return new Map(jobs.map((job) => [jobKey(plan, job), job]));
}

/** How the plan is halved; `metric` is the one that trials are compared by, null while none is known. */
export function halvingOf({ trials, rungs, eta, mode }: SweepPlan, metric: string | null): HalvingPlan {
  return { trials: trials.length, rungs: rungs.length, eta, mode: mode ?? modeOf(metric) };
}

/** Accuracies shall rise, all else shall fall. */
export function modeOf(metric: string | null): "min" | "max" {
  return metric?.endsWith("accuracy") === true ? "max" : "min";
}
