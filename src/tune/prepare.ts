// A run up to its first step: the model, its head and its adapters, the data, and all that the options decide. Nothing is
// written before this has succeeded.
import { throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, LoraConfig } from "../lora/config.ts";
import { attachAll } from "../lora/full.ts";
import { headPath, labelsOfModel, withHead } from "../lora/head.ts";
import { initAdapter } from "../lora/init.ts";
import type { Model } from "../onnx/model.ts";
import { loadModel } from "../runs/model-file.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { initEva } from "../train/eva.ts";
import type { Loss } from "../train/losses.ts";
import type { Batch } from "../train/step.ts";
import type { TrainOptions } from "../train/train.ts";
import {
  bestMetric,
  chooseLoss,
  learningRateOf,
  makeLoss,
  makeMetrics,
  makeOptimizer,
  makeSchedule,
  outputShape,
  stepsPerEpoch,
  totalSteps,
} from "./method.ts";
import { linearNetwork } from "./network.ts";
import type { RunOptions, Verb } from "./option-table.ts";
import { checkValues, openRunData, type RunData } from "./run-data.ts";
import { runSession } from "./run-session.ts";
import { openTeacher } from "./teacher.ts";
import type { Voice } from "./voice.ts";

/** Verbs that train. */
export type TrainVerb = Extract<Verb, "tune" | "pretrain">;

/** Everything that a run is made of. */
export interface Prepared {
  readonly verb: TrainVerb;
  readonly options: RunOptions;
  /** The same with the names of files that the run's own files have. */
  readonly named: RunOptions;
  /** As it is trained: with a fresh head, if one was asked for. */
  readonly model: Model;
  /** Whether `model` is none that lies in a file: it has a head of its own, or was made from `layers`. */
  readonly isNewModel: boolean;
  readonly adapted: AdaptedModel;
  /** Where the adapter starts, when that depends on the data (EVA). */
  readonly start: Adapter | null;
  readonly data: RunData;
  readonly loss: Loss;
  readonly learningRate: number;
  readonly steps: number;
  readonly stepsPerEpoch: number;
  readonly session: SessionOptions;
  /** What the trainer is given; checkpoints, callbacks and the signal are added when it begins. */
  readonly training: TrainOptions;
}

/**
 * Opens what a run needs.
 *
 * @throws LowrankError of every kind, with all that is wrong with the options first.
 */
export async function prepare(
  verb: TrainVerb,
  options: RunOptions,
  { voice, signal, named = options }: { voice: Voice; signal: AbortSignal; named?: RunOptions },
): Promise<Prepared> {
  throwFaults("config", verb, missing(verb, options));
  const session = await runSession(options, (text) => voice.say(text));
  const model = await openModel(options);
  outputShape(model, options);
  const { teacher, output } = options;
  const data = await openRunData({
    model,
    options,
    voice,
    signal,
    ...(teacher !== null && { teacher: openTeacher(await loadModel(teacher), { output, session }) }),
    chooseLoss: (labels) => chooseLoss(options, labels),
  });
  try {
    return await complete(verb, options, named, model, data, session);
  } catch (error) {
    await data.close();
    throw error;
  }
}

async function complete(
  verb: TrainVerb,
  options: RunOptions,
  named: RunOptions,
  model: Model,
  data: RunData,
  session: SessionOptions,
): Promise<Prepared> {
  const loss = makeLoss(data.loss, options);
  checkValues(data, outputShape(model, options));
  const { adapted, start } = await adapt(verb, model, data, named, session);
  return {
    verb,
    options,
    named,
    model: withLabels(model, data),
    isNewModel: options.head !== null || options.layers !== null,
    adapted,
    start,
    data,
    loss,
    ...plan(verb, options, data),
    session,
    training: trainingOf(verb, options, data, loss, session),
  };
}

function missing(verb: TrainVerb, options: RunOptions): string[] {
  const faults: string[] = [];
  if (options.model === null && options.layers === null) {
    faults.push(verb === "tune" ? "expected a model, got none" : "expected a model or --layers, got neither");
  }
  if (options.model !== null && options.layers !== null) faults.push("expected a model or --layers, got both");
  if (options.data === null) faults.push("--data: expected a file or folder, got none");
  if (options.resume && options.out === null)
    faults.push("--resume: expected --out, the folder of the run to go on with");
  if (options.teacher !== null && options.loss !== "auto")
    faults.push(`--loss: expected none beside --teacher, whose outputs are learnt, got ${options.loss}`);
  const held = options.evalData !== null || options.split > 0;
  if (!held) {
    const needs = "expected data to evaluate on, got --split 0; give --eval-data or a share above 0";
    for (const name of ["patience", "retainedData", "metric"] as const) {
      if (options[name] !== null) faults.push(`${name}: ${needs}`);
    }
    if (options.schedule === "plateau") faults.push(`schedule plateau: ${needs}`);
  }
  return faults;
}

async function openModel(options: RunOptions): Promise<Model> {
  if (options.layers !== null) return linearNetwork(options.layers, options.seed);
  const model = await loadModel(options.model!);
  if (options.head === null) return model;
  const { head: labels, pooling, seed, output } = options;
  return withHead(model, { labels, pooling, seed, ...(output !== null && { output }) });
}

