// The largest singular values and vectors of a large matrix, which is only ever multiplied with. Two methods:
// - to convergence: the randomized block Krylov method (Musco and Musco 2015, "Randomized block Krylov methods for stronger and
//   faster approximate singular value decomposition", arXiv:1504.05477, Algorithm 2), grown block by block with full
//   reorthogonalization (a block Lanczos process: Golub and Van Loan, section 10.4) until the residuals are small;
// - a fixed number of subspace iterations (Halko, Martinsson and Tropp 2011, "Finding structure with randomness",
//   SIAM Review 53(2), Algorithms 4.4 and 5.1): within a few per cent of the best error, and no more products than asked for.
import { LowrankError } from "../errors.ts";
import { createRandom, type Random } from "../random.ts";
import { symmetricEigen } from "./eigen.ts";
import type { AsyncLinearMap, LinearMap } from "./linear-map.ts";
import { type Matrix, multiply, transpose } from "./matrix.ts";
import { dot, norm } from "./qr.ts";
import { type Svd, svd } from "./svd.ts";

export interface TruncatedSvdOptions {
  /** So many subspace iterations and no test; default: to convergence. */
  readonly iterations?: number;
  /** Vectors beyond `rank`, with `iterations`; default 10. */
  readonly oversampling?: number;
  /** To convergence: the residual |W^T W v - s^2 v| of each triplet, over the largest s^2; default 1e-9. */
  readonly tolerance?: number;
  /** Seed of the starting vectors; default 0. The same seed gives the same result. */
  readonly seed?: number;
}

/**
 * The first `rank` singular triplets of a map (all of them when it has fewer), largest first: u [rows, k], s [k],
 * v [columns, k]. By default to convergence: the error of u diag(s) v^T is then the best possible one, within `tolerance`.
 *
 * Cost with m vectors in the basis (about 2 rank to 20 rank, more where singular values lie close together; m is at most the
 * smaller side): 4 rows columns m operations in products, and 6 m^2 (rows + columns) + 20 m^3 beside; memory for
 * m (rows + columns) numbers. With `iterations` q and l = rank + oversampling: 4 rows columns l (q + 1) operations.
 *
 * Throws LowrankError "data" for NaN or infinity.
 *
 * @example
 * const { u, s, v } = truncatedSvd(denseMap(1000, 2000, weights), 16);
 */
export function truncatedSvd(map: LinearMap, rank: number, options: TruncatedSvdOptions = {}): Svd {
  const steps = decomposition(map.rows, map.columns, rank, options);
  let next = steps.next();
  while (next.done !== true) next = steps.next(multiplied(map, next.value));
  return next.value;
}

/**
 * `truncatedSvd` for a map whose products are promised.
 *
 * @example
 * const { u, s, v } = await truncatedSvdAsync(await productsOn(device, weights), 16);
 */
export async function truncatedSvdAsync(
  map: AsyncLinearMap,
  rank: number,
  options: TruncatedSvdOptions = {},
): Promise<Svd> {
  const steps = decomposition(map.rows, map.columns, rank, options);
  let next = steps.next();
  while (next.done !== true) next = steps.next(await multiplied(map, next.value));
  return next.value;
}

/** A product that the method asks for: with W, or with its transpose. */
interface Product {
  readonly transposed: boolean;
  readonly vectors: Matrix;
}

type Steps<T> = Generator<Product, T, Matrix>;

function multiplied<T>(
  map: { apply(vectors: Matrix): T; applyTranspose(vectors: Matrix): T },
  { transposed, vectors }: Product,
): T {
  return transposed ? map.applyTranspose(vectors) : map.apply(vectors);
}

function* decomposition(rows: number, columns: number, wanted: number, options: TruncatedSvdOptions): Steps<Svd> {
  const rank = Math.min(wanted, rows, columns);
  if (!(Number.isInteger(rank) && rank >= 0)) throw new Error(`internal: a decomposition of rank ${wanted}`);
  const none = (length: number): Matrix => ({ rows: length, columns: 0, data: new Float64Array(0) });
  if (rank === 0) return { u: none(rows), s: new Float64Array(0), v: none(columns) };
  // The basis lies on the smaller side, where orthogonalizing is cheaper. `Side` hides which one that is.
  const isWide = rows <= columns;
  const side: Side = {
    size: Math.min(rows, columns),
    other: Math.max(rows, columns),
    *out(vectors) {
      return checked(yield { transposed: isWide, vectors });
    },
    *back(vectors) {
      return checked(yield { transposed: !isWide, vectors });
    },
  };
  const random = createRandom(options.seed ?? 0, "truncated svd");
  const { near, far } =
    options.iterations === undefined
      ? yield* krylov(side, rank, options.tolerance ?? 1e-9, random)
      : yield* subspace(side, rank, options.iterations, options.oversampling ?? 10, random);
  // W ~ near^T far (or its transpose), with orthonormal rows in `near`: the SVD of the small factor finishes it.
  const small = svd(transpose(far)); // [other, l]
  const inner = multiply(transpose(near), small.v); // [size, l]
  const [nearest, farthest] = [firstColumns(inner, rank), firstColumns(small.u, rank)];
  return {
    u: isWide ? nearest : farthest,
    s: small.s.slice(0, rank),
    v: isWide ? farthest : nearest,
  };
}

