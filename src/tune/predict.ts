// What a model says of each row: a class with its probabilities, all labels that hold, or numbers.
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { labelsOfModel } from "../lora/head.ts";
import type { Model } from "../onnx/model.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";

/** One row's answer; fields in the order in which they are written. */
export interface Prediction {
  /** The row, counted from 0. */
  readonly index: number;
  /** The likeliest class, by name where names are known, and how likely it is. */
  readonly label?: string | number;
  readonly probability?: number;
  /** Of a model with labels that hold or not, each on its own: those that are likely enough, the likeliest first. */
  readonly labels?: readonly (string | number)[];
  /** Of all classes, by name; left out above `maxListed` classes. */
  readonly probabilities?: Readonly<Record<string, number>>;
  /** What a model that is no classifier gives: a number, or several. */
  readonly value?: number | readonly number[];
}

export interface PredictOptions extends SessionOptions {
  readonly adapter?: Adapter | null;
  /** Names of the classes; default those that the model carries. */
  readonly labels?: readonly string[] | null;
  /** The output that is meant; default the first. */
  readonly output?: string;
  /**
   * "classes" reads outputs as scores of classes, one of which holds; "labels" as scores of labels each of which holds or not
   * (trained with binary cross entropy). Default: classes where there are label names, or more than one score.
   */
  readonly kind?: "classes" | "labels" | "numbers";
  /** How likely a label must be with `kind` "labels"; default 0.5. */
  readonly threshold?: number;
  readonly signal?: AbortSignal;
}

/** Probabilities of more classes are no line that anyone reads. */
const maxListed = 100;

/**
 * An answer for each row of the batches, in their order.
 *
 * @throws LowrankError "config" for an output that is not there, or label names that are not one for each score.
 * @example for await (const { label, probability } of predict(model, batches, { adapter })) console.log(label, probability);
 */
export async function* predict(
  model: Model,
  batches: Iterable<Readonly<Record<string, Tensor>>> | AsyncIterable<Readonly<Record<string, Tensor>>>,
  options: PredictOptions = {},
): AsyncGenerator<Prediction, void> {
  const { adapter = null, labels = labelsOfModel(model), output, kind, threshold = 0.5, signal, ...rest } = options;
  const session = await createSession(adapter === null ? model : attachLora(model, adapter.config), rest);
  let index = 0;
  try {
    for await (const inputs of batches) {
      signal?.throwIfAborted();
      const outputs = await session.run(inputs, { adapter });
      const scores = output === undefined ? [...outputs.values()][0] : outputs.get(output);
      if (scores === undefined) {
        const names = [...outputs.keys()].join(", ");
        throw new LowrankError("config", `output: the model has no output ${JSON.stringify(output)}; it has ${names}`);
      }
      for (const row of rowsOf(scores)) {
        const isClasses = labels !== null || (scores.dims.length === 2 && row.length > 1);
        yield { index: index++, ...answerOf(row, kind ?? (isClasses ? "classes" : "numbers"), labels, threshold) };
      }
    }
  } finally {
    await session.dispose();
  }
}

function* rowsOf({ dims, data }: Tensor): Generator<readonly number[]> {
  const count = dims[0] ?? 1;
  const width = count === 0 ? 0 : data.length / count;
  for (let row = 0; row < count; row++) {
    yield Array.from({ length: width }, (_, at) => Number(data[row * width + at]));
  }
}

function answerOf(
  scores: readonly number[],
  kind: NonNullable<PredictOptions["kind"]>,
  labels: readonly string[] | null,
  threshold: number,
): Omit<Prediction, "index"> {
  if (kind === "numbers") return { value: scores.length === 1 ? scores[0]! : scores };
  if (labels !== null && labels.length !== scores.length) {
    throw new LowrankError(
      "config",
      `labels: expected a name for each of the ${scores.length} scores of the output, got ${labels.length}; name the output that is meant`,
    );
  }
  const name = (at: number): string | number => labels?.[at] ?? at;
  const shares = kind === "classes" ? softmax(scores) : scores.map((score) => 1 / (1 + Math.exp(-score)));
  const listed = shares.length <= maxListed && {
    probabilities: Object.fromEntries(shares.map((share, at) => [String(name(at)), share])),
  };
  if (kind === "classes") {
    const best = shares.indexOf(Math.max(...shares));
    return { label: name(best), probability: shares[best]!, ...listed };
  }
  const holding = [...shares.keys()].filter((at) => shares[at]! >= threshold);
  return { labels: holding.sort((a, b) => shares[b]! - shares[a]!).map(name), ...listed };
}

function softmax(scores: readonly number[]): number[] {
  const largest = scores.reduce((most, score) => Math.max(most, score), Number.NEGATIVE_INFINITY);
  const weights = scores.map((score) => Math.exp(score - largest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