/** The names of the classes go with the model, when the data knows them and the model does not. */
function withLabels(model: Model, { labelNames }: RunData): Model {
  if (labelNames === null || labelsOfModel(model) !== null) return model;
  return { ...model, metadata: new Map([...model.metadata, ["labels", JSON.stringify(labelNames)]]) };
}

async function adapt(
  verb: TrainVerb,
  model: Model,
  data: RunData,
  options: RunOptions,
  session: SessionOptions,
): Promise<{ adapted: AdaptedModel; start: Adapter | null }> {
  if (verb === "pretrain") return { adapted: attachAll(model), start: null };
  const adapted = attachLora(model, loraConfig(options, data));
  if (options.initLoraWeights !== "eva") return { adapted, start: null };
  const sample: Batch[] = [];
  for await (const { batch } of data.train.batches({ epoch: 0, index: 0 })) {
    sample.push(copyOf(batch));
    if (sample.length === Math.min(evaBatches, data.train.batchesPerEpoch)) break;
  }
  const eva = await initEva(adapted, sample, { ...session, seed: options.seed });
  return { adapted: eva.adapted, start: eva.adapter };
}

/** How many batches EVA looks at: 512 examples of 32, more than the ranks that are usual need. */
const evaBatches = 16;

/** A source fills its arrays again. */
function copyOf({ inputs, labels }: Batch): Batch {
  const copy = <T extends Batch["labels"]>(value: T): T => ({ ...value, data: value.data.slice() });
  return {
    inputs: Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, copy(value)])),
    labels: copy(labels),
  };
}

/** Alpha is 2 r by default (option table). */
export function alphaOf({ loraAlpha, r }: RunOptions): number {
  return loraAlpha ?? 2 * r;
}

/** PEFT's configuration from the options. */
export function loraConfig(options: RunOptions, data: Pick<RunData, "loss">): LoraConfig {
  const { r, head, initLoraWeights } = options;
  const saved = [...(options.modulesToSave ?? []), ...(head === null ? [] : [headPath])];
  return {
    r,
    loraAlpha: alphaOf(options),
    targetModules: targets(options.targetModules),
    excludeModules: options.excludeModules === null ? null : targets(options.excludeModules),
    layersToTransform: options.layersToTransform,
    rankPattern: options.rankPattern,
    alphaPattern: options.alphaPattern,
    loraDropout: options.loraDropout,
    useRslora: options.useRslora,
    useDora: options.useDora,
    initLoraWeights: initLoraWeights === "true" ? true : initLoraWeights,
    bias: options.bias,
    modulesToSave: saved.length === 0 ? null : saved,
    baseModelNameOrPath: head === null ? options.model : baseFile,
    taskType: data.loss === "causal_lm" ? "CAUSAL_LM" : head === null ? null : "SEQ_CLS",
  };
}

/** The model that a run has made, beside its adapter. */
export const baseFile = "base.onnx";

function targets(values: readonly string[]): readonly string[] | string {
  const [first = ""] = values;
  if (values.length === 1 && first === "all-linear") return first;
  if (values.length === 1 && /^\/.+\/$/s.test(first)) return first.slice(1, -1);
  return values;
}

function plan(
  verb: TrainVerb,
  options: RunOptions,
  { train }: RunData,
): Pick<Prepared, "learningRate" | "steps" | "stepsPerEpoch"> {
  return {
    learningRate: learningRateOf(verb, options),
    steps: totalSteps(train.batchesPerEpoch, options),
    stepsPerEpoch: stepsPerEpoch(train.batchesPerEpoch, options),
  };
}

function trainingOf(
  verb: TrainVerb,
  options: RunOptions,
  data: RunData,
  loss: Loss,
  session: SessionOptions,
): TrainOptions {
  const { learningRate, steps } = plan(verb, options, data);
  const { target, retained } = data;
  const best = bestMetric(data.loss, options);
  const every = options.evalEvery === null ? { epochs: options.evalEpochs } : { steps: options.evalEvery };
  return {
    ...session,
    loss,
    optimizer: makeOptimizer(options),
    learningRate: makeSchedule(learningRate, steps, options, best.mode),
    steps,
    accumulate: options.accumulate,
    checkGradients: true,
    seed: options.seed,
    checkpointActivations: options.checkpointActivations,
    precision: options.precision,
    ...(options.clip > 0 && { clipNorm: options.clip }),
    ...(options.ema !== null && { ema: { decay: options.ema } }),
    ...(target !== null && {
      evaluation: {
        sets: { target, ...(retained !== null && { retained }) },
        metrics: makeMetrics(data.loss, options),
        every,
        atStart: true,
        best,
      },
    }),
    ...(options.patience !== null && {
      earlyStopping: { patience: options.patience, minDelta: options.minDelta },
    }),
  };
}

/** A fresh adapter, or null for whole weights: what a run starts with. */
export function startOf({ adapted, start, options }: Prepared): Adapter | null {
  if (adapted.config === null) return null;
  return start ?? initAdapter(adapted, { seed: options.seed }).adapter;
}
