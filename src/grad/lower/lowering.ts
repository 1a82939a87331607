// What a lowering is: it rewrites one compound operator as standard ones, for which there are gradient rules. Meanings are
// those of ONNX Runtime's kernels (its docs/ContribOperators.md, and what the kernels compute where that is silent).
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, PlainAttributes, Value } from "../../onnx/builder.ts";
import { describeNode, type Node } from "../../onnx/model.ts";

/**
 * Writes the nodes that compute what `node` does, ending in exactly its output names. Types and shapes of its inputs are
 * known to the builder.
 *
 * @throws LowrankError "model" for a form of the operator that is not supported.
 */
export type Lowering = (node: Node, g: GraphBuilder) => void;

export type LoweringTable = Readonly<Record<string, Lowering>>;

/** A float32 scalar. */
export function scalar(g: GraphBuilder, value: number): Value {
  return g.constant("float32", value);
}

/** A one-dimensional integer constant: axes, sizes. */
export function integers(g: GraphBuilder, ...values: readonly number[]): Value {
  return g.constant("int64", values);
}

/** One size of a value, as an integer vector of one element. */
export function sizeOf(g: GraphBuilder, value: Value, axis: number): Value {
  return g.op("Slice", [g.op("Shape", [value]), integers(g, axis), integers(g, axis + 1)]);
}

/** `value + bias`, or `value` when there is no bias. */
export function addIfGiven(g: GraphBuilder, value: Value, bias: Value | undefined): Value {
  return bias ? g.op("Add", [value, bias]) : value;
}

/** Gives a value the name of one of the node's outputs; nothing when the node leaves that output out. */
export function name(g: GraphBuilder, value: Value, output: string | undefined): void {
  if (output) g.op("Identity", [value], {}, { output });
}

/** The last operator of a lowering with one output. */
export function end(
  g: GraphBuilder,
  node: Node,
  operator: string,
  inputs: readonly Value[],
  attributes: PlainAttributes = {},
): void {
  g.op(operator, inputs, attributes, { output: node.outputs[0]! });
}

/** A form of an operator that is not supported: what was expected, what the node has. */
export function refuse(node: Node, why: string): never {
  throw new LowrankError("model", `${describeNode(node)}: ${why}`);
}

/** Refuses the node when it has one of these outputs. */
export function refuseOutputs(node: Node, outputs: Readonly<Record<string, number>>): void {
  for (const [what, index] of Object.entries(outputs)) {
    if (node.outputs[index]) refuse(node, `its output ${what} cannot be written with standard operators`);
  }
}
