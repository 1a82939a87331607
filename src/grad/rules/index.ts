// Operators that select, join, repeat or scatter values: their gradients move d back to where each value was read.
// d: the gradient of y. Repeated reads add up with ScatterElements: ScatterND's "add" loses updates of equal places on
// several threads (seen in ONNX Runtime 1.30's CPU kernel), so it is used only where places are distinct or read back.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { describeNode, intAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import { normalizeAxis } from "../../onnx/shape-row.ts";
import { type RuleTable, rankOf, single } from "../rule.ts";
import { addAlong, countTo, inShapeOf, inTypeOf, int64, joined, mul, scalar, sizeOf, where, zeros } from "./parts.ts";
import { padRule, sliceRule } from "./window.ts";

const axisOf = (node: Node, fallback = 0): number => intAttribute(node, "axis", fallback);

export const indexRules: RuleTable = {
  // y = x_1 ++ x_2 ++ …; dx_i = d's part
  Concat: single((node, d, g) => {
    const { inputs } = node;
    if (inputs.length === 1) return [d];
    const axis = axisOf(node);
    const sizes = inputs.map((input) => g.info(input).shape?.at(axis));
    const counts = sizes.every((size) => typeof size === "number")
      ? g.constant("int64", sizes)
      : joined(
          g,
          inputs.map((input) => sizeOf(g, input, axis)),
        );
    return g.ops("Split", [d, counts], inputs.length, { axis });
  }),
  // dx = d_1 ++ d_2 ++ …, zeros for parts that do not reach the loss
  Split: (node, dy, g) => {
    const parts = node.outputs.map((output, index) => {
      if (dy[index]) return dy[index];
      if (output !== "") return zeros(g, g.op("Shape", [output]), node.inputs[0]!);
      throw new LowrankError("model", `${describeNode(node)}: output ${index} has no name; give it one`);
    });
    return [g.op("Concat", parts, { axis: axisOf(node) }), null];
  },
  Slice: sliceRule,
  Pad: padRule,
  // Repeats are summed by the walk, as for every value that broadcasts.
  Expand: single((_, d) => [d, null]),
  // y[i + k n] = x[i]; dx = sum over k, with d as [repeats, n] on each axis
  Tile: single((node, d, g) => {
    const [x, repeats] = node.inputs as [Value, Value];
    const rank = rankOf(g, node, x);
    const pairs = [repeats, g.op("Shape", [x])].map((sizes) => g.op("Unsqueeze", [sizes, int64(g, 1)]));
    const split = g.op("Reshape", [d, g.op("Reshape", [g.op("Concat", pairs, { axis: 1 }), int64(g, -1)])]);
    const axes = Array.from({ length: rank }, (_, axis) => 2 * axis);
    const dx = rank === 0 ? d : g.op("ReduceSum", [split, g.constant("int64", axes)], { keepdims: 0 });
    return [dx, null];
  }),
  // y = x[…, indices, …]; d is added where it was read
  Gather: single((node, d, g) => [gathered(node, d, g), null]),
  // y = off + (on - off) m with m 1 at the places; values = (off, on), which each get what d has at theirs
  OneHot: single((node, d, g) => {
    const [indices, depth, values] = node.inputs as [Value, Value, Value];
    const at = (off: number, on: number): Value => {
      const mask = g.op("OneHot", [indices, depth, g.constant("float32", [off, on])], { axis: axisOf(node, -1) });
      return g.op("ReduceSum", [mul(g, d, inTypeOf(g, mask, values))], { keepdims: 0 });
    };
    const sums = [at(1, 0), at(0, 1)].map((sum) => g.op("Unsqueeze", [sum, int64(g, 0)]));
    return [null, null, g.op("Concat", sums, { axis: 0 })];
  }),
  // y[i] = x[indices[i]] with tuples as indices; rows of the flattened x
  GatherND: single((node, d, g) => [gatheredND(node, d, g), null]),
  // y = x, y[indices] = updates (or += updates); dx = d without what was replaced, d(updates) = d[indices]
  ScatterElements: single((node, d, g) => {
    const [, indices, updates] = node.inputs as [Value, Value, Value];
    const axis = axisOf(node);
    const zero = zeros(g, g.op("Shape", [updates]), updates);
    const dx = addsUp(node) ? d : g.op("ScatterElements", [d, indices, zero], { axis });
    return [dx, null, g.op("GatherElements", [d, indices], { axis })];
  }),
  ScatterND: single((node, d, g) => {
    const [, indices, updates] = node.inputs as [Value, Value, Value];
    const zero = zeros(g, g.op("Shape", [updates]), updates);
    const dx = addsUp(node) ? d : g.op("ScatterND", [d, indices, zero]);
    return [dx, null, g.op("GatherND", [d, indices])];
  }),
  // The k largest along an axis; d goes back to where they were
  TopK: single((node, d, g) => {
    const indices = node.outputs[1];
    if (!indices) throw new LowrankError("model", `${describeNode(node)}: its indices are no output of it; name them`);
    return [scatterElements(g, node.inputs[0]!, indices, d, axisOf(node, -1)), null];
  }),
  // A triangle of x, zeros elsewhere; dx = the same triangle of d
  Trilu: single((node, d, g) => {
    const [, k] = node.inputs;
    return [g.op("Trilu", k ? [d, k] : [d], { upper: intAttribute(node, "upper", 1) }), null];
  }),
  // A permutation of the values; dx = d, put back
  DepthToSpace: single((node, d, g) => {
    const blocksize = intAttribute(node, "blocksize", 1);
    if (stringAttribute(node, "mode", "DCR") === "DCR") return [g.op("SpaceToDepth", [d], { blocksize })];
    // CRD: y is [N, C, H, b, W, b] where x is [N, C, b, b, H, W].
    const x = node.inputs[0]!;
    const block = int64(g, blocksize);
    const outer = g.op("Shape", [d], { end: 2 });
    const split = g.op("Reshape", [d, joined(g, [outer, sizeOf(g, x, 2), block, sizeOf(g, x, 3), block])]);
    const swapped = g.op("Transpose", [split], { perm: [0, 1, 3, 5, 2, 4] });
    return [g.op("Reshape", [swapped, g.op("Shape", [x])])];
  }),
  SpaceToDepth: single((node, d, g) => [g.op("DepthToSpace", [d], { blocksize: intAttribute(node, "blocksize", 1) })]),
  // y = running sum of x; dx = running sum of d from the other end
  CumSum: single((node, d, g) => {
    const reverse = 1 - intAttribute(node, "reverse", 0);
    return [g.op("CumSum", [d, node.inputs[1]!], { exclusive: intAttribute(node, "exclusive", 0), reverse }), null];
  }),
};

