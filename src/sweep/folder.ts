// A sweep's folder, the same for both ways of running:
//   sweep.json              the plan: trials, rungs, what their files held
//   results/KEY.json        what came of each job; a job that has one is done
//   trials/ID/              the run folder of each trial, as `lowrank tune` leaves it
//   progress.json           what is being trained now, for `sweep status`
//   queue.json              of a sweep that workers train: where its queue and its store are
//   running.lock            the process that works in the folder
//   cancelled.json          there while the sweep is cancelled
//   metrics.jsonl           a record of each result, as they came
//   winner/ or adapters/    the best adapter; of a fleet, each row's by its name
//   summary.json, report.html
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.ts";
import { fileError } from "../runs/file-error.ts";
import { isTemporary, readFileChecked, writeFileAtomic } from "../runs/files.ts";
import { createRunFolder, type RunFolder, reopenRunFolder } from "../runs/run-folder.ts";
import type { Job } from "./halving.ts";
import { holderOf } from "./lock.ts";
import type { Outcome } from "./outcome.ts";
import { allJobs, jobKey, type SweepPlan } from "./trials.ts";

export const planFile = "sweep.json";
const cancelFile = "cancelled.json";
const queueFile = "queue.json";
/** What the end of a sweep leaves. */
const endFiles = ["summary.json", "report.html", "winner"];
const progressFile = "progress.json";

/** What is known of a job that is being trained. */
export interface Running {
  readonly key: string;
  readonly step: number;
  readonly steps: number;
  /** Where: a process of this machine, or a worker's name. */
  readonly by: string;
}

/** What `results/` has, by key of the job. */
export type Results = ReadonlyMap<string, Outcome>;

export interface SweepFolder {
  readonly path: string;
  readonly run: RunFolder;
  readonly plan: SweepPlan;
  readonly results: Results;
  /** The run folder of a trial; it need not be there. */
  trialFolder(trial: number): string;
  valueOf(job: Job): number | null | undefined;
  /** Writes a result, which makes its job done. */
  record(outcome: Outcome): Promise<void>;
  /** Says what is being trained, for `sweep status`. */
  tell(running: readonly Running[]): Promise<void>;
}

/**
 * The folder of a sweep, begun, or gone on with where it is there. Failed results are forgotten with `retryFailed`. Of another sweep in
 * the same folder, what was trained stays for whoever goes back to it; what it ended with goes, so that it is not taken for this one's.
 *
 * @throws LowrankError "file" for a folder of another's, or one that cannot be written.
 */
export async function openSweepFolder(
  path: string | null,
  plan: SweepPlan,
  { retryFailed = true }: { readonly retryFailed?: boolean } = {},
): Promise<SweepFolder> {
  const isSweep = path !== null && existsSync(join(path, planFile));
  const reopened = isSweep ? await reopenRunFolder(path, () => true) : null;
  const run = reopened ?? (await createRunFolder(path ?? undefined, { prefix: "sweep" }));
  for (const name of [planFile, "results", "trials", progressFile, cancelFile]) run.note(name);
  await mkdir(join(run.path, "results"), { recursive: true });
  await mkdir(join(run.path, "trials"), { recursive: true });
  if (isSweep && (await idIn(run.path)) !== plan.id) {
    for (const name of endFiles) await rm(join(run.path, name), { recursive: true, force: true });
  }
  await run.writeJson(planFile, plan);
  await rm(join(run.path, cancelFile), { force: true });
  const results = await readResults(run.path, plan);
  for (const [key, { state }] of results) {
    if (state !== "failed" || !retryFailed) continue;
    results.delete(key);
    await rm(resultPath(run.path, key), { force: true });
  }
  return folderOf(run, plan, results);
}

/** The id of the sweep whose plan is in a folder; null where it cannot be read. */
async function idIn(path: string): Promise<string | null> {
  return readPlan(path).then(
    ({ id }) => id,
    () => null,
  );
}

function folderOf(run: RunFolder, plan: SweepPlan, results: Map<string, Outcome>): SweepFolder {
  return {
    path: run.path,
    run,
    plan,
    results,
    trialFolder: (trial) => trialPath(run.path, plan.trials[trial]!.id),
    valueOf: (job) => valueIn(results, plan, job),
    async record(outcome) {
      await writeFileAtomic(resultPath(run.path, outcome.key), `${JSON.stringify(outcome, null, 2)}\n`);
      results.set(outcome.key, outcome);
      run.metrics.append({ kind: "evaluation", phase: "sweep", ...outcome });
      run.metrics.flush();
    },
    tell: (running) => run.writeJson(progressFile, running),
  };
}

