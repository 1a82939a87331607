// Where a model is cut when only what lies behind is trained: what depends on the data but on no parameter gives the same for
// an example in every pass, so that it can run once and be kept. Of all places to cut, the one is taken that costs least: a byte
// that is kept costs what `operationsPerByte` operations cost, and what is not cut off must be run each time. That is a smallest
// cut (min-cut.ts) with what each node computes on one side of the scales and what each value takes on the other (the project
// selection of Picard 1976). So a cut that does not pay is not made, and cheap operators stay behind it where they grow. The
// frozen product W x of the lowest adapted layer is above no parameter either: it is kept as well, beside the x that A reads.

import type { Parameter } from "../lora/adapted.ts";
import { isTensorType } from "../onnx/elements.ts";
import { prune, reads } from "../onnx/graph.ts";
import type { Dim, Graph, Model, Node, ValueInfo } from "../onnx/model.ts";
import type { TensorInfo } from "../onnx/shape-row.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { elementBytes, type Tensor, type TensorType } from "../tensor.ts";
import { minCut } from "./min-cut.ts";
import { nodeWork } from "./node-work.ts";

/** A model in two parts. */
export interface PrefixCut {
  /** From the data to `kept`. */
  readonly prefix: Model;
  /** From `kept`, and what else it reads of the data, to the outputs. */
  readonly rest: Model;
  readonly kept: readonly KeptValue[];
  /** Nodes of the prefix, and of the whole model, without what only constants make. */
  readonly nodes: number;
  readonly allNodes: number;
  /** What the rest computes of one example, forward, in operations. */
  readonly restWork: number;
}

/** A value that is kept for each example. */
export interface KeptValue {
  readonly name: string;
  readonly type: TensorType;
  /** Sizes of one example. */
  readonly dims: readonly number[];
}

/**
 * What keeping a byte must save, in operations: it is written once and copied in each pass at a few GB/s, where products run
 * at 100 GFLOP/s and more.
 */
const operationsPerByte = 50;

/** What a prefix must save of a step's work: for less, nothing is held. */
const leastShare = 0.25;

/** Operators that give something else each time. */
const random = new Set(
  "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli".split(" "),
);

/** Two numbers of examples that no other size is likely to follow; what is [B, …] has both, one after the other. */
const trials = [61, 67] as const;

/**
 * The best cut of an adapted model, without a cache; null when nothing is worth being cut off.
 *
 * @param parameters what is trained: inputs of the model.
 * @param batch inputs as the data has them, all of them [examples, …]; sizes beside the first are taken to be those of all data.
 * @param changing nodes that are not the same in each pass although they depend on no parameter (dropout is put before them).
 */
export function cutPrefix(
  model: Model,
  parameters: readonly Parameter[],
  batch: Readonly<Record<string, Tensor>>,
  changing: ReadonlySet<Node> = new Set(),
): PrefixCut | null {
  const { graph } = model;
  const kinds = kindsOf(graph, new Set(parameters.map(({ key }) => key)), batch, changing);
  const rows = rowsOf(graph, parameters, batch);
  const own = chooseNodes(graph, kinds, rows);
  const isComputed = (node: Node): boolean => kinds.of(node) !== "constant";
  const work = (some: Iterable<Node>): number => [...some].reduce((sum, node) => sum + rows.work(node), 0);
  const [all, saved] = [work(graph.nodes.filter(isComputed)), work(own)];
  // A step is all of it forward, and what is left once more backward.
  if (saved === 0 || saved < leastShare * (all + (all - saved))) return null;
  const crossing = crossingValues(graph, own);
  const kept = crossing.map((name) => rows.kept(name)!);
  const prefix = prefixGraph(graph, kept);
  return {
    prefix: { ...model, graph: prefix },
    rest: { ...model, graph: restGraph(graph, own, kept) },
    kept,
    nodes: prefix.nodes.filter(isComputed).length,
    allNodes: graph.nodes.filter(isComputed).length,
    restWork: all - saved,
  };
}

type Kind = "constant" | "data" | "trained";

interface Kinds {
  of(node: Node): Kind;
  ofValue(name: string): Kind;
}

/** What nodes depend on: constants alone, the data, or what is trained (or not the same twice, or not by example). */
function kindsOf(
  graph: Graph,
  parameters: ReadonlySet<string>,
  batch: Readonly<Record<string, Tensor>>,
  changing: ReadonlySet<Node>,
): Kinds {
  const examples = Object.values(batch)[0]?.dims[0];
  const values = new Map<string, Kind>();
  for (const { name } of graph.inputs) {
    if (graph.initializers.has(name)) continue;
    const byExample = examples !== undefined && batch[name]?.dims[0] === examples;
    values.set(name, parameters.has(name) || !byExample ? "trained" : "data");
  }
  const nodes = new Map<Node, Kind>();
  for (const node of graph.nodes) {
    const read = reads(node).map((name) => values.get(name) ?? "constant");
    const trains = node.op === "Dropout" && (node.inputs[2] ?? "") !== "";
    const changes = changing.has(node) || random.has(node.op) || trains || read.includes("trained");
    const kind = changes ? "trained" : read.includes("data") ? "data" : "constant";
    nodes.set(node, kind);
    for (const output of node.outputs) values.set(output, kind);
  }
  return { of: (node) => nodes.get(node)!, ofValue: (name) => values.get(name) ?? "constant" };
}

interface Rows {
  /** What a value takes for each example; undefined when it is not [examples, …] of known sizes. */
  kept(name: string): KeptValue | undefined;
  /** Operations of a node for each example. */
  work(node: Node): number;
}

