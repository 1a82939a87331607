// What an adapter's updates look like, and how near two adapters are: singular values, distances and angles between subspaces,
// all from the thin factors (nothing of size out x in is formed).
import { throwFaults } from "../errors.ts";
import { type Matrix, multiply, transpose } from "../linalg/matrix.ts";
import { svd } from "../linalg/svd.ts";
import type { Adapter } from "../lora/config.ts";
import { modulesOf } from "../lora/keys.ts";
import { elementCount } from "../tensor.ts";
import { share } from "./resize.ts";
import { type Thin, type ThinModule, thinModules, wholeOf } from "./thin.ts";
import { concatenated, rankForEnergy, tail, thinSvd } from "./thin-svd.ts";

/** One module's update s B A. */
export interface ModuleSpectrum {
  readonly path: string;
  readonly outFeatures: number;
  /** Columns of the update: features that come in, times a Conv's kernel. */
  readonly inFeatures: number;
  readonly r: number;
  readonly scale: number;
  /** Of the whole update, largest first; as many as the rank allows. */
  readonly singularValues: readonly number[];
  /** Frobenius norm. */
  readonly norm: number;
  /** exp of the entropy of the singular values' shares: how many are in use (Roy and Vetterli 2007, eq. 3). */
  readonly effectiveRank: number;
  /** How many singular values hold 90 and 99 % of the energy, their sum of squares. */
  readonly rank90: number;
  readonly rank99: number;
}

/**
 * The singular values of each update s B A, and how much of the rank they use. What an adapter has beside A and B (magnitudes of
 * DoRA, biases, saved modules) is not looked at: `besideUpdates` lists it.
 *
 * @throws LowrankError "adapter" for factors that do not fit each other.
 * @example for (const { path, r, effectiveRank } of spectrum(adapter)) console.log(path, effectiveRank / r);
 */
export function spectrum(adapter: Adapter): ModuleSpectrum[] {
  const beside = new Set(besideUpdates(adapter));
  const tensors = new Map([...adapter.tensors].filter(([key]) => !beside.has(key)));
  return thinModules({ ...adapter, tensors }, "spectrum").map((module): ModuleSpectrum => {
    const { path, out, inDims, r, scale } = module;
    const { s } = thinSvd(wholeOf(module), scale);
    const values = [...s];
    const isZero = (s[0] ?? 0) === 0;
    return {
      ...{ path, outFeatures: out, inFeatures: elementCount(inDims), r, scale },
      singularValues: values,
      norm: tail(s),
      effectiveRank: effectiveRank(values),
      rank90: isZero ? 0 : rankForEnergy(s, 0.9),
      rank99: isZero ? 0 : rankForEnergy(s, 0.99),
    };
  });
}

/** The keys of an adapter's tensors that are no A and no B. */
export function besideUpdates(adapter: Adapter): string[] {
  const factors = new Set(modulesOf(adapter).flatMap(({ keys }) => [keys.a, keys.b]));
  return [...adapter.tensors.keys()].filter((key) => !factors.has(key));
}

function effectiveRank(values: readonly number[]): number {
  const total = values.reduce((sum, value) => sum + value, 0);
  if (total === 0) return 0;
  const entropy = values.reduce(
    (sum, value) => (value === 0 ? sum : sum - (value / total) * Math.log(value / total)),
    0,
  );
  return Math.exp(entropy);
}

/** How two adapters' subspaces lie to each other on one side of a module. */
export interface Overlap {
  /** Principal angles in radians, smallest first: as many as the smaller subspace has dimensions (Björck and Golub 1973). */
  readonly angles: readonly number[];
  /** Mean squared cosine of the angles: 1 when the smaller subspace lies in the larger (Hu et al. 2021, eq. 4). */
  readonly similarity: number;
}

export interface ModuleComparison {
  readonly path: string;
  /** Which of the two have the module. */
  readonly in: "both" | "a" | "b";
  /** Frobenius norm of the difference of the updates; one that is missing counts as zero. */
  readonly distance: number;
  /** The distance as a share of the larger update's norm; 0 to 2. */
  readonly relativeDistance: number;
  /** Of the angle between the updates as vectors, -1 to 1; 0 where one is zero. */
  readonly cosine: number;
  /** What the updates write to: their column spaces. Null where one is zero. */
  readonly output: Overlap | null;
  /** What they read: their row spaces. */
  readonly input: Overlap | null;
}

export interface Comparison {
  /** Frobenius norm of the difference over all modules: a metric on updates. */
  readonly distance: number;
  /** As a share of the larger adapter's norm. */
  readonly relativeDistance: number;
  readonly cosine: number;
  readonly modules: readonly ModuleComparison[];
}

/**
 * How far two adapters' updates are apart, and how far their subspaces overlap, module by module.
 *
 * @throws LowrankError "adapter" for tensors beyond A and B, and modules whose shapes differ.
 * @example const { relativeDistance, modules } = compare(before, after);
 */
