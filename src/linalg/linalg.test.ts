// The factorizations against their definitions on random matrices of every shape, and against known values (NumPy 2).
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { largest, type Matrix, matrix, multiply, powerOfTwo, scaled, transpose } from "./matrix.ts";
import { qr } from "./qr.ts";
import { lowRankSingularValues, svd } from "./svd.ts";

/** Rounding errors of a few hundred operations, relative to the largest element. */
const tolerance = 1e-13;

function maxDifference(a: Matrix, b: Matrix): number {
  expect([a.rows, a.columns]).toEqual([b.rows, b.columns]);
  return a.data.reduce((found, value, i) => Math.max(found, Math.abs(value - b.data[i]!)), 0);
}

function identity(n: number): Matrix {
  return matrix(
    n,
    n,
    Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)),
  );
}

function diagonal(values: ArrayLike<number>): Matrix {
  const n = values.length;
  return matrix(
    n,
    n,
    Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? values[i / (n + 1)]! : 0)),
  );
}

function expectOrthonormalColumns(a: Matrix): void {
  expect(maxDifference(multiply(transpose(a), a), identity(a.columns))).toBeLessThan(tolerance);
}

function expectQr(a: Matrix): void {
  const { q, r } = qr(a);
  expectOrthonormalColumns(q);
  expect(maxDifference(multiply(q, r), a)).toBeLessThanOrEqual(tolerance * largest(a));
  r.data.forEach((value, i) => {
    if (Math.floor(i / r.columns) > i % r.columns) expect(value).toBe(0);
  });
}

function expectSvd(a: Matrix): void {
  const { u, s, v } = svd(a);
  expect(s.length).toBe(Math.min(a.rows, a.columns));
  expectOrthonormalColumns(u);
  expectOrthonormalColumns(v);
  expect(maxDifference(multiply(multiply(u, diagonal(s)), transpose(v)), a)).toBeLessThanOrEqual(
    tolerance * largest(a),
  );
  s.forEach((value, i) => {
    expect(value).toBeGreaterThanOrEqual(0);
    if (i > 0) expect(value).toBeLessThanOrEqual(s[i - 1]!);
  });
}

/** Matrices of 0 to 9 rows and columns, of values of one size, of all sizes, or mostly of zeros and repeats. */
const matrices: fc.Arbitrary<Matrix> = fc
  .record({
    rows: fc.nat(9),
    columns: fc.nat(9),
    value: fc.constantFrom<fc.Arbitrary<number>>(
      fc.double({ min: -1, max: 1, noNaN: true }),
      fc.double({ min: -1e150, max: 1e150, noNaN: true }),
      fc.constantFrom(0, 0, 0, 1, -1, 2, 1e-30, 1e-200),
    ),
  })
  .chain(({ rows, columns, value }) =>
    fc
      .array(value, { minLength: rows * columns, maxLength: rows * columns })
      .map((values) => matrix(rows, columns, values)),
  );

describe("matrix", () => {
  it("multiplies and transposes", () => {
    const a = matrix(2, 3, [1, 2, 3, 4, 5, 6]);
    expect(transpose(a)).toEqual(matrix(3, 2, [1, 4, 2, 5, 3, 6]));
    expect(multiply(a, transpose(a))).toEqual(matrix(2, 2, [14, 32, 32, 77]));
    expect(scaled(a, 2).data).toEqual(Float64Array.of(2, 4, 6, 8, 10, 12));
    expect(largest(matrix(1, 3, [1, -7, 2]))).toBe(7);
    expect([1, 1.5, 5, 0.3, 0, 5e-324].map(powerOfTwo)).toEqual([1, 1, 4, 0.25, 1, 2 ** -1021]);
  });

  it("says which shapes do not fit", () => {
    expect(() => matrix(2, 2, [1])).toThrow("internal: a 2 x 2 matrix needs 4 values, got 1");
    expect(() => multiply(identity(2), identity(3))).toThrow("internal: a 2 x 2 matrix cannot multiply a 3 x 3 one");
    expect(() => lowRankSingularValues(identity(2), identity(3), 1)).toThrow("internal: B [2, 2] and A [3, 3]");
  });
});

describe("qr", () => {
  it("is Q R with orthonormal Q and triangular R, for any matrix", () => {
    fc.assert(fc.property(matrices, expectQr), { numRuns: 300 });
  });

  it("gives a known factor", () => {
    const { r } = qr(matrix(2, 2, [3, 1, 4, 2]));
    expect(Math.abs(r.data[0]!)).toBeCloseTo(5, 14);
    expect(Math.abs(r.data[1]!)).toBeCloseTo(11 / 5, 14);
    expect(r.data[2]).toBe(0);
    expect(Math.abs(r.data[3]!)).toBeCloseTo(2 / 5, 14);
  });

  it("keeps a tall matrix of nearly dependent columns orthonormal (Läuchli)", () => {
    expectQr(matrix(4, 3, [1, 1, 1, 1e-9, 0, 0, 0, 1e-9, 0, 0, 0, 1e-9]));
  });
});

