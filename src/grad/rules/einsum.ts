// Einsum: y = sum over the letters that the result lacks of the product of the operands. d: the gradient of y.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { type Equation, parseEquation } from "../../onnx/einsum.ts";
import { describeNode, type Node } from "../../onnx/model.ts";
import { type RuleTable, rankOf, single } from "../rule.ts";

export const einsumRules: RuleTable = {
  // dx_i = the product of d and the other operands, summed to the letters of x_i
  Einsum: single((node, d, g) => {
    const equation = parseEquation(
      node,
      node.inputs.map((input) => rankOf(g, node, input)),
    );
    if (equation === undefined) throw new Error(`internal: ${describeNode(node)} has ranks and no equation`);
    return node.inputs.map((_, index) => operandGradient(g, node, equation, index, d));
  }),
};

function operandGradient(g: GraphBuilder, node: Node, { operands, result }: Equation, index: number, d: Value): Value {
  const letters = operands[index]!;
  if (new Set(letters).size !== letters.length) {
    throw new LowrankError(
      "model",
      `${describeNode(node)}: operand ${index} names an axis twice (${letters}), a diagonal that cannot be differentiated; adapt only layers behind it`,
    );
  }
  const others = operands.flatMap((term, other) => (other === index ? [] : [{ term, value: node.inputs[other]! }]));
  const terms = [result, ...others.map(({ term }) => term)];
  // Letters that this operand alone has were summed over: d is the same for each of their values.
  const present = [...letters].filter((letter) => terms.some((term) => term.includes(letter))).join("");
  const values = [d, ...others.map(({ value }) => value)];
  const product =
    terms.length === 1 && terms[0] === present
      ? d
      : g.op("Einsum", values, { equation: `${terms.join(",")}->${present}` });
  if (present === letters) return product;
  const missing = [...letters].flatMap((letter, axis) => (present.includes(letter) ? [] : [axis]));
  const open = g.op("Unsqueeze", [product, g.constant("int64", missing)]);
  return g.op("Expand", [open, g.op("Shape", [node.inputs[index]!])]);
}