export function compare(a: Adapter, b: Adapter): Comparison {
  const [left, right] = [thinModules(a, "first adapter"), thinModules(b, "second adapter")];
  checkShapes(left, right);
  const others = new Map(right.map((module) => [module.keys.a, module]));
  const own = new Set(left.map(({ keys }) => keys.a));
  const measured = [
    ...left.map((module) => measure(module, others.get(module.keys.a))),
    ...right.filter(({ keys }) => !own.has(keys.a)).map((module) => measure(undefined, module)),
  ];
  const total = (of: (one: Measured) => number): number => Math.hypot(...measured.map(of));
  const [distance, normA, normB] = [
    total((one) => one.module.distance),
    total((one) => one.normA),
    total((one) => one.normB),
  ];
  const inner = measured.reduce((sum, one) => sum + one.inner, 0);
  return {
    distance,
    relativeDistance: share(distance, Math.max(normA, normB)),
    cosine: cosineOf(inner, normA, normB),
    modules: measured.map(({ module }) => module),
  };
}

function checkShapes(left: readonly ThinModule[], right: readonly ThinModule[]): void {
  const shapes = new Map(left.map((module) => [module.keys.a, shapeOf(module)]));
  const faults = right.flatMap((module) => {
    const [expected, got] = [shapes.get(module.keys.a), shapeOf(module)];
    return expected === undefined || expected === got ? [] : [`${module.path}: expected ${expected}, got ${got}`];
  });
  throwFaults("adapter", "adapters to compare", faults);
}

interface Measured {
  readonly module: ModuleComparison;
  readonly normA: number;
  readonly normB: number;
  /** The inner product of both updates. */
  readonly inner: number;
}

function measure(a: ThinModule | undefined, b: ThinModule | undefined): Measured {
  const parts = [a, b].flatMap((module, side) =>
    module === undefined ? [] : [{ thin: wholeOf(module), factor: side === 0 ? module.scale : -module.scale }],
  );
  const both = concatenated(
    parts.map(({ thin }) => thin),
    parts.map(({ factor }) => factor),
  );
  const distance = tail(thinSvd(both).s);
  const [svdA, svdB] = [a && thinSvd(wholeOf(a), a.scale), b && thinSvd(wholeOf(b), b.scale)];
  const [normA, normB] = [tail(svdA?.s ?? nothing), tail(svdB?.s ?? nothing)];
  // 2 <x, y> = |x|^2 + |y|^2 - |x - y|^2 would lose digits where x and y are nearly orthogonal.
  const inner = a && b ? a.scale * b.scale * innerProduct(wholeOf(a), wholeOf(b)) : 0;
  const overlap = (side: "u" | "v"): Overlap | null => overlapOf(basis(svdA, side), basis(svdB, side));
  const module: ModuleComparison = {
    path: (a ?? b)!.path,
    in: a === undefined ? "b" : b === undefined ? "a" : "both",
    distance,
    relativeDistance: share(distance, Math.max(normA, normB)),
    cosine: cosineOf(inner, normA, normB),
    output: overlap("u"),
    input: overlap("v"),
  };
  return { module, normA, normB, inner };
}

const nothing = new Float64Array(0);

function shapeOf({ out, inDims, blocks }: ThinModule): string {
  return `[${[out, ...inDims].join(", ")}]${blocks.length === 1 ? "" : ` in ${blocks.length} groups`}`;
}

/** Of two products of one shape: tr(A1^T B1^T B2 A2) = sum of (B1^T B2) * (A1 A2^T), element by element. */
function innerProduct(one: Thin, two: Thin): number {
  const left = multiply(transpose(one.b), two.b).data;
  const right = multiply(one.a, transpose(two.a)).data;
  return left.reduce((sum, value, index) => sum + value * right[index]!, 0);
}

function cosineOf(inner: number, normA: number, normB: number): number {
  return normA === 0 || normB === 0 ? 0 : Math.max(-1, Math.min(1, inner / normA / normB));
}

/** Singular values under this share of the largest are rounding: factors are float32. */
const negligible = 2 ** -22;

/** Orthonormal columns that span one side of an update; undefined where it is zero. */
function basis(factorization: ReturnType<typeof thinSvd> | undefined, side: "u" | "v"): Matrix | undefined {
  if (factorization === undefined) return undefined;
  const { s } = factorization;
  const count = s.filter((value) => value > negligible * s[0]!).length;
  if (count === 0) return undefined;
  const { rows, columns, data } = factorization[side];
  const kept = new Float64Array(rows * count);
  for (let row = 0; row < rows; row++) kept.set(data.subarray(row * columns, row * columns + count), row * count);
  return { rows, columns: count, data: kept };
}

function overlapOf(a: Matrix | undefined, b: Matrix | undefined): Overlap | null {
  if (a === undefined || b === undefined) return null;
  const angles = subspaceAngles(a, b);
  return { angles, similarity: angles.reduce((sum, angle) => sum + Math.cos(angle) ** 2, 0) / angles.length };
}

/**
 * The principal angles between the spaces that orthonormal columns span, in radians, smallest first. Small ones come from their
 * sines, large ones from their cosines, so that all are exact (Björck and Golub 1973, Math. Comp. 27, 579-594, eq. 14 and 15).
 */
export function subspaceAngles(a: Matrix, b: Matrix): number[] {
  const [large, small] = a.columns >= b.columns ? [a, b] : [b, a];
  const product = multiply(transpose(large), small); // [p, q], p >= q
  const inside = multiply(large, product);
  const rest = { ...small, data: small.data.map((value, index) => value - inside.data[index]!) };
  const cosines = svd(product).s;
  const sines = svd(rest).s.toReversed();
  return Array.from(cosines, (cosine, index) => {
    const sine = sines[index] ?? 0;
    return cosine > Math.SQRT1_2 ? Math.asin(Math.min(1, sine)) : Math.acos(Math.max(0, cosine));
  });
}