describe("svd", () => {
  it("is U S V^T with orthonormal U and V, for any matrix", () => {
    fc.assert(fc.property(matrices, expectSvd), { numRuns: 300 });
  });

  it("agrees with NumPy", () => {
    const hilbert = matrix(
      5,
      5,
      Array.from({ length: 25 }, (_, i) => 1 / (1 + Math.floor(i / 5) + (i % 5))),
    );
    const known = [1.5670506910982314, 0.20853421861101332, 0.011407491623419785, 0.0003058980401511818];
    known.push(3.287928772176189e-6);
    svd(hilbert).s.forEach((value, i) => {
      expect(Math.abs(value - known[i]!)).toBeLessThan(1e-15);
    });
    const tall = matrix(4, 3, [1, 2, 3, 4, 5, 6, 7, 8, 10, 2, -1, 0.5]);
    for (const a of [tall, transpose(tall)]) {
      svd(a).s.forEach((value, i) => {
        expect(value).toBeCloseTo([17.427664980049162, 2.2559927511871614, 0.6610522292215533][i]!, 13);
      });
    }
  });

  it("gives the values of diagonal, zero, rank-deficient and empty matrices", () => {
    expect(svd(diagonal([3, -4, 0])).s).toEqual(Float64Array.of(4, 3, 0));
    expect(svd(matrix(3, 2, [0, 0, 0, 0, 0, 0])).s).toEqual(Float64Array.of(0, 0));
    expectSvd(matrix(3, 2, [0, 0, 0, 0, 0, 0]));
    const ones = svd(matrix(4, 4, new Float64Array(16).fill(1))).s;
    expect(ones[0]).toBeCloseTo(4, 13);
    expect(Math.max(...ones.slice(1))).toBeLessThan(1e-15);
    expect(svd(matrix(0, 3, [])).s.length).toBe(0);
  });

  it("gets small singular values right beside large ones", () => {
    const values = [1e60, 1, 1e-20, 1e-60];
    svd(diagonal(values)).s.forEach((value, i) => {
      expect(Math.abs(value / values[i]! - 1)).toBeLessThan(1e-15);
    });
    // [[1, 2], [3, 4]] with its second column times 1e-20: sqrt(10), and |determinant| / sqrt(10).
    const graded = svd(matrix(2, 2, [1, 2e-20, 3, 4e-20])).s;
    expect(graded[0]).toBeCloseTo(Math.sqrt(10), 14);
    expect(graded[1]! / (2e-20 / Math.sqrt(10))).toBeCloseTo(1, 13);
  });

  it("takes values at both ends of the range", () => {
    expectSvd(matrix(2, 2, [1e-310, 0, 2e-310, 1e-310]));
    expect(svd(matrix(1, 1, [Number.MAX_VALUE])).s[0]).toBe(Number.MAX_VALUE);
  });

  it("refuses NaN and infinity", () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => svd(matrix(1, 2, [1, value]))).toThrow(LowrankError);
      expect(() => qr(matrix(1, 2, [1, value]))).toThrow(`matrix: expected finite values, got ${value}`);
    }
  });

  it("converges on a larger matrix", () => {
    const n = 60;
    expectSvd(
      matrix(
        n + 5,
        n,
        Array.from({ length: (n + 5) * n }, (_, i) => Math.sin(i * i + 1)),
      ),
    );
  });
});

describe("lowRankSingularValues", () => {
  const b = matrix(
    6,
    2,
    Array.from({ length: 12 }, (_, i) => Math.sin(i + 1)),
  );
  const a = matrix(
    2,
    5,
    Array.from({ length: 10 }, (_, i) => Math.cos(i * 0.7)),
  );

  it("agrees with NumPy's values of the whole product", () => {
    const values = lowRankSingularValues(b, a, 1.5);
    expect(values.length).toBe(2);
    expect(values[0]).toBeCloseTo(3.8954907574130475, 13);
    expect(values[1]).toBeCloseTo(1.264906082442185, 13);
    expect(lowRankSingularValues(b, a, -1.5)).toEqual(values);
  });

  it("is zero for a fresh adapter, whose B is zero", () => {
    expect(lowRankSingularValues(matrix(6, 2, new Float64Array(12)), a, 1)).toEqual(Float64Array.of(0, 0));
  });

  it("is |b| |a| for rank 1", () => {
    expect(lowRankSingularValues(matrix(3, 1, [0, 2, 0]), matrix(1, 2, [3, 4]), 0.5)[0]).toBeCloseTo(5, 14);
  });

  it("equals the SVD of scale * B A for any shapes", () => {
    const shape = fc.record({ out: fc.integer({ min: 1, max: 7 }), r: fc.integer({ min: 1, max: 7 }) });
    const fill = fc.double({ min: -1, max: 1, noNaN: true });
    const pairs = fc.record({ shape, inputs: fc.integer({ min: 1, max: 7 }) }).chain(({ shape: { out, r }, inputs }) =>
      fc.tuple(
        fc.array(fill, { minLength: out * r, maxLength: out * r }).map((values) => matrix(out, r, values)),
        fc.array(fill, { minLength: r * inputs, maxLength: r * inputs }).map((values) => matrix(r, inputs, values)),
      ),
    );
    fc.assert(
      fc.property(pairs, fc.double({ min: -3, max: 3, noNaN: true }), ([left, right], scale) => {
        const all = svd(scaled(multiply(left, right), scale)).s;
        const few = lowRankSingularValues(left, right, scale);
        expect(few.length).toBe(Math.min(left.rows, left.columns, right.columns));
        all.forEach((value, i) => {
          expect(Math.abs(value - (few[i] ?? 0))).toBeLessThan(1e-12);
        });
      }),
      { numRuns: 200 },
    );
  });
});