/** Zeros in the shape of `x`, with `d` added at `indices` (as many as d has values) along `axis`. */
function scatterElements(g: GraphBuilder, x: Value, indices: Value, d: Value, axis: number): Value {
  return g.op("ScatterElements", [zeros(g, g.op("Shape", [x]), x), indices, d], { axis, reduction: "add" });
}

/** Whether a scatter adds; false when it replaces. Throws LowrankError "model" for the other reductions. */
function addsUp(node: Node): boolean {
  const reduction = stringAttribute(node, "reduction", "none");
  if (reduction === "add" || reduction === "none") return reduction === "add";
  throw new LowrankError(
    "model",
    `${describeNode(node)}: expected reduction none or add, got ${reduction}; adapt only layers behind it`,
  );
}

function gathered(node: Node, d: Value, g: GraphBuilder): Value {
  const [x, indices] = node.inputs as [Value, Value];
  const rank = rankOf(g, node, x);
  const indexRank = rankOf(g, node, indices);
  const axis = normalizeAxis(axisOf(node), rank);
  if (indexRank === 0) return placed(g, x, indices, d, axis, rank);
  // The axes of the indices become one.
  const shape = g.op("Shape", [x]);
  const count = g.op("Reshape", [g.op("Size", [indices]), int64(g, 1)]);
  const before = axis === 0 ? [] : [g.op("Shape", [x], { end: axis })];
  const after = axis === rank - 1 ? [] : [g.op("Shape", [x], { start: axis + 1 })];
  const rows = indexRank === 1 ? d : g.op("Reshape", [d, joined(g, [...before, count, ...after])]);
  return addAlong(g, shape, indices, rows, axis, rank, x);
}

/** `d` at one place along `axis`, zeros elsewhere: a comparison and a choice, which are much faster than a scatter. */
function placed(g: GraphBuilder, x: Value, index: Value, d: Value, axis: number, rank: number): Value {
  const size = sizeOf(g, x, axis);
  const wide = g.info(index).type === "int64" ? index : g.op("Cast", [index], { to: 7 });
  // Negative indices count from the end: Mod takes the sign of the size.
  const here = g.op("Equal", [countTo(g, size), g.op("Mod", [wide, size])]);
  const mask = g.op("Reshape", [here, g.constant("int64", [-1, ...Array<number>(rank - 1 - axis).fill(1)])]);
  return inShapeOf(g, where(g, mask, g.op("Unsqueeze", [d, int64(g, axis)]), scalar(g, 0, x)), x);
}

function gatheredND(node: Node, d: Value, g: GraphBuilder): Value {
  const [x, indices] = node.inputs as [Value, Value];
  const batch = intAttribute(node, "batch_dims", 0);
  const tuple = g.info(indices).shape?.at(-1);
  if (typeof tuple !== "number") {
    throw new LowrankError("model", `${describeNode(node)}: the last size of its indices is unknown; make it static`);
  }
  // Rows of x: its first batch + tuple axes flattened. The number of a row is its place in row-major order.
  const shape = g.op("Shape", [x]);
  let row = int64(g, 0);
  for (let axis = 0; axis < batch + tuple; axis++) {
    const size = sizeOf(g, x, axis);
    const place = axis < batch ? batchPlace(g, node, axis, size) : tuplePlace(g, indices, axis - batch, size);
    row = g.op("Add", [mul(g, row, size), place]);
  }
  const lead = g.op("Shape", [x], { end: batch + tuple });
  const width = g.op("Reshape", [g.op("ReduceProd", [g.op("Shape", [x], { start: batch + tuple })]), int64(g, 1)]);
  const rows = g.op("ReduceProd", [lead], { keepdims: 1 });
  const number = g.op("Reshape", [row, int64(g, -1)]);
  const sizes = joined(g, [g.op("Shape", [number]), width]);
  const flat = addAlong(g, joined(g, [rows, width]), number, g.op("Reshape", [d, sizes]), 0, 2, x);
  return g.op("Reshape", [flat, shape]);
}

/** One component of each index tuple, counted from the start. */
function tuplePlace(g: GraphBuilder, indices: Value, component: number, size: Value): Value {
  const column = g.op("Gather", [indices, g.constant("int64", component)], { axis: -1 });
  return g.op("Mod", [column, size]);
}

/** The position on a batch axis, in a shape that broadcasts against one component of the indices. */
function batchPlace(g: GraphBuilder, node: Node, axis: number, size: Value): Value {
  const rank = rankOf(g, node, node.inputs[1]!) - 1;
  const column = Array.from({ length: rank }, (_, index) => (index === axis ? -1 : 1));
  return g.op("Reshape", [countTo(g, size), g.constant("int64", column)]);
}
