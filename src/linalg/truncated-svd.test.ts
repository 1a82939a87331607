// The truncated SVD against the whole one: orthogonality, the Eckart-Young bound, and matrices that iterations find hard.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { createRandom } from "../random.ts";
import { symmetricEigen } from "./eigen.ts";
import { denseMap, type LinearMap, productMap, sumMap, transposeMap } from "./linear-map.ts";
import { type Matrix, matrix, multiply, scaled, transpose } from "./matrix.ts";
import { type Svd, svd } from "./svd.ts";
import { truncatedSvd, truncatedSvdAsync } from "./truncated-svd.ts";

function drawn(rows: number, columns: number, seed = 0): Matrix {
  const random = createRandom(seed, "test matrix");
  return matrix(
    rows,
    columns,
    Array.from({ length: rows * columns }, () => random.normal()),
  );
}

function diagonal(values: ArrayLike<number>, rows = values.length, columns = values.length): Matrix {
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < values.length; i++) data[i * columns + i] = values[i]!;
  return { rows, columns, data };
}

/** A matrix of the given singular values, between random orthonormal vectors. */
function withValues(rows: number, columns: number, values: readonly number[]): Matrix {
  const { u, v } = svd(drawn(rows, columns, 5));
  return multiply(multiply(u, diagonal(values)), transpose(v));
}

function mapOf({ rows, columns, data }: Matrix): LinearMap {
  return denseMap(rows, columns, data);
}

function difference(a: Matrix, b: Matrix): number {
  expect([a.rows, a.columns]).toEqual([b.rows, b.columns]);
  return Math.sqrt(a.data.reduce((sum, value, i) => sum + (value - b.data[i]!) ** 2, 0));
}

function rebuilt({ u, s, v }: Svd): Matrix {
  return multiply(multiply(u, diagonal(s)), transpose(v));
}

function orthonormality(a: Matrix): number {
  return difference(multiply(transpose(a), a), diagonal(new Array(a.columns).fill(1)));
}

/** The error of the best approximation of rank k: the rest of the singular values (Eckart and Young 1936). */
function tail(values: ArrayLike<number>, k: number): number {
  return Math.sqrt(Array.from(values).reduce((sum, value, i) => sum + (i < k ? 0 : value * value), 0));
}

const cases = fc.record({
  rows: fc.integer({ min: 1, max: 24 }),
  columns: fc.integer({ min: 1, max: 24 }),
  rank: fc.integer({ min: 0, max: 26 }),
  /** The rank of the matrix itself. */
  inner: fc.integer({ min: 1, max: 24 }),
  seed: fc.nat(1000),
});

describe("truncatedSvd, to convergence", () => {
  it("has orthonormal vectors and the least error possible, for any shape and rank", () => {
    fc.assert(
      fc.property(cases, ({ rows, columns, rank, inner, seed }) => {
        const a = multiply(drawn(rows, inner, seed), drawn(inner, columns, seed + 1));
        const found = truncatedSvd(mapOf(a), rank, { seed });
        const whole = svd(a).s;
        const k = Math.min(rank, rows, columns);
        const size = whole[0]!;
        expect([found.u.columns, found.s.length, found.v.columns]).toEqual([k, k, k]);
        expect(orthonormality(found.u)).toBeLessThan(1e-10);
        expect(orthonormality(found.v)).toBeLessThan(1e-10);
        found.s.forEach((value, i) => {
          expect(Math.abs(value - whole[i]!)).toBeLessThan(1e-9 * size);
        });
        expect(Math.abs(difference(rebuilt(found), a) - tail(whole, k))).toBeLessThan(1e-7 * size);
      }),
      { numRuns: 200 },
    );
  });

  it("finds values that are equal, close together, graded, or none", () => {
    const one = new Array(30).fill(1);
    for (const value of truncatedSvd(mapOf(diagonal(one)), 4).s) expect(value).toBeCloseTo(1, 12);
    for (const values of [
      [...new Array(3).fill(5), ...new Array(37).fill(1)],
      [...new Array(4).fill(5), ...Array.from({ length: 36 }, (_, i) => 1 - i / 40)],
      [5, 4, ...new Array(8).fill(3), ...Array.from({ length: 30 }, (_, i) => 2 * 0.7 ** i)],
      Array.from({ length: 40 }, (_, i) => 1 - i * 1e-4),
      Array.from({ length: 40 }, (_, i) => 0.3 ** i),
      [2, ...new Array(39).fill(0)],
    ]) {
      const a = withValues(90, 40, values);
      const { u, s, v } = truncatedSvd(mapOf(a), 5);
      s.forEach((value, i) => {
        expect(Math.abs(value - values[i]!)).toBeLessThan(1e-10 * values[0]!);
      });
      expect(orthonormality(u) + orthonormality(v)).toBeLessThan(1e-11);
      expect(difference(rebuilt({ u, s, v }), a)).toBeCloseTo(tail(values, 5), 8);
    }
    expect(truncatedSvd(mapOf(scaled(drawn(20, 30), 0)), 3).s).toEqual(Float64Array.of(0, 0, 0));
  });

  it("is the same with a seed, and with promised products", async () => {
    const a = drawn(50, 70);
    const map = mapOf(a);
    const later = {
      ...map,
      apply: async (x: Matrix) => map.apply(x),
      applyTranspose: async (x: Matrix) => map.applyTranspose(x),
    };
    expect(truncatedSvd(map, 6, { seed: 3 })).toEqual(truncatedSvd(map, 6, { seed: 3 }));
    expect(await truncatedSvdAsync(later, 6, { seed: 3 })).toEqual(truncatedSvd(map, 6, { seed: 3 }));
  });

  it("refuses NaN and infinity", () => {
    const a = drawn(20, 30);
    a.data[7] = Number.POSITIVE_INFINITY;
    expect(() => truncatedSvd(mapOf(a), 2)).toThrow(LowrankError);
    expect(() => truncatedSvd(mapOf(a), 2, { iterations: 1 })).toThrow(/expected finite values/);
  });
});

