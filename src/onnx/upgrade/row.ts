// What a row of the upgrade table is: how a node of an older operator set is written in operator set 18.
import type { Value } from "../builder.ts";
import type { Attribute, Node } from "../model.ts";
import type { TensorInfo } from "../shape-row.ts";

/** What a row may ask of the model, and how it makes names and constants. */
export interface UpgradeContext {
  /** The operator set that the node was written for. */
  readonly opset: number;
  /** A constant of the main graph; equal ones are shared. */
  constant(type: "float32" | "int64", values: number | readonly number[]): Value;
  /** A name that no graph of the model has yet. */
  freshName(wanted: string): string;
  /** Type and shape of a value, as far as they are known. */
  info(value: Value): TensorInfo;
  /** The integers or numbers of a value that is stored in the model; undefined for one that is computed. */
  numbers(value: Value): readonly number[] | undefined;
  /** Whether anything reads a value, or it is an output of a graph. */
  isRead(value: Value): boolean;
}

/** The nodes that stand for `node` in operator set 18. Throws LowrankError "model" where there are none. */
export type Rewrite = (node: Node, context: UpgradeContext) => readonly Node[];

export interface UpgradeRow {
  /** The first operator set in which the operator is as it is in 18. */
  readonly since: number;
  readonly rewrite: Rewrite;
}

export type UpgradeRows = Readonly<Record<string, UpgradeRow>>;

/** The node's attributes without some, and with others. */
export function withAttributes(
  node: Node,
  removed: readonly string[],
  added: Readonly<Record<string, Attribute>> = {},
): Node {
  const attributes = new Map([...node.attributes].filter(([name]) => !removed.includes(name)));
  for (const [name, value] of Object.entries(added)) attributes.set(name, value);
  return { ...node, attributes };
}

/** The node with these inputs, which end at the last one given. */
export function withInputs(node: Node, inputs: readonly Value[]): Node {
  const end = inputs.findLastIndex((input) => input !== "") + 1;
  return { ...node, inputs: inputs.slice(0, end) };
}

export function int(value: number): Attribute {
  return { kind: "int", value: BigInt(value) };
}

export function text(value: string): Attribute {
  return { kind: "string", value: new TextEncoder().encode(value) };
}
