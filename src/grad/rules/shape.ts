// Reductions and operators that only move values about. d: the gradient of y.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { intAttribute, intsAttribute, type Node } from "../../onnx/model.ts";
import { type Rule, type RuleTable, single } from "../rule.ts";
import { inTypeOf, unreduced, zeros } from "./parts.ts";

/** dx = d in x's own shape. */
const reshaped: Rule = single(({ inputs: [x] }, d, g) => [g.op("Reshape", [d, g.op("Shape", [x!])])]);

export const shapeRules: RuleTable = {
  Reshape: reshaped,
  Flatten: reshaped,
  Squeeze: reshaped,
  Unsqueeze: reshaped,
  // dx = d, axes put back
  Transpose: single((node, d, g) => {
    const perm = intsAttribute(node, "perm");
    return [g.op("Transpose", [d], perm && { perm: perm.map((_, axis) => perm.indexOf(axis)) })];
  }),
  // dx = d, spread over the axes that were summed
  ReduceSum: single((node, d, g) => [spread(node, d, g)]),
  // dx = d / n, spread; n: how many values each mean is of
  ReduceMean: single((node, d, g) => {
    const size = (value: Value): Value => inTypeOf(g, g.op("Size", [value]), d);
    const share = g.op("Div", [size(node.outputs[0]!), size(node.inputs[0]!)]);
    return [spread(node, g.op("Mul", [d, share]), g)];
  }),
  // y = x[indices] along an axis, one index for each value: d goes back to where it was read
  GatherElements: single((node, d, g) => {
    const [x, indices] = node.inputs;
    const empty = zeros(g, g.op("Shape", [x!]), x!);
    const attributes = { axis: intAttribute(node, "axis", 0), reduction: "add" };
    return [g.op("ScatterElements", [empty, indices!, d], attributes), null];
  }),
};

/** Expands `d` to the shape of the node's input, the reduced axes put back first. */
function spread(node: Node, d: Value, g: GraphBuilder): Value {
  return g.op("Expand", [unreduced(node, d, g), g.op("Shape", [node.inputs[0]!])]);
}
