// Walking a graph: who computes a value, who reads it, what is constant, what is of no use.
import { tensor } from "../tensor.ts";
import { subgraphs } from "./check.ts";
import { fromTensor, type Graph, type Node, type StoredTensor } from "./model.ts";

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
  const source = behindIdentity(made, name);
  const node = made.get(source);
  return graph.initializers.get(source) ?? (node && constantValue(node));
}

/**
 * Follows a value to the one that it is another form of: to the first input of each node that `passes`, as long as one does. Ends
 * are kept, so that each value of a long chain is followed once.
 */
export function follower(made: ReadonlyMap<string, Node>, passes: (node: Node) => boolean): (name: string) => string {
  const ends = new Map<string, string>();
  return (name) => {
    const passed: string[] = [];
    let at = name;
    for (let node = made.get(at); node !== undefined && passes(node); node = made.get(at)) {
      passed.push(at);
      at = ends.get(at) ?? node.inputs[0] ?? "";
    }
    for (const value of passed) ends.set(value, at);
    return at;
  };
}

const copiesOf = new WeakMap<ReadonlyMap<string, Node>, (name: string) => string>();

/** The value that `name` is a copy of, through any number of Identity nodes; `name` itself when it is none. */
export function behindIdentity(made: ReadonlyMap<string, Node>, name: string): string {
  const follow = copiesOf.get(made) ?? follower(made, ({ op, domain }) => op === "Identity" && domain === "");
  copiesOf.set(made, follow);
  return follow(name);
}

/** What a Constant node holds, in whichever attribute; undefined for other nodes and for text. */
export function constantValue(node: Node): StoredTensor | undefined {
  if (node.op !== "Constant" || node.domain !== "") return undefined;
  for (const [name, attribute] of node.attributes) {
    if (name === "value" && attribute.kind === "tensor") return attribute.value;
    if (name === "value_int" && attribute.kind === "int") return integers([], [attribute.value]);
    if (name === "value_ints" && attribute.kind === "ints") return integers([attribute.value.length], attribute.value);
    if (name === "value_float" && attribute.kind === "float") return floats([], [attribute.value]);
    if (name === "value_floats" && attribute.kind === "floats")
      return floats([attribute.value.length], attribute.value);
  }
  return undefined;
}

function integers(dims: readonly number[], values: readonly bigint[]): StoredTensor {
  return fromTensor(tensor("int64", dims, BigInt64Array.from(values)));
}

function floats(dims: readonly number[], values: readonly number[]): StoredTensor {
  return fromTensor(tensor("float32", dims, Float32Array.from(values)));
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
