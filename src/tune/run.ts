// `lowrank tune` and `lowrank pretrain` from the options to the folder that a run leaves:
//   config.json, env.json   all options and what else the numbers depend on
//   metrics.jsonl           each step and each evaluation
//   checkpoint.safetensors  all that is needed to go on, replaced whole
//   adapter/, best/         PEFT's files: after the last step, and at the best evaluation (pretrain: model.onnx, best.onnx)
//   merged.onnx, base.onnx  with `merge`; where the model was given a head
//   evaluation.json         for classes: what is taken for what on the evaluation data
//   events.out.tfevents.…   with `tensorboard`
//   summary.json            a folder that has it is complete
//   report.html             last, from the others
import { basename, join } from "node:path";
import { merge } from "../adapter/merge.ts";
import { writeAdapter } from "../adapter/peft.ts";
import { LowrankError } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { withWeights } from "../lora/full.ts";
import type { Model } from "../onnx/model.ts";
import { checkpointName } from "../runs/checkpoints.ts";
import type { FileContent } from "../runs/files.ts";
import { saveModel } from "../runs/save-model.ts";
import type { Tensor } from "../tensor.ts";
import { writeCheckpoint } from "../train/checkpoint.ts";
import { type History, type Trained, type TrainedWeights, type TrainOptions, train, trainAll } from "../train/train.ts";
import { openWatcher, writeEvaluation, writeReport } from "./leave.ts";
import * as tell from "./narrate.ts";
import type { RunOptions } from "./option-table.ts";
import { baseFile, type Prepared, prepare, type TrainVerb } from "./prepare.ts";
import { type RunResult, type RunSummary, summaryOf } from "./result.ts";
import { configOf, type OpenRun, openRun } from "./resume.ts";
import { silentVoice, type Voice } from "./voice.ts";

export interface RunContext {
  readonly voice?: Voice;
  /** Stops between two steps: what was learnt is saved, and the error says how to go on. */
  readonly signal?: AbortSignal;
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
  { voice = silentVoice, signal = new AbortController().signal }: RunContext,
): Promise<RunResult> {
  if (options.findLr) throw new LowrankError("config", "findLr: a run trains; call findRate for a learning rate");
  const started = new Date();
  const begun = performance.now();
  const prepared = await prepare(verb, options, { voice, signal });
  try {
    const opened = await openRun(prepared, started, voice);
    tell.introduction(voice, prepared, opened);
    try {
      const trained = await trainIn(opened, prepared, voice, signal);
      const files = await saveAll(opened, prepared, trained);
      const { best, history } = trained;
      const result = summaryOf(prepared, history, {
        started: started.toISOString(),
        seconds: (performance.now() - begun) / 1000,
        stepsBefore: opened.checkpoint?.step ?? 0,
        best: best && { metric: best.metric, value: best.value, step: best.step },
        files,
        settings: configOf(prepared),
      });
      opened.folder.metrics.flush();
      if (!history.stopped) await writeEvaluation(opened.folder, prepared, bestOf(prepared, trained));
      await opened.folder.writeJson("summary.json", result);
      await writeReport(opened.folder);
      if (history.stopped) {
        const done = `stopped on request after step ${result.steps} of ${prepared.steps}`;
        throw new LowrankError("aborted", `${done}; ${goOn(opened)}`);
      }
      tell.conclusion(voice, prepared, result, opened.folder.path);
      return { folder: opened.folder.path, summary: result };
    } finally {
      opened.folder.metrics.close();
    }
  } finally {
    await prepared.data.close();
  }
}

/** What is to be used: the best where there was an evaluation, else the last. */
function bestOf({ model }: Prepared, { result }: Outcome): { adapter: Adapter } | { model: Model } {
  if ("adapter" in result) {
    const { best, averaged, adapter } = result.adapter;
    return { adapter: best?.adapter ?? averaged ?? adapter };
  }
  const { best, averaged, tensors } = result.weights;
  return { model: withWeights(model, best?.tensors ?? averaged ?? tensors) };
}

/** What training gave: an adapter's files or a model, by what they are. */
interface Outcome {
  readonly best: RunSummary["best"];
  readonly history: History;
  readonly result: { readonly adapter: Trained } | { readonly weights: TrainedWeights };
}

