// Pooling. d: the gradient of y; x [N, C, n…], y [N, C, o…].
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { intAttribute, type Node } from "../../onnx/model.ts";
import { type Rule, type RuleTable, single } from "../rule.ts";
import { div, int64, mul, scalar, where, zeros } from "./parts.ts";
import { spatialAxes, spatialShape, spreadOverWindows, type Window, windowOf } from "./sliding.ts";

export const poolRules: RuleTable = {
  // y = the largest of a window; d is added where that was. The first of equal ones counts, as in PyTorch.
  MaxPool: single((node, d, g) => {
    const x = node.inputs[0]!;
    const indices = node.attributes.has("storage_order") ? undefined : node.outputs[1];
    const at = indices || placesOfLargest(node, g);
    const flat = (value: Value): Value => g.op("Reshape", [value, int64(g, -1)]);
    const none = zeros(g, g.op("Reshape", [g.op("Size", [x]), int64(g, 1)]), x);
    const added = g.op("ScatterElements", [none, flat(at), flat(d)], { axis: 0, reduction: "add" });
    return [g.op("Reshape", [added, g.op("Shape", [x])])];
  }),
  // y = sum of a window / its count; dx = d / count, spread over the windows
  AveragePool: single((node, d, g) => {
    const window = poolWindow(node, g);
    return [spreadByChannel(node, mul(g, d, shares(node, window, g)), window, g)];
  }),
  // y = (sum of |x|^p over a window)^(1 / p); dx = sign(x) |x|^(p-1) times d y^(1-p), spread over the windows
  LpPool: single((node, d, g) => {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    const spread = (value: Value): Value => spreadByChannel(node, value, poolWindow(node, g), g);
    return [powerMean(g, x, y, d, intAttribute(node, "p", 2), spread)];
  }),
  // y = mean over positions; dx = d / their count
  GlobalAveragePool: single((node, d, g) => {
    const x = node.inputs[0]!;
    const count = g.op("Cast", [g.op("ReduceProd", [spatialShape(g, x)], { keepdims: 0 })], { to: 1 });
    return [g.op("Expand", [div(g, d, g.op("CastLike", [count, d])), g.op("Shape", [x])])];
  }),
  // y = the largest over all positions: the first of equal ones counts
  GlobalMaxPool: single((node, d, g) => {
    const x = node.inputs[0]!;
    const rows = (value: Value): Value => g.op("Reshape", [value, int64(g, 0, 0, -1)]);
    const places = g.op("ArgMax", [rows(x)], { axis: 2 });
    const none = zeros(g, g.op("Shape", [rows(x)]), x);
    const placed = g.op("ScatterElements", [none, places, rows(d)], { axis: 2 });
    return [g.op("Reshape", [placed, g.op("Shape", [x])])];
  }),
  GlobalLpPool: single((node, d, g) => {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    return [powerMean(g, x, y, d, intAttribute(node, "p", 2), (value) => value)];
  }),
} satisfies Record<string, Rule>;

/** The places of the largest values, counted over all of x: the pooling once more, with its second output. */
function placesOfLargest(node: Node, g: GraphBuilder): Value {
  const { storage_order: _, ...attributes } = Object.fromEntries(node.attributes);
  return g.ops("MaxPool", [node.inputs[0]!], 2, attributes)[1]!;
}

function poolWindow(node: Node, g: GraphBuilder): Window {
  return windowOf(g, node, node.inputs[0]!, node.outputs[0]!);
}

/** `value` [N, C, o…] spread over the windows, each channel as an image of its own: [N, C, n…]. */
function spreadByChannel(node: Node, value: Value, window: Window, g: GraphBuilder): Value {
  const [image, positions] = [node.inputs[0]!, node.outputs[0]!];
  const sizes = g.op("Concat", [int64(g, -1, 1), spatialShape(g, positions)], { axis: 0 });
  const d = g.op("Reshape", [value, sizes]);
  const spread = spreadOverWindows(g, window, { d, positions, weight: onesOf(g, window, value), image, group: 1 });
  return g.op("Reshape", [spread, g.op("Shape", [image])]);
}

/** A weight of ones: [1, 1, k…]. */
function onesOf(g: GraphBuilder, { kernel }: Window, like: Value): Value {
  return g.op("Expand", [scalar(g, 1, like), int64(g, 1, 1, ...kernel)]);
}

/**
 * What each place of a window weighs in its mean: [1, 1, o…], or a number where all are alike. Which places count (padding,
 * what lies behind it) is for the runtime to say: the mean of ones is the share of real places among those that count.
 */
function shares(node: Node, window: Window, g: GraphBuilder): Value {
  const [x, y] = [node.inputs[0]!, node.outputs[0]!];
  const { kernel, strides, dilations, pads, count } = window;
  const includesPads = intAttribute(node, "count_include_pad", 0) !== 0;
  const isPadded = pads === undefined || [...pads.begin, ...pads.end].some((size) => size > 0);
  if ((includesPads || !isPadded) && intAttribute(node, "ceil_mode", 0) === 0) {
    return scalar(g, 1 / kernel.reduce((a, b) => a * b, 1), x);
  }
  const sizes = g.op("Concat", [int64(g, 1, 1), spatialShape(g, x)], { axis: 0 });
  const ones = g.op("Expand", [scalar(g, 1, x), sizes]);
  const mean = g.op("AveragePool", [ones], Object.fromEntries(node.attributes));
  // How many real places each window has. The padding is enough for one window more, which is cut off.
  const none = int64(g, 0, 0);
  const { begin, end } = window.padValues();
  const rest = g.op("Add", [
    end,
    g.constant(
      "int64",
      strides.map((stride) => stride - 1),
    ),
  ]);
  const image = g.op("Pad", [ones, g.op("Concat", [none, begin, none, rest], { axis: 0 })]);
  const all = g.op("Conv", [image, onesOf(g, window, x)], { kernel_shape: kernel, strides, dilations });
  const axes = g.constant("int64", spatialAxes(count));
  const start = g.constant("int64", Array<number>(count).fill(0));
  const real = g.op("Slice", [all, start, spatialShape(g, y), axes]);
  return div(g, mean, g.op("Max", [real, scalar(g, 1, x)]));
}

/** dx of y = (sum |x|^p)^(1/p), `spread` bringing a value for each sum back to its terms. 0 where the sum is 0. */
function powerMean(g: GraphBuilder, x: Value, y: Value, d: Value, p: number, spread: (value: Value) => Value): Value {
  const sign = g.op("Sign", [x]);
  if (p === 1) return mul(g, sign, spread(d));
  const power = (base: Value, exponent: number): Value => g.op("Pow", [base, scalar(g, exponent, base)]);
  const zero = scalar(g, 0, y);
  const scaled = where(g, g.op("Equal", [y, zero]), zero, mul(g, d, power(y, 1 - p)));
  const slope = p === 2 ? x : mul(g, sign, power(g.op("Abs", [x]), p - 1));
  return mul(g, slope, spread(scaled));
}
