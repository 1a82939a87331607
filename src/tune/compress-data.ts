// The data that a compression goes by: some rows to weigh errors with, and rows that are kept apart to measure on. Where there
// are no labels, the original's own answers stand for them: accuracy is then agreement with the original.
import type { Model } from "../onnx/model.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Loss } from "../train/losses.ts";
import type { Batch } from "../train/step.ts";
import { type AdapterEvaluation, type Evaluated, evaluateAdapters, type NamedAdapter } from "./evaluate.ts";
import { onePass } from "./leave.ts";
import { chooseLoss, makeLoss, outputShape } from "./method.ts";
import type { RunOptions } from "./option-table.ts";
import type { RunContext } from "./run.ts";
import { openRunData, type RunSource } from "./run-data.ts";
import { openTeacher } from "./teacher.ts";
import { silentVoice } from "./voice.ts";

/** What a model comes to on the data. */
export type Measure = Pick<Evaluated, "loss" | "accuracy" | "perplexity" | "meanAbsoluteError">;

export interface CompressData {
  /** Whether rows have labels; else they are the original's answers. */
  readonly labelled: boolean;
  /** Rows to measure on; 0 where none are kept apart. */
  readonly measured: number;
  /** The first batches of the training data, in a shuffled order, that hold `rows` rows or more. */
  samples(rows: number): AsyncIterable<Batch>;
  /** @returns null where no rows are kept apart. @param limit at most about so many rows. */
  measure(model: Model, options?: { adapter?: NamedAdapter; limit?: number }): Promise<Measure | null>;
  close(): Promise<void>;
}

/**
 * Opens what the options name as data for a model.
 *
 * @throws LowrankError as `openRunData`.
 */
export async function openCompressData(
  original: Model,
  options: RunOptions,
  { voice = silentVoice, signal = new AbortController().signal }: RunContext,
): Promise<CompressData> {
  const { threads, device, output } = options;
  const session: SessionOptions = { device, ...(threads !== null && { threads }) };
  const teacher = openTeacher(original, { output, session });
  const data = await openRunData({
    model: original,
    options: { ...options, teacher: null },
    voice,
    signal,
    teacher: { taught: teacher.decided, close: teacher.close },
    chooseLoss: (labels) => (labels === "none" ? "distillation" : chooseLoss({ ...options, teacher: null }, labels)),
  });
  const labelled = data.loss !== "distillation";
  const answers = outputShape(original, options)?.at(-1) === 1 ? "mse" : "cross_entropy";
  const loss: Loss = makeLoss(data.loss === "distillation" ? answers : data.loss, options);
  const { target } = data;
  return {
    labelled,
    measured: data.rows.target,
    samples: (rows) => firstRows(data.train, rows),
    async measure(model, { adapter, limit = Number.POSITIVE_INFINITY } = {}) {
      if (target === null) return null;
      const batches = limit === Number.POSITIVE_INFINITY ? onePass(target) : firstRows(target, limit);
      const given = adapter === undefined ? [] : [adapter];
      const found = await evaluateAdapters(model, given, batches, { ...session, loss, listed: 0, signal });
      return measureOf(found.results.at(-1)!);
    },
    close: () => data.close(),
  };
}

function measureOf({ loss, accuracy, perplexity, meanAbsoluteError }: AdapterEvaluation["results"][number]): Measure {
  return {
    loss,
    ...(accuracy !== undefined && { accuracy }),
    ...(perplexity !== undefined && { perplexity }),
    ...(meanAbsoluteError !== undefined && { meanAbsoluteError }),
  };
}

/** The batches of a pass up to so many rows. */
async function* firstRows(source: RunSource, rows: number): AsyncGenerator<Batch> {
  let given = 0;
  for await (const { batch, next, examples } of source.batches({ epoch: 0, index: 0 })) {
    yield batch;
    given += examples;
    if (given >= rows || next.epoch > 0) return;
  }
}
