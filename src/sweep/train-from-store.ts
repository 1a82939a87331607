// A training whose files come from a store and go back there: inputs by content, the last checkpoint of whoever had it before, a
// checkpoint now and then while it goes on, and at the end all that it left.
import { mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.ts";
import { checkpointName } from "../runs/checkpoints.ts";
import type { RunOptions } from "../tune/option-table.ts";
import type { Trainer } from "./children.ts";
import { fetchCheckpoint, fetchInput, fetchOutcome, fetchPlan, publishCheckpoint, publishOutcome } from "./exchange.ts";
import { mapPaths } from "./inputs.ts";
import type { Outcome } from "./outcome.ts";
import { runJob } from "./run-job.ts";
import type { Store } from "./store.ts";
import { allJobs, type SweepPlan } from "./trials.ts";

/** Plans by the id of their sweep, and which jobs of each are at work here. */
export interface Plans {
  get(sweep: string): Promise<SweepPlan>;
  begin(sweep: string, job: string): void;
  end(sweep: string, job: string): void;
  activeOf(sweep: string): readonly string[];
}

export function createPlans(store: Store): Plans {
  const plans = new Map<string, SweepPlan>();
  const active = new Map<string, Set<string>>();
  return {
    async get(sweep) {
      const known = plans.get(sweep);
      if (known !== undefined) return known;
      const plan = await fetchPlan(store, sweep);
      plans.set(sweep, plan);
      return plan;
    },
    begin: (sweep, job) => void active.set(sweep, (active.get(sweep) ?? new Set()).add(job)),
    end: (sweep, job) => void active.get(sweep)?.delete(job),
    activeOf: (sweep) => [...(active.get(sweep) ?? [])],
  };
}

export interface StoredJob {
  readonly plan: SweepPlan;
  readonly key: string;
  readonly attempt: number;
  /** Where it is at work; removed afterwards. */
  readonly folder: string;
}

export interface StoredWatch {
  readonly store: Store;
  readonly signal: AbortSignal;
  /** Whether another worker has the job: then nothing is published any more. */
  isLost(): boolean;
  onProgress(step: number, steps: number): void;
}

/** Milliseconds between two words of progress to the queue. */
const tellEvery = 1000;

/** Trains a job. Returns null when it was stopped; its checkpoint is in the store then. */
export async function trainFromStore(
  { plan, key, attempt, folder }: StoredJob,
  {
    trainer,
    cache,
    publishEvery,
  }: { readonly trainer: Trainer; readonly cache: string; readonly publishEvery: number },
  { store, signal, isLost, onProgress }: StoredWatch,
): Promise<Outcome | null> {
  const job = allJobsOf(plan).get(key);
  if (job === undefined) throw new LowrankError("config", `${key}: expected a job of sweep ${plan.id}, got another`);
  const { trial, rung } = job;
  const { id, options } = plan.trials[trial]!;
  const controller = new AbortController();
  const publisher = createPublisher({ store, trial: id, key, folder, every: 1000 * publishEvery, isLost, controller });
  let told = 0;
  try {
    await mkdir(folder, { recursive: true });
    await fetchCheckpoint(store, id, folder);
    const order = {
      key,
      attempt,
      folder,
      steps: plan.rungs[rung]!,
      metric: plan.metric,
      options: await fetchInputs(store, plan, options, cache),
    };
    const outcome = await runJob(order, trainer, {
      signal: AbortSignal.any([signal, controller.signal]),
      onProgress(step, steps) {
        publisher.due();
        const now = Date.now();
        if (now - told < tellEvery) return;
        told = now;
        onProgress(step, steps);
      },
    });
    await publisher.settled();
    if (outcome === null) {
      if (!isLost()) await publishCheckpoint(store, id, folder);
      return controller.signal.aborted ? await fetchOutcome(store, key) : null;
    }
    if (isLost()) return null;
    // The next rung goes on from here, before anyone can ask for it.
    if (rung < plan.rungs.length - 1) await publishCheckpoint(store, id, folder);
    await publishOutcome(store, outcome, outcome.state === "complete" ? folder : null);
    if (rung === plan.rungs.length - 1) await store.remove(`checkpoints/${id}`);
    return outcome;
  } finally {
    await publisher.settled();
    await rm(folder, { recursive: true, force: true });
  }
}

const jobsOfPlans = new WeakMap<SweepPlan, ReturnType<typeof allJobs>>();

function allJobsOf(plan: SweepPlan): ReturnType<typeof allJobs> {
  const known = jobsOfPlans.get(plan) ?? allJobs(plan);
  jobsOfPlans.set(plan, known);
  return known;
}

/** The options with paths in the cache. */
async function fetchInputs(store: Store, plan: SweepPlan, options: RunOptions, cache: string): Promise<RunOptions> {
  const wanted = new Set<string>();
  mapPaths(options, (path) => {
    wanted.add(path);
    return path;
  });
  const places = new Map<string, string>();
  for (const path of wanted) places.set(path, await fetchInput(store, plan.inputs[path]!, cache));
  return mapPaths(options, (path) => places.get(path)!);
}

interface Publishing {
  readonly store: Store;
  readonly trial: string;
  readonly key: string;
  readonly folder: string;
  /** Milliseconds. */
  readonly every: number;
  readonly isLost: () => boolean;
  /** Ends the training. */
  readonly controller: AbortController;
}

/** Publishes checkpoints as they change, one after the other; what goes wrong is tried again at the next. */
function createPublisher({ store, trial, key, folder, every, isLost, controller }: Publishing): {
  due(): void;
  settled(): Promise<void>;
} {
  let next = Date.now() + every;
  let published = 0;
  let current: Promise<void> = Promise.resolve();
  let busy = false;
  const publish = async (): Promise<void> => {
    try {
      const { mtimeMs } = await stat(join(folder, checkpointName));
      if (mtimeMs === published || isLost()) return;
      // Whoever took the job over, because this worker was out of sight for a while, may have come to its end.
      if ((await fetchOutcome(store, key)) !== null) controller.abort();
      else await publishCheckpoint(store, trial, folder);
      published = mtimeMs;
    } catch {
      // There is none yet, or the store is out of reach for now.
    } finally {
      busy = false;
    }
  };
  return {
    due() {
      if (busy || Date.now() < next) return;
      busy = true;
      next = Date.now() + every;
      current = publish();
    },
    settled: () => current,
  };
}
