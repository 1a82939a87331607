// What convolutions and pooling share: the geometry of a window that slides over an image, and the two products that their
// gradients are made of. Both are convolutions again (Dumoulin & Visin 2016, arXiv:1603.07285, chapter 4), so that the
// runtime's own kernels compute them. n: the image's sizes; o: the number of positions; k, s, l: window, stride, dilation.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { type Dim, describeNode, intAttribute, intsAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import { sameShape } from "../../onnx/shape-row.ts";

/** A window over the spatial axes: all but the first two. */
export interface Window {
  readonly count: number;
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Rows of zeros in front of and behind the image; undefined where they follow from sizes known only at run time. */
  readonly pads: { readonly begin: readonly number[]; readonly end: readonly number[] } | undefined;
  /** The same as values of the graph, int64 [count] each. */
  padValues(): { readonly begin: Value; readonly end: Value };
}

/** The window of a node that slides it over `image`, with a result for each position in `positions`. */
export function windowOf(g: GraphBuilder, node: Node, image: Value, positions: Value, weight?: Value): Window {
  const kernel = kernelOf(g, node, weight);
  const count = kernel.length;
  const strides = intsAttribute(node, "strides") ?? Array<number>(count).fill(1);
  const dilations = intsAttribute(node, "dilations") ?? Array<number>(count).fill(1);
  for (const [name, sizes] of Object.entries({ kernel, strides, dilations })) {
    if (sizes.length === count && sizes.every((size) => size > 0)) continue;
    throw new LowrankError(
      "model",
      `${describeNode(node)}: expected ${name} of ${count} sizes above 0, got [${sizes.slice(0, 8)}]`,
    );
  }
  const autoPad = stringAttribute(node, "auto_pad", "NOTSET");
  const span = kernel.map((size, axis) => (size - 1) * dilations[axis]! + 1);
  const sizes = spatialSizes(g, image);
  const pads = knownPads();
  return { count, kernel, strides, dilations, pads, padValues };

  function knownPads(): Window["pads"] {
    if (!autoPad.startsWith("SAME")) {
      const stated = (autoPad === "NOTSET" && intsAttribute(node, "pads")) || Array<number>(2 * count).fill(0);
      return { begin: stated.slice(0, count), end: stated.slice(count) };
    }
    const totals = span.map((size, axis) => {
      const n = sizes[axis];
      const stride = strides[axis]!;
      if (stride === 1) return size - 1;
      return typeof n === "number" ? Math.max((Math.ceil(n / stride) - 1) * stride + size - n, 0) : undefined;
    });
    if (totals.includes(undefined)) return undefined;
    const less = totals.map((total) => Math.floor(total! / 2));
    const more = totals.map((total) => Math.ceil(total! / 2));
    return autoPad === "SAME_UPPER" ? { begin: less, end: more } : { begin: more, end: less };
  }

  function padValues(): { begin: Value; end: Value } {
    const int64 = (values: readonly number[]): Value => g.constant("int64", values);
    if (pads !== undefined) return { begin: int64(pads.begin), end: int64(pads.end) };
    const last = g.op("Mul", [g.op("Sub", [spatialShape(g, positions), int64([1])]), int64(strides)]);
    const missing = g.op("Sub", [g.op("Add", [last, int64(span)]), spatialShape(g, image)]);
    const total = g.op("Max", [missing, int64([0])]);
    const less = g.op("Div", [total, int64([2])]);
    const more = g.op("Sub", [total, less]);
    return autoPad === "SAME_UPPER" ? { begin: less, end: more } : { begin: more, end: less };
  }
}

/**
 * Every position's value spread over its window: sum over positions p and window places j with p s + j l - begin = i of
 * d[p] weight[j], for each place i of the image.
 *
 * @param d [N, M, o…]; @param weight [M, C / group, k…]; @param image gives the sizes n.
 * @returns [N, C, n…]
 */
export function spreadOverWindows(
  g: GraphBuilder,
  window: Window,
  { d, positions, weight, image, group }: { d: Value; positions: Value; weight: Value; image: Value; group: number },
): Value {
  const { count, kernel, strides, dilations, pads } = window;
  const attributes = { kernel_shape: kernel, strides, dilations, group };
  const mirrored = outerMargins(window) && mirroredWeight(g, weight, count, group);
  if (mirrored !== undefined) {
    return g.op("Conv", [d, mirrored], { kernel_shape: kernel, dilations, group, pads: outerMargins(window)! });
  }
  const behind = pads && placesBehind(window, pads, spatialSizes(g, image), spatialSizes(g, positions));
  if (pads !== undefined && behind !== undefined) {
    // Places behind the image are cut off; places that no window reaches, when the stride does not divide, are zeros.
    const end = behind.map((size) => Math.max(size, 0));
    const unreached = behind.map((size) => Math.max(-size, 0));
    return g.op("ConvTranspose", [d, weight], {
      ...attributes,
      pads: [...pads.begin, ...end],
      ...(unreached.some((size) => size > 0) && { output_padding: unreached }),
    });
  }
  // Sizes are known at run time only: all places, as many zeros as the stride can leave over, cut to the image.
  const all = g.op("ConvTranspose", [d, weight], attributes);
  const zeros = Array<number>(count + 2).fill(0);
  const long = g.op("Pad", [all, g.constant("int64", [...zeros, 0, 0, ...strides.map((stride) => stride - 1)])]);
  const { begin } = window.padValues();
  const end = g.op("Add", [begin, spatialShape(g, image)]);
  return g.op("Slice", [long, begin, end, g.constant("int64", spatialAxes(count))]);
}

