// The data of a run: what is trained on, what is held out, what must not be forgotten, as the sources that the trainer takes.
// The files and their columns are the data room's matter (src/data/dataset.ts); here is what the options say about them.
import { dirname, join } from "node:path";
import { type Dataset, openDataset, type SourceOptions } from "../data/dataset.ts";
import { labelColumn } from "../data/examples.ts";
import type { InputShape, Normalization } from "../data/fields.ts";
import { mix, type Replayed } from "../data/mix.ts";
import type { RowSource, Skipped } from "../data/source.ts";
import type { TextOptions } from "../data/text.ts";
import { loadTokenizer } from "../data/tokenizer.ts";
import { type ImageTransform, parseTransform } from "../data/transforms/transforms.ts";
import { LowrankError, throwFaults } from "../errors.ts";
import { labelsOfModel } from "../lora/head.ts";
import { cacheInputs } from "../onnx/cache.ts";
import type { Dim, Model } from "../onnx/model.ts";
import type { TensorType } from "../tensor.ts";
import type { DataSource } from "../train/data-source.ts";
import { hashFiles } from "./hash-files.ts";
import { labelsLike } from "./labels-like.ts";
import { hasClasses, type LabelKind, type LossName, outputShape } from "./method.ts";
import type { RunOptions } from "./option-table.ts";
import type { Teacher } from "./teacher.ts";
import { leftOut, type Voice } from "./voice.ts";

/** Batches of passes whose length is known. */
export interface RunSource extends DataSource {
  readonly batchesPerEpoch: number;
}

