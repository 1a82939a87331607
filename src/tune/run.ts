// `lowrank tune` and `lowrank pretrain` from the options to the folder that a run leaves:
//   config.json, env.json   all options and what else the numbers depend on
//   metrics.jsonl           each step and each evaluation
//   checkpoint.safetensors  all that is needed to go on, replaced whole
//   adapter/, best/         PEFT's files: after the last step, and at the best evaluation (pretrain: model.onnx, best.onnx)
//   merged.onnx, base.onnx  with `merge`; where the model was given a head
//   evaluation.json         for classes: what is taken for what on the evaluation data
//   events.out.tfevents.…   with `tensorboard`
//   summary.json            a folder that has it is complete
//   report.html             from the others, so that it can be made again (lowrank runs report)
import { LowrankError } from "../errors.ts";
import { checkpointName } from "../runs/checkpoints.ts";
import { writeCheckpoint } from "../train/checkpoint.ts";
import { type TrainOptions, train, trainAll } from "../train/train.ts";
import { openWatcher, type Watcher, writeEvaluation, writeReport } from "./leave.ts";
import * as tell from "./narrate.ts";
import type { RunOptions } from "./option-table.ts";
import { prefixPlaces } from "./prefix-places.ts";
import { type Prepared, prepare, type TrainVerb } from "./prepare.ts";
import { type Outcome, type RunResult, type RunSummary, summaryOf } from "./result.ts";
import { configOf, type OpenRun, openRun } from "./resume.ts";
import { saveAdapters, saveWeights } from "./save.ts";
import { silentVoice, type Voice } from "./voice.ts";

export interface RunContext {
  readonly voice?: Voice;
  /** Stops between two steps: what was learnt is saved, and the error says how to go on. */
  readonly signal?: AbortSignal;
  /** Stops after this step of the whole training as a signal would, with its checkpoint; from a later checkpoint, at once. */
  readonly pauseAfter?: number;
  /** The options as what the run leaves has them, where files lie at other places than their names say. */
  readonly named?: RunOptions;
}

/**
 * Trains an adapter for a model on data, and leaves a run folder.
 *
 * @throws LowrankError "config", "model", "data" or "file" before anything is trained or written; "data" when training breaks
 * down, "file" when the disk refuses, "aborted" when it was stopped: the last checkpoint is intact, and the message says so.
 * @example
 * const options = resolveOptions("tune", { model: "model.onnx", data: ["train.csv"] });
 * const { folder, summary } = await runTune(options);
 */
export function runTune(options: RunOptions, context: RunContext = {}): Promise<RunResult> {
  return run("tune", options, context);
}

/**
 * Trains all weights of a model, or of a fresh network of linear layers (`layers`), and leaves a run folder.
 *
 * @throws LowrankError as `runTune` does.
 * @example
 * const { summary } = await runPretrain(resolveOptions("pretrain", { layers: ["784,100,10"], data: ["train.csv"] }));
 */
export function runPretrain(options: RunOptions, context: RunContext = {}): Promise<RunResult> {
  return run("pretrain", options, context);
}

async function run(
  verb: TrainVerb,
  options: RunOptions,
  { voice = silentVoice, signal = new AbortController().signal, pauseAfter, named = options }: RunContext,
): Promise<RunResult> {
  if (options.findLr) throw new LowrankError("config", "findLr: a run trains; call findRate for a learning rate");
  const begun: Begun = { at: new Date(), clock: performance.now() };
  const prepared = await prepare(verb, options, { voice, signal, named });
  try {
    const opened = await openRun(prepared, begun.at, voice);
    tell.introduction(voice, prepared, opened);
    const { path: folder, metrics } = opened.folder;
    try {
      const summary = await trainAndSave(prepared, opened, begun, { voice, signal, pauseAfter });
      if (!summary.complete) {
        const done = `stopped on request after step ${summary.steps} of ${prepared.steps}`;
        throw new LowrankError("aborted", `${done}; ${goOn(folder)}`);
      }
      tell.conclusion(voice, summary, folder);
      return { folder, summary };
    } finally {
      metrics.close();
    }
  } finally {
    await prepared.data.close();
  }
}

interface Begun {
  readonly at: Date;
  readonly clock: number;
}

interface Company {
  readonly voice: Voice;
  readonly signal: AbortSignal;
  readonly pauseAfter: number | undefined;
}

