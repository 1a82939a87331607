// Shapes of operators that select, repeat, reorder or pad values.
import { type Dim, intAttribute } from "../model.ts";
import { normalizeAxis, type Shape, type ShapeRow, type ShapeRows, type TensorInfo, unknown } from "../shape-row.ts";

/** `shape` with another size on one axis. */
const withSize = (shape: Shape | undefined, axis: number, size: Dim): Shape | undefined =>
  shape?.map((dim, index) => (index === normalizeAxis(axis, shape.length) ? size : dim));

const times = (dim: Dim | undefined, factor: Dim | undefined): Dim => {
  if (factor === 1) return dim ?? null;
  return typeof dim === "number" && typeof factor === "number" ? dim * factor : null;
};

const split: ShapeRow = (node, [x], known) => {
  const count = node.outputs.length;
  const axis = intAttribute(node, "axis", 0);
  const listed = known.sizes(node.inputs[1]);
  const size = x?.shape?.at(axis);
  // Equal parts, the last one smaller where they do not fit.
  const equal = typeof size === "number" ? Math.ceil(size / count) : null;
  return node.outputs.map((_, index): TensorInfo => {
    const even = equal === null || typeof size !== "number" ? null : Math.min(equal, Math.max(size - index * equal, 0));
    const part = node.inputs[1] ? (listed?.[index] ?? null) : even;
    return { type: x?.type, shape: withSize(x?.shape, axis, part) };
  });
};

const slice: ShapeRow = (node, [x, starts], known) => {
  if (x?.shape === undefined) return [{ type: x?.type, shape: undefined }];
  const [, from, to, axesInput, stepsInput] = node.inputs;
  const [start, end] = [known.sizes(from), known.sizes(to)];
  const count = starts?.shape?.[0];
  const leading = typeof count === "number" ? [...Array(Math.min(count, x.shape.length)).keys()] : undefined;
  const axes = axesInput ? known.integers(axesInput) : leading;
  const steps = stepsInput ? known.integers(stepsInput) : axes?.map(() => 1);
  if (axes === undefined) return [{ type: x.type, shape: x.shape.map(() => null) }];
  const shape: Dim[] = [...x.shape];
  for (const [index, given] of axes.entries()) {
    const axis = normalizeAxis(given, x.shape.length);
    if (axis in shape) shape[axis] = slicedSize(x.shape[axis] ?? null, start?.[index], end?.[index], steps?.[index]);
  }
  return [{ type: x.type, shape }];
};

/** How many values x[start:end:step] has. */
function slicedSize(size: Dim, start: Dim | undefined, end: Dim | undefined, step: number | undefined): Dim {
  if (step === undefined || step === 0) return null;
  // All of it: from the first value to one past any size, or to the size itself.
  if (step === 1 && start === 0 && (end === size || (typeof end === "number" && end >= 2 ** 31 - 1))) return size;
  // The first n of a table, as position embeddings are cut. A table shorter than n gives fewer, and they meet n nowhere.
  if (step === 1 && start === 0 && typeof end === "string" && typeof size === "number" && size > 1) return end;
  if (typeof start !== "number" || typeof end !== "number") return null;
  if (typeof size !== "number") return null;
  const place = (value: number, low: number, high: number): number =>
    Math.min(Math.max(value < 0 ? value + size : value, low), high);
  const [first, last] =
    step > 0 ? [place(start, 0, size), place(end, 0, size)] : [place(start, 0, size - 1), place(end, -1, size - 1)];
  return Math.max(Math.ceil((last - first) / step), 0);
}

