// The path of a gradient: the nodes between the parameters and the loss, and why it may not be passable.

import type { ElementType } from "../onnx/elements.ts";
import { reads } from "../onnx/graph.ts";
import type { Graph, Node } from "../onnx/model.ts";
import { stopsGradient } from "../onnx/stop-gradient.ts";
import { gradientRule } from "./table.ts";

export interface Path {
  /** The nodes between the parameters and the seeds, in graph order. */
  readonly nodes: readonly Node[];
  /** The values on that path: those that get a gradient. */
  readonly active: ReadonlySet<string>;
}

/** What depends on a parameter, through operators with a gradient, and is needed for a seed. */
export function findPath(
  graph: Graph,
  typeOf: (value: string) => ElementType | undefined,
  parameters: ReadonlySet<string>,
  seeds: ReadonlySet<string>,
): Path {
  const active = new Set(parameters);
  const dependent: Node[] = [];
  for (const node of graph.nodes) {
    const inputs = reads(node).filter((input) => active.has(input));
    if (inputs.length === 0 || stopsGradient(node) || gradientRule(node.domain, node.op) === "zero") continue;
    // Integers and truth values have no gradient, and none goes through them, but for quantized activations: those stand
    // for the floats that they were made of.
    const quantized = quantizers.has(node.op) || inputs.some((input) => !isFloat(typeOf(input)));
    const outputs = node.outputs.filter((output) => output !== "" && (quantized || isFloat(typeOf(output))));
    if (outputs.length === 0) continue;
    dependent.push(node);
    for (const output of outputs) active.add(output);
  }
  const needed = new Set(seeds);
  const between: Node[] = [];
  for (const node of [...dependent].reverse()) {
    if (!node.outputs.some((output) => needed.has(output))) continue;
    between.push(node);
    for (const input of reads(node)) needed.add(input);
  }
  return { nodes: between.reverse(), active };
}

/** An operator that no gradient goes through, and its nodes on the path. */
export interface Obstacle {
  /** With its domain in front, where that is not ONNX's own. */
  readonly operator: string;
  readonly nodes: readonly Node[];
}

/** The operators on the path that have no gradient rule and are not `handled` otherwise. */
export function pathObstacles(
  { nodes, active }: Path,
  typeOf: (value: string) => ElementType | undefined,
  handled: (node: Node) => boolean = () => false,
): Obstacle[] {
  const found = new Map<string, Node[]>();
  for (const node of nodes) {
    const quantized = node.inputs.some((input) => active.has(input) && !isFloat(typeOf(input)));
    const passes = !quantized || quantizedMoves.has(node.op);
    if (handled(node) || (passes && gradientRule(node.domain, node.op) !== undefined)) continue;
    const operator = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
    found.set(operator, [...(found.get(operator) ?? []), node]);
  }
  return [...found].map(([operator, list]) => ({ operator, nodes: list }));
}

/** One line for each obstacle on the path. */
export function pathFaults(...path: Parameters<typeof pathObstacles>): string[] {
  return pathObstacles(...path).map(({ operator, nodes }) => faultOf(operator, nodes));
}

const words = (list: string): ReadonlySet<string> => new Set(list.split(" "));
const quantizers = words("QuantizeLinear DynamicQuantizeLinear");
/** Operators that read quantized activations and have a gradient for them. */
const quantizedMoves = words(
  "DequantizeLinear Identity Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather",
);
const controlFlow = words("If Loop Scan SequenceMap");

/** An unknown type may be a float. */
function isFloat(type: ElementType | undefined): boolean {
  return type === undefined || type.includes("float");
}

function faultOf(operator: string, nodes: readonly Node[]): string {
  const names = nodes.slice(0, 3).map((node) => JSON.stringify(node.name || node.outputs[0]));
  const more = nodes.length > 3 ? ` and ${nodes.length - 3} more` : "";
  const where = `${operator} (${names.join(", ")}${more})`;
  if (controlFlow.has(operator)) {
    return `gradients do not go through control flow, and ${where} is between the adapters and the loss: export the model without it (a decoder: without a cache, not merged), or adapt only layers behind it`;
  }
  if (/(^|\.)(ConvInteger|MatMulInteger|QLinear\w+|QGemm|QAttention|DynamicQuantizeLSTM)/.test(operator)) {
    return `gradients do not go through ${where}, which computes in integers between the adapters and the loss: export the model with quantized weights alone (DequantizeLinear or MatMulNBits) or with QuantizeLinear and DequantizeLinear pairs, or adapt only layers behind it`;
  }
  if (operator.includes("Sequence") || operator.startsWith("Optional")) {
    return `gradients do not go through sequences and optional values, and ${where} is between the adapters and the loss: export the model without them, or adapt only layers behind it`;
  }
  return `there is no gradient rule for ${where} between the adapters and the loss: adapt only layers behind it`;
}
