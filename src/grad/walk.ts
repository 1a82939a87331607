// Reverse-mode differentiation of a graph into the same graph: one walk from the loss back to the parameters, with a rule
// for each operator. Only what lies between the two is touched: nothing below the lowest parameter is walked through, and
// no gradient of a frozen weight is computed. Method: Griewank & Walther, "Evaluating Derivatives", 2nd ed., ch. 3.2.
import { throwFaults } from "../errors.ts";
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { reads } from "../onnx/graph.ts";
import { describeNode, type Node } from "../onnx/model.ts";
import { unbroadcast } from "./broadcast.ts";
import { gradientRule } from "./table.ts";

/** Where gradients start: a value and its gradient, in that value's shape. `{ loss: 1 }` for a scalar loss. */
export type Seeds = ReadonlyMap<Value, Value>;

/** The operator sets that gradients can be written in: ScatterElements adds from 16 on. */
export const differentiableOpsets = { from: 16, to: 23 } as const;

/**
 * Adds to `g` the nodes that compute the gradients of `parameters` from those of the seeds.
 *
 * @throws LowrankError "model" that lists every node in the way for which there is no rule.
 */
export function backward(g: GraphBuilder, seeds: Seeds, parameters: readonly Value[]): Map<string, Value> {
  const path = findPath(g, new Set(parameters), new Set(seeds.keys()));
  throwFaults("model", "cannot differentiate", path.faults);

  const pending = new Map<Value, Value[]>([...seeds].map(([value, gradient]) => [value, [gradient]]));
  const total = (value: Value): Value | null => {
    const parts = pending.get(value) ?? [];
    if (parts.length < 2) return parts[0] ?? null;
    // Sum, not Add: the runtime folds it into the matrix product before it.
    const sum = g.op("Sum", parts);
    pending.set(value, [sum]);
    return sum;
  };
  for (const node of path.nodes.reverse()) {
    const dy = node.outputs.map((output) => (output === "" ? null : total(output)));
    if (dy.every((gradient) => gradient === null)) continue;
    const rule = gradientRule(node.domain, node.op);
    if (rule === undefined || rule === "zero") throw new Error(`internal: no rule for ${describeNode(node)}`);
    const dx = rule(node, dy, g);
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

interface Path {
  /** The nodes between the parameters and the seeds, in graph order. */
  readonly nodes: Node[];
  /** The values on that path: those that get a gradient. */
  readonly active: ReadonlySet<Value>;
  /** Why it cannot be walked, one line for each operator in the way. */
  readonly faults: string[];
}

/** What depends on a parameter, through operators with a gradient, and is needed for a seed. */
function findPath(g: GraphBuilder, parameters: ReadonlySet<Value>, seeds: ReadonlySet<Value>): Path {
  const active = new Set(parameters);
  const dependent: Node[] = [];
  for (const node of g.build().nodes) {
    if (gradientRule(node.domain, node.op) === "zero" || !reads(node).some((input) => active.has(input))) continue;
    // Integers and truth values have no gradient, and none goes through them.
    const outputs = node.outputs.filter(
      (output) => output !== "" && (g.info(output).type ?? "float").includes("float"),
    );
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
  between.reverse();
  const faults = new Map<string, Node[]>();
  for (const node of between) {
    if (gradientRule(node.domain, node.op) !== undefined) continue;
    const operator = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
    faults.set(operator, [...(faults.get(operator) ?? []), node]);
  }
  return { nodes: between, active, faults: [...faults].map(([operator, list]) => faultOf(operator, list)) };
}

function faultOf(operator: string, nodes: readonly Node[]): string {
  const names = nodes.slice(0, 3).map((node) => JSON.stringify(node.name || node.outputs[0]));
  const more = nodes.length > 3 ? ` and ${nodes.length - 3} more` : "";
  return `there is no gradient rule for ${operator} (${names.join(", ")}${more}) between the adapters and the loss: adapt only layers behind it`;
}
