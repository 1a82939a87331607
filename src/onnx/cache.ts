// Decoders exported with a cache of keys and values, as transformers, optimum and ONNX Runtime's tools name them
// (`past_key_values.0.key` in, `present.0.key` out). Training reads whole sequences, for which the cache is empty: its inputs
// go, every Concat with it becomes what is appended, and what would be given back is no output any more.
import { LowrankError, throwFaults } from "../errors.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "./builder.ts";
import { prune } from "./graph.ts";
import { type Dim, type Graph, intAttribute, type Model, type Node, type ValueInfo } from "./model.ts";
import { normalizeAxis } from "./shape-row.ts";

/** An input that holds keys or values of earlier tokens. */
export interface CacheInput {
  readonly info: ValueInfo & { readonly shape: readonly Dim[] };
  /** The axis of the earlier tokens. */
  readonly axis: number;
}

/**
 * The model for whole sequences: without the inputs and outputs of a cache; the same object when it has none.
 *
 * @throws LowrankError "model" that lists the inputs which cannot be left empty: caches of fixed length, or of an encoder.
 * @example withoutCache(decoder).graph.inputs.map(({ name }) => name); // ["input_ids", "attention_mask", "position_ids"]
 */
export function withoutCache(model: Model): Model {
  const { graph } = model;
  const caches = cacheInputs(graph);
  const kept = graph.outputs.filter(({ name }) => !isPresent(name));
  if (caches.length === 0) {
    // The part of an export that fills the cache: nothing to train on is among what it gives back.
    return kept.length === graph.outputs.length || kept.length === 0
      ? model
      : { ...model, graph: prune({ ...graph, outputs: kept }) };
  }
  throwFaults("model", "cache", caches.flatMap(fixedFault));
  return { ...model, graph: new CacheRemover(model, caches).graph(kept) };
}

/** The inputs of a cache, each with the axis that grows. */
export function cacheInputs(graph: Graph): CacheInput[] {
  return graph.inputs.flatMap((info) => {
    const { name, type, shape } = info;
    if (!/^past[_.]?(key|value|\d|self|cross)/i.test(name) || graph.initializers.has(name)) return [];
    if (type?.includes("float") !== true || shape === undefined) return [];
    return [{ info: { ...info, shape }, axis: growingAxis(shape) }];
  });
}

/** Refuses a model that holds a decoder twice, with and without a cache, and chooses by an input. */
export function refuseMergedDecoder({ graph }: Model): void {
  const chosen = graph.inputs.some(({ name }) => name === "use_cache_branch");
  const branches = graph.nodes.some(({ op, domain }) => op === "If" && domain === "");
  if (!branches || !(chosen || cacheInputs(graph).length > 0)) return;
  const given = new Set(graph.nodes.filter(({ op }) => op === "If").flatMap(({ outputs }) => outputs));
  if (!chosen && !graph.outputs.some(({ name }) => given.has(name))) return;
  throw new LowrankError(
    "model",
    "a merged decoder (an If over one with and one without a cache): expected one decoder; use decoder_model.onnx or decoder_with_past_model.onnx of the same export, or export again without merging (optimum: --no-post-process)",
  );
}

const isPresent = (name: string): boolean => /^present([_.]|$)/i.test(name);

/** The axis with a symbol for earlier tokens; -1 where none can be told. */
function growingAxis(shape: readonly Dim[]): number {
  const named = shape.findIndex((dim) => typeof dim === "string" && /past|cache/i.test(dim));
  if (named >= 0) return named;
  const open = shape.flatMap((dim, axis) => (typeof dim === "number" || axis === 0 ? [] : [axis]));
  return open.length === 1 ? open[0]! : -1;
}

function fixedFault({ info: { name, shape }, axis }: CacheInput): string[] {
  const label = `input ${name} [${shape.map((dim) => dim ?? "?").join(", ")}]`;
  if (/encoder\.(key|value)/.test(name) && !/decoder\.(key|value)/.test(name)) {
    return [
      `${label}: an encoder's keys and values cannot be left empty; use the export without a cache (decoder_model.onnx)`,
    ];
  }
  return axis < 0
    ? [
        `${label}: expected one axis of any length for earlier tokens; export again with dynamic axes, or without a cache`,
      ]
    : [];
}

/** Where operators with a cache of their own take it. */
const cacheArguments: Readonly<Record<string, readonly number[]>> = {
  "com.microsoft.GroupQueryAttention": [3, 4],
  "com.microsoft.MultiHeadAttention": [6, 7],
  "com.microsoft.Attention": [4],
  ".Attention": [4, 5],
};

class CacheRemover {
  readonly #given: Graph;
  readonly #g: GraphBuilder;
  readonly #axes = new Map<string, number>();
  /** Values that are empty along an axis, and so a cache in another form. */
  readonly #empty: Map<string, number>;
  readonly #caches: readonly CacheInput[];