describe("truncatedSvd, with iterations", () => {
  it("is near the least error possible", () => {
    // Halko, Martinsson and Tropp 2011, Theorem 10.6: the error is (1 + sqrt(k / (p - 1)) + e sqrt(k + p) / p sqrt(n - k)) to
    // the power of 1 / (2 q + 1) times the next singular value, on average; here k = 8, p = 10, n = 80, q = 2: 1.57.
    for (const [rows, columns] of [
      [80, 120],
      [120, 80],
    ] as const) {
      const a = drawn(rows, columns);
      const whole = svd(a).s;
      const found = truncatedSvd(mapOf(a), 8, { iterations: 2 });
      expect(orthonormality(found.u) + orthonormality(found.v)).toBeLessThan(1e-11);
      const rest = rebuilt(found);
      const error = svd({ ...rest, data: a.data.map((value, i) => value - rest.data[i]!) }).s[0]!;
      expect(error).toBeGreaterThanOrEqual(whole[8]! * (1 - 1e-12));
      expect(error).toBeLessThan(1.57 * whole[8]!);
    }
  });

  it("is exact where the rank is no larger than asked for", () => {
    const a = multiply(drawn(40, 3, 1), drawn(3, 50, 2));
    expect(difference(rebuilt(truncatedSvd(mapOf(a), 3, { iterations: 0 })), a)).toBeLessThan(1e-10);
  });
});

describe("maps", () => {
  it("multiply as matrices do, in WebAssembly and in plain JavaScript", () => {
    for (const [rows, columns] of [
      [129, 131],
      [130, 256],
      [512, 33],
    ] as const) {
      const a = drawn(rows, columns);
      const values = Float32Array.from(a.data);
      const exact = { ...a, data: Float64Array.from(values) };
      for (const count of [1, 2, 5, 35]) {
        const [right, left] = [drawn(count, columns, 1), drawn(count, rows, 2)];
        for (const plain of [false, true]) {
          const map = denseMap(rows, columns, values, { plain });
          expect(difference(map.apply(right), multiply(right, transpose(exact)))).toBeLessThan(1e-10);
          expect(difference(map.applyTranspose(left), multiply(left, exact))).toBeLessThan(1e-10);
        }
      }
    }
  });

  it("are transposed, added and multiplied", () => {
    const [a, b, x] = [drawn(4, 6, 1), drawn(6, 3, 2), drawn(2, 3, 3)];
    const product = multiply(a, b);
    const both = productMap(mapOf(a), mapOf(b));
    expect(difference(both.apply(x), multiply(x, transpose(product)))).toBeLessThan(1e-12);
    expect(difference(transposeMap(both).applyTranspose(x), both.apply(x))).toBe(0);
    const sum = sumMap([both, mapOf(product)], [2, -0.5]);
    expect(difference(sum.apply(x), scaled(both.apply(x), 1.5))).toBeLessThan(1e-12);
    const y = drawn(5, 4, 4);
    expect(difference(sum.applyTranspose(y), scaled(multiply(y, product), 1.5))).toBeLessThan(1e-12);
  });

  it("say which shapes do not fit", () => {
    expect(() => denseMap(2, 2, new Float64Array(3))).toThrow("internal: a 2 x 2 matrix needs 4 values, got 3");
    expect(() => mapOf(drawn(2, 3)).apply(drawn(1, 2))).toThrow("internal: vectors of 2 for a matrix that takes 3");
    expect(() => productMap(mapOf(drawn(2, 3)), mapOf(drawn(2, 3)))).toThrow("maps of 3 columns and 2 rows");
    expect(() => sumMap([mapOf(drawn(2, 3)), mapOf(drawn(3, 2))], [1, 1])).toThrow("2 x 3,3 x 2 have no sum");
  });
});

describe("symmetricEigen", () => {
  it("is V^T diag V with orthonormal V, for any symmetric matrix", () => {
    const values = fc.constantFrom(0, 0, 1, -1, 2, 0.5, 1e-8, 1e8);
    const symmetric = fc.integer({ min: 0, max: 9 }).chain((n) =>
      fc.array(values, { minLength: n * n, maxLength: n * n }).map((list) => {
        const a = matrix(n, n, list);
        return { ...a, data: a.data.map((value, i) => value + a.data[(i % n) * n + Math.floor(i / n)]!) };
      }),
    );
    fc.assert(
      fc.property(symmetric, (a) => {
        const { values: found, vectors } = symmetricEigen(a);
        const size = a.data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-300);
        expect(orthonormality(transpose(vectors))).toBeLessThan(1e-12);
        const back = multiply(multiply(transpose(vectors), diagonal(found)), vectors);
        expect(difference(back, a)).toBeLessThan(1e-13 * size);
        for (let i = 1; i < found.length; i++) expect(found[i]).toBeLessThanOrEqual(found[i - 1]!);
      }),
      { numRuns: 300 },
    );
  });

  it("gives known values", () => {
    const { values } = symmetricEigen(matrix(3, 3, [2, -1, 0, -1, 2, -1, 0, -1, 2]));
    [2 + Math.SQRT2, 2, 2 - Math.SQRT2].forEach((value, i) => {
      expect(values[i]).toBeCloseTo(value, 14);
    });
    expect(() => symmetricEigen(drawn(2, 3))).toThrow("internal: a 2 x 3 matrix is not square");
  });
});
