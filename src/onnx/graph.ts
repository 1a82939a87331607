// Walking a graph: who computes a value, who reads it, what is constant, what is of no use.
import { subgraphs } from "./check.ts";
import type { Graph, Node, StoredTensor } from "./model.ts";

/** The node that computes each value. */
export function producers(graph: Graph): ReadonlyMap<string, Node> {
  const map = new Map<string, Node>();
  for (const node of graph.nodes) for (const output of node.outputs) if (output !== "") map.set(output, node);
  return map;
}

/** Every value that a node reads, those that its subgraphs take from outside included. */
export function reads(node: Node): readonly string[] {
  const nested = subgraphs(node);
  const own = node.inputs.filter((input) => input !== "");
  return nested.length === 0 ? own : [...own, ...nested.flatMap(freeValues)];
}

function freeValues(graph: Graph): string[] {
  const bound = new Set([...graph.inputs.map((info) => info.name), ...graph.initializers.keys()]);
  for (const node of graph.nodes) for (const output of node.outputs) bound.add(output);
  const used = [...graph.nodes.flatMap(reads), ...graph.outputs.map((info) => info.name)];
  return used.filter((name) => !bound.has(name));
}

/** The nodes that read each value. */
export function consumers(graph: Graph): ReadonlyMap<string, readonly Node[]> {
  const map = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const input of new Set(reads(node))) {
      const list = map.get(input);
      if (list) list.push(node);
      else map.set(input, [node]);
    }
  }
  return map;
}

/** The stored tensor behind a value: an initializer, or a Constant node's value, also through Identity. */
export function storedValue(graph: Graph, made: ReadonlyMap<string, Node>, name: string): StoredTensor | undefined {
  const initializer = graph.initializers.get(name);
  if (initializer !== undefined) return initializer;
  const node = made.get(name);
  if (node?.op === "Identity" && node.domain === "") return storedValue(graph, made, node.inputs[0]!);
  const value = node?.op === "Constant" ? node.attributes.get("value") : undefined;
  return value?.kind === "tensor" ? value.value : undefined;
}

/** The graph without nodes and initializers that no output needs. Inputs stay: they are the graph's signature. */
export function prune(graph: Graph): Graph {
  const needed = new Set(graph.outputs.map((info) => info.name));
  const kept: Node[] = [];
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((output) => needed.has(output))) continue;
    kept.push(node);
    for (const input of reads(node)) needed.add(input);
  }
  return {
    ...graph,
    nodes: kept.reverse(),
    initializers: new Map([...graph.initializers].filter(([name]) => needed.has(name))),
    values: graph.values.filter((info) => needed.has(info.name)),
  };
}