interface Side {
  readonly size: number;
  readonly other: number;
  /** From the basis's side to the other one. */
  out(vectors: Matrix): Steps<Matrix>;
  back(vectors: Matrix): Steps<Matrix>;
}

/** Orthonormal rows [l, size], and their products on the other side [l, other]. */
interface Projection {
  readonly near: Matrix;
  readonly far: Matrix;
}

function checked(product: Matrix): Matrix {
  const at = product.data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return product;
  throw new LowrankError("data", `matrix: expected finite values, got products of ${product.data[at]}`);
}

/** Halko, Martinsson and Tropp's Algorithm 4.4: an orthonormal basis after each product. */
function* subspace(side: Side, rank: number, iterations: number, extra: number, random: Random): Steps<Projection> {
  const count = Math.min(rank + extra, side.size);
  let far = orthonormal(gaussian(count, side.other, random), random);
  let near = orthonormal(yield* side.back(far), random);
  for (let i = 0; i < iterations; i++) {
    far = orthonormal(yield* side.out(near), random);
    near = orthonormal(yield* side.back(far), random);
  }
  return { near, far: yield* side.out(near) };
}

/**
 * Vectors in a block: two, as singular values that are equal come in pairs if at all (more of them are found in time, by
 * rounding), and as the products take two vectors at a time. Larger blocks need larger bases: for 16 values of a random
 * 1000 x 2000 matrix, 8 in a block need 376 vectors, 2 need 200, 1 needs 173.
 */
const blockSize = 2;

function* krylov(side: Side, rank: number, tolerance: number, random: Random): Steps<Projection> {
  const basis = new Basis(side.size, random);
  const far: Float64Array[] = []; // W^T q for each q of the basis
  const gram: Float64Array[] = []; // row i: far[i] . far[0 … i]
  let block = gaussian(Math.min(blockSize, side.size), side.size, random);
  let nextCheck = rank + 2 * blockSize;
  for (let neighbours = 0, from = 0; ; neighbours = from, from = basis.vectors.length) {
    basis.extend(block);
    const products = yield* side.out(stack(basis.vectors.slice(from), side.size));
    for (let i = 0; i < products.rows; i++) {
      far.push(row(products, i));
      // Before the block before, products are orthogonal: W W^T q lies in the blocks up to the one behind q's.
      const first = neighbours;
      gram.push(Float64Array.from(far, (other, j) => (j < first ? 0 : dot(far.at(-1)!, other))));
    }
    const isComplete = far.length === side.size;
    const rest = isComplete ? null : basis.residual(yield* side.back(products));
    if (rest === null || far.length >= nextCheck) {
      const { values, vectors } = symmetricEigen(lowerToSquare(gram));
      const y = firstRows(vectors, rank);
      const margin = tolerance * Math.max(values[0]!, 0);
      if (rest === null || largestResidual(rest, y) <= margin) {
        const near = multiply(y, stack(basis.vectors, side.size));
        const limit = values[rank - 1]! + margin;
        const missed = rest === null ? null : yield* missedBy(near, side, limit, random);
        if (missed === null) return { near, far: multiply(y, stack(far, side.other)) };
        block = stack([row(missed, 0), ...rowsOf(rest!)], side.size);
        continue;
      }
      // A test costs what several blocks cost.
      nextCheck = Math.max(far.length + 2 * blockSize, Math.ceil(far.length * 1.25));
    }
    block = rest!;
  }
}

/** Multiplications after which a direction that was missed is told from the others. */
const lookAgain = 4;

/**
 * A direction beside the rows of `near` that W W^T makes longer than `limit`, or null. Of a singular value with more copies than
 * a block has vectors, the iteration may have seen too few, and yet have converged.
 */
function* missedBy(near: Matrix, side: Side, limit: number, random: Random): Steps<Matrix | null> {
  if (near.rows === side.size) return null;
  const known = new Basis(side.size, random);
  known.extend(near);
  let x = known.residual(gaussian(1, side.size, random));
  for (let i = 0; i < lookAgain; i++) {
    const length = norm(x.data);
    if (length === 0) return null;
    const unit = { ...x, data: x.data.map((value) => value / length) };
    x = known.residual(yield* side.back(yield* side.out(unit)));
  }
  return norm(x.data) > limit ? x : null;
}

