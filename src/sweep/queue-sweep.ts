// A sweep with workers anywhere, from the side of whoever asked for it: files and jobs go out, results come back into the sweep's
// folder as they are done. It may end and begin again at any time; the work goes on without it.
import { resolve } from "node:path";
import type { Job as BullJob, QueueEvents } from "bullmq";
import { LowrankError } from "../errors.ts";
import type { SweepConfig } from "./config.ts";
import { fetchOutcome, fetchResult, forgetOutcome, publishSweep } from "./exchange.ts";
import { finishSweep } from "./finish.ts";
import {
  cancelFolder,
  isCancelled,
  metricOf,
  type QueuePlace,
  type Running,
  readPlan,
  type SweepFolder,
  writeQueuePlace,
} from "./folder.ts";
import { type Job, readyJobs } from "./halving.ts";
import type { Outcome } from "./outcome.ts";
import {
  type Brief,
  briefOf,
  briefsOf,
  flowOf,
  nextJobs,
  openQueues,
  type Queues,
  type SweepData,
  type TrialProgress,
  trialJobId,
  trialQueue,
} from "./queue.ts";
import { checkQueue, queueName } from "./queue-address.ts";
import { openStore, type Store } from "./store.ts";
import { checkInputs, openHeld, type SweepContext, type SweepResult, silentWatcher } from "./sweep.ts";
import { allJobs, halvingOf, jobKey, planSweep, type SweepPlan } from "./trials.ts";
import { onceInAWhile } from "./worker.ts";

/**
 * As `runSweep`, with workers that run `lowrank worker` on the same queue and store.
 *
 * @throws LowrankError as `runSweep` does, "config" when the queue cannot be reached.
 */
export async function runQueuedSweep(
  config: SweepConfig,
  place: QueuePlace,
  context: SweepContext,
): Promise<SweepResult> {
  return followPlan(await planSweep(config, context.signal), config.out, place, context);
}

/** As `resumeSweep`, on a queue. */
export async function resumeQueuedSweep(path: string, place: QueuePlace, context: SweepContext): Promise<SweepResult> {
  const plan = await readPlan(path);
  await checkInputs(path, plan, context.signal);
  return followPlan(plan, path, place, context);
}

/** Cancels the sweep in a folder, wherever it is being trained. */
export async function cancelQueuedSweep(path: string, address: string): Promise<void> {
  const plan = await readPlan(path);
  await checkQueue(address);
  const queues = await openQueues(address, () => {});
  try {
    const sweep = await queues.sweeps.getJob(plan.id);
    if (sweep !== undefined) {
      // First the word that workers look for before they begin, then what waits, then what is at work.
      await sweep.updateData({ ...sweep.data, cancelled: true });
      await sweep.removeUnprocessedChildren();
      await sweep.updateProgress({ cancelled: true });
    }
    await cancelFolder(path);
  } finally {
    await queues.close();
  }
}

async function followPlan(
  plan: SweepPlan,
  out: string | null,
  place: QueuePlace,
  context: SweepContext,
): Promise<SweepResult> {
  const { signal = new AbortController().signal, watcher = silentWatcher, onOpen } = context;
  const begun = new Date();
  for (const warning of await checkQueue(place.queue)) watcher.warn(warning);
  const store = await openStore(place.store);
  const { folder, release } = await openHeld(out, plan);
  const queues = await openQueues(place.queue, onceInAWhile(watcher.warn));
  const events = queues.events(trialQueue);
  try {
    onOpen?.(folder);
    await writeQueuePlace(folder, {
      queue: queueName(place.queue),
      store: /^s3:/i.test(place.store) ? place.store : resolve(place.store),
    });
    await publishSweep(store, plan);
    const run = createFollower({ folder, store, queues, watcher });
    listen(events, run, plan);
    await run.submit();
    await run.untilDone(signal);
    return { folder: folder.path, summary: await finishSweep(folder, begun) };
  } finally {
    folder.run.metrics.close();
    await events.close();
    await queues.close();
    await release();
  }
}

interface Following {
  readonly folder: SweepFolder;
  readonly store: Store;
  readonly queues: Queues;
  readonly watcher: typeof silentWatcher;
}

interface Follower {
  submit(): Promise<void>;
  untilDone(signal: AbortSignal): Promise<void>;
  /** A training has ended, as the queue says. */
  ended(key: string): void;
  progress(key: string, progress: TrialProgress): void;
}

/** Milliseconds between two looks at everything: what was missed while the connection was lost is found then. */
const lookEvery = 5000;

