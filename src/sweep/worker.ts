// A worker: takes trainings from the queue, any number at a time, and gives back what came of them. It may die at any moment: its
// jobs stall, another worker takes them over and goes on from the last checkpoint in the store. Asked to stop it hands its
// jobs back with their checkpoints.
import { readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import type { Job as BullJob } from "bullmq";
import { LowrankError } from "../errors.ts";
import { writeFileAtomic } from "../runs/files.ts";
import type { Trainer } from "./children.ts";
import { fetchOutcome, publishOutcome } from "./exchange.ts";
import { failedOutcome } from "./outcome.ts";
import { isPlaceFailure } from "./place-failure.ts";
import { isAlive } from "./processes.ts";
import {
  addTrials,
  briefOf,
  briefsOf,
  nextJobs,
  openQueues,
  type Queues,
  type SweepData,
  sweepQueue,
  type TrialData,
  type TrialReturn,
  trialJobId,
  trialQueue,
} from "./queue.ts";
import { checkQueue } from "./queue-address.ts";
import { openStore, type Store } from "./store.ts";
import { createPlans, type Plans, trainFromStore } from "./train-from-store.ts";
import { jobKey, type SweepPlan } from "./trials.ts";

export interface WorkerOptions {
  /** redis://host:port or postgres://host:port/database */
  readonly queue: string;
  /** A folder that all workers share, or s3://bucket/prefix. */
  readonly store: string;
  /** Trainings at a time. */
  readonly concurrency: number;
  /** Where inputs are kept, and trainings are at work. */
  readonly cache: string;
  /** Seconds without a sign of life after which a job is another's. */
  readonly stalledAfter: number;
  /** Seconds between two checkpoints in the store. */
  readonly publishEvery: number;
  readonly trainer: Trainer;
  /** Stops: jobs are handed back with their checkpoints. */
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/** A job may be taken over as often as workers die; a training that kills its worker each time ends there. */
const mostTakeovers = 20;

interface Company extends WorkerOptions {
  readonly queues: Queues;
  readonly files: Store;
  readonly plans: Plans;
  readonly name: string;
  /** Jobs whose lock was lost: another worker has them. */
  readonly lost: Set<string>;
}

/**
 * Works until `signal` aborts.
 *
 * @throws LowrankError "config" when the queue cannot be reached at the beginning; later it waits for it.
 */
export async function runWorker(options: WorkerOptions): Promise<void> {
  const { queue, signal, log } = options;
  for (const warning of await checkQueue(queue)) log(`warning: ${warning}`);
  const queues = await openQueues(queue, onceInAWhile(log));
  const store = await openStore(options.store);
  const name = `${hostname()}:${process.pid}`;
  const company: Company = { ...options, queues, files: store, plans: createPlans(store), name, lost: new Set() };
  await removeStale(company);
  const beat = await startHeart(options.cache);
  const { trials, sweeps, events } = startWorkers(company);
  log(`worker ${name}: ${options.concurrency} at a time, from ${queues.name}, files in ${store.name}`);
  await aborted(signal);
  clearInterval(beat);
  log(`worker ${name}: stopping, jobs are handed back`);
  trials.cancelAllJobs("the worker stops");
  await Promise.all([trials.close(), sweeps.close(), events.close()]);
  await queues.close();
  await options.trainer.close();
  await rm(workFolder(company), { recursive: true, force: true });
  log(`worker ${name}: stopped`);
}

function startWorkers(company: Company) {
  const { queues, concurrency, stalledAfter, log, lost } = company;
  const common = {
    lockDuration: 1000 * stalledAfter,
    stalledInterval: 1000 * stalledAfter,
    maxStalledCount: mostTakeovers,
  };
  const trials = queues.worker<TrialData, TrialReturn>(
    trialQueue,
    (job, token, signal) => processTrial(company, job, token!, signal!),
    { ...common, concurrency },
  );
  const sweeps = queues.worker<SweepData, unknown>(
    sweepQueue,
    (job, token) => processSweep(company, job, token!),
    common,
  );
  trials.on("lockRenewalFailed", (ids) => {
    for (const id of ids) {
      lost.add(id);
      trials.cancelJob(id, "another worker has it");
    }
  });
  trials.on("stalled", (id) => log(`${id}: taken over from a worker that is gone`));
  const events = queues.events(sweepQueue);
  // A cancelled sweep says so as its progress: each worker stops what it trains for it.
  const active = company.plans;
  events.on("progress", ({ jobId, data }) => {
    if (!(data as { cancelled?: boolean }).cancelled) return;
    for (const id of active.activeOf(jobId)) trials.cancelJob(id, "cancelled");
  });
  return { trials, sweeps, events };
}

/** Trains one job, or finds that it is done. Adds what follows from it before it says so. */
async function processTrial(
  company: Company,
  job: BullJob<TrialData, TrialReturn>,
  token: string,
  signal: AbortSignal,
): Promise<TrialReturn> {
  const { queues, files: store, plans, lost, log } = company;
  const { sweep, key } = job.data;
  const id = job.id!;
  // Ids become names of folders: whatever else is in the queue is none of ours.
  if (!/^[0-9a-f]{20}-[0-9a-f]{20}(-[0-9]{1,16})?$/.test(id) || id !== trialJobId({ id: sweep }, key)) {
    throw new queues.bull.UnrecoverableError(`expected a job of a sweep, got ${JSON.stringify(id)}`);
  }
  lost.delete(id);
  plans.begin(sweep, id);
  try {
    const plan = await plans.get(sweep);
    const found = await fetchOutcome(store, key);
    if (found !== null) log(`${id}: found`);
    const cancelled = found === null && (await isCancelled(queues, sweep));
    if (found === null && !cancelled && (await isTrainedByOther(queues, id)))
      return await postpone(company, job, token);
    const outcome =
      found ??
      (cancelled
        ? null
        : await trainFromStore(
            { plan, key, attempt: job.attemptsMade + 1, folder: join(workFolder(company), id) },
            company,
            {
              store,
              signal,
              isLost: () => lost.has(id),
              onProgress: (step, steps) => void job.updateProgress({ step, steps, by: company.name }).catch(() => {}),
            },
          ));
    if (outcome === null) return await handBack(company, job, token);
    if (found === null)
      log(
        `${id}: ${outcome.state === "failed" ? `failed: ${outcome.error}` : `trained, ${outcome.metric} ${outcome.value}`}`,
      );
    const brief = { key, ...briefOf(outcome) };
    await addFollowers(queues, plan, brief);
    return brief;
  } catch (error) {
    // Words of the queue to itself.
    if (isOfTheQueue(queues, error) || lost.has(id)) throw error;
    if (isPlaceFailure(error)) {
      log(`${id}: ${(error as Error).message}; no attempt is counted, and ${placeSeconds} seconds are waited`);
      await pause(1000 * placeSeconds, signal);
      return await postpone(company, job, token);
    }
    const isLast = job.attemptsMade + 1 >= (job.opts.attempts ?? 1);
    log(
      `${id}: ${error instanceof Error ? error.message : String(error)}; attempt ${job.attemptsMade + 1} of ${job.opts.attempts}`,
    );
    if (!isLast) throw error;
    return giveUp(company, job, error);
  } finally {
    plans.end(sweep, id);
  }
}

/** A training that was stopped: of a cancelled sweep it is over, else another worker goes on with it. */
async function handBack({ queues, log, lost }: Company, job: BullJob<TrialData>, token: string): Promise<TrialReturn> {
  if (lost.has(job.id!)) throw new LowrankError("aborted", `${job.id}: another worker has it`);
  if (await isCancelled(queues, job.data.sweep)) {
    log(`${job.id}: cancelled`);
    return { key: job.data.key, state: "stopped", metric: null, value: null };
  }
  log(`${job.id}: handed back`);
  await job.moveToWait(token);
  throw new queues.bull.WaitingError();
}

function isOfTheQueue({ bull }: Queues, error: unknown): boolean {
  return error instanceof bull.WaitingError || error instanceof bull.DelayedError;
}

/**
 * Whether another sweep has the same trial, and trains it now. Of two such jobs the one that was taken first goes on; the other
 * finds its result.
 */
async function isTrainedByOther(queues: Queues, id: string): Promise<boolean> {
  const active = await queues.taken();
  const trialOf = (job: string): string | undefined => job.split("-")[1];
  return active.slice(0, Math.max(0, active.indexOf(id))).some((other) => trialOf(other) === trialOf(id));
}

/** Gives a job back for a moment, without counting an attempt. */
async function postpone({ queues, lost }: Company, job: BullJob<TrialData>, token: string): Promise<never> {
  if (lost.has(job.id!)) throw new LowrankError("aborted", `${job.id}: another worker has it`);
  await job.moveToDelayed(Date.now() + postponeMs, token);
  throw new queues.bull.DelayedError();
}

/** Milliseconds after which a job that was put off is looked at again. */
const postponeMs = 1000;

/** Seconds that a machine with a full disk, or without its store, stays away from further jobs. */
const placeSeconds = 10;

/** The last attempt failed: that is the result. */
async function giveUp(
  { queues, files: store, plans }: Company,
  job: BullJob<TrialData>,
  error: unknown,
): Promise<TrialReturn> {
  const { sweep, key } = job.data;
  const message = error instanceof Error ? error.message : String(error);
  const failed = failedOutcome({ key, seconds: 0, attempts: job.attemptsMade + 1, error: message });
  await publishOutcome(store, failed, null);
  const brief = { key, ...briefOf(failed) };
  await addFollowers(queues, await plans.get(sweep), brief);
  return brief;
}

/** Of a sweep with rungs: trainings that a result has made ready. */
async function addFollowers(queues: Queues, plan: SweepPlan, own: TrialReturn): Promise<void> {
  if (plan.rungs.length === 1) return;
  const sweep = await queues.sweeps.getJob(plan.id);
  if (sweep === undefined || sweep.data.cancelled) return;
  const briefs = (await briefsOf(sweep)).set(own.key, own);
  await addTrials(queues, plan, nextJobs(plan, briefs));
}

/** The sweep's own job, when its trainings are done: looks whether anything is left, and why. */
async function processSweep(company: Company, sweep: BullJob<SweepData>, token: string): Promise<unknown> {
  const { queues, files: store, plans, log } = company;
  if (sweep.data.cancelled || !/^[0-9a-f]{20}$/.test(sweep.data.sweep)) return { cancelled: true };
  const plan = await plans.get(sweep.data.sweep);
  const briefs = await briefsOf(sweep);
  for (;;) {
    const left = nextJobs(plan, briefs);
    if (left.length === 0) break;
    let settled = 0;
    for (const job of left) {
      const key = jobKey(plan, job);
      const outcome = (await fetchOutcome(store, key)) ?? (await stalledForGood(queues, store, plan, key));
      if (outcome === null) continue;
      briefs.set(key, briefOf(outcome));
      settled++;
    }
    if (settled > 0) continue;
    await addTrials(queues, plan, left);
    if (await sweep.moveToWaitingChildren(token)) throw new queues.bull.WaitingChildrenError();
    return { complete: false };
  }
  log(`${plan.id}: every training of the sweep is done`);
  return { complete: true };
}

/** A job that BullMQ itself has failed, since each worker that took it died. */
async function stalledForGood(queues: Queues, store: Store, plan: SweepPlan, key: string) {
  const job = await queues.trials.getJob(trialJobId(plan, key));
  if (job === undefined || !(await job.isFailed())) return null;
  const outcome = failedOutcome({ key, seconds: 0, attempts: job.attemptsStarted, error: job.failedReason });
  await publishOutcome(store, outcome, null);
  return outcome;
}

async function isCancelled(queues: Queues, id: string): Promise<boolean> {
  return (await queues.sweeps.getJob(id))?.data.cancelled === true;
}

/** Of this process; another on the same machine has its own. */
function workFolder({ cache }: Pick<WorkerOptions, "cache">): string {
  return join(cache, "work", `${hostname()}-${process.pid}`);
}

/** Writes `alive` into the cache for as long as the event loop turns: what a probe can look at. */
async function startHeart(cache: string): Promise<NodeJS.Timeout> {
  const path = join(cache, "alive");
  await writeFileAtomic(path, "");
  // A full disk shows where results are written; here the file just grows old.
  return setInterval(() => void writeFileAtomic(path, "").catch(() => {}), 10_000);
}

/** Work of processes of this machine that were killed; their jobs are another's by now. */
async function removeStale({ cache }: Pick<WorkerOptions, "cache">): Promise<void> {
  const folder = join(cache, "work");
  for (const name of await readdir(folder).catch((): string[] => [])) {
    const pid = Number(name.slice(name.lastIndexOf("-") + 1));
    if (!name.startsWith(`${hostname()}-`) || isAlive(pid)) continue;
    await rm(join(folder, name), { recursive: true, force: true });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([aborted(signal), new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))]);
  clearTimeout(timer);
}

/** A server that is away is told of once in ten seconds, not with every try. */
export function onceInAWhile(log: (line: string) => void): (error: Error) => void {
  let next = 0;
  return ({ message }) => {
    const now = Date.now();
    if (now < next) return;
    next = now + 10_000;
    log(`queue: ${message || "the connection was lost; it is taken up again"}`);
  };
}
