// Activations computed again (Chen, Xu, Zhang & Guestrin 2016, "Training Deep Nets with Sublinear Memory Cost"; PyTorch's
// torch.utils.checkpoint): the forward pass is divided into segments, only what crosses from one to the next is held, and the
// backward part of a segment reads copies of its forward nodes. The copies must run late, and must not be folded with their
// originals: what they read passes through a Reshape to its own shape that waits for the gradients of all later segments, by a
// choice between that shape and itself, as late-weights.ts has it. That copies nothing, and no optimizer of the runtime sees
// through it. The same operations on the same numbers: gradients are the same.
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { graphBuilder } from "../onnx/builder.ts";
import { reads } from "../onnx/graph.ts";
import type { Graph, Node, ValueInfo } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";

export interface RecomputeRequest {
  readonly opset: number;
  /** The nodes of the forward pass; those of the loss and of the backward pass stand behind them. */
  readonly forward: ReadonlySet<Node>;
  /** Inputs that are no data: parameters. */
  readonly parameters: ReadonlySet<string>;
}

/** How a graph was divided. */
export interface Recomputed {
  readonly graph: Graph;
  /** Segments, the last of which is not computed again; 1 where it does not pay. */
  readonly segments: number;
  /** Nodes that run twice. */
  readonly nodes: number;
}

/** Below this share of what was held, running most of the forward pass twice buys too little. */
const worthwhile = 0.8;

/** Sizes that stand in for those of a batch, to tell large from small: examples, then tokens, pixels and the like. */
const assumed = { first: 8, other: 128 } as const;

/**
 * The graph with most activations computed again for the backward pass; the same graph where that would hold hardly less.
 *
 * @param graph forward, loss and backward, pruned, in this order.
 */
export function recompute(graph: Graph, request: RecomputeRequest): Recomputed {
  const forward = graph.nodes.filter((node) => request.forward.has(node));
  const after = graph.nodes.filter((node) => !request.forward.has(node));
  const held = heldValues(graph, forward, after, request.parameters);
  const bounds = divide(forward, held);
  if (bounds.length === 0) return { graph, segments: 1, nodes: 0 };
  const writer = new Writer(graph, request, { forward, after, held, bounds });
  return { graph: writer.build(), segments: bounds.length + 1, nodes: writer.repeated };
}

/** What of the forward pass depends on the data, where it is made and last read there, and what the backward pass reads. */
interface Held {
  /** The node that makes each value, by its place. */
  readonly made: ReadonlyMap<Value, number>;
  readonly lastRead: ReadonlyMap<Value, number>;
  readonly readAfter: ReadonlySet<Value>;
  bytes(value: Value): number;
}

function heldValues(
  graph: Graph,
  forward: readonly Node[],
  after: readonly Node[],
  parameters: ReadonlySet<string>,
): Held {
  const data = new Set(graph.inputs.map(({ name }) => name).filter((name) => !parameters.has(name)));
  const made = new Map<Value, number>();
  const lastRead = new Map<Value, number>();
  forward.forEach((node, place) => {
    const inputs = reads(node);
    for (const input of inputs) if (made.has(input)) lastRead.set(input, place);
    if (!inputs.some((input) => data.has(input) || made.has(input))) return;
    for (const output of node.outputs) if (output !== "") made.set(output, place);
  });
  // Outputs of the model are held to the end.
  for (const { name } of graph.outputs) if (made.has(name)) lastRead.set(name, forward.length);
  const readAfter = new Set(after.flatMap(reads).filter((name) => made.has(name)));
  const infos = inferShapes(assumedSizes(graph));
  const bytes = (value: Value): number => {
    const { shape = [], type = "float32" } = infos.get(value) ?? {};
    const width = type === "bool" || type.endsWith("int8") ? 1 : type === "int64" ? 8 : 4;
    return shape.reduce<number>((product, dim) => product * (typeof dim === "number" ? dim : assumed.other), width);
  };
  return { made, lastRead, readAfter, bytes };
}

function assumedSizes(graph: Graph): Graph {
  const inputs = graph.inputs.map((info): ValueInfo => {
    const shape = info.shape?.map((dim, axis) =>
      typeof dim === "number" ? dim : axis === 0 ? assumed.first : assumed.other,
    );
    return { ...info, shape };
  });
  return { ...graph, inputs, values: [], outputs: [] };
}

