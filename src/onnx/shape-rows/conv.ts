// Shapes of the operators that slide a window over an image: convolutions, pooling, resizing. Sizes as the ONNX operator
// specification has them. A size that is computed from a symbol is a symbol again, named by its formula: the same formula
// of the same symbol is the same size.
import { type Dim, intAttribute, intsAttribute, type Node, stringAttribute } from "../model.ts";
import { type Known, normalizeAxis, type Shape, type ShapeRow, type ShapeRows, type TensorInfo } from "../shape-row.ts";

/** Over how many positions a window slides, axis by axis. */
function slide(node: Node, spatial: Shape, kernel: readonly (number | undefined)[]): Dim[] {
  const count = spatial.length;
  const strides = intsAttribute(node, "strides") ?? Array<number>(count).fill(1);
  const dilations = intsAttribute(node, "dilations") ?? Array<number>(count).fill(1);
  const autoPad = stringAttribute(node, "auto_pad", "NOTSET");
  const pads = (autoPad === "NOTSET" && intsAttribute(node, "pads")) || Array<number>(2 * count).fill(0);
  const ceil = intAttribute(node, "ceil_mode", 0) !== 0;
  return spatial.map((size, axis) => {
    const stride = strides[axis] ?? 1;
    const window = kernel[axis];
    if (autoPad.startsWith("SAME")) {
      if (typeof size === "number") return Math.ceil(size / stride);
      return stride === 1 || size === null ? size : `ceil(${size}/${stride})`;
    }
    if (window === undefined || size === null) return null;
    const before = pads[axis] ?? 0;
    const free = before + (pads[axis + count] ?? 0) - ((window - 1) * (dilations[axis] ?? 1) + 1);
    if (typeof size === "string") {
      if (stride === 1) return shifted(size, free + 1);
      return `${ceil ? `ceil(before ${before}, ` : "floor("}${shifted(size, free)}/${stride})+1`;
    }
    const exact = (size + free) / stride + 1;
    if (!ceil) return Math.floor(exact);
    // The last window starts inside the image or in front of it.
    const rounded = Math.ceil(exact);
    return (rounded - 1) * stride >= size + before ? rounded - 1 : rounded;
  });
}

function shifted(symbol: string, by: number): string {
  return by === 0 ? symbol : `(${symbol}${by > 0 ? "+" : ""}${by})`;
}

/** The window's size: an attribute, or the weight's spatial sizes. */
function kernelOf(node: Node, weight: TensorInfo | undefined, count: number): (number | undefined)[] {
  const stated = intsAttribute(node, "kernel_shape");
  if (stated !== undefined) return stated;
  const sizes = weight?.shape?.slice(2) ?? [];
  return Array.from({ length: count }, (_, axis) => {
    const size = sizes[axis];
    return typeof size === "number" ? size : undefined;
  });
}

const conv: ShapeRow = (node, [x, weight]) => {
  if (x?.shape === undefined || x.shape.length < 3) return [{ type: x?.type, shape: undefined }];
  const spatial = x.shape.slice(2);
  const kernel = kernelOf(node, weight, spatial.length);
  return [{ type: x.type, shape: [x.shape[0]!, weight?.shape?.[0] ?? null, ...slide(node, spatial, kernel)] }];
};

const convTranspose: ShapeRow = (node, [x, weight]) => {
  if (x?.shape === undefined || x.shape.length < 3) return [{ type: x?.type, shape: undefined }];
  const spatial = x.shape.slice(2);
  const count = spatial.length;
  const features = weight?.shape?.[1] ?? null;
  const group = intAttribute(node, "group", 1);
  const channels = typeof features === "number" ? features * group : group === 1 ? features : null;
  const sizes = intsAttribute(node, "output_shape") ?? spread(node, spatial, kernelOf(node, weight, count));
  // Some exporters state batch and channels too.
  return [{ type: x.type, shape: [x.shape[0]!, channels, ...sizes.slice(-count)] }];
};

function spread(node: Node, spatial: Shape, kernel: readonly (number | undefined)[]): Dim[] {
  const autoPad = stringAttribute(node, "auto_pad", "NOTSET");
  const list = (name: string): readonly number[] => intsAttribute(node, name) ?? [];
  return spatial.map((size, axis) => {
    const stride = list("strides")[axis] ?? 1;
    const window = kernel[axis];
    if (autoPad.startsWith("SAME")) return typeof size === "number" ? size * stride : stride === 1 ? size : null;
    if (window === undefined || size === null) return null;
    const pads = autoPad === "NOTSET" ? list("pads") : [];
    const more = (window - 1) * (list("dilations")[axis] ?? 1) + 1 + (list("output_padding")[axis] ?? 0);
    const added = more - (pads[axis] ?? 0) - (pads[axis + spatial.length] ?? 0) - stride;
    if (typeof size === "number") return size * stride + added;
    return shifted(stride === 1 ? size : `(${size})*${stride}`, added);
  });
}

/** Pooling; a second output holds indices. */
const pool: ShapeRow = (node, [x]) => {
  const kernel = intsAttribute(node, "kernel_shape") ?? [];
  const shape = x?.shape && [...x.shape.slice(0, 2), ...slide(node, x.shape.slice(2), kernel)];
  return [
    { type: x?.type, shape },
    { type: "int64", shape },
  ];
};

const globalPool: ShapeRow = (_, [x]) => [{ type: x?.type, shape: x?.shape?.map((dim, axis) => (axis < 2 ? dim : 1)) }];

const resize: ShapeRow = (node, [x], known) => {
  if (x?.shape === undefined) return [{ type: x?.type, shape: undefined }];
  const { shape } = x;
  const axes = intsAttribute(node, "axes")?.map((axis) => normalizeAxis(axis, shape.length)) ?? [...shape.keys()];
  const sizes = resized(node, known);
  return [
    {
      type: x.type,
      shape: shape.map((dim, axis) => (axes.includes(axis) ? (sizes?.[axes.indexOf(axis)] ?? null) : dim)),
    },
  ];
};

/** The sizes that Resize is given; with scales, or another policy than to stretch, they are not known here. */
function resized(node: Node, known: Known): Shape | undefined {
  return stringAttribute(node, "keep_aspect_ratio_policy", "stretch") === "stretch"
    ? known.sizes(node.inputs[3])
    : undefined;
}

export const convRows: ShapeRows = {
  Conv: conv,
  ConvTranspose: convTranspose,
  MaxPool: pool,
  AveragePool: pool,
  LpPool: pool,
  GlobalAveragePool: globalPool,
  GlobalMaxPool: globalPool,
  GlobalLpPool: globalPool,
  Resize: resize,
};
