// Singular value decomposition of small dense matrices by one-sided Jacobi rotations, which gets small singular values
// right too. Methods: Golub and Van Loan, Matrix Computations, 4th edition, section 8.6 (Jacobi SVD procedures), after a QR
// factorization and on R^T as Drmač and Veselić 2008 do (SIAM J. Matrix Anal. Appl. 29(4), 1322-1342); the singular
// values of a product B A without forming it: QR of both factors (Hogben, ed., Handbook of Linear Algebra,
// "Computation of the Singular Value Decomposition").
import { largest, type Matrix, multiply, powerOfTwo, scaled, transpose } from "./matrix.ts";
import { dot, norm, qr } from "./qr.ts";

/** With k = min(rows, columns): A = u diag(s) v^T. */
export interface Svd {
  readonly u: Matrix; // [rows, k], orthonormal columns
  readonly s: Float64Array; // [k], largest first, none negative
  readonly v: Matrix; // [columns, k], orthonormal columns
}

/**
 * The thin singular value decomposition of a matrix of any shape and rank: O(rows * k^2), meant for k up to some hundreds.
 * Singular values under 1e-150 of the largest element come out as 0.
 * Throws LowrankError "data" for NaN or infinity.
 *
 * @example
 * svd(matrix(2, 2, [3, 0, 0, -4])).s // [4, 3]
 */
export function svd(a: Matrix): Svd {
  if (a.rows < a.columns) {
    const { u, s, v } = svd(transpose(a));
    return { u: v, s, v: u };
  }
  const n = a.columns;
  const unit = powerOfTwo(largest(a)); // squares shall neither overflow nor vanish
  const { q, r } = qr(scaled(a, 1 / unit));
  // The rows of R are the columns of R^T. Rotating them until they are orthogonal gives J R = W with W = diag(s) V^T, so
  // that A = Q J^T diag(s) V^T.
  const w = Float64Array.from(r.data); // [n, n]
  const j = identity(n);
  orthogonalize(w, j, n);

  const lengths = Float64Array.from({ length: n }, (_, i) => norm(row(w, i, n)));
  const order = Array.from(lengths.keys()).sort((x, y) => lengths[y]! - lengths[x]!);
  const vT = new Float64Array(n * n);
  const uT = new Float64Array(n * n); // of R
  order.forEach((from, to) => {
    const length = lengths[from]!;
    if (length > 0) row(vT, to, n).set(row(w, from, n).map((value) => value / length));
    else row(vT, to, n).set(anotherDirection(vT, to, n));
    row(uT, to, n).set(row(j, from, n));
  });
  return {
    u: multiply(q, transpose({ rows: n, columns: n, data: uT })),
    s: Float64Array.from(order, (from) => lengths[from]! * unit),
    v: transpose({ rows: n, columns: n, data: vT }),
  };
}

/**
 * The singular values of scale * B A, b [out, r] and a [r, in], largest first: min(out, r, in) of them, without forming the
 * product [out, in]. With B = Q_B R_B and A^T = Q_A R_A they are those of R_B R_A^T, which is [r, r] at most. Throws
 * LowrankError "data" for NaN or infinity.
 *
 * @example
 * lowRankSingularValues(matrix(3, 1, [0, 2, 0]), matrix(1, 2, [3, 4]), 0.5) // [5]
 */
export function lowRankSingularValues(b: Matrix, a: Matrix, scale: number): Float64Array {
  if (b.columns !== a.rows) {
    throw new Error(`internal: B [${b.rows}, ${b.columns}] and A [${a.rows}, ${a.columns}] have different ranks`);
  }
  const core = multiply(qr(b).r, transpose(qr(transpose(a)).r));
  return svd(scaled(core, Math.abs(scale))).s;
}

/** Real matrices take under 10 sweeps. */
const maxSweeps = 60;

/** Rows whose squares would vanish are zero beside a largest element of about 1. */
const tiny = 1e-150;

/** Rotates pairs of rows of w [n, n] until all are orthogonal, and the rows of j [n, n] with them. */
function orthogonalize(w: Float64Array, j: Float64Array, n: number): void {
  // The rounding error of an inner product of n terms, relative to the lengths.
  const tolerance = Math.max(n, 8) * Number.EPSILON;
  for (let sweep = 0; sweep < maxSweeps; sweep++) {
    let rotated = false;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (orthogonalizePair(row(w, p, n), row(w, q, n), row(j, p, n), row(j, q, n), tolerance)) rotated = true;
      }
    }
    if (!rotated) {
      for (let i = 0; i < n; i++) if (norm(row(w, i, n)) < tiny) row(w, i, n).fill(0);
      return;
    }
  }
  throw new Error(`internal: the Jacobi rotations of a ${n} x ${n} matrix did not converge in ${maxSweeps} sweeps`);
}

/** One rotation that makes x and y orthogonal; false where they already are. */
function orthogonalizePair(
  x: Float64Array,
  y: Float64Array,
  jx: Float64Array,
  jy: Float64Array,
  tolerance: number,
): boolean {
  const xx = dot(x, x);
  const yy = dot(y, y);
  const xy = dot(x, y);
  const lengths = Math.sqrt(xx) * Math.sqrt(yy);
  if (xx < tiny * tiny || yy < tiny * tiny || Math.abs(xy) <= tolerance * lengths) return false;
  // The smaller root t = tan(angle) of t^2 + 2 zeta t - 1 = 0 (section 8.5.2).
  const zeta = (yy - xx) / (2 * xy);
  const t = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const cosine = 1 / Math.hypot(1, t);
  rotate(x, y, cosine, cosine * t);
  rotate(jx, jy, cosine, cosine * t);
  return true;
}

function rotate(x: Float64Array, y: Float64Array, cosine: number, sine: number): void {
  for (let i = 0; i < x.length; i++) {
    const [xi, yi] = [x[i]!, y[i]!];
    x[i] = cosine * xi - sine * yi;
    y[i] = sine * xi + cosine * yi;
  }
}

/** A unit vector orthogonal to the first `count` rows of `rows` [n, n], which are orthonormal: count < n. */
function anotherDirection(rows: Float64Array, count: number, n: number): Float64Array {
  // Of the axes, the one of which those rows hold least.
  const held = new Float64Array(n);
  for (let i = 0; i < count * n; i++) held[i % n] = held[i % n]! + rows[i]! ** 2;
  const axis = held.indexOf(Math.min(...held));
  const direction = new Float64Array(n);
  direction[axis] = 1;
  // Twice is enough (Golub and Van Loan, section 5.2).
  for (let pass = 0; pass < 2; pass++) {
    for (let i = 0; i < count; i++) {
      const part = dot(direction, row(rows, i, n));
      for (let k = 0; k < n; k++) direction[k] = direction[k]! - part * rows[i * n + k]!;
    }
  }
  const length = norm(direction);
  return direction.map((value) => value / length);
}

function identity(n: number): Float64Array {
  const data = new Float64Array(n * n);
  for (let i = 0; i < n; i++) data[i * n + i] = 1;
  return data;
}

function row(data: Float64Array, i: number, n: number): Float64Array {
  return data.subarray(i * n, (i + 1) * n);
}
