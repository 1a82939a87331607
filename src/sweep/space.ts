// What a search draws from: lists of values, and ranges, plain or in powers. A grid takes every combination; a random search
// (Bergstra & Bengio 2012) draws each trial from a stream of its own, so that asking for more trials keeps the first ones.
import { createRandom, type Random } from "../random.ts";
import { show } from "../tune/kinds.ts";
import type { OptionName } from "../tune/option-table.ts";

export type Dimension =
  | { readonly kind: "choice"; readonly values: readonly unknown[] }
  | { readonly kind: "uniform" | "loguniform" | "integer"; readonly from: number; readonly to: number };

/** The values of one trial, by option. */
export type Point = Readonly<Record<string, unknown>>;

/** A dimension as the configuration has it, `[4, 8]` or `{ loguniform: [1e-4, 1e-2] }`; else what is wrong with it. */
export function readDimension(given: unknown): Dimension | string {
  const what = "expected a list of values, or one of choice, uniform, loguniform, integer with its values";
  if (Array.isArray(given)) return given.length > 0 ? { kind: "choice", values: given } : `${what}, got an empty list`;
  if (given === null || typeof given !== "object") return `${what}, got ${show(given)}`;
  const [[kind, values] = ["", null], ...others] = Object.entries(given as Record<string, unknown>);
  if (others.length > 0 || !Array.isArray(values) || values.length === 0) return `${what}, got ${show(given)}`;
  if (kind === "choice") return { kind, values };
  if (kind !== "uniform" && kind !== "loguniform" && kind !== "integer") return `${what}, got ${show(given)}`;
  const [from, to] = values as [unknown, unknown];
  const isRange = values.length === 2 && Number.isFinite(from) && Number.isFinite(to) && Number(from) < Number(to);
  if (!isRange) return `${kind}: expected two numbers, the lower first, got ${show(values)}`;
  if (kind === "loguniform" && Number(from) <= 0) return `loguniform: expected numbers above 0, got ${show(values)}`;
  if (kind === "integer" && !values.every(Number.isSafeInteger)) {
    return `integer: expected whole numbers, got ${show(values)}`;
  }
  return { kind, from: Number(from), to: Number(to) };
}

/** Every combination, the last option changing fastest. Dimensions are lists. */
export function gridPoints(space: ReadonlyMap<OptionName, Dimension>): Point[] {
  let points: Point[] = [{}];
  for (const [name, dimension] of space) {
    if (dimension.kind !== "choice") throw new Error(`internal: ${name} is no list`);
    points = points.flatMap((point) => dimension.values.map((value) => ({ ...point, [name]: value })));
  }
  return points;
}

/** So many points; the same seed gives the same, and each option has a stream of its own. */
export function randomPoints(space: ReadonlyMap<OptionName, Dimension>, trials: number, seed: number): Point[] {
  const streams = [...space].map(([name, dimension]) => {
    return { name, dimension, random: createRandom(seed, `sweep/${name}`) };
  });
  return Array.from({ length: trials }, () =>
    Object.fromEntries(streams.map(({ name, dimension, random }) => [name, draw(dimension, random)])),
  );
}

function draw(dimension: Dimension, random: Random): unknown {
  if (dimension.kind === "choice") return dimension.values[random.integer(dimension.values.length)];
  const { kind, from, to } = dimension;
  if (kind === "integer") return from + random.integer(to - from + 1);
  const share = random.uniform();
  const value = kind === "uniform" ? from + share * (to - from) : from * (to / from) ** share;
  // Four digits say all that a search can learn, and read better.
  return Math.min(to, Math.max(from, Number(value.toPrecision(4))));
}
