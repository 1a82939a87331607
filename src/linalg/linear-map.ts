// Large matrices as functions: the truncated SVD only multiplies with them, so that products can run where they are fast (ONNX
// Runtime, for one), and a matrix may be a product or a difference that is never formed. Vectors lie together: a Matrix of k
// rows is k vectors.
import type { Matrix } from "./matrix.ts";
import { wasmMap } from "./wasm-map.ts";

/** W [rows, columns], known by its products. */
export interface LinearMap {
  readonly rows: number;
  readonly columns: number;
  /** W x for each row x of `vectors` [k, columns]: [k, rows]. */
  apply(vectors: Matrix): Matrix;
  /** W^T x for each row x of `vectors` [k, rows]: [k, columns]. */
  applyTranspose(vectors: Matrix): Matrix;
}

/** The same, where products take their time. */
export interface AsyncLinearMap {
  readonly rows: number;
  readonly columns: number;
  apply(vectors: Matrix): Promise<Matrix>;
  applyTranspose(vectors: Matrix): Promise<Matrix>;
}

type Values = Float32Array | Float64Array;

/** Below this many elements, copying into a WebAssembly memory costs more than it saves. */
const smallest = 16_384;

/**
 * A matrix in memory, `values` row by row; products are summed in float64. Each vector takes 2 rows columns operations; float32
 * values are copied once into a WebAssembly memory where there is one.
 *
 * @param options.plain keeps to plain JavaScript: to compare, or to keep out of a broken engine.
 * @example truncatedSvd(denseMap(1000, 2000, weights), 16)
 */
export function denseMap(
  rows: number,
  columns: number,
  values: Values,
  { plain = false }: { readonly plain?: boolean } = {},
): LinearMap {
  if (values.length !== rows * columns) {
    throw new Error(`internal: a ${rows} x ${columns} matrix needs ${rows * columns} values, got ${values.length}`);
  }
  const fast =
    !plain && values instanceof Float32Array && values.length >= smallest ? wasmMap(rows, columns, values) : undefined;
  return {
    rows,
    columns,
    apply: (vectors) => {
      checkLength(vectors, columns);
      return fast === undefined ? products(values, rows, columns, vectors) : fast.apply(vectors);
    },
    applyTranspose: (vectors) => {
      checkLength(vectors, rows);
      return fast === undefined ? productsTransposed(values, rows, columns, vectors) : fast.applyTranspose(vectors);
    },
  };
}

/** W^T as a map. */
export function transposeMap(map: LinearMap): LinearMap {
  return {
    rows: map.columns,
    columns: map.rows,
    apply: (vectors) => map.applyTranspose(vectors),
    applyTranspose: (vectors) => map.apply(vectors),
  };
}

/** factor[0] * maps[0] + factor[1] * maps[1] + …, all of one shape. */
export function sumMap(maps: readonly LinearMap[], factors: readonly number[]): LinearMap {
  const [first, ...others] = maps;
  if (first === undefined || others.some(({ rows, columns }) => rows !== first.rows || columns !== first.columns)) {
    throw new Error(`internal: maps of shapes ${maps.map(({ rows, columns }) => `${rows} x ${columns}`)} have no sum`);
  }
  const sum = (parts: readonly Matrix[]): Matrix => {
    const data = new Float64Array(parts[0]!.data.length);
    parts.forEach((part, index) => {
      for (let i = 0; i < data.length; i++) data[i] = data[i]! + factors[index]! * part.data[i]!;
    });
    return { ...parts[0]!, data };
  };
  return {
    rows: first.rows,
    columns: first.columns,
    apply: (vectors) => sum(maps.map((map) => map.apply(vectors))),
    applyTranspose: (vectors) => sum(maps.map((map) => map.applyTranspose(vectors))),
  };
}

/** left right, without forming it. */
export function productMap(left: LinearMap, right: LinearMap): LinearMap {
  if (left.columns !== right.rows) {
    throw new Error(`internal: maps of ${left.columns} columns and ${right.rows} rows have no product`);
  }
  return {
    rows: left.rows,
    columns: right.columns,
    apply: (vectors) => left.apply(right.apply(vectors)),
    applyTranspose: (vectors) => right.applyTranspose(left.applyTranspose(vectors)),
  };
}

function checkLength({ columns }: Matrix, expected: number): void {
  if (columns !== expected) throw new Error(`internal: vectors of ${columns} for a matrix that takes ${expected}`);
}

/** The inner product of each row of `values` [rows, length] with each vector, four vectors at a time. */
function products(values: Values, rows: number, length: number, { rows: k, data: x }: Matrix): Matrix {
  const out = new Float64Array(k * rows);
  for (let i = 0; i < rows; i++) {
    const from = i * length;
    let c = 0;
    for (; c + 3 < k; c += 4) {
      const [x0, x1, x2, x3] = [c * length, (c + 1) * length, (c + 2) * length, (c + 3) * length];
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let j = 0; j < length; j++) {
        const w = values[from + j]!;
        s0 += w * x[x0 + j]!;
        s1 += w * x[x1 + j]!;
        s2 += w * x[x2 + j]!;
        s3 += w * x[x3 + j]!;
      }
      out[c * rows + i] = s0;
      out[(c + 1) * rows + i] = s1;
      out[(c + 2) * rows + i] = s2;
      out[(c + 3) * rows + i] = s3;
    }
    for (; c < k; c++) {
      let sum = 0;
      for (let j = 0; j < length; j++) sum += values[from + j]! * x[c * length + j]!;
      out[c * rows + i] = sum;
    }
  }
  return { rows: k, columns: rows, data: out };
}

/** The rows of `values` [rows, length], summed with each vector's entries as weights, two rows at a time. */
function productsTransposed(values: Values, rows: number, length: number, { rows: k, data: x }: Matrix): Matrix {
  const out = new Float64Array(k * length);
  for (let i = 0; i < rows; i += 2) {
    const from = i * length;
    const hasNext = i + 1 < rows;
    for (let c = 0; c < k; c++) {
      const to = c * length;
      const [first, second] = [x[c * rows + i]!, hasNext ? x[c * rows + i + 1]! : 0];
      if (hasNext) {
        for (let j = 0; j < length; j++) {
          out[to + j] = out[to + j]! + first * values[from + j]! + second * values[from + length + j]!;
        }
      } else for (let j = 0; j < length; j++) out[to + j] = out[to + j]! + first * values[from + j]!;
    }
  }
  return { rows: k, columns: length, data: out };
}
