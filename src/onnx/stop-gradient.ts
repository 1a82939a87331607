// A value taken as a constant in the backward pass (PyTorch's detach): an Identity that carries a mark in its metadata. The
// runtime removes the node; the gradient's path ends at it.
import { type GraphBuilder, makeNode, type Value } from "./builder.ts";
import type { Node } from "./model.ts";

const mark = "lowrank.stop_gradient";

/** `value` as it is, with no gradient going back through it. */
export function stopGradient(g: GraphBuilder, value: Value): Value {
  const output = g.freshName(`${value}/constant`);
  const metadata = new Map([[mark, "1"]]);
  g.node(makeNode({ op: "Identity", name: g.freshName(output), inputs: [value], outputs: [output], metadata }));
  return output;
}

/** Whether no gradient goes back through a node, whatever its operator is. */
export function stopsGradient(node: Node): boolean {
  return node.metadata.has(mark);
}