/** The padding with which a window on d reaches each place of the image; undefined for strides other than 1. */
function outerMargins({ kernel, strides, dilations, pads }: Window): number[] | undefined {
  if (pads === undefined || strides.some((stride) => stride !== 1)) return undefined;
  const reach = (padding: readonly number[]): number[] =>
    padding.map((size, axis) => (kernel[axis]! - 1) * dilations[axis]! - size);
  const margins = [...reach(pads.begin), ...reach(pads.end)];
  return margins.every((size) => size >= 0) ? margins : undefined;
}

/**
 * The weight [M, C / group, k…] as [C, M / group, k…] with its places in reverse order: what is convolved with d where the
 * stride is 1. The runtime has much faster kernels for that than for ConvTranspose (1.3 to 15 times), and reorders a frozen
 * weight once. Undefined where the sizes of groups are unknown.
 */
function mirroredWeight(g: GraphBuilder, weight: Value, count: number, group: number): Value | undefined {
  const axes = spatialAxes(count);
  const shape = g.info(weight).shape;
  const swap = { perm: [1, 0, ...axes] };
  let turned: Value;
  if (group === 1) turned = g.op("Transpose", [weight], swap);
  else {
    if (!shape?.every((size) => typeof size === "number")) return undefined;
    const [rows, features, ...sizes] = shape as number[];
    const split = g.op("Reshape", [weight, g.constant("int64", [group, rows! / group, features!, ...sizes])]);
    const swapped = g.op("Transpose", [split], { perm: [0, 2, 1, ...axes.map((axis) => axis + 1)] });
    turned = g.op("Reshape", [swapped, g.constant("int64", [group * features!, rows! / group, ...sizes])]);
  }
  if (shape?.slice(2).every((size) => size === 1)) return turned;
  return reversed(g, turned, count);
}

/** The places of each image in reverse order. */
function reversed(g: GraphBuilder, image: Value, count: number): Value {
  const all = (value: number): Value => g.constant("int64", Array<number>(count).fill(value));
  return g.op("Slice", [image, all(-1), all(-(2 ** 31)), g.constant("int64", spatialAxes(count)), all(-1)]);
}

/** How far the last window reaches past the image, negative where it ends before it; undefined where sizes are unknown. */
function placesBehind(
  { kernel, strides, dilations }: Window,
  pads: NonNullable<Window["pads"]>,
  sizes: readonly Dim[],
  positions: readonly Dim[],
): number[] | undefined {
  const places = kernel.map((size, axis) => {
    const stride = strides[axis]!;
    if (stride === 1) return pads.end[axis]!;
    const [n, o] = [sizes[axis], positions[axis]];
    if (typeof n !== "number" || typeof o !== "number") return undefined;
    return (o - 1) * stride + (size - 1) * dilations[axis]! + 1 - pads.begin[axis]! - n;
  });
  return places.includes(undefined) ? undefined : (places as number[]);
}

/**
 * The products of each window with its position's value: sum over images and positions p of d[m, p] image[c, p s + j l - begin]
 * for each place j of the window. A convolution of the image with d, where stride and dilation change places and the images
 * of a batch take the channels' part; groups stay groups.
 *
 * @param d [N, M, o…]; @param image [N, C, n…]; @param weight gives the shape.
 * @returns [M, C / group, k…]
 */
export function correlateWindows(
  g: GraphBuilder,
  window: Window,
  { d, image, weight, group }: { d: Value; image: Value; weight: Value; group: number },
): Value {
  const { count, kernel, strides, dilations, pads } = window;
  const isPointwise = [...kernel, ...strides].every((size) => size === 1) && pads?.begin.every((size) => size === 0);
  if (isPointwise && pads?.end.every((size) => size === 0)) return shapedLike(g, pointwise(g, d, image, group), weight);

  const axes = spatialAxes(count);
  const swap = { perm: [1, 0, ...axes] };
  const rows = g.op("Transpose", [d], swap);
  const columns = g.op("Transpose", [group === 1 ? image : groupsAsImages(g, image, count, group)], swap);
  const margins = group === 1 && isNarrow(g, weight) ? outerMargins(window) : undefined;
  if (margins !== undefined) {
    // Adapters have few rows: d takes the image's part, since each image of this convolution costs a copy of its windows.
    const products = g.op("Conv", [rows, columns], { strides: dilations, pads: margins });
    return shapedLike(g, reversed(g, products, count), weight);
  }
  const products = g.op("Conv", [pads === undefined ? padded(g, window, columns) : columns, rows], {
    strides: dilations,
    dilations: strides,
    group,
    ...(pads && { pads: [...pads.begin, ...pads.end] }),
  });
  // [C / group, M, k…]; what the stride leaves over behind the last window can look like one more place.
  const cut = g.op("Slice", [
    products,
    g.constant("int64", Array<number>(count).fill(0)),
    g.constant("int64", kernel),
    g.constant("int64", axes),
  ]);
  return shapedLike(g, g.op("Transpose", [cut], swap), weight);
}

