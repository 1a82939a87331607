// A sweep from its configuration to its report, on this machine. queue-sweep.ts does the same with workers anywhere.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.ts";
import { createTrainer, type Trainer } from "./children.ts";
import type { SweepConfig } from "./config.ts";
import { finishSweep, type SweepSummary } from "./finish.ts";
import { openSweepFolder, planFile, readPlan, readQueuePlace, type SweepFolder, writeQueuePlace } from "./folder.ts";
import { readInputs } from "./inputs.ts";
import { holdFolder, lockFile } from "./lock.ts";
import { localWorkers, runLocal, type SweepWatcher } from "./run-local.ts";
import { planSweep, type SweepPlan, trialId } from "./trials.ts";

export interface SweepContext {
  /** Trainings at a time; default: one for each core. */
  readonly workers?: number;
  readonly signal?: AbortSignal;
  readonly watcher?: SweepWatcher;
  /** Told of the folder before anything is trained. */
  readonly onOpen?: (folder: SweepFolder) => void;
  /** What trains; default: processes of this machine. */
  readonly trainer?: Trainer;
}

export interface SweepResult {
  readonly folder: string;
  readonly summary: SweepSummary;
}

/**
 * Trains every trial of a sweep, or what is left of it, and leaves its folder.
 *
 * @throws LowrankError "config", "file" or "model" before anything is trained; "aborted" when it was stopped or cancelled: going on
 * with it trains only what has no result.
 * @example
 * const config = readSweepConfig(parseConfigFile("sweep.yaml", text));
 * const { folder, summary } = await runSweep(config);
 */
export async function runSweep(config: SweepConfig, context: SweepContext = {}): Promise<SweepResult> {
  return trainPlan(await planSweep(config, context.signal), config.out, context);
}

/**
 * Goes on with the sweep in a folder.
 *
 * @throws LowrankError as `runSweep` does; "data" when its files have changed.
 */
export async function resumeSweep(path: string, context: SweepContext = {}): Promise<SweepResult> {
  const plan = await readPlan(path);
  await checkInputs(path, plan, context.signal);
  return trainPlan(plan, path, context);
}

async function trainPlan(plan: SweepPlan, out: string | null, context: SweepContext): Promise<SweepResult> {
  const { signal = new AbortController().signal, watcher = silentWatcher, onOpen } = context;
  const begun = new Date();
  const trainer = context.trainer ?? createTrainer();
  const { folder, release } = await openHeld(out, plan);
  try {
    onOpen?.(folder);
    await leaveQueue(folder, watcher);
    try {
      await runLocal(folder, { workers: context.workers ?? localWorkers(plan), trainer, signal, watcher });
      return { folder: folder.path, summary: await finishSweep(folder, begun) };
    } finally {
      folder.run.metrics.close();
    }
  } finally {
    await trainer.close();
    await release();
  }
}

/** A sweep that was given to workers is this machine's from now on. */
async function leaveQueue(folder: SweepFolder, watcher: SweepWatcher): Promise<void> {
  const place = await readQueuePlace(folder.path);
  if (place === null) return;
  watcher.warn(
    `this sweep was on ${place.queue}; what is left of it there goes on until: lowrank sweep cancel ${folder.path} --queue ${place.queue}`,
  );
  await writeQueuePlace(folder, null);
}

/** The sweep's folder, with nobody else working in it. */
export async function openHeld(
  out: string | null,
  plan: SweepPlan,
): Promise<{ folder: SweepFolder; release: () => Promise<void> }> {
  // What is there already must not be touched while another works on it.
  const held = out !== null && existsSync(join(out, planFile)) ? await holdFolder(out) : null;
  try {
    const folder = await openSweepFolder(out, plan);
    folder.run.note(lockFile);
    return { folder, release: held ?? (await holdFolder(folder.path)) };
  } catch (error) {
    await held?.();
    throw error;
  }
}

export const silentWatcher: SweepWatcher = { running() {}, ended() {}, warn() {} };

/** The files must hold what they held: trials are named by it. */
export async function checkInputs(path: string, plan: SweepPlan, signal?: AbortSignal): Promise<void> {
  const inputs = await readInputs(
    plan.trials.map(({ options }) => options),
    signal,
  );
  const changed = plan.trials.filter(({ id, options }) => trialId(options, inputs) !== id).length;
  if (changed === 0) return;
  const names = Object.entries(plan.inputs).flatMap(([name, { hash }]) =>
    inputs.get(name)?.hash === hash ? [] : [name],
  );
  throw new LowrankError(
    "data",
    `${path}: expected the files that the sweep began with, got others (${names.join(", ")}); run the configuration again`,
  );
}
