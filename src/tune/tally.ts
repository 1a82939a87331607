// What an evaluation counts beside the loss, by the kind of task: right and wrong by class, the next token's share, or how far
// numbers are off. A tally adds up over batches and is read once, at the end.
import { LowrankError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { Loss } from "../train/losses.ts";

/** Classes are chosen, the next token is chosen, labels are on or off, or numbers are given. */
export type TaskKind = "classes" | "language" | "binary" | "numbers";

export interface ClassCount {
  readonly examples: number;
  readonly right: number;
}

/** What a tally ends with; what does not belong to the task is left out. */
export interface Tallied {
  /** Share of labels (of tokens, for language) that are predicted right, 0 to 1. */
  readonly accuracy?: number;
  /** By class. */
  readonly classes?: readonly ClassCount[];
  /** [label][prediction]; left out above `maxConfusion` classes. */
  readonly confusion?: readonly (readonly number[])[];
  readonly meanAbsoluteError?: number;
}

export interface Tally {
  /** @returns the class that each example is given; null where examples are given none. */
  add(scores: Tensor, labels: Tensor): Int32Array | null;
  end(): Tallied;
}

/** A confusion matrix of more classes is no table that anyone reads. */
export const maxConfusion = 100;

/** What a loss is a measure of. */
export function kindOf({ name, labels }: Loss): TaskKind {
  if (name === "causal_lm") return "language";
  if (name === "bce_with_logits") return "binary";
  return labels === "int64" ? "classes" : "numbers";
}

export function createTally(kind: TaskKind, ignoreIndex = -100): Tally {
  if (kind === "classes") return classTally(ignoreIndex);
  if (kind === "language") return tokenTally(ignoreIndex);
  return kind === "binary" ? binaryTally() : numberTally();
}

/** Scores [..., classes], labels [...]. */
function classTally(ignoreIndex: number): Tally {
  const cells = new Map<number, number>(); // label * width + prediction
  let width = 0;
  return {
    add(scores, labels) {
      const predicted = largest(scores, labels);
      width = scores.dims.at(-1)!;
      predicted.forEach((prediction, at) => {
        const label = Number(labels.data[at]);
        if (label === ignoreIndex) return;
        const cell = label * width + prediction;
        cells.set(cell, (cells.get(cell) ?? 0) + 1);
      });
      return labels.dims.length === 1 ? predicted : null;
    },
    end() {
      const classes = Array.from({ length: width }, () => ({ examples: 0, right: 0 }));
      const confusion = width > maxConfusion ? null : classes.map(() => new Array<number>(width).fill(0));
      for (const [cell, count] of cells) {
        const [label, prediction] = [Math.floor(cell / width), cell % width];
        classes[label]!.examples += count;
        if (label === prediction) classes[label]!.right += count;
        if (confusion !== null) confusion[label]![prediction] = count;
      }
      const sum = (name: keyof ClassCount): number => classes.reduce((total, one) => total + one[name], 0);
      return { accuracy: sum("right") / sum("examples"), classes, ...(confusion !== null && { confusion }) };
    },
  };
}

/** Scores [batch, tokens, vocabulary] at t are compared with the label at t + 1. */
function tokenTally(ignoreIndex: number): Tally {
  let [right, count] = [0, 0];
  return {
    add(scores, labels) {
      const predicted = largest(scores, labels);
      const tokens = labels.dims.at(-1) ?? 1;
      for (let at = 0; at < predicted.length; at++) {
        if (at % tokens === tokens - 1) continue;
        const label = Number(labels.data[at + 1]);
        if (label === ignoreIndex) continue;
        count++;
        if (predicted[at] === label) right++;
      }
      return null;
    },
    end: () => ({ accuracy: right / count }),
  };
}

/** A score above 0 says yes. */
function binaryTally(): Tally {
  let [right, count] = [0, 0];
  return {
    add(scores, labels) {
      checkSame(scores, labels);
      for (let at = 0; at < labels.data.length; at++) {
        if (Number(scores.data[at]) > 0 === Number(labels.data[at]) > 0.5) right++;
      }
      count += labels.data.length;
      return null;
    },
    end: () => ({ accuracy: right / count }),
  };
}

function numberTally(): Tally {
  let [sum, count] = [0, 0];
  return {
    add(scores, labels) {
      checkSame(scores, labels);
      for (let at = 0; at < labels.data.length; at++)
        sum += Math.abs(Number(scores.data[at]) - Number(labels.data[at]));
      count += labels.data.length;
      return null;
    },
    end: () => ({ meanAbsoluteError: sum / count }),
  };
}

/** The class with the largest score at each label; the first of equals. */
export function largest(
  scores: Tensor,
  labels: Pick<Tensor, "dims"> & { readonly data: { readonly length: number } },
): Int32Array {
  const classes = scores.dims.at(-1) ?? 0;
  if (scores.data.length !== labels.data.length * classes) misfit(scores, labels.dims);
  const values = scores.data;
  return Int32Array.from(labels.data, (_, row) => {
    let best = row * classes;
    for (let at = best + 1; at < (row + 1) * classes; at++) if (values[at]! > values[best]!) best = at;
    return best - row * classes;
  });
}

function checkSame(scores: Tensor, labels: Tensor): void {
  if (scores.data.length !== labels.data.length) misfit(scores, labels.dims);
}

function misfit({ dims }: Tensor, labels: readonly number[]): never {
  throw new LowrankError("data", `evaluation: expected outputs that fit labels [${labels}], got [${dims}]`);
}