/** Whether a weight [M, C, k…] has fewer rows than columns: a rank that is a symbol is small. */
function isNarrow(g: GraphBuilder, weight: Value): boolean {
  const [rows, columns] = g.info(weight).shape ?? [];
  return typeof rows === "string" || (typeof rows === "number" && typeof columns === "number" && rows <= columns);
}

/** For windows of one place: a matrix product for each image and group, then summed: [group, M / group, C / group]. */
function pointwise(g: GraphBuilder, d: Value, image: Value, group: number): Value {
  const rows = (value: Value): Value => g.op("Reshape", [value, g.constant("int64", [0, 0, -1])]);
  const zero = g.constant("int64", [0]);
  if (group === 1) {
    const product = g.op("MatMul", [rows(d), g.op("Transpose", [rows(image)], { perm: [0, 2, 1] })]);
    return g.op("ReduceSum", [product, zero], { keepdims: 0 });
  }
  // [N, positions, group, features]
  const grouped = (value: Value): Value =>
    g.op("Reshape", [g.op("Transpose", [rows(value)], { perm: [0, 2, 1] }), g.constant("int64", [0, 0, group, -1])]);
  const left = g.op("Transpose", [grouped(d)], { perm: [0, 2, 3, 1] });
  const right = g.op("Transpose", [grouped(image)], { perm: [0, 2, 1, 3] });
  return g.op("ReduceSum", [g.op("MatMul", [left, right]), zero], { keepdims: 0 });
}

/** [N, C, n…] as [group N, C / group, n…], the images of one group after another. */
function groupsAsImages(g: GraphBuilder, image: Value, count: number, group: number): Value {
  const spatial = spatialShape(g, image);
  const batch = g.op("Shape", [image], { start: 0, end: 1 });
  const split = g.op("Concat", [batch, g.constant("int64", [group, -1]), spatial], { axis: 0 });
  const perm = [1, 0, 2, ...spatialAxes(count).map((axis) => axis + 1)];
  const stacked = g.op("Transpose", [g.op("Reshape", [image, split])], { perm });
  // The channels of a group, as many as [group, N, C / group, n…] has on its third axis.
  const features = g.op("Shape", [stacked], { start: 2, end: 3 });
  const merged = g.op("Concat", [g.constant("int64", [-1]), features, spatial], { axis: 0 });
  return g.op("Reshape", [stacked, merged]);
}

/** The image between its rows of zeros. */
function padded(g: GraphBuilder, window: Window, image: Value): Value {
  const { begin, end } = window.padValues();
  const none = g.constant("int64", [0, 0]);
  return g.op("Pad", [image, g.op("Concat", [none, begin, none, end], { axis: 0 })]);
}

/** `value` with the shape of `other`, which it is known to have: said to shape inference where that does not see it. */
export function shapedLike(g: GraphBuilder, value: Value, other: Value): Value {
  if (sameShape(g.info(value).shape, g.info(other).shape)) return value;
  return g.op("Reshape", [value, g.op("Shape", [other])]);
}

/** The axes behind batch and channels. */
export function spatialAxes(count: number): number[] {
  return Array.from({ length: count }, (_, axis) => axis + 2);
}

/** The sizes of an image, as a vector of the graph. */
export function spatialShape(g: GraphBuilder, image: Value): Value {
  return g.op("Shape", [image], { start: 2 });
}

function spatialSizes(g: GraphBuilder, image: Value): readonly Dim[] {
  return g.info(image).shape?.slice(2) ?? [];
}

function kernelOf(g: GraphBuilder, node: Node, weight: Value | undefined): readonly number[] {
  const stated = intsAttribute(node, "kernel_shape");
  if (stated !== undefined) return stated;
  const sizes = (weight === undefined ? undefined : g.info(weight).shape)?.slice(2);
  if (sizes?.every((size) => typeof size === "number")) return sizes as readonly number[];
  throw new LowrankError(
    "model",
    `${describeNode(node)}: the size of its window is unknown; run ONNX's shape inference on the model first`,
  );
}

/** The group attribute of a convolution. */
export function groupOf(node: Node): number {
  return intAttribute(node, "group", 1);
}