/**
 * The places (between node i and i + 1) that divide the forward pass so that what is held at once, all that crosses a place and
 * the largest segment, is least. Where layers are alike and as large inside as between, that makes about sqrt(n) segments;
 * transformers hold much more inside, so that each block becomes a segment.
 */
function divide(forward: readonly Node[], held: Held): number[] {
  const crossing = crossingBytes(forward, held);
  const sums = insideSums(forward, held);
  const total = sums.at(-1)!;
  // A place is of use where no more crosses than on either side.
  const places = crossing.flatMap((bytes, place) => {
    const isLeast = bytes > 0 && bytes <= (crossing[place - 1] ?? bytes) && bytes <= (crossing[place + 1] ?? 0);
    return isLeast && place < forward.length - 1 ? [place] : [];
  });
  let best: { bounds: number[]; cost: number } = { bounds: [], cost: worthwhile * total };
  for (let share = 1; share >= 1 / 256; share /= 1.25) {
    const found = leastBounds(places, crossing, sums, share * total);
    if (found !== null && found.cost < best.cost) best = found;
  }
  return best.bounds;
}

/** Bytes of what is made up to each node, and read by a later one of the forward pass. */
function crossingBytes(forward: readonly Node[], { made, lastRead, bytes }: Held): number[] {
  const changes = new Float64Array(forward.length + 1);
  for (const [value, place] of made) {
    const last = lastRead.get(value) ?? place;
    changes[place]! += bytes(value);
    changes[last]! -= bytes(value);
  }
  let now = 0;
  return forward.map((_, place) => {
    now += changes[place]!;
    return now;
  });
}

/** Bytes that the backward pass reads of what the first n nodes make, for n = 0 … all. */
function insideSums(forward: readonly Node[], { readAfter, bytes }: Held): number[] {
  const sums = [0];
  for (const node of forward) {
    const own = node.outputs.reduce((sum, output) => sum + (readAfter.has(output) ? bytes(output) : 0), 0);
    sums.push(sums.at(-1)! + own);
  }
  return sums;
}

/** The cheapest places with no more than `most` bytes in a segment, by dynamic programming over the places. */
function leastBounds(
  places: readonly number[],
  crossing: readonly number[],
  sums: readonly number[],
  most: number,
): { bounds: number[]; cost: number } | null {
  const inside = (from: number, to: number): number => sums[to + 1]! - sums[from + 1]!;
  const end = sums.length - 2;
  const stops = [-1, ...places, end];
  const costs = stops.map(() => Number.POSITIVE_INFINITY);
  const before = stops.map(() => 0);
  costs[0] = 0;
  for (let to = 1; to < stops.length; to++) {
    const own = to === stops.length - 1 ? 0 : crossing[stops[to]!]!;
    for (let from = to - 1; from >= 0 && inside(stops[from]!, stops[to]!) <= most; from--) {
      if (costs[from]! + own >= costs[to]!) continue;
      costs[to] = costs[from]! + own;
      before[to] = from;
    }
  }
  if (!Number.isFinite(costs.at(-1)!)) return null;
  const bounds: number[] = [];
  let largest = 0;
  for (let to = stops.length - 1; to > 0; to = before[to]!) {
    largest = Math.max(largest, inside(stops[before[to]!]!, stops[to]!));
    if (before[to]! > 0) bounds.unshift(stops[before[to]!]!);
  }
  return { bounds, cost: costs.at(-1)! + largest };
}

interface Division {
  readonly forward: readonly Node[];
  readonly after: readonly Node[];
  readonly held: Held;
  readonly bounds: readonly number[];
}

/** Writes the backward pass anew, with the copies of each segment in front of the first node that reads one. */
class Writer {
  repeated = 0;
  readonly #graph: Graph;
  readonly #parts: Division;
  readonly #g: GraphBuilder;
  readonly #kept: ReadonlySet<Value>;
  readonly #data: ReadonlySet<Value>;
  readonly #outputs: ReadonlySet<Value>;

