// What a training step will take in memory, from its graph alone: weights with the copies that the runtime makes of them, what
// lives at once of activations and gradients in a run, parameters with their optimizer's state, and what the process takes
// before any of it. Live values are followed node by node, as the runtime's memory planner does; the copies are those that
// ARCHITECTURE.md tells of. Held against measured peaks by bench/memory.js.
import { producers, reads } from "../onnx/graph.ts";
import type { Graph, Model, Node, ValueInfo } from "../onnx/model.ts";
import type { TensorInfo } from "../onnx/shape-row.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { weightBytes } from "../onnx/write.ts";
import { isLarge } from "../runtime/lean.ts";
import { elementCount, type Tensor } from "../tensor.ts";
import { type Optimizer, stateLengths } from "./optimizers.ts";

/** Bytes, by what they are for. */
export interface MemoryEstimate {
  /** The process before the step is compiled: Node.js and the runtime with nothing loaded, or what was said. */
  readonly process: number;
  /** The model's own, unless the process has them already, and the runtime's: a copy, or what it packs for products. */
  readonly weights: number;
  /** The most that lives at once of activations, gradients on their way, and workspace. */
  readonly activations: number;
  /** Parameters, their gradients and the optimizer's state. */
  readonly trained: number;
  /** Two batches: one that is run, and the next. */
  readonly batches: number;
  readonly total: number;
}

export interface MemoryRequest {
  /** Inputs and labels of a batch, as they go into the graph. */
  readonly feeds: Readonly<Record<string, Pick<Tensor, "dims" | "type">>>;
  readonly parameters: readonly { readonly key: string; readonly dims: readonly number[] }[];
  readonly optimizer: Pick<Optimizer, "slots" | "slotLength"> | null;
  /** What the process takes already, the runtime and the model's bytes included; default: an empty process is assumed. */
  readonly resident?: number;
}

/** Node.js 20 with onnxruntime-node 1.30 and a session; measured, as are the two factors below (bench/memory.js). */
const processBytes = 110 * 2 ** 20;

/**
 * What runs take beside all that lives at once. A planned layout stands beside what the first run has filled, and products keep
 * workspace; without a plan (lean.ts) the arena's pieces do not fit together without gaps.
 */
const activationFactor = { planned: 2.5, lean: 1.2 } as const;

/**
 * An estimate of the largest resident memory of a process that trains by this graph on the CPU.
 *
 * @param model the step's graph, before the runtime has it (`buildStepGraph(…).model`).
 */
export function estimateMemory(model: Model, request: MemoryRequest): MemoryEstimate {
  const isLean = isLarge(model);
  const infos = inferShapes(withSizes(model.graph, request));
  const sizeOf = (value: string): number => bytesOf(infos.get(value));
  const live = liveBytes(model.graph, sizeOf);
  const own = weightBytes(model);
  const copies = isLean ? own : packedBytes(model.graph, sizeOf);
  const weights = (request.resident === undefined ? own : 0) + copies;
  const activations = Math.round(live * activationFactor[isLean ? "lean" : "planned"]);
  const shapes = request.parameters.map(({ dims }) => dims);
  const values = shapes.reduce((sum, dims) => sum + elementCount(dims), 0);
  const state = request.optimizer === null ? [] : stateLengths(request.optimizer, shapes);
  const trained = 4 * (2 * values + state.reduce((sum, length) => sum + length, 0));
  const fed = Object.values(request.feeds).reduce((sum, { dims, type }) => sum + bytesOf({ type, shape: dims }), 0);
  const parts = { process: request.resident ?? processBytes, weights, activations, trained, batches: 2 * fed };
  return { ...parts, total: Object.values(parts).reduce((sum, bytes) => sum + bytes, 0) };
}

