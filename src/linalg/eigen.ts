// Eigenvalues and eigenvectors of a symmetric matrix: Householder tridiagonalization, then the implicit QL method with
// Wilkinson's shift. Methods: Golub and Van Loan, Matrix Computations, 4th edition, sections 8.3.1 to 8.3.5; Dubrulle,
// Martin and Wilkinson 1968, "The implicit QL algorithm", Numerische Mathematik 12, 377-383.
import { largest, type Matrix } from "./matrix.ts";
import { dot, reflect, reflector } from "./qr.ts";

/** A = sum of values[i] v_i v_i^T with v_i row i of `vectors`. */
export interface SymmetricEigen {
  readonly values: Float64Array; // [n], largest first
  readonly vectors: Matrix; // [n, n], orthonormal rows
}

/**
 * All eigenvalues and eigenvectors of a symmetric matrix, of which the lower triangle is read: about 9 n^3 operations, errors
 * of n machine precisions relative to the largest eigenvalue. Throws LowrankError "data" for NaN or infinity.
 *
 * @example
 * symmetricEigen(matrix(2, 2, [2, 1, 1, 2])).values // [3, 1]
 */
export function symmetricEigen(a: Matrix): SymmetricEigen {
  const n = a.rows;
  if (a.columns !== n) throw new Error(`internal: a ${a.rows} x ${a.columns} matrix is not square`);
  largest(a); // refuses NaN and infinity
  const { diagonal, below, vectors } = tridiagonalize(a);
  diagonalize(diagonal, below, vectors, n);
  const order = Array.from(diagonal.keys()).sort((x, y) => diagonal[y]! - diagonal[x]!);
  const sorted = new Float64Array(n * n);
  order.forEach((from, to) => {
    sorted.set(vectors.subarray(from * n, (from + 1) * n), to * n);
  });
  return {
    values: Float64Array.from(order, (from) => diagonal[from]!),
    vectors: { rows: n, columns: n, data: sorted },
  };
}

interface Tridiagonal {
  readonly diagonal: Float64Array; // [n]
  readonly below: Float64Array; // [n]; the last is 0
  /** Q^T with A = Q T Q^T. */
  readonly vectors: Float64Array; // [n, n]
}

function tridiagonalize(a: Matrix): Tridiagonal {
  const n = a.rows;
  const work = symmetricCopy(a);
  const reflectors: Float64Array[] = [];
  const below = new Float64Array(n);
  for (let k = 0; k + 2 < n; k++) {
    // By symmetry, row k is column k.
    const x = work.subarray(k * n + k + 1, (k + 1) * n);
    const v = reflector(x);
    reflectors.push(v);
    const after = x.slice();
    reflect(v, after);
    below[k] = after[0]!;
    reflectBothSides(work, n, k + 1, v);
  }
  if (n >= 2) below[n - 2] = work[(n - 2) * n + n - 1]!;
  const vectors = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    vectors[i * n + i] = 1;
    for (let k = Math.min(i, n - 2) - 1; k >= 0; k--) {
      reflect(reflectors[k]!, vectors.subarray(i * n + k + 1, (i + 1) * n));
    }
  }
  return { diagonal: Float64Array.from({ length: n }, (_, i) => work[i * n + i]!), below, vectors };
}

function symmetricCopy({ rows: n, data }: Matrix): Float64Array {
  const copy = data.slice();
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) copy[j * n + i] = data[i * n + j]!;
  return copy;
}

/** The block from row and column `first` on becomes H S H with H = I - 2 v v^T: S - v w^T - w v^T. */
function reflectBothSides(work: Float64Array, n: number, first: number, v: Float64Array): void {
  const size = n - first;
  const rowOf = (i: number): Float64Array => work.subarray((first + i) * n + first, (first + i) * n + n);
  const w = new Float64Array(size);
  for (let i = 0; i < size; i++) w[i] = 2 * dot(rowOf(i), v);
  const half = dot(w, v);
  for (let i = 0; i < size; i++) w[i] = w[i]! - half * v[i]!;
  for (let i = 0; i < size; i++) {
    const row = rowOf(i);
    const [vi, wi] = [v[i]!, w[i]!];
    for (let j = 0; j < size; j++) row[j] = row[j]! - vi * w[j]! - wi * v[j]!;
  }
}

/** Real matrices take two or three for each eigenvalue. */
const maxSweeps = 60;

/** Turns the tridiagonal matrix into a diagonal one, and rotates the rows of `vectors` with it. */
function diagonalize(d: Float64Array, e: Float64Array, vectors: Float64Array, n: number): void {
  for (let l = 0; l < n; l++) {
    for (let sweep = 0; ; sweep++) {
      let m = l;
      while (m + 1 < n && Math.abs(e[m]!) > Number.EPSILON * (Math.abs(d[m]!) + Math.abs(d[m + 1]!))) m++;
      if (m === l) break;
      if (sweep === maxSweeps) throw new Error(`internal: the QL method did not converge in ${maxSweeps} sweeps`);
      chase(d, e, vectors, { from: l, to: m, n });
    }
  }
}

interface Span {
  readonly from: number;
  readonly to: number;
  readonly n: number;
}

/** One implicit QL sweep over the block of rows `from` to `to`: a bulge is chased from its end to its start. */
function chase(d: Float64Array, e: Float64Array, vectors: Float64Array, { from, to, n }: Span): void {
  const theta = (d[from + 1]! - d[from]!) / (2 * e[from]!);
  const root = Math.hypot(theta, 1);
  let g = d[to]! - d[from]! + e[from]! / (theta + (theta >= 0 ? root : -root)); // Wilkinson's shift
  let [sine, cosine, shift] = [1, 1, 0];
  for (let i = to - 1; i >= from; i--) {
    const f = sine * e[i]!;
    const b = cosine * e[i]!;
    const length = Math.hypot(f, g);
    e[i + 1] = length;
    if (length === 0) {
      // The matrix has split: the rest is another block.
      d[i + 1] = d[i + 1]! - shift;
      e[to] = 0;
      return;
    }
    sine = f / length;
    cosine = g / length;
    g = d[i + 1]! - shift;
    const slope = (d[i]! - g) * sine + 2 * cosine * b;
    shift = sine * slope;
    d[i + 1] = g + shift;
    g = cosine * slope - b;
    rotateRows(vectors, i * n, (i + 1) * n, n, cosine, sine);
  }
  d[from] = d[from]! - shift;
  e[from] = g;
  e[to] = 0;
}

function rotateRows(z: Float64Array, at: number, next: number, n: number, cosine: number, sine: number): void {
  for (let k = 0; k < n; k++) {
    const [x, y] = [z[at + k]!, z[next + k]!];
    z[at + k] = cosine * x - sine * y;
    z[next + k] = sine * x + cosine * y;
  }
}
