// Integer arithmetic on shapes, as exporters write it in front of Reshape, Expand and Slice: Shape, Gather, Slice, Concat,
// Mul and their like, followed symbolically. A value's sizes are its integers, one entry for a scalar: a number, a symbol
// that stands for a size (and is never negative), or null where nothing is known.
import { type Dim, intAttribute, type Node, toTensor } from "./model.ts";
import { type Known, type Shape, statedAxes, type TensorInfo } from "./shape-row.ts";

/** Longer vectors hold data, not shapes. */
const longest = 256;

/** The sizes that a node's first output holds, undefined where it is no integer scalar or vector, or nothing is known. */
export function sizesOf(
  node: Node,
  inputs: readonly TensorInfo[],
  output: TensorInfo,
  known: Known,
): Shape | undefined {
  if (node.domain !== "" || !holdsIntegers(output)) return undefined;
  const row = Object.hasOwn(rows, node.op) ? rows[node.op] : undefined;
  const sizes = row?.(
    node,
    node.inputs.map((name) => known.sizes(name)),
    inputs,
  );
  const count = output.shape?.length === 0 ? 1 : output.shape?.[0];
  const fits = sizes !== undefined && sizes.length <= longest && (typeof count !== "number" || count === sizes.length);
  return fits ? sizes : undefined;
}

/** Whether a value can hold sizes: integers or truth values in a scalar or vector of moderate length. */
export function holdsIntegers({ type, shape }: TensorInfo): boolean {
  const integers = type === "int64" || type === "int32" || type === "bool";
  return (
    integers && shape !== undefined && (shape.length === 0 || (shape.length === 1 && !(Number(shape[0]) > longest)))
  );
}

/** A null for each integer of a value of known length; undefined where it holds no integers, or any number of them. */
export function unknownSizes(info: TensorInfo | undefined): Shape | undefined {
  if (info === undefined || !holdsIntegers(info)) return undefined;
  const count = info.shape!.length === 0 ? 1 : info.shape![0];
  // A damaged file may state a size below zero.
  return typeof count === "number" && count >= 0 ? Array<Dim>(count).fill(null) : undefined;
}

type SizesRow = (node: Node, sizes: readonly (Shape | undefined)[], inputs: readonly TensorInfo[]) => Shape | undefined;

const copied: SizesRow = (_, [sizes]) => sizes;

/** One operation on each pair; a single entry meets all of the other's. */
const pairwise =
  (combine: (a: Dim, b: Dim) => Dim): SizesRow =>
  (_, sizes) => {
    if (sizes.some((list) => list === undefined)) return undefined;
    const lists = sizes as readonly Shape[];
    const count = lists.some((list) => list.length === 0) ? 0 : Math.max(...lists.map((list) => list.length));
    if (lists.some((list) => list.length !== 1 && list.length !== count)) return undefined;
    return Array.from({ length: count }, (_, index) =>
      lists.map((list): Dim => list[list.length === 1 ? 0 : index] ?? null).reduce(combine),
    );
  };

/** An operation on numbers, with what is known of it for symbols. */
const arithmetic = (
  numbers: (a: number, b: number) => number,
  symbols: (a: Dim, b: Dim) => Dim = () => null,
): SizesRow =>
  pairwise((a, b) => {
    if (typeof a !== "number" || typeof b !== "number") return symbols(a, b);
    const result = numbers(a, b);
    return Number.isSafeInteger(result) ? result : null;
  });

