// Is this graph well formed? Single assignment, nothing dangling, no cycles, operator sets named and in range.
// Source: the ONNX IR specification's rules (docs/IR.md, "Graphs"), and the runtime's limits.
import { describeNode, type Graph, type Model, type Node } from "./model.ts";

/** ONNX operator sets that can be read (gradients ask for more: see grad/). */
export const readableOpsets = { from: 1, to: 26 } as const;

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
  new GraphChecker(faults, model.opsets).graph(model.graph, undefined, "");
  return faults;
}

/** One fault for each node whose operator comes from a domain that is not imported. */
export function domainFaults(nodes: readonly Node[], opsets: ReadonlyMap<string, number>, where: string): string[] {
  const imported = [...opsets.keys()].map((domain) => JSON.stringify(domain)).join(", ") || "none";
  return nodes
    .filter(({ domain }) => !opsets.has(domain))
    .map((node) => `${where}${describeNode(node)}: its domain has no opset_import; imported: ${imported}`);
}

/** The values that can be read at a place: a graph's own, and those of the graphs around it. */
interface Scope {
  readonly own: Set<string>;
  readonly outer: Scope | undefined;
}

function isKnown(scope: Scope | undefined, name: string): boolean {
  for (let at = scope; at !== undefined; at = at.outer) if (at.own.has(name)) return true;
  return false;
}

class GraphChecker {
  readonly #faults: string[];
  readonly #opsets: ReadonlyMap<string, number>;

  constructor(faults: string[], opsets: ReadonlyMap<string, number>) {
    this.#faults = faults;
    this.#opsets = opsets;
  }

  graph(graph: Graph, outer: Scope | undefined, where: string): void {
    const scope: Scope = { own: new Set(), outer };
    for (const { name } of graph.inputs) this.#define(scope, name, `${where}input ${JSON.stringify(name)}`);
    for (const name of graph.initializers.keys()) scope.own.add(name);
    for (const fault of domainFaults(graph.nodes, this.#opsets, where)) this.#faults.push(fault);
    this.#nodes(graph, scope, where);
    for (const { name } of graph.outputs) {
      if (!isKnown(scope, name)) this.#faults.push(`${where}output ${JSON.stringify(name)}: nothing computes it`);
    }
  }

  /** In file order: a value must be computed before it is read. */
  #nodes(graph: Graph, scope: Scope, where: string): void {
    const computed = new Set(graph.nodes.flatMap((node) => node.outputs));
    for (const node of graph.nodes) {
      const label = `${where}${describeNode(node)}: `;
      for (const input of node.inputs) {
        if (input === "" || isKnown(scope, input)) continue;
        const fault = computed.has(input) ? "is computed only later, or by itself (a cycle)" : "does not exist";
        this.#faults.push(`${label}its input ${JSON.stringify(input)} ${fault}`);
      }
      const parts = node.op === "Split" && node.domain === "" ? node.attributes.get("num_outputs") : undefined;
      if (parts?.kind === "int" && parts.value !== BigInt(node.outputs.length)) {
        // The runtime would make a list of them all.
        this.#faults.push(`${label}num_outputs is ${parts.value}, expected as many as it has: ${node.outputs.length}`);
      }
      for (const inner of subgraphs(node)) this.graph(inner, scope, label);
      for (const name of node.outputs) {
        if (name !== "") this.#define(scope, name, `${label}its output ${JSON.stringify(name)}`);
      }
    }
  }

  #define(scope: Scope, name: string, label: string): void {
    if (scope.own.has(name)) this.#faults.push(`${label}: there is a value of that name already`);
    scope.own.add(name);
  }
}

/** The graphs in a node's attributes (the bodies of If, Loop, Scan). */
export function subgraphs(node: Node): readonly Graph[] {
  return [...node.attributes.values()].flatMap((attribute) => {
    if (attribute.kind === "graph") return [attribute.value];
    return attribute.kind === "graphs" ? attribute.value : [];
  });
}