  constructor({ graph, opsets }: Model, caches: readonly CacheInput[]) {
    this.#caches = caches;
    this.#given = graph;
    const inputs = graph.inputs.filter(({ name }) => !caches.some(({ info }) => info.name === name));
    this.#g = graphBuilder({
      opset: opsets.get("") ?? 0,
      from: { ...graph, inputs, nodes: [] },
      reserved: graph.nodes.flatMap(({ name, outputs }) => [name, ...outputs]),
      scope: "cache/",
    });
    this.#empty = new Map(caches.map(({ info, axis }) => [info.name, axis]));
  }

  graph(outputs: readonly ValueInfo[]): Graph {
    const appended = new Set<string>();
    const nodes = this.#given.nodes.map((node) => {
      const changed = this.#node(node);
      if (changed !== node)
        for (const output of node.outputs.slice(changed.op === "Identity" ? 0 : 1)) appended.add(output);
      return changed;
    });
    // Whatever the exporter calls them: what a cache was extended to is given back for the next call.
    const kept = outputs.filter(({ name }) => !appended.has(name));
    const read = new Set(nodes.flatMap(({ inputs }) => inputs));
    for (const cache of this.#caches) if (read.has(cache.info.name)) this.#makeEmpty(cache);
    for (const node of nodes) this.#g.node(withoutUnread(node, read, kept));
    return prune({ ...this.#g.build(), outputs: kept });
  }

  #node(node: Node): Node {
    const places = cacheArguments[`${node.domain}.${node.op}`];
    if (places !== undefined) {
      const inputs = node.inputs.map((name, at) => (places.includes(at) && this.#empty.has(name) ? "" : name));
      return inputs.some((name, at) => name !== node.inputs[at]) ? { ...node, inputs } : node;
    }
    const axis = this.#empty.get(node.inputs[0] ?? "");
    if (axis === undefined || node.domain !== "") return node;
    if (node.op === "Identity" || node.op === "Cast") this.#empty.set(node.outputs[0]!, axis);
    if (node.op !== "Concat") return node;
    const rank = this.#rankOf(node.inputs[0]!);
    if (normalizeAxis(intAttribute(node, "axis", 0), rank) !== axis) return node;
    const rest = node.inputs.filter((name) => !this.#empty.has(name));
    this.#axes.set(node.outputs[0]!, rank);
    if (rest.length === 0) this.#empty.set(node.outputs[0]!, axis);
    if (rest.length !== 1) return rest.length === 0 ? node : { ...node, inputs: rest };
    return makeNode({ op: "Identity", name: node.name, inputs: rest, outputs: node.outputs, metadata: node.metadata });
  }

  /** How many axes an empty value has: as many as the caches, which are all alike but for [2, …] of both in one. */
  #rankOf(name: string): number {
    return (
      this.#axes.get(name) ??
      this.#caches.find(({ info }) => info.name === name)?.info.shape.length ??
      this.#caches[0]!.info.shape.length
    );
  }

  /** What still reads the cache (its Shape, mostly) gets an empty value under the input's name. */
  #makeEmpty({ info, axis }: CacheInput): void {
    const g = this.#g;
    const batch =
      this.#given.inputs.find(({ name }) => /^(decoder_)?input(_id)?s?(_embeds)?$/.test(name)) ?? g.build().inputs[0];
    const sizes = info.shape.map((dim, at) => {
      if (at === axis) return g.constant("int64", [0]);
      if (typeof dim === "number") return g.constant("int64", [dim]);
      const other = batch?.shape?.[0];
      if (batch === undefined || (dim !== null && typeof other === "string" && other !== dim)) {
        throw new LowrankError(
          "model",
          `input ${info.name}: the size of its axis ${at} (${dim}) is unknown; export without a cache`,
        );
      }
      return g.op("Shape", [batch.name], { start: 0, end: 1 });
    });
    const value = g.op("ConstantOfShape", [g.op("Concat", sizes, { axis: 0 })]);
    const [cast, target] =
      info.type === "float32" ? ["Identity", undefined] : ["Cast", info.type === "float16" ? 10 : 16];
    g.op(cast!, [value], target === undefined ? {} : { to: target }, { output: info.name });
  }
}

/** com.microsoft's own attention without the cache that it gives back, where nothing reads that: it cannot be written without one. */
function withoutUnread(node: Node, read: ReadonlySet<string>, outputs: readonly ValueInfo[]): Node {
  if (node.op !== "Attention" && node.op !== "MultiHeadAttention") return node;
  const isUsed = (name: string): boolean => read.has(name) || outputs.some((info) => info.name === name);
  const end = node.outputs.findLastIndex((name, at) => at === 0 || isUsed(name)) + 1;
  return end === node.outputs.length ? node : { ...node, outputs: node.outputs.slice(0, end) };
}
