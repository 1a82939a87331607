// What an evaluation counts. A metric adds up over batches as a sum and a count, and is their quotient at the end, so that a
// small last batch weighs no more than it should.
import { LowrankError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { Batch } from "./step.ts";

/** One batch's share of a metric: sum(sum) / sum(count) over all batches. */
export interface Counted {
  readonly sum: number;
  readonly count: number;
}

/** A metric from the model's outputs, by name, and the batch that they belong to. */
export type Metric = (outputs: ReadonlyMap<string, Tensor>, batch: Batch) => Counted;

export interface AccuracyOptions {
  /** Which output holds the scores [..., classes]; default the first. */
  readonly output?: string;
  /** Labels of this value are not counted; default -100. */
  readonly ignoreIndex?: number;
  /** Score at t is compared with the label at t + 1, as for `causalLm`. Default false. */
  readonly shifted?: boolean;
}

/**
 * The share of labels whose class has the largest score. Labels int64 [...], scores float32 [..., classes].
 *
 * @throws LowrankError "data" when labels and scores do not fit together.
 * @example
 * const evaluation = { sets: { target: batches }, metrics: { accuracy: accuracy() } };
 */
export function accuracy(options: AccuracyOptions = {}): Metric {
  const { ignoreIndex = -100, shifted = false } = options;
  return (outputs, { labels }) => {
    const scores = options.output === undefined ? [...outputs.values()][0] : outputs.get(options.output);
    const classes = scores?.dims.at(-1) ?? 0;
    if (scores === undefined || scores.data.length !== labels.data.length * classes) {
      throw new LowrankError(
        "data",
        `accuracy: expected scores [..., classes] for labels [${labels.dims}], got ${scores === undefined ? `no output ${options.output}` : `[${scores.dims}]`}`,
      );
    }
    const last = labels.dims.at(-1) ?? 1;
    let [sum, count] = [0, 0];
    for (let row = 0; row < labels.data.length; row++) {
      if (shifted && row % last === last - 1) continue;
      const label = Number(labels.data[shifted ? row + 1 : row]);
      if (label === ignoreIndex) continue;
      count++;
      if (indexOfLargest(scores.data, row * classes, classes) === label) sum++;
    }
    return { sum, count };
  };
}

/**
 * The share of rows whose largest score stands where the teacher's does. Labels, the teacher's scores, and scores are
 * float32 [..., classes].
 *
 * @throws LowrankError "data" when the two differ in shape.
 * @example
 * const evaluation = { sets: { target: taught }, metrics: { agreement: agreement() } };
 */
export function agreement({ output }: Pick<AccuracyOptions, "output"> = {}): Metric {
  return (outputs, { labels }) => {
    const scores = output === undefined ? [...outputs.values()][0] : outputs.get(output);
    if (scores === undefined || scores.dims.join() !== labels.dims.join()) {
      const got = scores === undefined ? `no output ${output}` : `[${scores.dims}]`;
      throw new LowrankError("data", `agreement: expected scores [${labels.dims}] as the teacher's are, got ${got}`);
    }
    const classes = labels.dims.at(-1) ?? 1;
    const count = labels.data.length / classes;
    let sum = 0;
    for (let row = 0; row < count; row++) {
      const [own, wanted] = [scores, labels].map(({ data }) => indexOfLargest(data, row * classes, classes));
      if (own === wanted) sum++;
    }
    return { sum, count };
  };
}

function indexOfLargest(values: Tensor["data"], start: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count; i++) if (values[start + i]! > values[start + best]!) best = i;
  return best;
}
