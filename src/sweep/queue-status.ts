// Where a sweep on a queue is while nobody follows it: the work goes on without the command that asked for it, and its folder then
// knows less than the queue and the store do.
import { fetchOutcome } from "./exchange.ts";
import { type QueuePlace, readSweepFolder, type SweepView } from "./folder.ts";
import { type Brief, briefOf, briefsOf, nextJobs, openQueues, type TrialProgress } from "./queue.ts";
import { checkQueue } from "./queue-address.ts";
import { openStore } from "./store.ts";
import { jobKey } from "./trials.ts";

/**
 * As `readSweepFolder`, with what the queue and the store know beyond the folder. Writes nothing.
 *
 * @throws LowrankError "config" when the queue cannot be reached.
 */
export async function readQueuedSweep(path: string, place: QueuePlace): Promise<SweepView> {
  const view = await readSweepFolder(path);
  const { plan } = view;
  await checkQueue(place.queue);
  const store = await openStore(place.store);
  const queues = await openQueues(place.queue, () => {});
  const results = new Map(view.results);
  const takeIn = async (key: string): Promise<boolean> => {
    const outcome = results.has(key) ? null : await fetchOutcome(store, key);
    if (outcome !== null) results.set(key, outcome);
    return outcome !== null;
  };
  try {
    const sweep = await queues.sweeps.getJob(plan.id);
    if (sweep !== undefined) for (const key of (await briefsOf(sweep)).keys()) await takeIn(key);
    // A sweep that is done is gone from the queue: each result names the jobs that follow from it.
    for (let found = sweep === undefined; found; ) {
      found = false;
      const briefs = new Map<string, Brief>([...results].map(([key, outcome]) => [key, briefOf(outcome)]));
      for (const job of nextJobs(plan, briefs)) if (await takeIn(jobKey(plan, job))) found = true;
    }
    const active = await queues.trials.getJobs(["active"]);
    const running = active
      .filter((job) => job.data.sweep === plan.id && !results.has(job.data.key))
      .map((job) => {
        const { step = 0, steps = 0, by = "a worker" } = job.progress as Partial<TrialProgress>;
        return { key: job.data.key, step, steps, by };
      });
    return { ...view, results, running, isWorkedOn: sweep !== undefined };
  } finally {
    await queues.close();
  }
}
