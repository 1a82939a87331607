// Slice and Pad: y is a window of x, or x a window of y. Where steps and margins are plain, one is the other's gradient;
// steps other than 1 and the mirroring modes go through the indices that they stand for. d: the gradient of y.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { describeNode, type Node, stringAttribute } from "../../onnx/model.ts";
import { normalizeAxis } from "../../onnx/shape-row.ts";
import { type Rule, rankOf, single } from "../rule.ts";
import { addAlong, countTo, inShapeOf, int64, joined, scalar, sizeOf, sub } from "./parts.ts";

/** y = x[start:end:step] on some axes; dx = d with zeros around it, and between its values where the step is not 1. */
export const sliceRule: Rule = single((node, d, g) => {
  const [x, starts, ends] = node.inputs as [Value, Value, Value];
  const { axes, steps } = sliced(node, g);
  if (axes.length === 0) return [d];
  if (steps.every((step) => step === 1)) {
    const before = axes.map((axis, index) => skipped(g, x, starts, axis, index));
    const after = axes.map((axis, index) => sub(g, sub(g, sizeOf(g, x, axis), before[index]!), sizeOf(g, d, axis)));
    return [inShapeOf(g, g.op("Pad", [d, ...margins(g, x, axes, before, after)]), x)];
  }
  const dx = axes.reduce((gradient, axis, index) => {
    const [start, end] = [element(g, starts, index), element(g, ends, index)];
    const window = [start, end, int64(g, 0), int64(g, steps[index]!)];
    return putBack(g, gradient, g.op("Slice", [countTo(g, sizeOf(g, x, axis)), ...window]), sizeOf(g, x, axis), axis);
  }, d);
  return [inShapeOf(g, dx, x)];
});

/** y = x with margins; dx = d without them. Margins that mirror x add their part of d to what they show. */
export const padRule: Rule = single((node, d, g) => {
  const [x, pads, value, axesInput] = node.inputs as [Value, Value, Value | undefined, Value | undefined];
  const mode = stringAttribute(node, "mode", "constant");
  if (mode === "constant") {
    // A negative margin cuts: the margins of the gradient are those of y with the other sign.
    const cuts = g.op("Neg", [pads]);
    const axes = axesInput && g.integers(axesInput);
    const cut = (index: number): Value => element(g, cuts, index);
    const inputs = axes
      ? margins(
          g,
          x,
          axes,
          axes.map((_, index) => cut(index)),
          axes.map((_, index) => cut(index + axes.length)),
        )
      : [cuts, scalar(g, 0, x), ...(axesInput ? [axesInput] : [])];
    const dx = inShapeOf(g, g.op("Pad", [d, ...inputs]), x);
    const sum = (part: Value): Value => g.op("ReduceSum", [part], { keepdims: 0 });
    return [dx, null, value ? sub(g, sum(d), sum(dx)) : null];
  }
  const rank = rankOf(g, node, x);
  const axes = axesInput ? g.integers(axesInput) : [...Array(rank).keys()];
  if (axes === undefined)
    throw new LowrankError("model", `${describeNode(node)}: expected constant axes, got computed ones`);
  const known = g.integers(pads);
  const dx = axes.reduce((gradient, axis, index) => {
    if (known?.[index] === 0 && known[index + axes.length] === 0) return gradient;
    const size = sizeOf(g, x, axis);
    const margins = joined(g, [element(g, pads, index), element(g, pads, index + axes.length)]);
    const shown = g.op("Pad", [countTo(g, size), margins], { mode });
    return addAlong(g, resized(g, gradient, normalizeAxis(axis, rank), rank, size), shown, gradient, axis, rank, x);
  }, d);
  return [inShapeOf(g, dx, x)];
});

/**
 * What Pad takes beside its data: margins (int64 vectors of one) on some axes, and the zero to fill them with. They are written for
 * every axis: where a Transpose meets a Pad that names its axes, the runtime's optimizer takes them for margins of every axis.
 */
function margins(
  g: GraphBuilder,
  x: Value,
  axes: readonly number[],
  before: readonly Value[],
  after: readonly Value[],
): Value[] {
  const rank = g.info(x).shape?.length;
  const zero = scalar(g, 0, x);
  if (rank === undefined) return [joined(g, [...before, ...after]), zero, g.constant("int64", axes)];
  const places = axes.map((axis) => normalizeAxis(axis, rank));
  const everyAxis = (side: readonly Value[]): Value[] =>
    Array.from({ length: rank }, (_, axis) => side[places.indexOf(axis)] ?? int64(g, 0));
  return [joined(g, [...everyAxis(before), ...everyAxis(after)]), zero];
}

function sliced(node: Node, g: GraphBuilder): { axes: readonly number[]; steps: readonly number[] } {
  const [, starts, , axesInput, stepsInput] = node.inputs;
  const count = g.info(starts!).shape?.[0];
  const leading = typeof count === "number" ? [...Array(count).keys()] : undefined;
  const axes = axesInput ? g.integers(axesInput) : leading;
  const steps = stepsInput ? g.integers(stepsInput) : axes?.map(() => 1);
  if (axes !== undefined && steps !== undefined) return { axes, steps };
  throw new LowrankError(
    "model",
    `${describeNode(node)}: expected constant axes and steps, got computed ones; adapt only layers behind it`,
  );
}

/** How many values of an axis lie before a slice's start, as a vector of one. */
function skipped(g: GraphBuilder, x: Value, starts: Value, axis: number, index: number): Value {
  const start = g.integers(starts)?.[index];
  const size = g.info(x).shape?.at(axis);
  if (start === 0) return int64(g, 0);
  if (start !== undefined && typeof size === "number") {
    return int64(g, Math.min(Math.max(start < 0 ? start + size : start, 0), size));
  }
  const before = g.op("Slice", [countTo(g, sizeOf(g, x, axis)), int64(g, 0), element(g, starts, index)]);
  return g.op("Shape", [before]);
}

/** One value of an integer vector, as an int64 vector of one. */
function element(g: GraphBuilder, vector: Value, index: number): Value {
  const known = g.integers(vector)?.[index];
  if (known !== undefined) return int64(g, known);
  const part = g.op("Gather", [vector, int64(g, index)]);
  return g.info(vector).type === "int64" ? part : g.op("Cast", [part], { to: 7 });
}

/** `d` along one axis at the distinct places `at` of `size`, zeros elsewhere: each place picks its value, or a zero after d. */
function putBack(g: GraphBuilder, d: Value, at: Value, size: Value, axis: number): Value {
  const count = g.op("Shape", [at]);
  const nowhere = g.op("Expand", [count, size]);
  const source = g.op("ScatterElements", [nowhere, at, countTo(g, count)]);
  const withZero = g.op("Pad", [d, ...margins(g, d, [axis], [int64(g, 0)], [int64(g, 1)])]);
  return g.op("Gather", [withZero, source], { axis });
}

/** The shape of `value`, with another size on one axis. */
function resized(g: GraphBuilder, value: Value, axis: number, rank: number, size: Value): Value {
  const before = axis === 0 ? [] : [g.op("Shape", [value], { end: axis })];
  const after = axis === rank - 1 ? [] : [g.op("Shape", [value], { start: axis + 1 })];
  return joined(g, [...before, size, ...after]);
}
