// One digit's numbers on its way through the network: what W makes of it, what B and A add, and at which place.
import type { Adapter, Model } from "lowrank";
import { normalized, pixelCount } from "../digit/bytes.ts";
import type { Cell, Trace } from "../protocol.ts";
import { biasOf, layerPaths, weightOf } from "./base.ts";
import { type Factors, factors, norm, rowPicture } from "./picture.ts";

const first = "fc1";

interface Traced {
  readonly adapter: Adapter | null;
  /** The same with all its directions, and each part of the mix by itself. */
  readonly whole: Adapter | null;
  readonly parts: readonly (Adapter | null)[];
}

/** What the first layer does with one digit. */
export function trace(model: Model, { adapter, whole, parts }: Traced, pixels: Uint8Array): Trace {
  const [x, out] = [normalized(pixels), biasOf(model, first).length];
  const here = factors(adapter, first);
  const added = updateOf(here, x, out);
  const unit = furthest(added);
  const { a, r, scale } = here;
  return {
    ...{ ax: compared(here, x), scale, unit },
    wx: frozen(model, first, unit, x),
    update: added[unit]!,
    parts: parts.map((part) => updateOf(factors(part, first), x, out)[unit]!),
    lengths: { kept: norm(added), whole: norm(updateOf(factors(whole, first), x, out)) },
    rows: Array.from({ length: r }, (_, row) => rowPicture(a.slice(row * pixelCount, (row + 1) * pixelCount))),
  };
}

interface Asked {
  readonly layer: string;
  readonly at: { readonly row: number; readonly column: number } | null;
  readonly pixels: Uint8Array | null;
}

/** One place of a layer's matrices. Without `at`, the row that the digit's update moves most and the input that does most there. */
export function cell(model: Model, adapter: Adapter | null, { layer, at, pixels }: Asked): Cell {
  const w = weightOf(model, layer);
  const out = biasOf(model, layer).length;
  const into = w.length / out;
  const here = factors(adapter, layer);
  const { a, b, r, scale } = here;
  const x = pixels === null ? null : inputOf(model, adapter, layer, normalized(pixels));
  const added = x === null ? null : updateOf(here, x, out);
  const row = at === null ? (added === null ? 0 : furthest(added)) : Math.min(at.row, out - 1);
  const weigh = (column: number): number => {
    let sum = 0;
    for (let rank = 0; rank < r; rank++) sum += scale * b[row * r + rank]! * a[rank * into + column]!;
    return (r === 0 ? w[row * into + column]! : sum) * (x?.[column] ?? 1);
  };
  const column =
    at === null ? furthest(Array.from({ length: into }, (_, own) => weigh(own))) : Math.min(at.column, into - 1);
  return {
    ...{ path: layer, row, column, scale },
    w: w[row * into + column]!,
    b: Array.from(b.subarray(row * r, (row + 1) * r)),
    a: Array.from({ length: r }, (_, rank) => a[rank * into + column]!),
    digit: x === null ? null : { x: x[column]!, wx: frozen(model, layer, row, x), update: added![row]! },
  };
}

/** What a layer gets of a digit: all layers below it, adapted. */
function inputOf(model: Model, adapter: Adapter | null, layer: string, pixels: Float32Array): Float32Array {
  let x = pixels;
  for (const path of layerPaths) {
    if (path === layer) break;
    const [w, bias] = [weightOf(model, path), biasOf(model, path)];
    const added = updateOf(factors(adapter, path), x, bias.length);
    const input = x;
    x = Float32Array.from(bias, (own, row) => Math.max(0, own + dot(w, row, input) + added[row]!));
  }
  return x;
}

/** W x + b at one row. */
function frozen(model: Model, path: string, row: number, x: Float32Array): number {
  return dot(weightOf(model, path), row, x) + biasOf(model, path)[row]!;
}

/** A x: one number for each rank. */
function compared({ a, r }: Factors, x: Float32Array): number[] {
  return Array.from({ length: r }, (_, rank) => dot(a, rank, x));
}

/** s B A x [out]. */
function updateOf(own: Factors, x: Float32Array, out: number): Float32Array {
  const { b, r, scale } = own;
  const ax = compared(own, x);
  return Float32Array.from({ length: out }, (_, row) =>
    ax.reduce((sum, value, rank) => sum + scale * b[row * r + rank]! * value, 0),
  );
}

function dot(matrix: Float32Array, row: number, x: Float32Array): number {
  let sum = 0;
  const start = row * x.length;
  for (let column = 0; column < x.length; column++) sum += matrix[start + column]! * x[column]!;
  return sum;
}

/** The index of what is furthest from zero. */
function furthest(values: ArrayLike<number>): number {
  let best = 0;
  for (let index = 1; index < values.length; index++) {
    if (Math.abs(values[index]!) > Math.abs(values[best]!)) best = index;
  }
  return best;
}
