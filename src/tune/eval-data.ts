// The rows that eval and predict go over: once, in their order, matched with the model's inputs.
import { access, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Dataset, openDataset } from "../data/dataset.ts";
import type { TextOptions } from "../data/text.ts";
import { loadTokenizer } from "../data/tokenizer.ts";
import { parseTransform } from "../data/transforms/transforms.ts";
import { LowrankError, throwFaults } from "../errors.ts";
import { labelsOfModel } from "../lora/head.ts";
import { cacheInputs } from "../onnx/cache.ts";
import type { Model, ValueInfo } from "../onnx/model.ts";
import { type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { Batch } from "../train/step.ts";
import { type LabelKind, outputShape } from "./method.ts";
import type { RunOptions } from "./option-table.ts";

export interface EvalRows {
  readonly rows: number;
  /** Rows that were left out (onBadRow "skip"), and the first of them by file and line. */
  readonly skipped: { readonly count: number; readonly faults: readonly string[] };
  /** Names of the classes, where they are known. */
  readonly labels: readonly string[] | null;
  /** Whether labels are the tokens themselves, classes or numbers; null without labels. */
  readonly kind: LabelKind | null;
  /** Each batch is gone when the one after the next is asked for. */
  batches(): AsyncIterable<EvalBatch>;
  /** The file of a row, where each row is a file of its own (images); else null. */
  readonly fileOf: ((row: number) => Promise<string>) | null;
  close(): Promise<void>;
}

/** A batch that says which rows of the data, as they are counted in its files, its examples are. */
export type EvalBatch = Batch & { readonly rows: readonly number[] };

export interface EvalRequest {
  readonly model: Model;
  readonly options: RunOptions;
  /** Names of the classes that an adapter brings. */
  readonly names: readonly string[] | null;
  /** Whether the rows must have labels. */
  readonly labelled: boolean;
}

/**
 * Opens, checks, filters and matches the rows.
 *
 * @throws LowrankError "config" for faulty options, "data" with all faults of the files.
 */
export async function openEvalRows({ model, options, names, labelled }: EvalRequest): Promise<EvalRows> {
  const shape = outputShape(model, options);
  const map = parseMap(options.map ?? []);
  const own = names ?? labelsOfModel(model);
  const classes = shape?.at(-1);
  const kind = labelKind(options, labelled);
  const isLanguage = shape?.length === 3;
  const opened = await openDataset(options.data ?? [], { onBadRow: options.onBadRow });
  try {
    const dataset = await narrowed(opened, options);
    const source = await dataset.source({
      inputs: inputsOf(model),
      map,
      ...(isText(model, dataset, map) && { text: await textOptions(options, labelled) }),
      normalization: {
        ...(options.mean !== null && { mean: options.mean }),
        ...(options.std !== null && { std: options.std }),
      },
      labels: {
        ...(kind !== undefined && { kind }),
        names: own,
        ...(typeof classes === "number" && classes > 1 && { classes }),
      },
      ...(options.transform !== null && { transform: parseTransform(options.transform), seed: options.seed }),
      batchSize: options.batchSize,
      shuffle: false,
      passes: 1,
    });
    const width = shape?.length === 2 ? shape[1] : undefined;
    async function* batches(): AsyncGenerator<EvalBatch> {
      for await (const { batch, rows } of source.batches({ epoch: 0, index: 0 })) {
        yield { ...fitted(batch, width), rows };
      }
    }
    let found: EvalRows["kind"] = null;
    if (labelled)
      for await (const { labels } of batches()) {
        found = kindOfLabels(labels, isLanguage);
        break;
      }
    const { examples: rows, labels } = source;
    const skipped = {
      count: opened.skipped.count + source.skipped.count,
      faults: [...opened.skipped.faults, ...source.skipped.faults],
    };
    const fileOf = opened.format === "images" ? opened.where : null;
    return { rows, skipped, labels: own ?? labels, kind: found, batches, fileOf, close: () => opened.close() };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

function kindOfLabels({ type, dims }: Tensor, isLanguage: boolean): LabelKind {
  if (type !== "int64") return "numbers";
  return isLanguage && dims.length === 2 ? "tokens" : "classes";
}

/** Names of the classes that lie beside an adapter, in labels.json; null where there are none. */
export async function labelsBeside(folder: string): Promise<readonly string[] | null> {
  const path = join(folder, "labels.json");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    return null; // an adapter file, or a folder without: it need not be there
  }
  try {
    const labels: unknown = JSON.parse(text);
    if (Array.isArray(labels) && labels.every((label) => typeof label === "string")) return labels;
  } catch {
    // told below
  }
  throw new LowrankError("data", `${path}: expected a list of class names`);
}

/** The loss that a model or an adapter was trained with, as the run says whose folder it lies in; null outside of one. */
export async function lossBeside(path: string): Promise<string | null> {
  try {
    const summary: unknown = JSON.parse(await readFile(join(path, "..", "summary.json"), "utf8"));
    const loss = typeof summary === "object" && summary !== null && "loss" in summary ? summary.loss : null;
    return typeof loss === "string" ? loss : null;
  } catch {
    return null; // it need not lie in a run's folder
  }
}

async function narrowed(dataset: Dataset, { filter, limit }: RunOptions): Promise<Dataset> {
  const chosen = filter === null ? dataset : await dataset.filter(...filter);
  return limit === null ? chosen : chosen.limit(limit);
}

function labelKind({ loss }: RunOptions, labelled: boolean): "classes" | "values" | "none" | undefined {
  if (!labelled) return "none";
  if (loss === "auto") return undefined;
  return loss === "cross_entropy" || loss === "causal_lm" ? "classes" : "values";
}

/** Whether rows are texts: the model reads tokens, which no column holds. */
function isText({ graph }: Model, { columns }: Dataset, map: Readonly<Record<string, string>>): boolean {
  const readsTokens = graph.inputs.some(({ name }) => name === "input_ids");
  return readsTokens && !Object.hasOwn(map, "input_ids") && !columns.some(({ name }) => name === "input_ids");
}

async function textOptions(options: RunOptions, labelled: boolean): Promise<TextOptions> {
  const task =
    options.loss === "causal_lm" ? { task: "causal" as const } : labelled ? {} : { task: "classify" as const };
  return { tokenizer: await loadTokenizer(await tokenizerPath(options)), maxLength: options.maxLength, ...task };
}

/** The tokenizer that the options name, or the one beside the model. Throws LowrankError "config" when there is none. */
export async function tokenizerPath({ tokenizer, model }: RunOptions): Promise<string> {
  if (tokenizer !== null) return tokenizer;
  const path = join(dirname(model ?? ""), "tokenizer.json");
  try {
    await access(path);
    return path;
  } catch {
    throw new LowrankError(
      "config",
      `--tokenizer: expected a Hugging Face tokenizer.json; there is none beside ${model}, so name one`,
    );
  }
}

/** `input=column` for each entry. */
export function parseMap(entries: readonly string[]): Record<string, string> {
  const faults = entries.filter((entry) => !/^[^=]+=.+$/s.test(entry));
  throwFaults(
    "config",
    "--map",
    faults.map((entry) => `expected input=column, got ${JSON.stringify(entry)}`),
  );
  return Object.fromEntries(
    entries.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]),
  );
}

function inputsOf({ graph }: Model): { name: string; type: TensorType; dims: readonly (number | string | null)[] }[] {
  const made = new Set(["position_ids", ...cacheInputs(graph).map(({ info }) => info.name)]); // the session makes them
  const inputs = graph.inputs.filter(({ name }) => !graph.initializers.has(name) && !made.has(name));
  throwFaults(
    "model",
    "the model's inputs",
    inputs.flatMap(({ name, type, shape }: ValueInfo) =>
      type === undefined || shape === undefined
        ? [`${name}: expected a known type and rank; export the model again`]
        : [],
    ),
  );
  return inputs.map(({ name, type, shape }) => ({ name, type: type as TensorType, dims: shape! }));
}

/** A number for each row stands in a column of its own where the output has one. */
function fitted(batch: Batch, width: number | string | null | undefined): Batch {
  const { labels } = batch;
  if (labels.type !== "float32" || labels.dims.length !== 1 || width !== 1) return batch;
  return { ...batch, labels: tensor("float32", [labels.dims[0]!, 1], labels.data) };
}
