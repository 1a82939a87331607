// Tensors taken apart and put together along their first axis.
import { elementCount, type Tensor, type TensorType, tensor } from "../tensor.ts";
import { emptyArray } from "./datatypes.ts";

/** Typed arrays of any kind, copied bit by bit. */
type Values = Float32Array;

/** Elements of one row. */
function widthOf({ dims }: Tensor): number {
  return elementCount(dims.slice(1));
}

/** `count` rows from `from` on, where they are. */
export function rowsAt(value: Tensor, from: number, count: number): Tensor {
  const width = widthOf(value);
  const data = (value.data as Values).subarray(from * width, (from + count) * width);
  return tensor<TensorType>(value.type, [count, ...value.dims.slice(1)], data);
}

/** The rows of these numbers, in that order. */
export function gatherRows(value: Tensor, rows: readonly number[]): Tensor {
  const width = widthOf(value);
  const data = emptyArray(value.type, rows.length * width) as Values;
  for (const [at, row] of rows.entries()) {
    data.set((value.data as Values).subarray(row * width, (row + 1) * width), at * width);
  }
  return tensor<TensorType>(value.type, [rows.length, ...value.dims.slice(1)], data);
}

/**
 * `value`'s rows at the places `rows` of `into`, which is made for `count` rows when it is undefined. Throws Error when they do
 * not fit: outputs whose rows are not those of the batch.
 */
export function scatterRows(into: Tensor | undefined, value: Tensor, rows: readonly number[], count: number): Tensor {
  const [own, ...rest] = value.dims;
  const target =
    into ?? tensor<TensorType>(value.type, [count, ...rest], emptyArray(value.type, count * elementCount(rest)));
  if (own !== rows.length || target.dims.slice(1).join() !== rest.join()) {
    throw new Error(`internal: an output [${value.dims}] for ${rows.length} rows of the batch`);
  }
  const width = widthOf(value);
  for (const [at, row] of rows.entries()) {
    (target.data as Values).set((value.data as Values).subarray(at * width, (at + 1) * width), row * width);
  }
  return target;
}

/** Values one after the other along the first axis; their other sizes are the same. */
export function concatRows(values: readonly Tensor[]): Tensor {
  const [first] = values;
  if (first === undefined) throw new Error("internal: no rows to join");
  const count = values.reduce((sum, { dims }) => sum + dims[0]!, 0);
  const data = emptyArray(first.type, count * widthOf(first)) as Values;
  let at = 0;
  for (const value of values) {
    data.set(value.data as Values, at);
    at += value.data.length;
  }
  return tensor<TensorType>(first.type, [count, ...first.dims.slice(1)], data);
}
