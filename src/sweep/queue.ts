// A sweep on BullMQ: one job for the sweep, in a queue of its own, and below it one for each training (a flow). The sweep's job
// waits for its trainings; the values of those that are done lie with it, so whoever ends a training sees what follows from it
// and adds that. When nothing is left the sweep's job comes up itself and looks once more, so that nothing is forgotten.
import type {
  Job as BullJob,
  FlowJob,
  FlowProducer,
  JobsOptions,
  Processor,
  Queue,
  QueueEvents,
  Worker,
  WorkerOptions,
} from "bullmq";
import { loadPackage } from "../data/package.ts";
import { type Job, readyJobs } from "./halving.ts";
import type { Outcome } from "./outcome.ts";
import { prefix, queueConnection, queueName } from "./queue-address.ts";
import type { RedisConnection } from "./queue-redis.ts";
import { halvingOf, jobKey, type SweepPlan } from "./trials.ts";

export const trialQueue = "trials";
export const sweepQueue = "sweeps";

/** What a training's job carries: the plan is in the store. */
export interface TrialData {
  readonly sweep: string;
  readonly key: string;
}

export interface SweepData {
  readonly sweep: string;
  readonly cancelled: boolean;
  /** Results that were there when the sweep was submitted. */
  readonly known: Readonly<Record<string, Brief>>;
}

/** What the planning needs of an outcome; "stopped" is none. */
export type Brief = Pick<Outcome, "metric" | "value"> & { readonly state: Outcome["state"] | "stopped" };

/** What a training's job returns. */
export type TrialReturn = Brief & { readonly key: string };

/** What a training says while it goes on. */
export interface TrialProgress {
  readonly step: number;
  readonly steps: number;
  readonly by: string;
}

export type Bull = typeof import("bullmq");

/** Both queues, and what else BullMQ has for their server. */
export interface Queues {
  readonly bull: Bull;
  /** The server's address without a password, for messages. */
  readonly name: string;
  readonly trials: Queue<TrialData, TrialReturn>;
  readonly sweeps: Queue<SweepData, unknown>;
  worker<D, R>(queue: string, work: Processor<D, R>, options: Omit<WorkerOptions, "connection">): Worker<D, R>;
  events(queue: string): QueueEvents;
  flow(): FlowProducer;
  /** Ids of the trainings at work, in the order in which they were taken. */
  taken(): Promise<string[]>;
  close(): Promise<void>;
}

/** Opens both queues. Errors of the connection are told to `onError`; it is taken up again by itself. */
export async function openQueues(address: string, onError: (error: Error) => void): Promise<Queues> {
  const { server, options } = queueConnection(address);
  const bull = await loadPackage("bullmq", "--queue", () => import("bullmq"));
  await (server === "redis"
    ? loadPackage("ioredis", "--queue", () => import("ioredis"))
    : loadPackage("pg", "--queue", () => import("pg")));
  const common = { connection: options as RedisConnection, prefix };
  // BullMQ's classes do not care which server it is; their types do, and know Redis best.
  const backend = (server === "redis" ? undefined : bull.createPostgresBackend) as undefined;
  const trials = new bull.Queue<TrialData, TrialReturn>(trialQueue, common, backend);
  const sweeps = new bull.Queue<SweepData, unknown>(sweepQueue, common, backend);
  const heard = <T extends { on(event: "error", listener: (error: Error) => void): unknown }>(object: T): T => {
    object.on("error", onError);
    return object;
  };
  heard(trials);
  heard(sweeps);
  return {
    bull,
    name: queueName(address),
    trials,
    sweeps,
    worker: (queue, work, options) => heard(new bull.Worker(queue, work, { ...common, ...options }, backend)),
    events: (queue) => heard(new bull.QueueEvents(queue, common, backend)),
    flow: () => heard(new bull.FlowProducer(common, backend)),
    // Redis has them in a list, in this order; PostgreSQL in that of their coming.
    taken: async () => {
      const active = await trials.getRanges(["active"], 0, -1, true);
      if (server === "redis") return active;
      const jobs = await Promise.all(active.map((id) => trials.getJob(id)));
      const since = new Map(jobs.map((job) => [job?.id, job?.processedOn ?? 0]));
      return active.sort((a, b) => since.get(a)! - since.get(b)!);
    },
    close: async () => {
      await Promise.all([trials.close(), sweeps.close()]);
    },
  };
}

/** The id of a training's job. Ids come from content, so adding one again changes nothing. */
export function trialJobId(plan: Pick<SweepPlan, "id">, key: string): string {
  return `${plan.id}-${key}`;
}

/** How a training's job is delivered. */
function trialOptions(plan: SweepPlan, job: Job): JobsOptions {
  return {
    jobId: trialJobId(plan, jobKey(plan, job)),
    // Lower goes first: by the sweep's own, then higher rungs before lower ones, as ASHA promotes whenever it can.
    priority: 1 + plan.priority * maxRungs + Math.max(0, plan.rungs.length - 1 - job.rung),
    attempts: plan.retries + 1,
    backoff: { type: "exponential", delay: 1000 },
    removeOnComplete: true,
    removeOnFail: { age: 7 * 24 * 3600 },
    // One that fails for good does not hold up the sweep.
    ignoreDependencyOnFailure: true,
  };
}

const maxRungs = 64;

/** The whole sweep as a flow, with the trainings that can begin. */
export function flowOf(plan: SweepPlan, data: SweepData, jobs: readonly Job[]): FlowJob {
  return {
    name: "sweep",
    queueName: sweepQueue,
    prefix,
    data,
    opts: { jobId: plan.id, attempts: 100, backoff: { type: "exponential", delay: 1000 }, removeOnComplete: true },
    children: jobs.map((job) => ({
      name: "train",
      queueName: trialQueue,
      prefix,
      data: { sweep: plan.id, key: jobKey(plan, job) } satisfies TrialData,
      opts: trialOptions(plan, job),
    })),
  };
}

/** Adds trainings below a sweep that is there; those that are there already stay as they are. */
export async function addTrials({ trials, sweeps }: Queues, plan: SweepPlan, jobs: readonly Job[]): Promise<void> {
  if (jobs.length === 0) return;
  const parent = { id: plan.id, queue: sweeps.qualifiedName };
  await trials.addBulk(
    jobs.map((job) => ({
      name: "train",
      data: { sweep: plan.id, key: jobKey(plan, job) },
      opts: { ...trialOptions(plan, job), parent },
    })),
  );
}

/** What is known of a sweep's trainings, from its job. */
export async function briefsOf(sweep: BullJob<SweepData>): Promise<Map<string, Brief>> {
  const briefs = new Map(Object.entries(sweep.data.known));
  for (const value of Object.values(await sweep.getChildrenValues<TrialReturn>())) {
    if (value.state !== "stopped") briefs.set(value.key, value);
  }
  return briefs;
}

/** Trainings that the results call for and that have none. */
export function nextJobs(plan: SweepPlan, briefs: ReadonlyMap<string, Brief>): Job[] {
  const metric = plan.metric ?? [...briefs.values()].find((brief) => brief.metric !== null)?.metric ?? null;
  return readyJobs(halvingOf(plan, metric), (job) => {
    const brief = briefs.get(jobKey(plan, job));
    if (brief === undefined || brief.state === "stopped") return undefined;
    return brief.state === "failed" ? null : (brief.value ?? (plan.metric === null ? 0 : null));
  });
}

export function briefOf({ state, metric, value }: Outcome): Brief {
  return { state, metric, value };
}
