// What is in a store, by what it is: inputs, plans, checkpoints, results.
import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { LowrankError, throwFaults } from "../errors.ts";
import { writeFileAtomic } from "../runs/files.ts";
import { packFiles, resultFiles, resumeFiles, unpackFiles, writeFiles } from "./bundle.ts";
import { type Input, sha256 } from "./inputs.ts";
import type { Outcome } from "./outcome.ts";
import { storeFailure } from "./place-failure.ts";
import type { Store } from "./store.ts";
import type { SweepPlan } from "./trials.ts";

/** Puts the files of all inputs into the store, those that are not there yet, and then the plan. */
export async function publishSweep(store: Store, plan: SweepPlan): Promise<void> {
  for (const [path, { files }] of Object.entries(plan.inputs)) {
    for (const { name, sha256 } of files) {
      const key = `objects/${sha256}`;
      if (!(await store.has(key))) await store.putFile(key, join(dirname(resolve(path)), ...name.split("/")));
    }
  }
  await putJson(store, planKey(plan.id), plan);
}

/**
 * The plan of a sweep, with nothing in it that would lead out of a worker's folders.
 *
 * @throws LowrankError "file" where it is missing or is no plan.
 */
export async function fetchPlan(store: Store, id: string): Promise<SweepPlan> {
  const plan = (await getJson(store, planKey(id))) as SweepPlan | null;
  const where = `${store.name}/${planKey(id)}`;
  if (plan === null) throw storeFailure(`${where}: not found; is this the store of that sweep?`);
  throwFaults("file", where, planFaults(plan));
  return plan;
}

/** Whoever can write to the store names the files that a worker writes. */
function planFaults({ version, inputs, trials }: SweepPlan): string[] {
  const faults = version === 1 ? [] : [`expected version 1, got ${JSON.stringify(version)}`];
  const isPlain = (name: string): boolean =>
    name.split("/").every((part) => part !== "" && part !== "." && part !== ".." && !/[\\:\0]/.test(part));
  for (const { hash, entry, files } of Object.values(inputs)) {
    if (!/^[0-9a-f]{64}$/.test(hash)) faults.push(`expected a SHA-256 of an input, got ${JSON.stringify(hash)}`);
    for (const name of [entry, ...files.map(({ name }) => name)]) {
      if (!isPlain(name)) faults.push(`expected the name of a file, got ${JSON.stringify(name)}`);
    }
    for (const { sha256: digest } of files) {
      if (!/^[0-9a-f]{64}$/.test(digest)) faults.push(`expected a SHA-256 of a file, got ${JSON.stringify(digest)}`);
    }
  }
  for (const { id } of trials)
    if (!/^[0-9a-f]{20}$/.test(id)) faults.push(`expected the id of a trial, got ${JSON.stringify(id)}`);
  return faults;
}

/** Puts an input's files into `cache`, checked against their hashes. Returns the path that stands for it. */
export async function fetchInput(store: Store, { hash, entry, files }: Input, cache: string): Promise<string> {
  const folder = join(cache, "inputs", hash);
  if (!existsSync(folder)) {
    const staging = join(cache, "inputs", `.${hash}-${randomBytes(6).toString("hex")}`);
    try {
      for (const { name, sha256 } of files) {
        const path = join(staging, ...name.split("/"));
        await mkdir(dirname(path), { recursive: true });
        await writeFileAtomic(path, verified(store, `objects/${sha256}`, sha256));
      }
      // Of two processes that fetch at once, one's folder stays.
      await rename(staging, folder).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
      });
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
  }
  return join(folder, entry);
}

/** The chunks of an object; throws at the end when they are not what its name says. */
async function* verified(store: Store, key: string, expected: string): AsyncGenerator<Uint8Array> {
  const content = await store.stream(key);
  if (content === null) throw new LowrankError("file", `${store.name}/${key}: not found; submit the sweep again`);
  const hash = createHash("sha256");
  for await (const chunk of content) {
    hash.update(chunk);
    yield chunk;
  }
  const got = hash.digest("hex");
  if (got !== expected)
    throw new LowrankError("file", `${store.name}/${key}: expected this SHA-256, got ${got}; submit the sweep again`);
}

/** Publishes what is needed to go on, if there is anything. */
export async function publishCheckpoint(store: Store, trial: string, folder: string): Promise<void> {
  const files = await resumeFiles(folder);
  if (files !== null) await store.put(`checkpoints/${trial}`, packFiles(files));
}

/** Puts the last checkpoint of a trial into a folder, if there is one. */
export async function fetchCheckpoint(store: Store, trial: string, folder: string): Promise<boolean> {
  const key = `checkpoints/${trial}`;
  const bytes = await store.get(key);
  if (bytes === null) return false;
  await writeFiles(folder, unpackFiles(bytes, `${store.name}/${key}`));
  return true;
}

/** Publishes a job's files, then its outcome. What is there already stays. */
export async function publishOutcome(store: Store, outcome: Outcome, folder: string | null): Promise<void> {
  if (await store.has(outcomeKey(outcome.key))) return;
  if (folder !== null) await store.put(`results/${outcome.key}`, packFiles(await resultFiles(folder)));
  await putJson(store, outcomeKey(outcome.key), outcome);
}

/** What came of a job; null while nothing has. */
export async function fetchOutcome(store: Store, key: string): Promise<Outcome | null> {
  return (await getJson(store, outcomeKey(key))) as Outcome | null;
}

/** Puts the files of a job into a folder; a job that failed before its first file has none. */
export async function fetchResult(store: Store, key: string, folder: string): Promise<void> {
  const bytes = await store.get(`results/${key}`);
  if (bytes !== null) await writeFiles(folder, unpackFiles(bytes, `${store.name}/results/${key}`));
}

/** Makes a failed job one that was never tried. */
export async function forgetOutcome(store: Store, key: string): Promise<void> {
  await store.remove(outcomeKey(key));
}

const planKey = (id: string): string => `sweeps/${id}.json`;
const outcomeKey = (key: string): string => `outcomes/${key}.json`;

function putJson(store: Store, key: string, value: unknown): Promise<void> {
  return store.put(key, new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`));
}

async function getJson(store: Store, key: string): Promise<unknown> {
  const bytes = await store.get(key);
  if (bytes === null) return null;
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new LowrankError(
      "file",
      `${store.name}/${key}: expected JSON (SHA-256 ${sha256(bytes).slice(0, 12)}); it is damaged`,
      { cause },
    );
  }
}
