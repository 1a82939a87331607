// Testing: predictions for a set of digits, counted by digit.
import { type ImageSet, imagePixels } from "../data/idx.ts";
import { gatherImages } from "../data/preprocess.ts";
import type { Adapter } from "../lora/config.ts";
import { tensor } from "../tensor.ts";
import type { AdapterSession } from "../train/infer.ts";
import type { Evaluation } from "./result.ts";

export const digitCount = 10;

const evaluationBatch = 500;

/** What a model says about a set of images. */
export interface Readings {
  readonly predictions: Uint8Array; // [count]
  readonly logits: Float32Array; // [count, 10]
}

/** Runs all images through a session, with an adapter or (null) without. Stops between batches when the signal says so. */
export async function readDigits(
  session: AdapterSession,
  set: ImageSet,
  adapter: Adapter | null,
  signal?: AbortSignal,
): Promise<Readings> {
  const predictions = new Uint8Array(set.count);
  const logits = new Float32Array(set.count * digitCount);
  const order = Int32Array.from({ length: set.count }, (_, index) => index);
  const images = new Float32Array(evaluationBatch * imagePixels);
  for (let start = 0; start < set.count; start += evaluationBatch) {
    signal?.throwIfAborted();
    const count = Math.min(evaluationBatch, set.count - start);
    gatherImages(set.images, order, start, count, images);
    const x = tensor("float32", [count, imagePixels], images.subarray(0, count * imagePixels));
    const output = (await session.run({ x }, { adapter })).get("logits")!.data as Float32Array;
    logits.set(output, start * digitCount);
    for (let row = 0; row < count; row++) predictions[start + row] = argMax(output, row * digitCount);
  }
  return { predictions, logits };
}

/** The digit of the largest logit; of several equal ones the lowest. */
function argMax(logits: Float32Array, start: number): number {
  let best = 0;
  for (let digit = 1; digit < digitCount; digit++) if (logits[start + digit]! > logits[start + best]!) best = digit;
  return best;
}

/** Accuracy, and how many images of each digit were read wrongly. */
export function evaluationOf(predictions: Uint8Array, labels: Uint8Array): Evaluation {
  const wrong = Array<number>(digitCount).fill(0);
  labels.forEach((label, index) => {
    if (predictions[index] !== label) wrong[label]!++;
  });
  const errors = wrong.reduce((sum, count) => sum + count, 0);
  return { accuracy: (labels.length - errors) / labels.length, wrong };
}

/** How often each digit (row) was read as each (column). */
export function confusionOf(predictions: Uint8Array, labels: Uint8Array): number[][] {
  const matrix = Array.from({ length: digitCount }, () => Array<number>(digitCount).fill(0));
  labels.forEach((label, index) => {
    matrix[label]![predictions[index]!]!++;
  });
  return matrix;
}

/**
 * The digits whose logit is zero for every image: behind a ReLU such an output gets no gradient of its own.
 * `seen` are the readings of all images that the model was trained and tested on.
 */
export function deadDigits(seen: readonly Readings[]): number[] {
  const digits = Array.from({ length: digitCount }, (_, digit) => digit);
  return digits.filter((digit) => seen.every(({ logits }) => isAlwaysZero(logits, digit)));
}

function isAlwaysZero(logits: Float32Array, digit: number): boolean {
  for (let index = digit; index < logits.length; index += digitCount) if (logits[index] !== 0) return false;
  return true;
}

/** The largest difference of two readings' logits. */
export function largestDifference(a: Readings, b: Readings): number {
  let largest = 0;
  for (let index = 0; index < a.logits.length; index++) {
    largest = Math.max(largest, Math.abs(a.logits[index]! - b.logits[index]!));
  }
  return largest;
}