function rowsOf(graph: Graph, parameters: readonly Parameter[], batch: Readonly<Record<string, Tensor>>): Rows {
  const sizes = new Map(parameters.map(({ key, dims }) => [key, dims]));
  const inferred = trials.map((count) => {
    const inputs = graph.inputs.map((info): ValueInfo => {
      const dims = sizes.get(info.name) ?? batchDims(info, batch[info.name], count);
      return dims === undefined ? info : { ...info, shape: dims };
    });
    // What the file states of other values speaks of symbols.
    return inferShapes({ ...graph, inputs, values: [], outputs: [] });
  }) as [ReadonlyMap<string, TensorInfo>, ReadonlyMap<string, TensorInfo>];
  const fixed = graph.inputs.find(({ name }) => batch[name] !== undefined)?.shape?.[0];
  const [first, second] = typeof fixed === "number" ? [fixed, fixed] : trials;
  return {
    kept(name) {
      const [one, other] = inferred.map((infos) => infos.get(name));
      const [a, b] = [one?.shape, other?.shape];
      if (one?.type === undefined || !isTensorType(one.type) || a === undefined || b?.length !== a.length)
        return undefined;
      const dims = a.slice(1);
      const isByExample = a[0] === first && b[0] === second && dims.every((dim, at) => dim === b[at + 1]);
      if (!isByExample || !dims.every((dim) => typeof dim === "number")) return undefined;
      return { name, type: one.type, dims: dims as number[] };
    },
    work: (node) => nodeWork(node, (name) => inferred[0].get(name)) / first,
  };
}

/** An input's sizes with another number of examples, unless the model states that number. */
function batchDims({ shape }: ValueInfo, given: Tensor | undefined, count: number): readonly Dim[] | undefined {
  if (given === undefined) return undefined;
  const [stated] = shape ?? [];
  return [typeof stated === "number" ? stated : count, ...given.dims.slice(1)];
}

/** Bytes of a kept value for each example. */
export function rowBytes({ type, dims }: KeptValue): number {
  return dims.reduce((product, dim) => product * dim, 1) * elementBytes(type);
}

/**
 * The nodes that need not run again. Others that depend on the data alone may run in both parts: the prefix computes whatever
 * leads to what is kept.
 */
function chooseNodes(graph: Graph, kinds: Kinds, rows: Rows): ReadonlySet<Node> {
  const nodes = graph.nodes.filter((node) => kinds.of(node) === "data");
  const vertex = new Map(nodes.map((node, index) => [node, index + 2]));
  const made = new Map(nodes.flatMap((node) => node.outputs.filter((name) => name !== "").map((name) => [name, node])));
  const values = new Map([...made.keys()].map((name, index) => [name, index + 2 + nodes.length]));
  const [source, sink] = [0, 1];
  const never = Number.POSITIVE_INFINITY;
  const side = minCut(2 + nodes.length + values.size, source, sink, (cut) => {
    for (const node of nodes) {
      cut.edge(source, vertex.get(node)!, Math.round(rows.work(node)));
    }
    for (const [name, node] of made) {
      const kept = rows.kept(name);
      cut.edge(vertex.get(node)!, values.get(name)!, kept === undefined ? never : operationsPerByte * rowBytes(kept));
    }
    for (const node of graph.nodes) {
      if (kinds.of(node) === "constant") continue;
      for (const input of reads(node)) {
        if (made.has(input)) cut.edge(values.get(input)!, vertex.get(node) ?? sink, never);
      }
    }
    for (const { name } of graph.outputs) if (made.has(name)) cut.edge(values.get(name)!, sink, never);
  });
  return new Set(nodes.filter((node) => side[vertex.get(node)!]));
}

/** What the nodes of the prefix make that others read, in graph order. */
function crossingValues(graph: Graph, own: ReadonlySet<Node>): string[] {
  const read = new Set(graph.nodes.filter((node) => !own.has(node)).flatMap(reads));
  for (const { name } of graph.outputs) read.add(name);
  return [...own].flatMap(({ outputs }) => outputs.filter((name) => name !== "" && read.has(name)));
}

function prefixGraph(graph: Graph, kept: readonly KeptValue[]): Graph {
  const outputs = kept.map(({ name, type, dims }): ValueInfo => ({ name, type, shape: [null, ...dims], doc: "" }));
  const pruned = prune({ ...graph, outputs, values: [] });
  const needed = new Set(pruned.nodes.flatMap(reads));
  return { ...pruned, inputs: graph.inputs.filter(({ name }) => needed.has(name)) };
}

function restGraph(graph: Graph, own: ReadonlySet<Node>, kept: readonly KeptValue[]): Graph {
  const symbols = inferShapes(graph);
  const added = kept.map(({ name, type, dims }): ValueInfo => {
    const shape = symbols.get(name)?.shape;
    return { name, type, shape: shape?.length === dims.length + 1 ? shape : [null, ...dims], doc: "" };
  });
  const names = new Set(kept.map(({ name }) => name));
  const nodes = graph.nodes.filter((node) => !own.has(node));
  const pruned = prune({ ...graph, nodes, values: graph.values.filter(({ name }) => !names.has(name)) });
  const read = new Set([...pruned.nodes.flatMap(reads), ...graph.outputs.map(({ name }) => name)]);
  return { ...pruned, inputs: [...graph.inputs.filter(({ name }) => read.has(name)), ...added] };
}
