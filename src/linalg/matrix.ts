// Small dense matrices in double precision, and the few operations that the factorizations of this room share.
import { LowrankError } from "../errors.ts";

/** Row-major: the element of row i and column j is data[i * columns + j]. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array; // [rows * columns]
}

/**
 * A matrix with a copy of `values`, row by row.
 *
 * @example
 * matrix(2, 3, [1, 2, 3, 4, 5, 6])
 */
export function matrix(rows: number, columns: number, values: ArrayLike<number>): Matrix {
  if (values.length !== rows * columns) {
    throw new Error(`internal: a ${rows} x ${columns} matrix needs ${rows * columns} values, got ${values.length}`);
  }
  return { rows, columns, data: Float64Array.from(values) };
}

/** The transpose, as a new matrix. */
export function transpose({ rows, columns, data }: Matrix): Matrix {
  const out = new Float64Array(data.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]!;
  }
  return { rows: columns, columns: rows, data: out };
}

/** The product of a [m, k] and b [k, n], as a new matrix [m, n]. */
export function multiply(a: Matrix, b: Matrix): Matrix {
  if (a.columns !== b.rows) {
    throw new Error(`internal: a ${a.rows} x ${a.columns} matrix cannot multiply a ${b.rows} x ${b.columns} one`);
  }
  const out = new Float64Array(a.rows * b.columns);
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < a.columns; k++) {
      const factor = a.data[i * a.columns + k]!;
      const from = k * b.columns;
      const to = i * b.columns;
      for (let j = 0; j < b.columns; j++) out[to + j] = out[to + j]! + factor * b.data[from + j]!;
    }
  }
  return { rows: a.rows, columns: b.columns, data: out };
}

/** The largest absolute value, 0 for a matrix without elements. Throws LowrankError "data" for NaN or infinity. */
export function largest({ data }: Matrix): number {
  let found = 0;
  for (const value of data) {
    if (!Number.isFinite(value)) {
      throw new LowrankError("data", `matrix: expected finite values, got ${value}; the training may have diverged`);
    }
    found = Math.max(found, Math.abs(value));
  }
  return found;
}

/** The power of two next to a positive value, so that dividing by it rounds nothing; 1 for 0. */
export function powerOfTwo(value: number): number {
  return value === 0 ? 1 : 2 ** Math.max(-1021, Math.min(1022, Math.floor(Math.log2(value))));
}

/** Each element multiplied by `factor`, as a new matrix. */
export function scaled({ rows, columns, data }: Matrix, factor: number): Matrix {
  return { rows, columns, data: data.map((value) => value * factor) };
}
