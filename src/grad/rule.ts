// What a gradient rule is: given a node, the gradients of its outputs and a builder, it writes the nodes that compute the
// gradients of its inputs. Rules know nothing of broadcasting, accumulation or what is needed: that is the walk's part.
import { LowrankError } from "../errors.ts";
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { describeNode, type Node } from "../onnx/model.ts";

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

/** A rule for operators whose first output alone has a gradient; what reaches the loss through another is refused. */
export function single(rule: (node: Node, dy: Value, g: GraphBuilder) => readonly (Value | null)[]): Rule {
  return (node, [first, ...others], g) => {
    if (first === null || first === undefined || others.some((gradient) => gradient !== null)) {
      throw new LowrankError("model", `${describeNode(node)}: only its first output can be differentiated`);
    }
    return rule(node, first, g);
  };
}

/** How many dimensions a value has. Throws LowrankError "model" when the model does not say, as `node`'s rule must know. */
export function rankOf(g: GraphBuilder, node: Node, value: Value): number {
  const rank = g.info(value).shape?.length;
  if (rank !== undefined) return rank;
  throw new LowrankError(
    "model",
    `${describeNode(node)}: the rank of ${JSON.stringify(value)} is unknown; run ONNX's shape inference on the model first`,
  );
}
