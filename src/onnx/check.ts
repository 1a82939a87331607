// Is this graph well formed? Single assignment, nothing dangling, no cycles, operator sets named and in range.
// Source: the ONNX IR specification's rules (docs/IR.md, "Graphs"), and the runtime's limits.
import { describeNode, type Graph, type Model, type Node } from "./model.ts";

/** ONNX operator sets that can be read (gradients ask for more: see grad/). */
export const readableOpsets = { from: 1, to: 26 } as const;

/** How deep graphs may be nested in attributes. */
const maxDepth = 100;

/** Every fault of a model's structure, in plain words; empty when it is well formed. */
export function checkModel(model: Model): string[] {
  const faults: string[] = [];
  const opset = model.opsets.get("");
  if (opset === undefined) {
    if (model.opsets.size === 0) faults.push("no operator set is named (opset_import)");
  } else if (opset < readableOpsets.from || opset > readableOpsets.to) {
    faults.push(
      `operator set ${opset}: readable are ${readableOpsets.from} to ${readableOpsets.to}; export the model again`,
    );
  }
  checkGraph(model.graph, new Set(), "", 0, faults);
  for (const node of model.graph.nodes) {
    if (!model.opsets.has(node.domain)) faults.push(`${describeNode(node)}: its domain has no opset_import`);
  }
  return faults;
}

function checkGraph(graph: Graph, outer: ReadonlySet<string>, where: string, depth: number, faults: string[]): void {
  if (depth > maxDepth) {
    faults.push(`${where}graphs are nested over ${maxDepth} deep`);
    return;
  }
  const known = new Set(outer);
  for (const { name } of graph.inputs) {
    if (known.has(name) && !outer.has(name))
      faults.push(`${where}input ${JSON.stringify(name)}: there are two of that name`);
    known.add(name);
  }
  for (const name of graph.initializers.keys()) known.add(name);
  checkNodes(graph, known, outer, where, depth, faults);
  for (const { name } of graph.outputs) {
    if (!known.has(name)) faults.push(`${where}output ${JSON.stringify(name)}: nothing computes it`);
  }
}

/** Adds the nodes' outputs to `known`, in file order: a value must be computed before it is read. */
function checkNodes(
  graph: Graph,
  known: Set<string>,
  outer: ReadonlySet<string>,
  where: string,
  depth: number,
  faults: string[],
): void {
  const computed = new Set(graph.nodes.flatMap((node) => node.outputs));
  for (const node of graph.nodes) {
    for (const input of node.inputs) {
      if (input === "" || known.has(input)) continue;
      const fault = computed.has(input) ? "is computed only later, or by itself (a cycle)" : "does not exist";
      faults.push(`${where}${describeNode(node)}: its input ${JSON.stringify(input)} ${fault}`);
    }
    for (const graphValue of subgraphs(node))
      checkGraph(graphValue, known, `${where}${describeNode(node)}: `, depth + 1, faults);
    for (const output of node.outputs) {
      if (output === "") continue;
      if (known.has(output) && !outer.has(output))
        faults.push(`${where}${describeNode(node)}: its output ${JSON.stringify(output)} exists already`);
      known.add(output);
    }
  }
}

/** The graphs in a node's attributes (the bodies of If, Loop, Scan). */
export function subgraphs(node: Node): readonly Graph[] {
  const graphs: Graph[] = [];
  for (const attribute of node.attributes.values()) {
    if (attribute.kind === "graph") graphs.push(attribute.value);
    if (attribute.kind === "graphs") graphs.push(...attribute.value);
  }
  return graphs;
}