function withSizes(graph: Graph, { feeds, parameters }: MemoryRequest): Graph {
  const sizes = new Map(parameters.map(({ key, dims }) => [key, dims]));
  const inputs = graph.inputs.map((info): ValueInfo => {
    const dims = sizes.get(info.name) ?? feeds[info.name]?.dims;
    return dims === undefined ? info : { ...info, shape: dims };
  });
  // What the file states of other values speaks of symbols.
  return { ...graph, inputs, values: [], outputs: [] };
}

/** Bytes of a value; 0 where its sizes are not known. */
function bytesOf(info: TensorInfo | undefined): number {
  const { shape, type = "float32" } = info ?? {};
  if (shape?.every((dim) => typeof dim === "number") !== true) return 0;
  const width = type === "bool" || type.endsWith("int8") ? 1 : type.endsWith("64") ? 8 : type.endsWith("16") ? 2 : 4;
  return width * elementCount(shape as readonly number[]);
}

const views = new Set("Reshape Flatten Squeeze Unsqueeze Identity".split(" "));
/** Operators that write over an input that nobody reads any more. */
const inPlace = new Set(
  "Add Sub Mul Div Relu Sum Neg Tanh Sigmoid Sqrt Exp Log Erf Where Cast Softmax Clip".split(" "),
);

/** The most that lives at once of what depends on a graph's inputs, its outputs apart: those are bound to memory outside. */
function liveBytes(graph: Graph, sizeOf: (value: string) => number): number {
  const given = new Set(graph.inputs.map(({ name }) => name));
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const owner = new Map<string, string>();
  const varying = graph.nodes.filter((node) => {
    const varies = reads(node).some((name) => given.has(name));
    if (varies) for (const output of node.outputs) given.add(output);
    return varies;
  });
  for (const node of varying) {
    const [input = "", output = ""] = [node.inputs[0], node.outputs[0]];
    if (views.has(node.op) && owner.has(input)) owner.set(output, owner.get(input)!);
    else for (const name of node.outputs) if (name !== "") owner.set(name, name);
  }
  const lastRead = new Map<string, number>();
  varying.forEach((node, place) => {
    for (const name of [...reads(node), ...node.outputs]) if (owner.has(name)) lastRead.set(owner.get(name)!, place);
  });
  return peakOf(varying, { owner, lastRead, outputs, sizeOf });
}

interface Lives {
  /** The value in whose memory each one is. */
  readonly owner: ReadonlyMap<string, string>;
  readonly lastRead: ReadonlyMap<string, number>;
  readonly outputs: ReadonlySet<string>;
  sizeOf(value: string): number;
}

function peakOf(nodes: readonly Node[], { owner, lastRead, outputs, sizeOf }: Lives): number {
  const ending = nodes.map((): string[] => []);
  for (const [value, place] of lastRead) ending[place]!.push(value);
  let [now, peak] = [0, 0];
  nodes.forEach((node, place) => {
    const own = node.outputs.filter((name) => owner.get(name) === name && !outputs.has(name));
    const made = own.reduce((sum, name) => sum + sizeOf(name), 0);
    const ended = ending[place]!.filter((name) => !outputs.has(name));
    const reused =
      inPlace.has(node.op) && ended.some((name) => !own.includes(name) && sizeOf(name) === made) ? made : 0;
    now += made;
    peak = Math.max(peak, now - reused);
    for (const name of ended) now -= sizeOf(name);
  });
  return peak;
}

/** What products pack of stored matrices, and transposes of those that are computed beforehand. */
function packedBytes(graph: Graph, sizeOf: (value: string) => number): number {
  const made = producers(graph);
  const isStored = (name: string): boolean => {
    const node = made.get(name);
    return graph.initializers.has(name) || (node?.op === "Transpose" && graph.initializers.has(node.inputs[0]!));
  };
  return graph.nodes.reduce((sum, { op, inputs }) => {
    const weight = inputs[1] ?? "";
    if (!(op === "MatMul" || op === "Gemm" || op === "FusedMatMul") || !isStored(weight)) return sum;
    return sum + sizeOf(weight) * (graph.initializers.has(weight) ? 1 : 2);
  }, 0);
}