function createFollower(following: Following): Follower {
  const { folder, store, watcher } = following;
  const { plan } = folder;
  const jobs = allJobs(plan);
  const running = new Map<string, Running>();
  const wanted = new Set<string>();
  let wake: () => void = () => {};
  const collect = async (): Promise<void> => {
    for (const key of [...wanted]) {
      wanted.delete(key);
      running.delete(key);
      const outcome = folder.results.has(key) ? null : await fetchOutcome(store, key);
      if (outcome !== null) await takeIn(following, jobs.get(key)!, outcome);
    }
  };
  return {
    submit: () => submit(following, true),
    ended(key) {
      if (!jobs.has(key)) return;
      wanted.add(key);
      wake();
    },
    progress: (key, { step, steps, by }) => {
      if (jobs.has(key) && !folder.results.has(key)) running.set(key, { key, step, steps, by });
    },
    async untilDone(signal) {
      let look = Date.now() + lookEvery;
      while (readyJobs(halvingOf(plan, metricOf(plan, folder.results)), folder.valueOf).length > 0) {
        if (signal.aborted) throw stopped(folder.path);
        if (isCancelled(folder.path)) {
          throw new LowrankError("aborted", `cancelled; go on with: lowrank sweep resume ${folder.path}`);
        }
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, 500);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        if (Date.now() >= look) {
          for (const key of await missed(following)) wanted.add(key);
          look = Date.now() + lookEvery;
        }
        await collect();
        watcher.running([...running.values()]);
        await folder.tell([...running.values()]);
      }
    },
  };
}

function stopped(path: string): LowrankError {
  return new LowrankError(
    "aborted",
    `stopped on request, while the workers go on; follow it again with: lowrank sweep resume ${path}, or end it with: lowrank sweep cancel ${path}`,
  );
}

function listen(events: QueueEvents, follower: Follower, plan: SweepPlan): void {
  const keyOf = (id: string): string | null => (id.startsWith(`${plan.id}-`) ? id.slice(plan.id.length + 1) : null);
  const end = ({ jobId }: { jobId: string }): void => {
    const key = keyOf(jobId);
    if (key !== null) follower.ended(key);
  };
  events.on("completed", end);
  events.on("failed", end);
  events.on("progress", ({ jobId, data }) => {
    const key = keyOf(jobId);
    if (key !== null) follower.progress(key, data as unknown as TrialProgress);
  });
}

/** Writes a result into the sweep's folder, its files first. */
async function takeIn({ folder, store, watcher }: Following, { trial }: Job, outcome: Outcome): Promise<void> {
  await fetchResult(store, outcome.key, folder.trialFolder(trial));
  await folder.record(outcome);
  watcher.ended(outcome);
}

/** Puts the sweep on the queue, unless it is there: results that the store has are known from the beginning. */
async function submit(following: Following, retryFailed: boolean): Promise<void> {
  const { folder, store, queues } = following;
  const { plan } = folder;
  await untilNotCancelled(queues, plan);
  if ((await queues.sweeps.getJob(plan.id)) !== undefined) return;
  const known = new Map<string, Brief>([...folder.results].map(([key, outcome]) => [key, briefOf(outcome)]));
  let jobs = nextJobs(plan, known);
  for (let found = true; found; ) {
    found = false;
    for (const job of jobs) {
      const key = jobKey(plan, job);
      const outcome = await fetchOutcome(store, key);
      if (outcome === null) continue;
      if (outcome.state === "failed" && retryFailed) {
        await forgetOutcome(store, key);
        continue;
      }
      await takeIn(following, job, outcome);
      known.set(key, briefOf(outcome));
      found = true;
    }
    jobs = nextJobs(plan, known);
  }
  if (jobs.length === 0) return;
  for (const job of jobs) await forgetFailed(queues, trialJobId(plan, jobKey(plan, job)));
  const flow = queues.flow();
  const data: SweepData = { sweep: plan.id, cancelled: false, known: Object.fromEntries(known) };
  try {
    await flow.add(flowOf(plan, data, jobs));
  } finally {
    await flow.close();
  }
}

/** A job that failed for good would stand in the way of the same one, tried again. */
async function forgetFailed({ trials }: Queues, id: string): Promise<void> {
  const job = await trials.getJob(id);
  if (job !== undefined && (await job.isFailed())) await job.remove();
}

/** A sweep that was cancelled is gone from the queue when its workers have let go of it. */
async function untilNotCancelled({ sweeps }: Queues, { id }: SweepPlan): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const job: BullJob<SweepData> | undefined = await sweeps.getJob(id);
    if (job?.data.cancelled !== true) return;
    if (Date.now() > deadline) {
      // Nobody is there to end it.
      await job.remove({ removeChildren: true });
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** Results that the queue knows of and the folder does not; puts the sweep on the queue again where the queue forgot it. */
async function missed(following: Following): Promise<string[]> {
  const { folder, queues } = following;
  const sweep = await queues.sweeps.getJob(folder.plan.id);
  if (sweep === undefined) {
    await submit(following, false);
    return [];
  }
  return [...(await briefsOf(sweep)).keys()].filter((key) => !folder.results.has(key));
}
