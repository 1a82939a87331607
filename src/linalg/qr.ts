// Thin QR factorization by Householder reflections: A = Q R, Q with orthonormal columns. Method: Golub and Van Loan,
// Matrix Computations, 4th edition, section 5.2 (reflections and the backward accumulation of Q: section 5.1).
import { largest, type Matrix, powerOfTwo, scaled, transpose } from "./matrix.ts";

/** With k = min(rows, columns): q [rows, k] has orthonormal columns, r [k, columns] is upper triangular. */
export interface Qr {
  readonly q: Matrix;
  readonly r: Matrix;
}

/**
 * A = Q R, for a matrix of any shape and rank. The diagonal of R may have either sign. Throws LowrankError "data" for NaN
 * or infinity.
 *
 * @example
 * const { q, r } = qr(matrix(3, 2, [1, 2, 3, 4, 5, 6])); // multiply(q, r) is the matrix again
 */
export function qr(a: Matrix): Qr {
  const { rows, columns } = a;
  const k = Math.min(rows, columns);
  const unit = powerOfTwo(largest(a)); // sums of squares shall not overflow
  // Reflections work on columns, which lie together in the transpose.
  const work = transpose(scaled(a, 1 / unit)).data; // [columns, rows]
  const reflectors: Float64Array[] = [];
  for (let j = 0; j < k; j++) {
    const v = reflector(work.subarray(j * rows + j, (j + 1) * rows));
    reflectors.push(v);
    for (let i = j; i < columns; i++) reflect(v, work.subarray(i * rows + j, (i + 1) * rows));
  }
  const r = new Float64Array(k * columns); // what is below the diagonal of `work` is 0 but for rounding
  for (let i = 0; i < k; i++) {
    for (let j = i; j < columns; j++) r[i * columns + j] = work[j * rows + i]! * unit;
  }
  return { q: accumulate(reflectors, rows), r: { rows: k, columns, data: r } };
}

/** The unit vector v for which (I - 2 v v^T) x = (±|x|, 0, …, 0); zeros where x is zero. */
export function reflector(x: Float64Array): Float64Array {
  const top = x.reduce((found, value) => Math.max(found, Math.abs(value)), 0);
  if (top === 0) return new Float64Array(x.length);
  const v = x.map((value) => value / top); // squares of small entries shall not vanish
  // Of the two reflections the one whose first entry is a sum: the other loses digits.
  v[0] = v[0]! + (v[0]! >= 0 ? norm(v) : -norm(v));
  const length = norm(v);
  return v.map((value) => value / length);
}

/** x becomes (I - 2 v v^T) x. */
export function reflect(v: Float64Array, x: Float64Array): void {
  const twice = 2 * dot(v, x);
  for (let i = 0; i < x.length; i++) x[i] = x[i]! - twice * v[i]!;
}

/** Q [rows, k]: the reflections, the last first, of the first k columns of the identity. Reflector j begins at row j. */
function accumulate(reflectors: readonly Float64Array[], rows: number): Matrix {
  const k = reflectors.length;
  const columns = new Float64Array(k * rows); // [k, rows]
  for (let i = 0; i < k; i++) {
    columns[i * rows + i] = 1;
    // Reflectors after i meet only zeros of this column.
    for (let j = i; j >= 0; j--) reflect(reflectors[j]!, columns.subarray(i * rows + j, (i + 1) * rows));
  }
  return transpose({ rows: k, columns: rows, data: columns });
}

/** The inner product of two vectors of one length. */
export function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}

/** The Euclidean length of a vector whose entries are neither huge nor tiny. */
export function norm(x: Float64Array): number {
  return Math.sqrt(dot(x, x));
}
