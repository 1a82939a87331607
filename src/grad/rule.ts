// What a gradient rule is: given a node, the gradients of its outputs and a builder, it writes the nodes that compute the
// gradients of its inputs. Rules know nothing of broadcasting, accumulation or what is needed: that is the walk's part.
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import type { Node } from "../onnx/model.ts";

/**
 * Vector-Jacobian product of one operator.
 *
 * @param node the forward node; its inputs and outputs can be read.
 * @param dy the gradient of each output, null where an output does not reach the loss.
 * @returns the gradient of each input in the shape that NumPy's broadcasting gives it, null where there is none.
 */
export type Rule = (node: Node, dy: readonly (Value | null)[], g: GraphBuilder) => readonly (Value | null)[];

/** A rule; "zero" where the derivative is zero wherever it exists; no entry where an operator is not supported. */
export type RuleTable = Readonly<Record<string, Rule | "zero">>;

/** A rule for operators with one output, which the walk calls only when that has a gradient. */
export function single(rule: (node: Node, dy: Value, g: GraphBuilder) => readonly (Value | null)[]): Rule {
  return (node, dy, g) => rule(node, dy[0]!, g);
}