  constructor(graph: Graph, { opset, parameters }: RecomputeRequest, parts: Division) {
    this.#graph = graph;
    this.#parts = parts;
    const reserved = parts.after.flatMap((node) => [node.name, ...node.outputs]);
    this.#g = graphBuilder({ opset, from: { ...graph, nodes: parts.forward }, reserved, scope: "again/" });
    const { made, lastRead } = parts.held;
    const crosses = ([value, place]: readonly [Value, number]): boolean =>
      parts.bounds.some((bound) => place <= bound && (lastRead.get(value) ?? place) > bound);
    this.#kept = new Set([...made].filter(crosses).map(([value]) => value));
    this.#data = new Set(graph.inputs.map(({ name }) => name).filter((name) => !parameters.has(name)));
    this.#outputs = new Set(graph.outputs.map(({ name }) => name));
  }

  build(): Graph {
    const { after, bounds } = this.#parts;
    const copies = new Map<Value, Value>();
    const begins = bounds.map((_, segment) => this.#begin(segment));
    let written = 0;
    for (let place = 0; place < after.length; place++) {
      for (let segment = bounds.length - 1; segment >= 0; segment--) {
        if (begins[segment] !== place) continue;
        this.#repeat(segment, this.#token(written, place), copies);
        written = place;
      }
      const node = after[place]!;
      this.#g.node({ ...node, inputs: node.inputs.map((input) => copies.get(input) ?? input) });
    }
    return { ...this.#g.build(), outputs: this.#graph.outputs };
  }

  /** What the backward pass reads of a segment, and is not kept. */
  #wanted(segment: number): ReadonlySet<Value> {
    const { held, bounds } = this.#parts;
    const [from, to] = [bounds[segment - 1] ?? -1, bounds[segment]!];
    const isInside = (value: Value): boolean => held.made.get(value)! > from && held.made.get(value)! <= to;
    return new Set([...held.readAfter].filter((value) => isInside(value) && !this.#kept.has(value)));
  }

  /** The first node of the backward pass that reads anything of a segment; -1 when none does. */
  #begin(segment: number): number {
    const wanted = this.#wanted(segment);
    return this.#parts.after.findIndex((node) => node.inputs.some((input) => wanted.has(input)));
  }

  /** A truth value that is there when all before `place` is computed: gradients for what follows, and for parameters. */
  #token(from: number, place: number): Value {
    const { after } = this.#parts;
    const later = new Set(after.slice(place).flatMap(reads));
    const needed = after.slice(0, place).flatMap((node, at) => {
      const isOpen = (output: Value): boolean => later.has(output) || (at >= from && this.#outputs.has(output));
      return node.outputs.filter((output) => output !== "" && isOpen(output) && this.#isFloat(output));
    });
    const largest = needed.map((value) => this.#g.op("ReduceMax", [value], { keepdims: 0 }));
    return this.#g.op("IsNaN", [largest.length === 1 ? largest[0]! : this.#g.op("Max", largest)]);
  }

  #isFloat(value: Value): boolean {
    return this.#g.info(value).type === "float32";
  }

  /** The nodes of a segment that lead to what is wanted of it, once more. */
  #repeat(segment: number, token: Value, copies: Map<Value, Value>): void {
    const { forward, held, bounds } = this.#parts;
    const needed = new Set(this.#wanted(segment));
    const chosen: Node[] = [];
    for (let place = bounds[segment]!; place > (bounds[segment - 1] ?? -1); place--) {
      const node = forward[place]!;
      if (!node.outputs.some((output) => needed.has(output))) continue;
      chosen.unshift(node);
      for (const input of reads(node)) if (held.made.has(input) && !this.#kept.has(input)) needed.add(input);
    }
    const late = new Map<Value, Value>();
    for (const node of chosen) {
      const own = (input: Value): Value => {
        const copied = copies.get(input);
        if (copied !== undefined) return copied;
        if (!this.#kept.has(input) && !this.#data.has(input)) return input;
        const delayed = late.get(input) ?? this.#delayed(input, token);
        late.set(input, delayed);
        return delayed;
      };
      const inputs = node.inputs.map(own);
      const outputs = node.outputs.map((output) => (output === "" ? "" : this.#g.freshName(`${output}_again`)));
      this.#g.node({ ...node, name: this.#g.freshName(`${node.name || node.op}_again`), inputs, outputs });
      node.outputs.forEach((output, index) => {
        if (output !== "") copies.set(output, outputs[index]!);
      });
      this.repeated++;
    }
  }

  /** The value, not before `token` is there. */
  #delayed(value: Value, token: Value): Value {
    const shape = this.#g.op("Shape", [value]);
    return this.#g.op("Reshape", [value, this.#g.op("Where", [token, shape, shape])]);
  }
}