export interface RunData {
  readonly train: RunSource;
  /** Held out of the data, or evalData; null with `split` 0. */
  readonly target: RunSource | null;
  readonly retained: RunSource | null;
  /** Rows of each, after filters, and how many could not be used. */
  readonly rows: RowCounts;
  /** What feeds which input. */
  readonly matches: readonly Match[];
  readonly loss: LossName;
  /** Class names in the order of their numbers, where the data or the model has names. */
  readonly labelNames: readonly string[] | null;
  /** SHA-256 of the files, by name. */
  readonly sha256: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

export interface RowCounts {
  readonly train: number;
  readonly replay: number;
  readonly target: number;
  readonly retained: number;
  readonly skipped: number;
}

export interface Match {
  readonly input: string;
  /** Of a batch. */
  readonly shape: readonly number[];
  readonly type: TensorType;
}

export interface DataRequest {
  readonly model: Model;
  readonly options: RunOptions;
  readonly voice: Voice;
  readonly signal: AbortSignal;
  /** Whose outputs are the labels of a distillation; it is closed with the data. */
  readonly teacher?: Pick<Teacher, "taught" | "close">;
  /** Decides for a loss, once it is known what the labels are; "none" where no column holds any. */
  chooseLoss(labels: LabelKind | "none"): LossName;
}

/**
 * Opens and checks the data of a run, and matches its columns with the model's inputs.
 *
 * @throws LowrankError "data" with all faults of the files, "config" for options that do not fit them, "aborted".
 */
export async function openRunData(request: DataRequest): Promise<RunData> {
  const opened: Dataset[] = [];
  const close = async (): Promise<void> => {
    for (const dataset of opened) await dataset.close();
    await request.teacher?.close();
  };
  const open = async (paths: readonly string[]): Promise<Dataset> => {
    if (request.signal.aborted) throw new LowrankError("aborted", "stopped on request; nothing was written");
    const dataset = await openDataset(paths, { onBadRow: request.options.onBadRow });
    opened.push(dataset);
    return dataset;
  };
  try {
    return { ...(await sourcesOf(request, open)), sha256: await hashFiles(pathsOf(request.options)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function sourcesOf(
  { model, options, voice, teacher, chooseLoss }: DataRequest,
  openFiles: (paths: readonly string[]) => Promise<Dataset>,
): Promise<Omit<RunData, "sha256" | "close">> {
  // Rows that cannot be read are a data set's matter, those that do not fit the model are its source's.
  const unreadable: Skipped[] = [];
  const open = async (paths: readonly string[]): Promise<Dataset> => {
    const dataset = await openFiles(paths);
    unreadable.push(dataset.skipped);
    return dataset;
  };
  const domain = domainOf(options);
  const all = await chosen(await open(options.data!), options);
  const held = options.evalData === null && options.split > 0 ? await all.split(options.split, options.seed) : null;
  const own = held?.rest ?? all;
  const isText = hasTexts(all, model);
  const loss = chooseLoss(await labelKind(own, model, options, isText));
  const names = labelsOfModel(model);
  const plan = sourceOptions(model, options, loss, isText ? await textOptions(options, loss) : null);
  const main = await own.source({ ...plan, ...domain, labels: { ...plan.labels, names } });
  const others = { ...plan, labels: { ...plan.labels, names: main.labels ?? names } };
  const evaluated = async (dataset: Dataset | null, change: typeof domain): Promise<RowSource | null> =>
    dataset === null ? null : dataset.source({ ...others, ...change, shuffle: false });

  const target = await evaluated(
    held?.heldOut ?? (options.evalData === null ? null : await chosen(await open(options.evalData), options)),
    domain,
  );
  const retained = await evaluated(options.retainedData === null ? null : await open(options.retainedData), {});
  const replay = await openReplay(options, open, others);
  const train = replay.length === 0 ? main : mix(main, replay);
  const used = [main, target, retained, ...replay.map(({ source }) => source)].filter((source) => source !== null);
  const skipped = tellSkipped(voice, [...unreadable, ...used.map((source) => source.skipped)]);
  const taught = (source: DataSource): DataSource =>
    (loss === "distillation" ? teacher?.taught(source) : undefined) ?? source;
  const finish = (source: DataSource): Promise<RunSource> =>
    sized(taught(labelsLike(source, outputShape(model, options))));
  return {
    train: await finish(train),
    target: target && (await finish(target)),
    retained: retained && (await finish(retained)),
    rows: {
      train: main.examples,
      replay: replay.reduce((sum, { source }) => sum + source.examples, 0),
      target: target?.examples ?? 0,
      retained: retained?.examples ?? 0,
      skipped,
    },
    matches: await matchesOf(taught(main)),
    loss,
    labelNames: main.labels ?? names,
  };
}

/** What images of the domain that is tuned to and evaluated on go through. Throws LowrankError "config" for a name that is none. */
function domainOf({ transform }: RunOptions): { readonly transform?: ImageTransform } {
  return transform === null ? {} : { transform: parseTransform(transform) };
}

/** The rows that the options leave. */
async function chosen(dataset: Dataset, { filter, limit }: RunOptions): Promise<Dataset> {
  const filtered = filter === null ? dataset : await dataset.filter(...filter);
  return limit === null ? filtered : filtered.limit(limit);
}

function pathsOf({ data, evalData, retainedData, replay }: RunOptions): string[] {
  const replayed = replay?.map((text) => parseReplay(text).path) ?? [];
  return [...(data ?? []), ...(evalData ?? []), ...(retainedData ?? []), ...replayed];
}

/** Whether the rows are texts and the model takes tokens, which the data does not have yet. */
function hasTexts({ columns }: Dataset, { graph }: Model): boolean {
  const names = columns.map(({ name }) => name);
  const takesTokens = graph.inputs.some(({ name }) => name === "input_ids");
  return takesTokens && !names.includes("input_ids");
}

async function textOptions(options: RunOptions, loss: LossName): Promise<TextOptions> {
  const { tokenizer, model, maxLength, packing, trainOnPrompt } = options;
  const path = tokenizer ?? join(dirname(model ?? ""), "tokenizer.json");
  const task = loss === "causal_lm" ? "causal" : "classify";
  return { tokenizer: await loadTokenizer(path), maxLength, packing, trainOnPrompt, task };
}

/** What the first row's label is: a class wherever it is a name or a whole number and the model has several outputs. */
async function labelKind(
  dataset: Dataset,
  model: Model,
  options: RunOptions,
  isText: boolean,
): Promise<LabelKind | "none"> {
  const label = labelColumn(dataset.columns, parseMap(options), []);
  // Without labels, texts are their own.
  if (label === null) return isText ? "tokens" : "none";
  const { name } = dataset.columns[label]!;
  for await (const row of dataset.rows()) {
    const cell = row[name];
    const value = typeof cell === "string" && cell.trim() !== "" ? Number(cell) : cell;
    const isName = typeof cell === "string" && Number.isNaN(value);
    const isWhole = typeof value === "bigint" || typeof value === "boolean" || Number.isInteger(value);
    const single = outputShape(model, options)?.at(-1) === 1;
    return isName || (isWhole && !single) ? "classes" : "numbers";
  }
  return "classes";
}

function sourceOptions(model: Model, options: RunOptions, loss: LossName, text: TextOptions | null): SourceOptions {
  const classes = outputShape(model, options)?.at(-1);
  const { mean, std } = options;
  const normalization: Normalization = { ...(mean !== null && { mean }), ...(std !== null && { std }) };
  return {
    inputs: inputsOf(model, options, text !== null),
    ...(text !== null && { text }),
    map: parseMap(options),
    normalization,
    labels: hasClasses(loss)
      ? { kind: "classes", ...(typeof classes === "number" && { classes }) }
      : { kind: loss === "distillation" ? "none" : "values" },
    batchSize: options.batchSize,
    seed: options.seed,
  };
}

/** The inputs that the data must feed: not those of a decoder that the trainer makes itself. */
function inputsOf({ graph }: Model, options: RunOptions, isText: boolean): InputShape[] {
  const caches = cacheInputs(graph).map(({ info }) => info.name);
  // Packed texts have positions that begin anew, so that the data makes them.
  const made = new Set([...caches, ...(isText ? [] : ["position_ids"])]);
  const mapped = parseMap(options);
  return graph.inputs.flatMap(({ name, type, shape }) => {
    if (graph.initializers.has(name) || (made.has(name) && mapped[name] === undefined)) return [];
    return [{ name, type: type as TensorType, dims: inputDims(shape) }];
  });
}

function inputDims(shape: readonly Dim[] | undefined): readonly (number | string | null)[] {
  return shape ?? [null, null];
}

/** `--map input=column`. Throws LowrankError "config". */
function parseMap({ map }: RunOptions): Record<string, string> {
  const pairs = (map ?? []).map((text) => [text, text.indexOf("=")] as const);
  throwFaults(
    "config",
    "map",
    pairs.flatMap(([text, at]) =>
      at > 0 && at < text.length - 1 ? [] : [`expected input=column, got ${JSON.stringify(text)}`],
    ),
  );
  return Object.fromEntries(pairs.map(([text, at]) => [text.slice(0, at), text.slice(at + 1)]));
}

/** One source for each file of `--replay`. */
async function openReplay(
  { replay }: RunOptions,
  open: (paths: readonly string[]) => Promise<Dataset>,
  plan: SourceOptions,
): Promise<Replayed[]> {
  const sources: Replayed[] = [];
  for (const { path, share } of (replay ?? []).map(parseReplay)) {
    sources.push({ source: await (await open([path])).source(plan), share });
  }
  return sources;
}

function parseReplay(text: string): { path: string; share: number } {
  const at = text.lastIndexOf("=");
  const share = Number(text.slice(at + 1));
  if (at <= 0 || !(share > 0 && share < 1)) {
    throw new LowrankError(
      "config",
      `replay: expected file=share with a share between 0 and 1, got ${JSON.stringify(text)}; try general.csv=0.5`,
    );
  }
  return { path: text.slice(0, at), share };
}

/** Rows that were left out are counted and named, never dropped in silence. */
function tellSkipped(voice: Voice, all: readonly Skipped[]): number {
  for (const skipped of all) if (skipped.count > 0) voice.warn(leftOut(skipped));
  return all.reduce((sum, { count }) => sum + count, 0);
}

/** Where texts are packed, the first pass is counted: the others are nearly as long. */
async function sized(source: DataSource): Promise<RunSource> {
  if (source.batchesPerEpoch !== undefined) return source as RunSource;
  let batchesPerEpoch = 0;
  for await (const { next } of source.batches({ epoch: 0, index: 0 })) {
    batchesPerEpoch++;
    if (next.epoch > 0) break;
  }
  return { ...source, batches: (position) => source.batches(position), batchesPerEpoch };
}

/** Throws LowrankError "data" where numbers to be predicted are more or fewer than the model gives. */
export function checkValues({ loss, matches }: RunData, output: readonly Dim[] | undefined): void {
  const labels = matches.find(({ input }) => input === "labels");
  const dims = output?.slice(1) ?? [];
  if (hasClasses(loss) || labels === undefined || !dims.every((dim) => typeof dim === "number")) return;
  const count = (sizes: readonly number[]): number => sizes.reduce((product, size) => product * size, 1);
  const [wanted, got] = [count(dims), count(labels.shape.slice(1))];
  if (wanted === got) return;
  throw new LowrankError(
    "data",
    `labels: expected ${wanted} numbers for each row, as the model's output has, got ${got}; the loss ${loss} compares them one by one (cross_entropy takes a class)`,
  );
}

/** The shapes of the first batch. */
async function matchesOf(source: DataSource): Promise<Match[]> {
  for await (const { batch } of source.batches({ epoch: 0, index: 0 })) {
    const inputs = Object.entries({ ...batch.inputs, labels: batch.labels });
    return inputs.map(([input, { dims, type }]) => ({ input, shape: [...dims], type }));
  }
  return [];
}
