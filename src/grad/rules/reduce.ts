// Reductions. d: the gradient of y; d and y are read with the reduced axes put back as ones.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import type { Node } from "../../onnx/model.ts";
import { type Rule, type RuleTable, single } from "../rule.ts";
import { div, inTypeOf, mul, scalar, sub, sumAsReduced, unreduced, where } from "./parts.ts";

type Reduction = (x: Value, y: Value, d: Value, g: GraphBuilder, node: Node) => Value;

/** dx in x's own shape, from y and d that broadcast against x. */
const reduction = (rule: Reduction): Rule =>
  single((node, d, g) => {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    return [rule(x, unreduced(node, y, g), unreduced(node, d, g), g, node), null];
  });

/** d in equal shares to the values that equal y, as PyTorch's amax and amin share it. */
const extremum: Rule = reduction((x, y, d, g, node) => {
  const holds = inTypeOf(g, g.op("Cast", [g.op("Equal", [x, y])], { to: 1 }), x);
  return mul(g, holds, div(g, d, sumAsReduced(node, holds, g)));
});

export const reduceRules: RuleTable = {
  ReduceMax: extremum,
  ReduceMin: extremum,
  // dx = d times the product of the others: y / x, and where x is the only 0 the product of what is not
  ReduceProd: reduction((x, _y, d, g, node) => {
    const zero = scalar(g, 0, x);
    const isZero = g.op("Equal", [x, zero]);
    const nonZero = where(g, isZero, scalar(g, 1, x), x);
    const zeros = inTypeOf(g, g.op("Cast", [isZero], { to: 1 }), x);
    const others = div(g, productAsReduced(node, nonZero, g), nonZero);
    const zerosElsewhere = sub(g, sumAsReduced(node, zeros, g), zeros);
    return where(g, g.op("Equal", [zerosElsewhere, zero]), mul(g, d, others), zero);
  }),
  // dx = sign(x) d
  ReduceL1: reduction((x, _y, d, g) => mul(g, g.op("Sign", [x]), d)),
  // dx = x d / y, 0 where all of x is 0
  ReduceL2: reduction((x, y, d, g) => {
    const zero = scalar(g, 0, x);
    const isZero = g.op("Equal", [y, zero]);
    return mul(g, x, where(g, isZero, zero, div(g, d, where(g, isZero, scalar(g, 1, x), y))));
  }),
  // dx = 2 x d
  ReduceSumSquare: reduction((x, _y, d, g) => mul(g, x, mul(g, d, scalar(g, 2, x)))),
  // y = log(sum x); dx = d / e^y
  ReduceLogSum: reduction((x, y, d, g) => expanded(g, mul(g, d, g.op("Exp", [g.op("Neg", [y])])), x)),
  // y = log(sum e^x); dx = e^(x - y) d
  ReduceLogSumExp: reduction((x, y, d, g) => mul(g, g.op("Exp", [sub(g, x, y)]), d)),
};

const expanded = (g: GraphBuilder, value: Value, like: Value): Value => g.op("Expand", [value, g.op("Shape", [like])]);

/** The product over the same axes as the node's reduction, kept as ones. */
function productAsReduced(node: Node, value: Value, g: GraphBuilder): Value {
  const attributes = new Map(node.attributes);
  const flag = attributes.get("noop_with_empty_axes");
  return g.op("ReduceProd", [value, ...node.inputs.slice(1)], {
    keepdims: 1,
    ...(flag && { noop_with_empty_axes: flag }),
  });
}
