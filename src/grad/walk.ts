// Reverse-mode differentiation of a graph into the same graph: one walk from the loss back to the parameters, with a rule
// for each operator. Only what lies between the two is touched: nothing below the lowest parameter is walked through, and
// no gradient of a frozen weight is computed. Method: Griewank & Walther, "Evaluating Derivatives", 2nd ed., ch. 3.2.
import { throwFaults } from "../errors.ts";
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { describeNode, type Node } from "../onnx/model.ts";
import { unbroadcast } from "./broadcast.ts";
import { dequantizedAfter, storedQuantized } from "./late-weights.ts";
import { findPath, pathFaults } from "./path.ts";
import { gradientRule } from "./table.ts";

/** Where gradients start: a value and its gradient, in that value's shape. `{ loss: 1 }` for a scalar loss. */
export type Seeds = ReadonlyMap<Value, Value>;

/** The operator sets that gradients can be written in; attaching upgrades older models to 18. */
export const differentiableOpsets = { from: 18, to: 23 } as const;

/**
 * Adds to `g` the nodes that compute the gradients of `parameters` from those of the seeds.
 *
 * @throws LowrankError "model" that lists every node in the way for which there is no rule.
 */
export function backward(g: GraphBuilder, seeds: Seeds, parameters: readonly Value[]): Map<string, Value> {
  const typeOf = (value: Value) => g.info(value).type;
  const path = findPath(g.build(), typeOf, new Set(parameters), new Set(seeds.keys()));
  throwFaults("model", "cannot differentiate", pathFaults(path, typeOf));

  const pending = new Map<Value, Value[]>([...seeds].map(([value, gradient]) => [value, [gradient]]));
  const total = (value: Value): Value | null => {
    const parts = pending.get(value) ?? [];
    if (parts.length < 2) return parts[0] ?? null;
    // Sum, not Add: the runtime folds it into the matrix product before it.
    const sum = g.op("Sum", parts);
    pending.set(value, [sum]);
    return sum;
  };
  const quantized = storedQuantized(g);
  for (const node of [...path.nodes].reverse()) {
    const dy = node.outputs.map((output) => (output === "" ? null : total(output)));
    if (dy.every((gradient) => gradient === null)) continue;
    const rule = gradientRule(node.domain, node.op);
    if (rule === undefined || rule === "zero") throw new Error(`internal: no rule for ${describeNode(node)}`);
    const dx = rule(withWeightsAfter(g, node, dy, quantized), dy, g);
    node.inputs.forEach((input, index) => {
      const gradient = dx[index];
      if (!path.active.has(input) || gradient === null || gradient === undefined) return;
      const fitted = unbroadcast(g, gradient, input);
      const parts = pending.get(input);
      if (parts) parts.push(fitted);
      else pending.set(input, [fitted]);
    });
  }
  return new Map(parameters.map((name) => [name, total(name) ?? g.op("Mul", [name, g.constant("float32", 0)])]));
}

/** The node with its quantized weights dequantized anew: the forward pass need not keep them (see late-weights.ts). */
function withWeightsAfter(
  g: GraphBuilder,
  node: Node,
  dy: readonly (Value | null)[],
  quantized: ReadonlyMap<Value, Node>,
): Node {
  const after = dy.find((gradient) => gradient !== null);
  if (!after || !node.inputs.some((input) => quantized.has(input))) return node;
  const inputs = node.inputs.map((input) => {
    const weight = quantized.get(input);
    return weight === undefined ? input : dequantizedAfter(g, weight, after);
  });
  return { ...node, inputs };
}
