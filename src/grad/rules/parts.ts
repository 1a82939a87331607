// What rules of several families are made of: short names for the commonest operators, and constants in the type of the
// values they meet.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { intAttribute, intsAttribute, type Node } from "../../onnx/model.ts";
import { normalizeAxis, sameShape } from "../../onnx/shape-row.ts";
import { type Rule, single } from "../rule.ts";

/** dx from (x, y, d): for operators of one input. */
export function unary(rule: (x: Value, y: Value, d: Value, g: GraphBuilder, node: Node) => Value): Rule {
  return single((node, d, g) => [rule(node.inputs[0]!, node.outputs[0]!, d, g, node)]);
}

export const add = (g: GraphBuilder, a: Value, b: Value): Value => g.op("Add", [a, b]);
export const sub = (g: GraphBuilder, a: Value, b: Value): Value => g.op("Sub", [a, b]);
export const mul = (g: GraphBuilder, a: Value, b: Value): Value => g.op("Mul", [a, b]);
export const div = (g: GraphBuilder, a: Value, b: Value): Value => g.op("Div", [a, b]);
export const where = (g: GraphBuilder, condition: Value, a: Value, b: Value): Value => g.op("Where", [condition, a, b]);

/** `value` in the element type of `like`; a cast is written only where the types may differ. */
export function inTypeOf(g: GraphBuilder, value: Value, like: Value): Value {
  const wanted = g.info(like).type;
  return wanted !== undefined && wanted === g.info(value).type ? value : g.op("CastLike", [value, like]);
}

/** A number in the element type of `like`, which is float32 where nothing is known of it. */
export function scalar(g: GraphBuilder, value: number, like: Value): Value {
  const constant = g.constant("float32", value);
  return (g.info(like).type ?? "float32") === "float32" ? constant : g.op("CastLike", [constant, like]);
}

/** Zeros of this shape, in the element type of `like`. */
export function zeros(g: GraphBuilder, shape: Value, like: Value): Value {
  const filled = g.op("ConstantOfShape", [shape]);
  return (g.info(like).type ?? "float32") === "float32" ? filled : g.op("CastLike", [filled, like]);
}

export const int64 = (g: GraphBuilder, ...values: readonly number[]): Value => g.constant("int64", values);

/** The size of one axis, as a vector of one. */
export function sizeOf(g: GraphBuilder, value: Value, axis: number): Value {
  const known = g.info(value).shape?.at(axis);
  if (typeof known === "number") return int64(g, known);
  return g.op("Shape", [value], axis === -1 ? { start: -1 } : { start: axis, end: axis + 1 });
}

/** 0, 1, … n - 1 for a vector of one that holds n. */
export function countTo(g: GraphBuilder, size: Value): Value {
  const end = g.op("Squeeze", [size, int64(g, 0)]);
  return g.op("Range", [g.constant("int64", 0), end, g.constant("int64", 1)]);
}

/** Vectors one after the other. */
export function joined(g: GraphBuilder, vectors: readonly Value[]): Value {
  const known = vectors.map((vector) => g.integers(vector));
  if (known.every((values) => values !== undefined)) return g.constant("int64", known.flat());
  return vectors.length === 1 ? vectors[0]! : g.op("Concat", vectors, { axis: 0 });
}

/** `value`, which has the shape of `like` for reasons that shape inference cannot see. */
export function inShapeOf(g: GraphBuilder, value: Value, like: Value): Value {
  const same = sameShape(g.info(value).shape, g.info(like).shape);
  return same ? value : g.op("Reshape", [value, g.op("Shape", [like])]);
}

/** Zeros of this shape, with `d` added along `axis` where the vector `at` says: at[i] is the place of d's i-th slice. */
export function addAlong(
  g: GraphBuilder,
  shape: Value,
  at: Value,
  d: Value,
  axis: number,
  rank: number,
  like: Value,
): Value {
  const normal = normalizeAxis(axis, rank);
  const column = Array.from({ length: rank }, (_, index) => (index === normal ? -1 : 1));
  const places = g.op("Expand", [g.op("Reshape", [at, g.constant("int64", column)]), g.op("Shape", [d])]);
  return g.op("ScatterElements", [zeros(g, shape, like), places, d], { axis: normal, reduction: "add" });
}

/** A reduction's `value` with the reduced axes put back as ones, so that it broadcasts against the node's input. */
export function unreduced(node: Node, value: Value, g: GraphBuilder): Value {
  const axes = reducedAxes(node, g);
  // Without axes everything is reduced, and a scalar broadcasts to any shape.
  if (intAttribute(node, "keepdims", 1) !== 0 || axes === undefined) return value;
  return g.op("Unsqueeze", [value, axes]);
}

/** The axes that a reduction names, by attribute or input; undefined when it names none. */
export function reducedAxes(node: Node, g: GraphBuilder): Value | undefined {
  const listed = intsAttribute(node, "axes");
  return node.inputs[1] || (listed && g.constant("int64", listed));
}

/** The sum over the same axes as the node's reduction, kept as ones. */
export function sumAsReduced(node: Node, value: Value, g: GraphBuilder): Value {
  const axes = reducedAxes(node, g);
  const noop = intAttribute(node, "noop_with_empty_axes", 0);
  return g.op("ReduceSum", axes === undefined ? [value] : [value, axes], { keepdims: 1, noop_with_empty_axes: noop });
}
