// Singular values and best approximations of updates B A, by QR of both thin factors and the SVD of the small core between
// them (nothing of size out x in is formed), and of dense updates. The best approximation of rank r keeps the r largest
// singular triplets (Eckart and Young 1936; Golub and Van Loan, Matrix Computations, 4th edition, theorem 2.4.8).
import { denseMap } from "../linalg/linear-map.ts";
import { type Matrix, multiply, scaled, transpose } from "../linalg/matrix.ts";
import { norm, qr } from "../linalg/qr.ts";
import { type Svd, svd } from "../linalg/svd.ts";
import { truncatedSvd } from "../linalg/truncated-svd.ts";
import type { RankChoice } from "./checks.ts";
import type { Thin } from "./thin.ts";

/** The SVD of scale * B A: min(rows, r, columns) triplets. */
export function thinSvd({ b, a }: Thin, scale = 1): Svd {
  const [left, right] = [qr(b), qr(transpose(a))];
  const { u, s, v } = svd(scaled(multiply(left.r, transpose(right.r)), scale));
  return { u: multiply(left.q, u), s, v: multiply(right.q, v) };
}

/** Up to this many rows or columns, all triplets are cheap. */
const smallSide = 200;

/** The SVD of a dense update: at least the triplets that a rank, or a share of the energy, needs. */
export function denseSvd(delta: Matrix, { r, energy = 1 }: RankChoice): Svd {
  const side = Math.min(delta.rows, delta.columns);
  if (side <= smallSide) return svd(delta);
  // A difference of float32 weights has float32's digits: in that type its products are fast.
  const map = denseMap(delta.rows, delta.columns, Float32Array.from(delta.data));
  if (r !== undefined) return truncatedSvd(map, r);
  const total = frobenius(delta) ** 2;
  for (let rank = 32; rank < side / 2; rank *= 2) {
    const found = truncatedSvd(map, rank);
    if (tail(found.s) ** 2 >= energy * total) return found;
  }
  return svd(delta);
}

/** How the singular values are shared between B and A. */
export type Split = "both" | "b";

/** The first r triplets as factors of rank r, with zeros where there are fewer. */
export function truncated({ u, s, v }: Svd, r: number, split: Split = "both"): Thin {
  const k = Math.min(r, s.length);
  const [b, a] = [new Float64Array(u.rows * r), new Float64Array(r * v.rows)];
  for (let i = 0; i < k; i++) {
    const [ofB, ofA] = split === "b" ? [s[i]!, 1] : [Math.sqrt(s[i]!), Math.sqrt(s[i]!)];
    for (let row = 0; row < u.rows; row++) b[row * r + i] = ofB * u.data[row * u.columns + i]!;
    for (let column = 0; column < v.rows; column++) a[i * v.rows + column] = ofA * v.data[column * v.columns + i]!;
  }
  return { b: { rows: u.rows, columns: r, data: b }, a: { rows: r, columns: v.rows, data: a } };
}

/** The same product with more columns of B and rows of A, all zero. */
export function padded({ b, a }: Thin, r: number): Thin {
  if (r === b.columns) return { b, a };
  const data = new Float64Array(b.rows * r);
  for (let row = 0; row < b.rows; row++) {
    data.set(b.data.subarray(row * b.columns, (row + 1) * b.columns), row * r);
  }
  const below = new Float64Array(r * a.columns);
  below.set(a.data);
  return { b: { rows: b.rows, columns: r, data }, a: { rows: r, columns: a.columns, data: below } };
}

/** The sum of products of one shape, as one product: [f0 B0 | f1 B1 | …] [A0; A1; …]. */
export function concatenated(parts: readonly Thin[], factors: readonly number[]): Thin {
  const { rows } = parts[0]!.b;
  const { columns } = parts[0]!.a;
  const r = parts.reduce((sum, { a }) => sum + a.rows, 0);
  const [b, a] = [new Float64Array(rows * r), new Float64Array(r * columns)];
  let from = 0;
  for (const [index, part] of parts.entries()) {
    const own = part.b.columns;
    for (let row = 0; row < rows; row++) {
      for (let k = 0; k < own; k++) b[row * r + from + k] = factors[index]! * part.b.data[row * own + k]!;
    }
    a.set(part.a.data, from * columns);
    from += own;
  }
  return { b: { rows, columns: r, data: b }, a: { rows: r, columns, data: a } };
}

/** The Frobenius norm of singular values from index `from` on. */
export function tail(s: Float64Array, from = 0): number {
  return norm(s.subarray(Math.min(from, s.length)));
}

/** The smallest rank, 1 at least, that keeps this share of the energy: the sum of squared singular values, largest first. */
export function rankForEnergy(s: Float64Array, energy: number): number {
  const total = tail(s);
  // The part that is left out, so that a share of 1 is not missed by rounding.
  for (let r = 1; r < s.length; r++) if (tail(s, r) ** 2 <= (1 - energy) * total ** 2) return r;
  return Math.max(1, s.length);
}

/** The same where `s` may be the first singular values only of a matrix of this Frobenius norm. */
export function rankForEnergyOf(s: Float64Array, energy: number, whole: number): number {
  let left = whole ** 2;
  for (let r = 1; r < s.length; r++) {
    left -= s[r - 1]! ** 2;
    if (left <= (1 - energy) * whole ** 2) return r;
  }
  return Math.max(1, s.length);
}

/** The Frobenius norm of a matrix. */
export function frobenius({ data }: Matrix): number {
  return norm(data);
}