const rows: Readonly<Record<string, SizesRow>> = {
  Shape: (node, _, [x]) => x?.shape && statedAxes(node, x.shape),
  Size: (_, __, [x]) => (x?.shape === undefined ? undefined : [product(x.shape)]),
  Identity: copied,
  Cast: copied,
  Squeeze: copied,
  Unsqueeze: copied,
  Reshape: copied,
  Concat: (_, sizes) => {
    const joined: Dim[] = [];
    for (const list of sizes) {
      if (list === undefined || joined.length + list.length > longest) return undefined;
      joined.push(...list);
    }
    return joined;
  },
  Gather: (_, [sizes, indices]) =>
    sizes && indices?.map((at) => (typeof at === "number" ? (sizes.at(at) ?? null) : null)),
  Slice: (_, [sizes, ...window]) => {
    const [start, end, , step] = window.map((list) => list?.[0]);
    if (sizes === undefined || typeof start !== "number" || typeof end !== "number") return undefined;
    // slice() clamps as ONNX does; a step needs more than that.
    return step === undefined || step === 1 ? sizes.slice(start, end) : undefined;
  },
  Add: arithmetic(
    (a, b) => a + b,
    (a, b) => (a === 0 ? b : b === 0 ? a : null),
  ),
  Sub: arithmetic(
    (a, b) => a - b,
    (a, b) => (b === 0 ? a : a !== null && a === b ? 0 : null),
  ),
  Mul: arithmetic(
    (a, b) => a * b,
    (a, b) => (a === 1 ? b : b === 1 ? a : a === 0 || b === 0 ? 0 : null),
  ),
  // Integer division rounds toward zero.
  Div: arithmetic(
    (a, b) => Math.trunc(a / b),
    (a, b) => (b === 1 ? a : null),
  ),
  // The sign is the divisor's, or with fmod the dividend's.
  Mod: (node, ...rest) =>
    arithmetic((a, b) => (intAttribute(node, "fmod", 0) !== 0 ? a % b : ((a % b) + b) % b))(node, ...rest),
  Max: arithmetic(Math.max, (a, b) => (a !== null && a === b ? a : null)),
  Min: arithmetic(Math.min, (a, b) => (a !== null && a === b ? a : null)),
  Neg: (_, [sizes]) => sizes?.map((size) => (typeof size === "number" ? -size : null)),
  ReduceProd: (_, [sizes]) => (sizes === undefined ? undefined : [product(sizes)]),
  Equal: arithmetic(
    (a, b) => (a === b ? 1 : 0),
    (a, b) => (a !== null && a === b ? 1 : isNegative(a) || isNegative(b) ? 0 : null),
  ),
  Where: (_, [condition, a, b]) => {
    if (condition === undefined || a === undefined || b === undefined) return undefined;
    const count = Math.max(condition.length, a.length, b.length);
    const entry = (list: Shape, index: number): Dim => list[list.length === 1 ? 0 : index] ?? null;
    return Array.from({ length: count }, (_, index) => {
      const chosen = entry(condition, index);
      const [yes, no] = [entry(a, index), entry(b, index)];
      // The same either way needs no choice.
      return chosen === 1 || (yes !== null && yes === no) ? yes : chosen === 0 ? no : null;
    });
  },
  ConstantOfShape: (node, [shape]) => {
    const value = node.attributes.get("value");
    const [count] = shape?.length === 1 ? shape : [];
    if (typeof count !== "number" || count < 0 || count > longest || value?.kind !== "tensor") return undefined;
    return Array<number>(count).fill(Number(toTensor(value.value).data[0]));
  },
  Range: (_, sizes) => {
    const [start, end, step] = sizes.map((list) => list?.[0]);
    if (typeof start !== "number" || typeof end !== "number" || typeof step !== "number" || step === 0)
      return undefined;
    const count = Math.max(Math.ceil((end - start) / step), 0);
    return count > longest ? undefined : Array.from({ length: count }, (_, index) => start + index * step);
  },
};

const isNegative = (size: Dim): boolean => typeof size === "number" && size < 0;

/** The product of some sizes where it is a number or a symbol: all are numbers, or one is a symbol among ones. */
function product(dims: Shape): Dim {
  if (dims.includes(0)) return 0;
  const unknown = dims.filter((dim) => typeof dim !== "number");
  const numbers = dims.reduce<number>((total, dim) => (typeof dim === "number" ? total * dim : total), 1);
  if (unknown.length === 0) return Number.isSafeInteger(numbers) ? numbers : null;
  return unknown.length === 1 && numbers === 1 ? unknown[0]! : null;
}
