// `lowrank compress` from the options to the files that it leaves: the smaller model, measured step by step where there is data,
// and with `recover` a run of `lowrank tune` on it, which wins accuracy back.
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { merge } from "../adapter/merge.ts";
import { writeAdapter } from "../adapter/peft.ts";
import { type Compressed, type CompressedLayer, compress, compressWith } from "../compress/compress.ts";
import type { CompressOptions } from "../compress/options.ts";
import { LowrankError, throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import { weightBytes, writeModel, writeModelBeside } from "../onnx/write.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { formatCompression, formatSteps } from "../runs/compress-table.ts";
import { assertWritable } from "../runs/files.ts";
import { loadModel } from "../runs/model-file.ts";
import { saveModel } from "../runs/save-model.ts";
import { type CompressData, type Measure, openCompressData } from "./compress-data.ts";
import type { RunOptions } from "./option-table.ts";
import { type RunContext, runTune } from "./run.ts";
import { runSession } from "./run-session.ts";
import { silentVoice, type Voice } from "./voice.ts";

/** What compress is asked for beside the options that it shares with tune. */
export interface CompressRequest {
  readonly compress: CompressOptions;
  /** The model to write. */
  readonly out: string;
  /** As in SaveOptions. */
  readonly external?: boolean;
  readonly dryRun?: boolean;
  /** Rows that errors are weighed with; default 512. */
  readonly samples?: number;
  /** Measure each layer compressed by itself; default true. */
  readonly layers?: boolean;
  /** Tune an adapter on what came out: on labels, on the original's outputs, or on labels where there are any ("auto"). */
  readonly recover?: "auto" | "labels" | "original";
  /** The run folder of `recover`; default runs/tune-<time>. */
  readonly run?: string;
  /** Fold the adapter into the model, and quantize after that, where that was asked for. */
  readonly merge?: boolean;
}

/** The model at one stage of the work. */
export interface CompressStep {
  readonly name: string;
  /** Of the files that hold it, an adapter beside it included. */
  readonly bytes: number;
  /** Null without data to measure on. */
  readonly measure: Measure | null;
}

export interface MeasuredLayer extends CompressedLayer {
  /** The whole model when only this layer is compressed, and the original, on the same rows. */
  readonly alone: { readonly measure: Measure; readonly original: Measure } | null;
}

export interface CompressSummary extends Omit<Compressed, "model" | "variant" | "layers"> {
  readonly version: 1;
  readonly verb: "compress";
  readonly file: string;
  readonly output: string;
  readonly files: readonly string[];
  readonly data: {
    readonly samples: number;
    readonly measured: number;
    /** Whose answers count as right. */
    readonly labels: "data" | "original";
  } | null;
  readonly layers: readonly MeasuredLayer[];
  /** From the original to what was written. */
  readonly steps: readonly CompressStep[];
  readonly recovery: {
    readonly learnt: "labels" | "original";
    readonly folder: string;
    readonly adapter: string;
    /** The model that the adapter belongs to. */
    readonly base: string;
    readonly merged: boolean;
  } | null;
  readonly seconds: number;
}

const defaultSamples = 512;
/** Rows, about, that a layer by itself is measured on: there may be many layers. */
const rowsForLayer = 2000;

/**
 * Compresses a model, measures it, and with `recover` tunes an adapter on it.
 *
 * @throws LowrankError as `compress`, `openRunData` and `runTune`; "config" for a request that contradicts itself. Before the
 * recovery, whose run can be gone on with, nothing is half written.
 * @example
 * const options = resolveOptions("compress", { model: "model.onnx", data: ["train.csv"] });
 * const { steps } = await runCompress(options, { compress: { rank: 64 }, out: "small.onnx", recover: "auto" });
 */
export async function runCompress(
  options: RunOptions,
  request: CompressRequest,
  context: RunContext = {},
): Promise<CompressSummary> {
  const begun = performance.now();
  throwFaults("config", "compress", faultsOf(options, request));
  if (!request.dryRun) await assertWritable(request.out);
  const { voice = silentVoice } = context;
  const original = await loadModel(options.model!);
  const session = await runSession(options, (text) => voice.say(text));
  const data = options.data === null ? null : await openCompressData(original, options, context);
  try {
    if (request.recover === "labels" && data?.labelled === false)
      throw new LowrankError("config", "--recover labels: expected data with labels, got none; try --recover original");
    const job: Job = { options, request, context, voice, original, data };
    const samples = request.samples ?? defaultSamples;
    const compressed = await compressWith(original, data?.samples(samples) ?? null, {
      ...session,
      ...request.compress,
    });
    const layers = await measureLayers(job, compressed);
    const steps = await measureSteps(job, compressed);
    const { parameters, bytes } = compressed;
    voice.say(formatCompression({ layers, parameters, bytes }));
    const written = await write(job, compressed, steps);
    voice.say(`\n${formatSteps(written.steps, data && !data.labelled)}`);
    voice.say(request.dryRun ? `\nnot written (--dry-run): ${request.out}` : `\nwritten: ${written.files.join(", ")}`);
    return {
      version: 1,
      verb: "compress",
      file: options.model!,
      output: request.out,
      data: data && { samples, measured: data.measured, labels: data.labelled ? "data" : "original" },
      layers,
      parameters,
      bytes,
      ...written,
      seconds: (performance.now() - begun) / 1000,
    };
  } finally {
    await data?.close();
  }
}

interface Job {
  readonly options: RunOptions;
  readonly request: CompressRequest;
  readonly context: RunContext;
  readonly voice: Voice;
  readonly original: Model;
  readonly data: CompressData | null;
}

function faultsOf(
  { model, data }: RunOptions,
  { recover, merge: folded, run, samples, out }: CompressRequest,
): string[] {
  const faults: string[] = [];
  if (model === null) faults.push("expected a model, got none");
  if (recover !== undefined && data === null) faults.push("--recover: expected --data to learn from, got none");
  if (recover === undefined && folded) faults.push("--merge: expected --recover, which learns what is merged");
  if (recover === undefined && run !== undefined) faults.push("--run: expected --recover, whose run folder it is");
  if (samples !== undefined && !(Number.isSafeInteger(samples) && samples >= 1))
    faults.push(`--samples: expected a whole number of rows of 1 or more, got ${samples}`);
  if (model !== null && resolve(out) === resolve(model))
    faults.push("--out: expected another file than the model, which recovery and comparison need");
  return faults;
}

/** Each layer that has changed, by itself. */
async function measureLayers(
  { data, request, voice, context, original }: Job,
  { layers, variant }: Compressed,
): Promise<CompressSummary["layers"]> {
  const limit = rowsForLayer;
  const ofOriginal = request.layers === false ? null : ((await data?.measure(original, { limit })) ?? null);
  const progress = voice.progress("measuring layer by layer", layers.length, "layers");
  const measured: MeasuredLayer[] = [];
  for (const layer of layers) {
    context.signal?.throwIfAborted();
    const isChanged = layer.rank !== null || layer.quantized !== null;
    const isMeasured = data !== null && ofOriginal !== null && isChanged;
    const measure = isMeasured ? await data.measure(variant({ only: [layer.modulePath] }), { limit }) : null;
    measured.push({ ...layer, alone: measure && { measure, original: ofOriginal! } });
    if (ofOriginal !== null) progress.update(measured.length);
  }
  progress.clear();
  return measured;
}

async function measureSteps({ data, original }: Job, { model, layers, variant }: Compressed): Promise<CompressStep[]> {
  const step = async (name: string, at: Model): Promise<CompressStep> => ({
    name,
    bytes: fileBytes(at),
    measure: (await data?.measure(at)) ?? null,
  });
  const steps = [await step("original", original)];
  const form = layers.find(({ quantized }) => quantized !== null)?.quantized ?? null;
  const isFactorized = layers.some(({ rank }) => rank !== null);
  if (isFactorized) steps.push(await step("factorized", form === null ? model : variant({ quantized: false })));
  if (form !== null) steps.push(await step(isFactorized ? `factorized, ${form}` : form, model));
  return steps;
}

type Written = Pick<CompressSummary, "files" | "steps" | "recovery">;

async function write(job: Job, compressed: Compressed, steps: readonly CompressStep[]): Promise<Written> {
  const { request, voice } = job;
  const { out, dryRun, recover } = request;
  if (dryRun) return { files: [out], steps, recovery: null };
  if (recover === undefined) return { files: await save(compressed.model, out, request), steps, recovery: null };
  // What is merged is merged in floats: an update is not on the grid of codes.
  const base = request.merge ? compressed.variant({ quantized: false }) : compressed.model;
  const basePath = request.merge ? out.replace(/(\.onnx)?$/, ".base.onnx") : out;
  const files = await save(base, basePath, request);
  voice.heading("Recovery");
  const { recovery, adapter } = await recovered(job, basePath);
  const finished = request.merge ? mergedInto(base, adapter, compressed, request.compress) : base;
  const own = request.merge ? await save(finished, out, request) : [];
  const given = request.merge ? {} : { adapter: { name: "recovered", adapter } };
  const step: CompressStep = {
    name: request.merge ? "recovered, merged" : "recovered, with its adapter",
    bytes: fileBytes(finished) + (request.merge ? 0 : adapterBytes(adapter)),
    measure: (await job.data!.measure(finished, given)) ?? null,
  };
  return { files: [...own, ...files, recovery.adapter], steps: [...steps, step], recovery };
}

/** `lowrank tune` on the compressed model, with the original as teacher where labels are not to be learnt. */
async function recovered(
  { options, request, context, data }: Job,
  base: string,
): Promise<{ recovery: NonNullable<CompressSummary["recovery"]>; adapter: Adapter }> {
  const { recover, run } = request;
  const learnt = recover === "original" || !data!.labelled ? "original" : "labels";
  const own =
    learnt === "original" ? { teacher: options.model, loss: "auto" as const } : { teacher: null, loss: options.loss };
  const beside = join(dirname(options.model!), "tokenizer.json");
  const tokenizer = options.tokenizer ?? (existsSync(beside) ? beside : null);
  const tuning = { ...options, ...own, tokenizer, model: base, out: run ?? null };
  const { folder, summary } = await runTune(tuning, context).catch((error: unknown) => {
    throw withCommand(error);
  });
  const files: Partial<Record<string, string>> = summary.files;
  const adapter = join(folder, files.best ?? files.adapter!);
  return {
    recovery: { learnt, folder, adapter, base, merged: request.merge ?? false },
    adapter: await loadAdapter(adapter),
  };
}

/** The advice of a run is to repeat its command: that is tune's here. */
function withCommand(error: unknown): unknown {
  if (!(error instanceof LowrankError) || !error.message.includes("--resume")) return error;
  const command = "the command is lowrank tune --config CONFIG, with the folder's config.json";
  return new LowrankError(error.code, `${error.message} (${command})`, { cause: error });
}

/** The adapter in the factors, and these in fewer bits where that was asked for. */
function mergedInto(base: Model, adapter: Adapter, { layers }: Compressed, { quantize }: CompressOptions): Model {
  const merged = merge(base, adapter);
  const paths = layers.flatMap(({ modulePath, rank, quantized }) => {
    if (quantized === null) return [];
    return rank === null ? [modulePath] : [`${modulePath}.0`, `${modulePath}.1`];
  });
  if (quantize === undefined || paths.length === 0) return merged;
  return compress(merged, { quantize, targetModules: paths }).model;
}

async function save(model: Model, path: string, { external }: CompressRequest): Promise<string[]> {
  return saveModel(model, path, external === undefined ? {} : { external });
}

/** Weights from here on are written beside the model. */
const mostInside = 2 ** 30;

/** What the model's file, or files, would take. */
function fileBytes(model: Model): number {
  const weights = weightBytes(model);
  return weights < mostInside ? writeModel(model).length : writeModelBeside(model, "weights").bytes.length + weights;
}

function adapterBytes(adapter: Adapter): number {
  return [...writeAdapter(adapter).values()].reduce((sum, { length }) => sum + length, 0);
}