async function trainIn(opened: OpenRun, prepared: Prepared, voice: Voice, signal: AbortSignal): Promise<Outcome> {
  const { folder, checkpoint } = opened;
  const { adapted, start, data, options, steps, verb } = prepared;
  const progress = voice.progress(verb === "tune" ? "tuning" : "training", steps, "steps", checkpoint?.step ?? 0);
  const watcher = openWatcher(prepared, folder);
  const begun = performance.now();
  const before = checkpoint?.step ?? 0;
  let saved = before;
  const training: TrainOptions = {
    ...prepared.training,
    signal,
    ...(checkpoint !== null && { resume: checkpoint }),
    checkpoint: {
      every: checkpointEvery(options),
      async save(state) {
        // First the records, then the checkpoint that counts them as done.
        folder.metrics.flush();
        await folder.write(checkpointName, writeCheckpoint(state));
        saved = state.step;
      },
    },
    onStep({ step, loss, learningRate, gradientNorm }) {
      progress.update(step, { loss });
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
  };
  try {
    if (verb === "pretrain") {
      const weights = await trainAll(adapted, data.train, training);
      progress.done();
      return { best: weights.best, history: weights.history, result: { weights } };
    }
    const adapter = await train(adapted, data.train, { ...training, ...(start !== null && { adapter: start }) });
    progress.done();
    return { best: adapter.best, history: adapter.history, result: { adapter } };
  } catch (error) {
    progress.clear();
    throw withAdvice(error, opened, saved);
  } finally {
    watcher.close();
  }
}

function checkpointEvery({ checkpointEvery: steps, evalEvery }: RunOptions): { steps?: number; epochs?: number } {
  if (steps !== null) return { steps };
  return evalEvery === null ? { epochs: 1 } : { steps: evalEvery };
}

/** The same error with word of what is left and how to go on. */
function withAdvice(error: unknown, opened: OpenRun, saved: number): unknown {
  if (!(error instanceof LowrankError)) return error;
  const left = saved > 0 ? `the checkpoint of step ${saved} is intact; ${goOn(opened)}` : "there is no checkpoint yet";
  return new LowrankError(error.code, `${error.message}; ${left}`, {
    cause: error,
    ...(error.faults.length > 1 && { faults: [...error.faults, left] }),
  });
}

function goOn({ folder }: OpenRun): string {
  return `go on with the same command, --resume and --out ${folder.path}`;
}

/** Writes what was trained. Returns the names of the files by what they are. */
async function saveAll(opened: OpenRun, prepared: Prepared, { result }: Outcome): Promise<Record<string, string>> {
  if ("weights" in result) return saveWeights(opened, prepared, result.weights);
  return saveAdapters(opened, prepared, result.adapter);
}

async function saveWeights(
  { folder }: OpenRun,
  { model }: Prepared,
  { tensors, averaged, best }: TrainedWeights,
): Promise<Record<string, string>> {
  const write = async (name: string, weights: ReadonlyMap<string, Tensor>): Promise<void> => {
    folder.note(name);
    for (const path of await saveModel(withWeights(model, weights), join(folder.path, name)))
      folder.note(basename(path));
  };
  await write("model.onnx", averaged ?? tensors);
  if (best !== null) await write("best.onnx", best.tensors);
  return { model: "model.onnx", ...(best !== null && { best: "best.onnx" }), checkpoint: checkpointName };
}

async function saveAdapters(
  { folder }: OpenRun,
  { model, options, data, isNewModel }: Prepared,
  { adapter, averaged, best }: Trained,
): Promise<Record<string, string>> {
  const write = async (name: string, own: Adapter): Promise<void> => {
    const files = new Map<string, FileContent>(writeAdapter(own));
    if (data.labelNames !== null) files.set("labels.json", `${JSON.stringify(data.labelNames, null, 2)}\n`);
    await folder.writeFolder(name, files);
  };
  const writeWhole = async (name: string, whole: Model): Promise<void> => {
    folder.note(name);
    for (const path of await saveModel(whole, join(folder.path, name))) folder.note(basename(path));
  };
  const last = averaged ?? adapter;
  if (isNewModel) await writeWhole(baseFile, model);
  await write("adapter", last);
  if (best !== null) await write("best", best.adapter);
  if (options.merge) await writeWhole("merged.onnx", merge(model, best?.adapter ?? last));
  return {
    ...(isNewModel && { base: baseFile }),
    adapter: "adapter",
    ...(best !== null && { best: "best" }),
    ...(options.merge && { merged: "merged.onnx" }),
    checkpoint: checkpointName,
  };
}