/** The value of a job that has a result; null where it failed. */
export function valueIn(results: Results, plan: SweepPlan, job: Job): number | null | undefined {
  const outcome = results.get(jobKey(plan, job));
  if (outcome === undefined) return undefined;
  // A fleet without data to evaluate on compares nothing: all that matters is that it is done.
  return outcome.state === "failed" ? null : (outcome.value ?? (plan.metric === null ? 0 : null));
}

/** The metric that trials are compared by, once a result names it. */
export function metricOf({ metric }: SweepPlan, results: Results): string | null {
  if (metric !== null) return metric;
  for (const outcome of results.values()) if (outcome.metric !== null) return outcome.metric;
  return null;
}

/** A sweep to look at. */
export interface SweepView {
  readonly plan: SweepPlan;
  readonly results: Results;
  readonly running: readonly Running[];
  readonly cancelled: boolean;
  /** Whether anybody trains it or follows its workers. */
  readonly isWorkedOn: boolean;
}

/** What is in a sweep's folder. Throws LowrankError "file" when it is none. */
export async function readSweepFolder(path: string): Promise<SweepView> {
  const plan = await readPlan(path);
  const results = await readResults(path, plan);
  const isWorkedOn = holderOf(path) !== null;
  // What a process that was killed has said last is no longer so.
  const told = isWorkedOn && existsSync(join(path, progressFile));
  const running = told ? ((await readJson(join(path, progressFile))) as readonly Running[]) : [];
  const waiting = running.filter(({ key }) => !results.has(key));
  return { plan, results, running: waiting, cancelled: isCancelled(path), isWorkedOn };
}

/** The plan of the sweep in a folder. */
export async function readPlan(path: string): Promise<SweepPlan> {
  if (!existsSync(join(path, planFile))) {
    throw new LowrankError(
      "file",
      `${path}: expected the folder of a sweep, got another (there is no ${planFile} in it)`,
    );
  }
  const plan = (await readJson(join(path, planFile))) as SweepPlan;
  if (plan.version !== 1) throw new LowrankError("file", `${join(path, planFile)}: expected version 1, got another`);
  return plan;
}

/** Where workers train a sweep: its queue, without user and password, and its store. */
export interface QueuePlace {
  /** redis://host:port, or postgres://host:port/database */
  readonly queue: string;
  /** A folder that all workers share, or s3://bucket/prefix. */
  readonly store: string;
}

/** Writes down where a sweep is trained, for those who ask for it later; null: on this machine. */
export async function writeQueuePlace({ run, path }: SweepFolder, place: QueuePlace | null): Promise<void> {
  if (place === null) await rm(join(path, queueFile), { force: true });
  else await run.writeJson(queueFile, place);
}

/** Where the workers of a sweep are; null for one of this machine. */
export async function readQueuePlace(path: string): Promise<QueuePlace | null> {
  return existsSync(join(path, queueFile)) ? ((await readJson(join(path, queueFile))) as QueuePlace) : null;
}

/** Asks whoever runs the sweep to stop; it looks for this file. */
export async function cancelFolder(path: string): Promise<void> {
  await writeFileAtomic(join(path, cancelFile), `${JSON.stringify({ cancelled: true })}\n`);
}

export function isCancelled(path: string): boolean {
  return existsSync(join(path, cancelFile));
}

export function trialPath(path: string, id: string): string {
  return join(path, "trials", id);
}

function resultPath(path: string, key: string): string {
  return join(path, "results", `${key}.json`);
}

/** Results of this plan's jobs; those of an earlier one in the same folder may lie beside them. */
async function readResults(path: string, plan: SweepPlan): Promise<Map<string, Outcome>> {
  const folder = join(path, "results");
  const names = await readdir(folder).catch((error: unknown) => {
    throw fileError(folder, "read", error);
  });
  const there = new Set(names.filter((name) => !isTemporary(name)));
  const results = new Map<string, Outcome>();
  for (const key of allJobs(plan).keys()) {
    if (there.has(`${key}.json`)) results.set(key, (await readJson(resultPath(path, key))) as Outcome);
  }
  return results;
}

async function readJson(path: string): Promise<unknown> {
  const text = new TextDecoder().decode(await readFileChecked(path));
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LowrankError("file", `${path}: expected JSON; it was not written by a sweep`, { cause });
  }
}
