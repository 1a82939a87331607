// Real matrices as pictures: W, B, A, s B A and their sum, averaged over cells so that the largest fits a screen.
import type { Adapter, Model } from "lowrank";
import { side } from "../digit/bytes.ts";
import type { LayerPicture, Picture } from "../protocol.ts";
import { biasOf, weightOf } from "./base.ts";
import { factorsAt } from "./mix.ts";

/** Pixels on a side that a picture has at most. */
const largest = 250;

/** Colours are full at this many deviations: single large weights would leave all else pale. */
const deviations = 2.5;

interface Grid {
  readonly values: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
}

/** W + s B A of a layer. Without an adapter there, the update is zero. */
export function layerPicture(model: Model, adapter: Adapter | null, path: string): LayerPicture {
  const w = weightOf(model, path);
  const out = biasOf(model, path).length;
  const into = w.length / out;
  const { a, b, r, scale } = factors(adapter, path);
  const update = product(b, a, { out, into, r, scale });
  const sum = w.map((value, index) => value + update[index]!);
  const grid = (values: ArrayLike<number>, rows: number, columns: number): Grid => ({ values, rows, columns });
  // W and the sum have one scale of colours, so that they can be compared.
  const limit = deviations * deviation(w);
  return {
    ...{ path, outFeatures: out, inFeatures: into, r, scale },
    w: picture(grid(w, out, into), limit),
    update: picture(grid(update, out, into), limit),
    sum: picture(grid(sum, out, into), limit),
    b: strip(grid(b, out, r)),
    a: strip(grid(a, r, into)),
    norms: { w: norm(w), update: norm(update) },
  };
}

export interface Factors {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly r: number;
  readonly scale: number;
}

/** A layer's A, B, r and s; r is 0 where the adapter leaves it alone. */
export function factors(adapter: Adapter | null, path: string): Factors {
  const found = factorsAt(adapter, path);
  if (adapter === null || found === undefined)
    return { a: new Float32Array(0), b: new Float32Array(0), r: 0, scale: 0 };
  const r = found.a.dims[0]!;
  return { a: found.a.data as Float32Array, b: found.b.data as Float32Array, r, scale: scaleAt(adapter, path, r) };
}

/** alpha / r, or alpha / sqrt(r), with the patterns that a layer of its own rank or alpha needs (PEFT's rank_pattern). */
function scaleAt({ config }: Adapter, path: string, r: number): number {
  const pattern = Object.entries(config.alphaPattern).find(([key]) => new RegExp(`^(.*\\.)?(${key})$`).test(path));
  const alpha = pattern?.[1] ?? config.loraAlpha;
  return config.useRslora ? alpha / Math.sqrt(r) : alpha / r;
}

/** s B A [out, in]. */
function product(
  b: Float32Array,
  a: Float32Array,
  { out, into, r, scale }: Record<"out" | "into" | "r" | "scale", number>,
) {
  const values = new Float32Array(out * into);
  for (let row = 0; row < out; row++) {
    const line = values.subarray(row * into, (row + 1) * into);
    for (let rank = 0; rank < r; rank++) {
      const factor = scale * b[row * r + rank]!;
      const from = rank * into;
      for (let column = 0; column < into; column++) line[column]! += factor * a[from + column]!;
    }
  }
  return values;
}

/** The mean of each cell. Means of many values are small: colours are scaled with the root of how many there are. */
function picture({ values, rows, columns }: Grid, limit: number): Picture {
  const down = Math.max(1, Math.ceil(rows / largest));
  const across = Math.max(1, Math.ceil(columns / largest));
  const [height, width] = [Math.ceil(rows / down), Math.ceil(columns / across)];
  const sums = new Float32Array(width * height);
  const counts = new Float32Array(width * height);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const cell = Math.floor(row / down) * width + Math.floor(column / across);
      sums[cell]! += values[row * columns + column]!;
      counts[cell]!++;
    }
  }
  return {
    values: sums.map((sum, cell) => sum / counts[cell]!),
    width,
    height,
    limit: limit / Math.sqrt(down * across),
  };
}

/** A row of the first layer's A as the picture that a digit is compared with. */
export function rowPicture(values: Float32Array): Picture {
  return { values, width: side, height: side, limit: deviations * deviation(values) };
}

/** A thin factor, with colours of its own. */
function strip(grid: Grid): Picture {
  if (grid.values.length === 0) return { values: new Float32Array(0), width: 0, height: 0, limit: 1 };
  return picture(grid, deviations * deviation(grid.values) || 1);
}

function deviation(values: ArrayLike<number>): number {
  return norm(values) / Math.sqrt(values.length);
}

export function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index]! ** 2;
  return Math.sqrt(sum);
}
