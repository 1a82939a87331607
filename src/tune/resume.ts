// The folder of a run, begun or gone on with. Going on needs the same run: its options, its model and its data are held
// against those that the folder names. What may differ is said, since the end is then not that of one unbroken run.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError, throwFaults } from "../errors.ts";
import { checkpointName, loadCheckpoint } from "../runs/checkpoints.ts";
import { environment } from "../runs/environment.ts";
import { readFileChecked } from "../runs/files.ts";
import { createRunFolder, namesOfRun, type RunFolder, reopenRunFolder } from "../runs/run-folder.ts";
import { cutEvents, isEventFile } from "../runs/tensorboard.ts";
import { type Checkpoint, readCheckpoint } from "../train/checkpoint.ts";
import { hashFiles } from "./hash-files.ts";
import { flagOf, type OptionName, optionsOf, type RunOptions } from "./option-table.ts";
import { alphaOf, type Prepared } from "./prepare.ts";
import type { Voice } from "./voice.ts";

/** Where a run writes, and where it goes on from (null: from its beginning). */
export interface OpenRun {
  readonly folder: RunFolder;
  readonly checkpoint: Checkpoint | null;
}

/** Options that say where and whether, not what: they may differ without a word. */
const indifferent: readonly OptionName[] = [
  "out",
  "resume",
  "findLr",
  "tensorboard",
  "checkpointEvery",
  "prefixCache",
  "checkpointActivations",
];

/** Options that may be changed on purpose in the middle of a run. */
const changeable: readonly OptionName[] = [
  "epochs",
  "steps",
  "learningRate",
  "schedule",
  "warmup",
  "clip",
  "patience",
  "plateauPatience",
  "plateauFactor",
  "minDelta",
  "evalEvery",
  "evalEpochs",
  "onBadRow",
  "threads",
];

/**
 * The run's folder. With `resume`, that of an earlier run as it is, with its last checkpoint, if there is one.
 *
 * @throws LowrankError "config" when the folder is that of another run, "file" when it cannot be read or written.
 */
export async function openRun(prepared: Prepared, started: Date, voice: Voice): Promise<OpenRun> {
  const { options, verb } = prepared;
  const checkpoint = options.resume ? await findCheckpoint(options.out!) : null;
  if (checkpoint === null) {
    const folder = await createRunFolder(options.out ?? undefined, { prefix: verb, now: started });
    await describeRun(folder, prepared);
    return { folder, checkpoint };
  }
  await compareRun(options.out!, prepared, voice);
  for (const name of (await namesOfRun(options.out!)) ?? []) {
    const path = join(options.out!, name);
    if (isEventFile(name) && existsSync(path)) cutEvents(path, checkpoint.step);
  }
  const folder = await reopenRunFolder(options.out!, ({ step }) => typeof step === "number" && step <= checkpoint.step);
  return { folder: folder!, checkpoint };
}

async function findCheckpoint(folder: string): Promise<Checkpoint | null> {
  const names = await namesOfRun(folder);
  if (names === null || !names.includes(checkpointName)) return null;
  const bytes = await loadCheckpoint(folder);
  return bytes === null ? null : readCheckpoint(bytes, join(folder, checkpointName));
}

async function describeRun(folder: RunFolder, prepared: Prepared): Promise<void> {
  const { options, verb, data } = prepared;
  await folder.writeJson("config.json", configOf(prepared));
  await folder.writeJson("env.json", {
    verb,
    ...environment({ threads: options.threads ?? 0, seed: options.seed, data: data.sha256 }),
    model: await modelHash(options),
  });
}

/**
 * All options of the verb, in the order of the help, with what was left open as it was decided: a file that `--config` takes,
 * and that means the same when defaults have changed.
 */
export function configOf({ verb, named, learningRate, data, training }: Prepared): Record<string, unknown> {
  const metric = training.evaluation?.best?.metric.replace("target/", "");
  const decided: Record<string, unknown> = {
    ...named,
    learningRate,
    loraAlpha: alphaOf(named),
    ...(data.loss !== "distillation" && { loss: data.loss }),
    ...(metric !== undefined && { metric }),
  };
  return Object.fromEntries(optionsOf(verb).map(([name]) => [name, decided[name]]));
}

function modelHash({ model }: RunOptions): Promise<Record<string, string>> {
  return hashFiles(model === null ? [] : [model]);
}

async function compareRun(folder: string, prepared: Prepared, voice: Voice): Promise<void> {
  const before = await readJson(join(folder, "config.json"));
  const now = configOf(prepared);
  const differing = Object.keys(now).filter(
    (name) => !indifferent.includes(name as OptionName) && JSON.stringify(now[name]) !== JSON.stringify(before[name]),
  );
  const describe = (name: string): string =>
    `--${flagOf(name)}: expected ${JSON.stringify(before[name])}, as the run began, got ${JSON.stringify(now[name])}`;
  const faults = differing.filter((name) => !changeable.includes(name as OptionName)).map(describe);
  const environmentBefore = await readJson(join(folder, "env.json"));
  if (JSON.stringify(environmentBefore.model) !== JSON.stringify(await modelHash(prepared.options))) {
    faults.push("the model's file is not the one that the run began with");
  }
  throwFaults("config", `${folder}: it cannot be resumed with other settings`, faults);
  for (const name of differing) {
    voice.warn(`${describe(name)}; the end will not be that of one unbroken run`);
  }
  if (JSON.stringify(environmentBefore.data) !== JSON.stringify(prepared.data.sha256)) {
    voice.warn("the data's files have changed since the run began; the end will not be that of one unbroken run");
  }
}

async function readJson(path: string): Promise<Record<string, unknown>> {
  const text = new TextDecoder().decode(await readFileChecked(path));
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new LowrankError("file", `${path}: expected JSON; the run cannot be resumed, begin it again`, { cause });
  }
}