/** |W W^T q - s^2 q| of each Ritz vector q: what the last block leads out of the basis, weighted with its last entries. */
function largestResidual(raw: Matrix, y: Matrix): number {
  let found = 0;
  const first = y.columns - raw.rows;
  const out = new Float64Array(raw.columns);
  for (let i = 0; i < y.rows; i++) {
    out.fill(0);
    for (let c = 0; c < raw.rows; c++) addScaled(out, y.data[i * y.columns + first + c]!, row(raw, c));
    found = Math.max(found, norm(out));
  }
  return found;
}

/** Orthonormal vectors of one length, one by one. */
class Basis {
  readonly vectors: Float64Array[] = [];
  readonly #size: number;
  readonly #random: Random;
  /** The length of the longest row so far. */
  #largest = 0;

  constructor(size: number, random: Random) {
    this.#size = size;
    this.#random = random;
  }

  /** The rows without what the basis has of them. */
  residual(rows: Matrix): Matrix {
    for (let i = 0; i < rows.rows; i++) this.#largest = Math.max(this.#largest, norm(row(rows, i)));
    const rest = rows.data.slice();
    for (let i = 0; i < rows.rows; i++) this.#project(rest.subarray(i * this.#size, (i + 1) * this.#size));
    return { ...rows, data: rest };
  }

  /** Takes in each row, made orthonormal; a row that brings nothing new is replaced by a random one. */
  extend(rows: Matrix): void {
    for (let i = 0; i < rows.rows && this.vectors.length < this.#size; i++) {
      const x = row(rows, i).slice();
      const before = norm(x);
      this.#project(x);
      // Where much was taken away, rounding errors are no longer small beside the rest. Twice is enough (Golub and Van Loan,
      // section 5.2).
      if (norm(x) < 0.5 * before) this.#project(x);
      this.#largest = Math.max(this.#largest, before);
      if (!(norm(x) > this.#largest * dependent)) this.#replace(x);
      const length = norm(x);
      for (let j = 0; j < x.length; j++) x[j] = x[j]! / length;
      this.vectors.push(x);
    }
  }

  #project(x: Float64Array): void {
    const all = this.vectors;
    let i = 0;
    for (; i + 3 < all.length; i += 4) projectFour(x, all[i]!, all[i + 1]!, all[i + 2]!, all[i + 3]!);
    for (; i < all.length; i++) addScaled(x, -dot(all[i]!, x), all[i]!);
  }

  #replace(x: Float64Array): void {
    do {
      for (let j = 0; j < x.length; j++) x[j] = this.#random.normal();
      const before = norm(x);
      this.#project(x);
      const once = norm(x);
      this.#project(x);
      if (once > before * dependent) return;
    } while (this.vectors.length < this.#size);
  }
}

/** What is left of a vector, relative to its length, when it was a combination of others: rounding errors. */
const dependent = 1e-13;

function orthonormal(rows: Matrix, random: Random): Matrix {
  const basis = new Basis(rows.columns, random);
  basis.extend(rows);
  return stack(basis.vectors, rows.columns);
}

/** x without its parts along four orthonormal vectors: twice as fast as one by one, since x is read and written less often. */
function projectFour(x: Float64Array, a: Float64Array, b: Float64Array, c: Float64Array, d: Float64Array): void {
  let [p, q, r, s] = [0, 0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const value = x[i]!;
    p += a[i]! * value;
    q += b[i]! * value;
    r += c[i]! * value;
    s += d[i]! * value;
  }
  for (let i = 0; i < x.length; i++) x[i] = x[i]! - (p * a[i]! + q * b[i]! + r * c[i]! + s * d[i]!);
}

function addScaled(x: Float64Array, factor: number, y: Float64Array): void {
  for (let i = 0; i < x.length; i++) x[i] = x[i]! + factor * y[i]!;
}

function gaussian(rows: number, columns: number, random: Random): Matrix {
  return { rows, columns, data: Float64Array.from({ length: rows * columns }, () => random.normal()) };
}

function stack(vectors: readonly Float64Array[], columns: number): Matrix {
  const data = new Float64Array(vectors.length * columns);
  vectors.forEach((vector, i) => {
    data.set(vector, i * columns);
  });
  return { rows: vectors.length, columns, data };
}

function rowsOf(a: Matrix): Float64Array[] {
  return Array.from({ length: a.rows }, (_, i) => row(a, i));
}

function row({ columns, data }: Matrix, i: number): Float64Array {
  return data.subarray(i * columns, (i + 1) * columns);
}

function firstRows({ columns, data }: Matrix, count: number): Matrix {
  return { rows: count, columns, data: data.slice(0, count * columns) };
}

function firstColumns({ rows, columns, data }: Matrix, count: number): Matrix {
  const out = new Float64Array(rows * count);
  for (let i = 0; i < rows; i++) out.set(data.subarray(i * columns, i * columns + count), i * count);
  return { rows, columns: count, data: out };
}

function lowerToSquare(rows: readonly Float64Array[]): Matrix {
  const n = rows.length;
  const data = new Float64Array(n * n);
  rows.forEach((values, i) => {
    data.set(values, i * n);
  });
  return { rows: n, columns: n, data };
}
