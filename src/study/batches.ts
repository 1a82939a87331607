// Batches of digits for the trainer. The buffers are made once and filled again for every step.
import type { ImageSet } from "../data/idx.ts";
import { imagePixels } from "../data/idx.ts";
import { gatherImages } from "../data/preprocess.ts";
import type { Random } from "../random.ts";
import { tensor } from "../tensor.ts";
import type { Batch } from "../train/step.ts";

/** One pass after another over `indices`, each in a new order, `batch` images at a time; the last of a pass may be smaller. */
export function* epochBatches(
  set: ImageSet,
  indices: Int32Array,
  batch: number,
  epochs: number,
  random: Random,
): Generator<Batch> {
  const order = indices.slice();
  const images = new Float32Array(batch * imagePixels);
  const labels = new BigInt64Array(batch);
  const full = asBatch(images, labels, batch);
  for (let epoch = 0; epoch < epochs; epoch++) {
    random.shuffle(order);
    for (let start = 0; start < order.length; start += batch) {
      const count = Math.min(batch, order.length - start);
      fill(set, order, start, count, images, labels, 0);
      yield count === batch ? full : asBatch(images.subarray(0, count * imagePixels), labels.subarray(0, count), count);
    }
  }
}

/** Where endless batches draw from, and how many of each batch. */
export interface Share {
  readonly indices: Int32Array;
  readonly count: number;
  readonly random: Random;
}

/** Batches without end, made up of fixed shares; each share goes through its images in a new order every time round. */
export function* mixedBatches(set: ImageSet, shares: readonly Share[]): Generator<Batch, never> {
  const batch = shares.reduce((sum, { count }) => sum + count, 0);
  const images = new Float32Array(batch * imagePixels);
  const labels = new BigInt64Array(batch);
  const full = asBatch(images, labels, batch);
  const draws = shares
    .filter(({ count }) => count > 0)
    .map(({ indices, count, random }) => ({ order: indices.slice(), next: indices.length, count, random }));
  for (;;) {
    let at = 0;
    for (const draw of draws) {
      for (let left = draw.count; left > 0; ) {
        if (draw.next === draw.order.length) {
          draw.random.shuffle(draw.order);
          draw.next = 0;
        }
        const count = Math.min(left, draw.order.length - draw.next);
        fill(set, draw.order, draw.next, count, images, labels, at);
        draw.next += count;
        left -= count;
        at += count;
      }
    }
    yield full;
  }
}

/** The first `count` numbers from 0. */
export function range(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, index) => index);
}

function asBatch(images: Float32Array, labels: BigInt64Array, count: number): Batch {
  return { inputs: { x: tensor("float32", [count, imagePixels], images) }, labels: tensor("int64", [count], labels) };
}

function fill(
  set: ImageSet,
  order: Int32Array,
  start: number,
  count: number,
  images: Float32Array,
  labels: BigInt64Array,
  at: number,
): void {
  gatherImages(set.images, order, start, count, at === 0 ? images : images.subarray(at * imagePixels));
  for (let index = 0; index < count; index++) labels[at + index] = BigInt(set.labels[order[start + index]!]!);
}