/** Everything after the folder is open: an error says which checkpoint is left, and how to go on. */
async function trainAndSave(prepared: Prepared, opened: OpenRun, begun: Begun, company: Company): Promise<RunSummary> {
  const { folder, checkpoint } = opened;
  const saved = { step: checkpoint?.step ?? 0 };
  const watcher = openWatcher(prepared, folder);
  try {
    const training = trainingIn(prepared, opened, { saved, watcher }, company);
    const outcome = await trainWith(prepared, folder, training);
    const summary = summaryOf(prepared, outcome, {
      started: begun.at.toISOString(),
      seconds: (performance.now() - begun.clock) / 1000,
      stepsBefore: checkpoint?.step ?? 0,
      settings: configOf(prepared),
    });
    folder.metrics.flush();
    await folder.writeJson("summary.json", summary);
    await writeReport(folder);
    return summary;
  } catch (error) {
    closeAfter(watcher);
    throw withAdvice(error, folder.path, saved.step);
  }
}

/** What the trainer is told, with the folder's part: checkpoints, records, words. */
function trainingIn(
  prepared: Prepared,
  { folder, checkpoint }: OpenRun,
  { saved, watcher }: { readonly saved: { step: number }; readonly watcher: Watcher },
  { voice, signal, pauseAfter = Number.POSITIVE_INFINITY }: Company,
): TrainOptions & { readonly done: () => void } {
  const { training, options, steps, verb } = prepared;
  const before = checkpoint?.step ?? 0;
  const progress = voice.progress(verb === "tune" ? "tuning" : "training", steps, "steps", before);
  const begun = performance.now();
  const pause = new AbortController();
  if (before >= pauseAfter) pause.abort();
  return {
    ...training,
    signal: AbortSignal.any([signal, pause.signal]),
    ...(checkpoint !== null && { resume: checkpoint }),
    checkpoint: {
      every: checkpointEvery(options),
      async save(state) {
        // First the records, then the checkpoint that counts them as done.
        folder.metrics.flush();
        watcher.flush();
        await folder.write(checkpointName, writeCheckpoint(state));
        saved.step = state.step;
      },
    },
    prefixCache: options.prefixCache && { places: prefixPlaces(folder.path) },
    onPrefix: (plan) => tell.prefix(voice, plan),
    onStep({ step, loss, learningRate, gradientNorm }) {
      progress.update(step, { loss });
      if (step >= pauseAfter) pause.abort();
      const stepsPerSecond = ((step - before) * 1000) / (performance.now() - begun);
      const norm = gradientNorm === undefined ? {} : { gradientNorm };
      folder.metrics.append({ kind: "step", phase: verb, step, loss, lr: learningRate, ...norm, stepsPerSecond });
      watcher.step(step, {
        loss,
        "learning rate": learningRate,
        ...(gradientNorm !== undefined && { "gradient norm": gradientNorm }),
      });
    },
    onEvaluation({ step, epoch, values, best }) {
      folder.metrics.append({ kind: "evaluation", phase: verb, step, epoch, ...values, best });
      watcher.evaluation(step, values);
      progress.clear();
      tell.evaluation(voice, step, values, best);
    },
    done() {
      progress.done();
      watcher.close();
    },
  };
}

/** Trains, and saves what came of it. */
async function trainWith(
  prepared: Prepared,
  folder: OpenRun["folder"],
  { done, ...training }: ReturnType<typeof trainingIn>,
): Promise<Outcome> {
  const { verb, adapted, data, start } = prepared;
  if (verb === "pretrain") {
    const weights = await trainAll(adapted, data.train, training);
    done();
    await writeEvaluation(folder, prepared, weights);
    return { ...weights, files: await saveWeights(folder, prepared, weights) };
  }
  const adapter = await train(adapted, data.train, { ...training, ...(start !== null && { adapter: start }) });
  done();
  await writeEvaluation(folder, prepared, adapter);
  return { ...adapter, files: await saveAdapters(folder, prepared, adapter) };
}

function checkpointEvery(options: RunOptions): { steps?: number; epochs?: number } {
  const { checkpointEvery: steps, evalEvery, evalEpochs } = options;
  if (steps !== null) return { steps };
  return evalEvery === null ? { epochs: evalEpochs } : { steps: evalEvery };
}

/** What was seen until a run broke down is worth looking at; that the disk refuses it as well is not. */
function closeAfter(watcher: Watcher): void {
  try {
    watcher.close();
  } catch {
    // the first error is told
  }
}

/** The same error with word of what is left and how to go on. */
function withAdvice(error: unknown, folder: string, savedStep: number): unknown {
  if (!(error instanceof LowrankError)) return error;
  const left =
    savedStep > 0 ? `the checkpoint of step ${savedStep} is intact; ${goOn(folder)}` : "there is no checkpoint yet";
  return new LowrankError(error.code, `${error.message}; ${left}`, {
    cause: error,
    ...(error.faults.length > 1 && { faults: [...error.faults, left] }),
  });
}

function goOn(folder: string): string {
  return `go on with the same command, --resume and --out ${folder}`;
}
