// A sweep on this machine: so many processes train at once, each result is written down as it comes, and what is trained next
// follows from the results. Stopping leaves every training with its checkpoint.
import { availableParallelism } from "node:os";
import { LowrankError } from "../errors.ts";
import type { Trainer } from "./children.ts";
import { isCancelled, metricOf, type Running, type SweepFolder } from "./folder.ts";
import { type Job, readyJobs } from "./halving.ts";
import { failedOutcome, type Outcome } from "./outcome.ts";
import { isPlaceFailure } from "./place-failure.ts";
import { failureText, runJob } from "./run-job.ts";
import { halvingOf, jobKey, type SweepPlan } from "./trials.ts";

/** Told of all that happens. */
export interface SweepWatcher {
  /** What is being trained now; about once a second, and whenever that changes. */
  running(jobs: readonly Running[]): void;
  ended(outcome: Outcome): void;
  warn(text: string): void;
}

export interface LocalOptions {
  /** Trainings at a time. */
  readonly workers: number;
  readonly trainer: Trainer;
  readonly signal: AbortSignal;
  readonly watcher: SweepWatcher;
}

/** Trainings that this machine has cores for. */
export function localWorkers({ trials }: Pick<SweepPlan, "trials">): number {
  const threads = Math.max(...trials.map(({ options }) => options.threads ?? 1));
  return Math.max(1, Math.floor(availableParallelism() / threads));
}

/**
 * Trains until every job has a result.
 *
 * @throws LowrankError "aborted" when it was stopped or cancelled; the folder can be gone on with.
 */
export async function runLocal(folder: SweepFolder, options: LocalOptions): Promise<void> {
  const { plan } = folder;
  const controller = new AbortController();
  const signal = AbortSignal.any([options.signal, controller.signal]);
  const running = new Map<string, Running>();
  const tell = teller(folder, running, options.watcher);
  const poll = setInterval(() => {
    if (isCancelled(folder.path)) controller.abort();
    tell();
  }, 500);
  const tasks = new Map<string, Promise<void>>();
  try {
    for (;;) {
      if (!signal.aborted) {
        const next = readyJobs(halvingOf(plan, metricOf(plan, folder.results)), folder.valueOf);
        for (const job of next.filter((one) => !tasks.has(jobKey(plan, one)))) {
          if (tasks.size >= options.workers) break;
          const key = jobKey(plan, job);
          const task = trainJob(folder, job, { ...options, signal }, running, tell).finally(() => tasks.delete(key));
          tasks.set(key, task);
        }
      }
      if (tasks.size === 0) break;
      await Promise.race(tasks.values());
    }
  } finally {
    controller.abort();
    await Promise.allSettled(tasks.values());
    clearInterval(poll);
  }
  if (signal.aborted && isCancelled(folder.path)) {
    throw new LowrankError("aborted", `cancelled; go on with: lowrank sweep resume ${folder.path}`);
  }
  const left = readyJobs(halvingOf(plan, metricOf(plan, folder.results)), folder.valueOf).length;
  if (left > 0)
    throw new LowrankError("aborted", `stopped on request; go on with: lowrank sweep resume ${folder.path}`);
}

/** Trains a job to its result, again where a process died. */
async function trainJob(
  folder: SweepFolder,
  job: Job,
  { trainer, signal, watcher }: LocalOptions,
  running: Map<string, Running>,
  tell: () => void,
): Promise<void> {
  const { plan } = folder;
  const { options } = plan.trials[job.trial]!;
  const key = jobKey(plan, job);
  const order = {
    key,
    steps: plan.rungs[job.rung]!,
    metric: plan.metric,
    options,
    folder: folder.trialFolder(job.trial),
  };
  running.set(key, { key, step: 0, steps: 0, by: "this machine" });
  tell();
  const watch = {
    signal,
    onProgress: (step: number, steps: number) => running.set(key, { key, step, steps, by: "this machine" }),
  };
  try {
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        const outcome = await runJob({ ...order, attempt }, trainer, watch);
        if (outcome !== null) await done(folder, outcome, watcher);
        return;
      } catch (error) {
        if (signal.aborted) return;
        // A full disk is no trial's fault: the sweep ends here, and can be gone on with.
        if (isPlaceFailure(error)) throw error;
        watcher.warn(`${key}: ${failureText(error)}; attempt ${attempt} of ${plan.retries + 1}`);
        if (attempt > plan.retries) {
          const failed = failedOutcome({ key, seconds: 0, attempts: attempt, error: failureText(error) });
          return await done(folder, failed, watcher);
        }
      }
    }
  } finally {
    running.delete(key);
    tell();
  }
}

async function done(folder: SweepFolder, outcome: Outcome, watcher: SweepWatcher): Promise<void> {
  await folder.record(outcome);
  watcher.ended(outcome);
}

/** Tells the watcher at once, and the folder one write after the other. */
function teller(folder: SweepFolder, running: ReadonlyMap<string, Running>, watcher: SweepWatcher): () => void {
  let writing = false;
  let told = "";
  return () => {
    const now = [...running.values()];
    watcher.running(now);
    const text = JSON.stringify(now);
    if (writing || text === told) return;
    writing = true;
    told = text;
    const written = (): void => {
      writing = false;
    };
    // Only for looking at: a full disk is told of where results are written.
    folder.tell(now).then(written, written);
  };
}