const pad: ShapeRow = (node, [x], known) => {
  const { shape } = x ?? unknown;
  const pads = known.integers(node.inputs[1]);
  const axes = node.inputs[3] ? known.integers(node.inputs[3]) : shape && [...shape.keys()];
  if (shape === undefined || pads === undefined || axes === undefined)
    return [{ type: x?.type, shape: shape?.map(() => null) }];
  const padded: Dim[] = [...shape];
  for (const [index, given] of axes.entries()) {
    const axis = normalizeAxis(given, shape.length);
    const more = (pads[index] ?? 0) + (pads[index + axes.length] ?? 0);
    const size = shape[axis] ?? null;
    if (axis in padded) padded[axis] = more === 0 ? size : typeof size === "number" ? size + more : null;
  }
  return [{ type: x?.type, shape: padded }];
};

const topK: ShapeRow = (node, [x], known) => {
  const shape = withSize(x?.shape, intAttribute(node, "axis", -1), known.sizes(node.inputs[1])?.[0] ?? null);
  return [
    { type: x?.type, shape },
    { type: "int64", shape },
  ];
};

const gatherND: ShapeRow = (node, [x, indices]) => {
  const tuple = indices?.shape?.at(-1);
  if (x?.shape === undefined || indices?.shape === undefined || typeof tuple !== "number")
    return [{ type: x?.type, shape: undefined }];
  const read = intAttribute(node, "batch_dims", 0) + tuple;
  return [{ type: x.type, shape: [...indices.shape.slice(0, -1), ...x.shape.slice(read)] }];
};

const oneHot: ShapeRow = (node, [indices, , values], known) => {
  const { shape } = indices ?? unknown;
  if (shape === undefined) return [{ type: values?.type, shape: undefined }];
  const axis = normalizeAxis(intAttribute(node, "axis", -1), shape.length + 1);
  const depth = known.sizes(node.inputs[1])?.[0] ?? null;
  return [{ type: values?.type, shape: [...shape.slice(0, axis), depth, ...shape.slice(axis)] }];
};

/** Blocks of b x b values of the image against b^2 channels. */
const blocks =
  (toDepth: boolean): ShapeRow =>
  (node, [x]) => {
    const b = intAttribute(node, "blocksize", 1);
    const [n, c, h, w] = x?.shape ?? [];
    const over = (dim: Dim | undefined, factor: number): Dim =>
      typeof dim === "number" && dim % factor === 0 ? dim / factor : null;
    if (x?.shape?.length !== 4) return [{ type: x?.type, shape: undefined }];
    const shape = toDepth
      ? [n!, times(c, b * b), over(h, b), over(w, b)]
      : [n!, over(c, b * b), times(h, b), times(w, b)];
    return [{ type: x.type, shape }];
  };

export const indexRows: ShapeRows = {
  Split: split,
  Slice: slice,
  Pad: pad,
  TopK: topK,
  GatherND: gatherND,
  OneHot: oneHot,
  DepthToSpace: blocks(false),
  SpaceToDepth: blocks(true),
  Tile: (node, [x], known) => {
    const repeats = known.sizes(node.inputs[1]);
    return [{ type: x?.type, shape: x?.shape?.map((dim, axis) => times(dim, repeats?.[axis])) }];
  },
  Range: (node, [start], known) => {
    const [from, to, step] = [0, 1, 2].map((input) => known.sizes(node.inputs[input])?.[0]);
    const numbers = typeof from === "number" && typeof to === "number" && typeof step === "number";
    const count = numbers && step !== 0 ? Math.max(Math.ceil((to - from) / step), 0) : null;
    // 0, 1, … n - 1 is as long as n says.
    return [{ type: start?.type, shape: [from === 0 && step === 1 && typeof to === "string" ? to : count] }];
  },
  NonZero: (_, [x]) => [{ type: "int64", shape: [x?.shape?.length ?? null, null] }],
  EyeLike: (_, [x]) => [x ?? unknown],
  Compress: (node, [x]) => {
    const flat = !node.attributes.has("axis");
    return [{ type: x?.type, shape: flat ? [null] : withSize(x?.shape, intAttribute(node, "axis", 0), null) }];
  },
  NonMaxSuppression: () => [{ type: "int64", shape: [null, 3] }],
};
