// Convolutions. d: the gradient of y; x [N, C, n…], w the weight, b the bias.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { describeNode, intsAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import { type RuleTable, single } from "../rule.ts";
import {
  correlateWindows,
  groupOf,
  shapedLike,
  spatialAxes,
  spreadOverWindows,
  type Window,
  windowOf,
} from "./sliding.ts";

export const convRules: RuleTable = {
  // y[m, p] = sum_cj w[m, c, j] x[c, p s + j l - begin] + b[m]; dx: d spread over the windows; dw: windows times d
  Conv: single((node, d, g) => {
    const [x, weight, bias] = node.inputs as [Value, Value, Value | undefined];
    const window = windowOf(g, node, x, node.outputs[0]!, weight);
    const group = groupOf(node);
    const dx = spreadOverWindows(g, window, { d, positions: node.outputs[0]!, weight, image: x, group });
    const dw = correlateWindows(g, window, { d, image: x, weight, group });
    return [shapedLike(g, dx, x), dw, bias ? overImages(g, d, window.count) : null];
  }),
  // The transpose of Conv: x has the positions, y is the image, and the two change places.
  ConvTranspose: single((node, d, g) => {
    const [x, weight, bias] = node.inputs as [Value, Value, Value | undefined];
    const window = transposedWindow(g, node, x, weight);
    const { count, kernel, strides, dilations, pads } = window;
    const group = groupOf(node);
    const ends = pads === undefined ? {} : { pads: [...pads.begin, ...pads.end] };
    const dx = g.op("Conv", [d, weight], { kernel_shape: kernel, strides, dilations, group, ...ends });
    const dw = correlateWindows(g, window, { d: x, image: d, weight, group });
    return [shapedLike(g, dx, x), dw, bias ? overImages(g, d, count) : null];
  }),
};

/** d summed over images and positions: [M]. */
function overImages(g: GraphBuilder, d: Value, count: number): Value {
  return g.op("ReduceSum", [d, g.constant("int64", [0, ...spatialAxes(count)])], { keepdims: 0 });
}

/** A window whose padding follows from the size of the result, where that is asked for. */
function transposedWindow(g: GraphBuilder, node: Node, x: Value, weight: Value): Window {
  const autoPad = stringAttribute(node, "auto_pad", "NOTSET");
  const stated = new Map(node.attributes);
  stated.delete("auto_pad");
  if (autoPad !== "NOTSET") stated.delete("pads");
  const window = windowOf(g, { ...node, attributes: stated }, node.outputs[0]!, x, weight);
  const { count } = window;
  const asked = intsAttribute(node, "output_shape")?.slice(-count);
  if (asked === undefined && !autoPad.startsWith("SAME")) return window;

  const outputPadding = intsAttribute(node, "output_padding") ?? Array<number>(count).fill(0);
  const sizes = g.info(x).shape?.slice(2) ?? [];
  const totals = window.kernel.map((size, axis) => {
    const stride = window.strides[axis]!;
    const span = (size - 1) * window.dilations[axis]! + 1 + outputPadding[axis]!;
    if (asked === undefined) return Math.max(span - stride, 0);
    const n = sizes[axis];
    if (typeof n === "number") return Math.max((n - 1) * stride + span - asked[axis]!, 0);
    throw new LowrankError(
      "model",
      `${describeNode(node)}: with output_shape, expected input sizes known in advance, got [${sizes}]; export it with pads`,
    );
  });
  const less = totals.map((total) => Math.floor(total / 2));
  const more = totals.map((total) => Math.ceil(total / 2));
  return { ...window, pads: autoPad === "SAME_UPPER" ? { begin: less, end: more } : { begin: more, end: less } };
}
