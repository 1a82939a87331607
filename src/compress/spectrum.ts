// The best low-rank approximations of a weight, all from one set of left singular vectors. Without data they are those of W
// (Eckart and Young 1936; Golub and Van Loan, Matrix Computations, 4th edition, theorem 2.4.8). With the second moments
// C = X^T X of the layer's inputs they are those of W S, C = S S^T by Cholesky: W' = U U^T W then has the least
// |(W - W') X^T| of its rank (Wang et al. 2024, SVD-LLM, arXiv:2403.07378, truncation-aware whitening; they write the same
// W' as U diag(s) V^T S^-1. Scaling by data at all is ASVD's idea: Yuan et al. 2023, arXiv:2312.05821).
import { symmetricEigen } from "../linalg/eigen.ts";
import { denseMap } from "../linalg/linear-map.ts";
import { type Matrix, transpose as transposed } from "../linalg/matrix.ts";
import { dot, norm, qr } from "../linalg/qr.ts";
import { truncatedSvd } from "../linalg/truncated-svd.ts";

/** W [out, in], row by row. */
export interface Weight {
  readonly out: number;
  readonly into: number;
  readonly values: Float32Array;
}

/** Left singular vectors with their singular values, largest first: of W, or of W S. */
export interface Spectrum {
  /** [k], none negative. */
  readonly s: Float64Array;
  /** The Frobenius norm of the whole matrix, values beyond `s` included. */
  readonly whole: number;
  /** [k, out], orthonormal rows. */
  readonly u: Matrix;
  /** Whether the matrix has no more values than these. */
  readonly isComplete: boolean;
}

/** Where so few triplets of the smaller side are wanted, they are computed alone. */
const fewOf = 1 / 8;

/** The first `count` left singular vectors of W S (of W without `factor`). */
export function spectrumOf(weight: Weight, count: number, factor?: Matrix): Spectrum {
  const { out, into } = weight;
  const values = factor === undefined ? weight.values : times(weight, factor);
  const whole = norm(Float64Array.from(values));
  const side = Math.min(out, into);
  if (count <= side * fewOf) {
    const { u, s } = truncatedSvd(denseMap(out, into, values), count);
    return { s, whole, u: transposed(u), isComplete: count >= side };
  }
  return fromGram({ out, into, values }, Math.min(count, side), whole);
}

/** From the eigenvectors of M M^T or M^T M, whichever is smaller. Values under 1e-7 of the largest are noise of float32. */
function fromGram(m: Weight, count: number, whole: number): Spectrum {
  const { out, into } = m;
  const isTall = out > into;
  const rows = isTall ? transposed({ rows: out, columns: into, data: Float64Array.from(m.values) }) : asMatrix(m);
  const map = denseMap(rows.rows, rows.columns, Float32Array.from(rows.data));
  const { values, vectors } = symmetricEigen(map.apply(rows));
  const s = Float64Array.from(values.subarray(0, count), (value) => Math.sqrt(Math.max(0, value)));
  const used = Math.max(1, s.findLastIndex((value) => value > s[0]! * 1e-7) + 1);
  const first = firstRows(vectors, used);
  const isComplete = used < s.length || count === Math.min(out, into);
  if (!isTall) return { s: s.slice(0, used), whole, u: first, isComplete };
  // M v is s u; made orthonormal once more, since small values lose it.
  const { q } = qr(transposed(denseMap(out, into, m.values).apply(first)));
  return { s: s.slice(0, used), whole, u: transposed(q), isComplete };
}

/**
 * U_r [r, out], and its transpose B [out, r]: with A = U_r W, B A is the best approximation of rank r (of fewer, where the spectrum
 * has no more).
 */
export function leftFactor({ u }: Spectrum, rank: number): { readonly u: Weight; readonly b: Weight } {
  const first = firstRows(u, Math.min(rank, u.rows));
  const [r, out] = [first.rows, first.columns];
  return {
    u: { out: r, into: out, values: Float32Array.from(first.data) },
    b: { out, into: r, values: Float32Array.from(transposed(first).data) },
  };
}

/** Left [m, k] times right [k, n]: [m, n]. */
export function product(left: Weight, right: Weight): Float32Array {
  const { out, into, values } = right;
  return Float32Array.from(denseMap(out, into, values).applyTranspose(asMatrix(left)).data);
}

/** The share of the matrix that the first `rank` vectors leave out (Frobenius norm). */
export function errorAt({ s, whole }: Spectrum, rank: number): number {
  if (whole === 0) return 0;
  return Math.sqrt(Math.max(0, whole ** 2 - dot(s.subarray(0, rank), s.subarray(0, rank)))) / whole;
}

/**
 * C + 1e-4 mean diagonal I: the ridge keeps directions that the sample does not show, and rounding, from making it singular.
 */
export function ridged({ rows: n, data }: Matrix): Matrix {
  let trace = 0;
  for (let i = 0; i < n; i++) trace += data[i * n + i]!;
  const added = trace > 0 ? (1e-4 * trace) / n : 1;
  return { rows: n, columns: n, data: data.map((value, at) => (at % (n + 1) === 0 ? value + added : value)) };
}

/** The lower triangle S with S S^T = C, of which the ridge is a part: Cholesky (Golub and Van Loan, algorithm 4.2.1). */
export function whitening({ rows: n, data }: Matrix): Matrix {
  const s = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = s.subarray(i * n, (i + 1) * n);
    for (let j = 0; j <= i; j++) {
      const above = s.subarray(j * n, j * n + j);
      const rest = data[i * n + j]! - dot(row.subarray(0, j), above);
      row[j] = j < i ? rest / s[j * n + j]! : Math.sqrt(rest);
    }
  }
  return { rows: n, columns: n, data: s };
}

/** The root of the sum of d^T C d over the rows d of D [out, in]: the norm of what D makes of the data. */
export function normOnData(difference: Weight, moments: Matrix): number {
  const map = denseMap(moments.rows, moments.columns, Float32Array.from(moments.data));
  const d = asMatrix(difference);
  return Math.sqrt(Math.max(0, dot(map.apply(d).data, d.data)));
}

/** W S. */
function times({ out, into, values }: Weight, factor: Matrix): Float32Array {
  return Float32Array.from(transposed(denseMap(out, into, values).apply(transposed(factor))).data);
}

function asMatrix({ out, into, values }: Weight): Matrix {
  return { rows: out, columns: into, data: Float64Array.from(values) };
}

function firstRows({ columns, data }: Matrix, count: number): Matrix {
  return { rows: count, columns, data: data.slice(0, count * columns) };
}
