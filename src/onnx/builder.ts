// Building graphs: the one place that mints names of values and nodes. A builder starts empty or from an existing graph,
// collects nodes, and `build` gives an immutable Graph. Values are referred to by their names.
import { type Tensor, tensor } from "../tensor.ts";
import { subgraphs } from "./check.ts";
import type { ElementType } from "./elements.ts";
import {
  type Attribute,
  type Dim,
  fromTensor,
  type Graph,
  type Model,
  type Node,
  type StoredTensor,
  type ValueInfo,
} from "./model.ts";
import type { TensorInfo } from "./shape-row.ts";
import { type ShapeTracker, shapeTracker } from "./shapes.ts";

/** The name of a value in a graph. */
export type Value = string;

/** Attributes as plain values: numbers are integers (wrap floats in `float`), text is a string, lists are integers. */
export type PlainAttributes = Readonly<Record<string, number | string | readonly number[] | Attribute>>;

/** A float attribute; a plain number means an integer. */
export function float(value: number): Attribute {
  return { kind: "float", value: Math.fround(value) };
}

export interface GraphBuilder {
  /** The version of ONNX's operator set that nodes are written for. */
  readonly opset: number;
  /** Declares an input; `name` is made unique when it is taken. */
  input(name: string, type: ElementType, shape: readonly Dim[]): Value;
  /** Declares an output: an existing value. */
  output(value: Value, type: ElementType, shape?: readonly Dim[]): void;
  /** Adds an initializer; `name` is made unique when it is taken. */
  initializer(name: string, value: Tensor | StoredTensor): Value;
  /** A small constant; equal ones are shared. */
  constant(type: "float32" | "int64", values: number | readonly number[]): Value;
  /** Adds a node with one output and returns that. `inputs` may hold "" for what is left out. */
  op(operator: string, inputs: readonly Value[], attributes?: PlainAttributes, options?: OpOptions): Value;
  /** Adds a node with several outputs. */
  ops(
    operator: string,
    inputs: readonly Value[],
    outputs: number,
    attributes?: PlainAttributes,
    options?: OpOptions,
  ): Value[];
  /** Adds a node as it is. */
  node(node: Node): void;
  /** Type and shape of a value, as far as they are known. */
  info(value: Value): TensorInfo;
  /** The integers that a scalar or vector holds, where they are known without running the graph. */
  integers(value: Value): number[] | undefined;
  /** A name that nothing in the graph has yet. */
  freshName(wanted: string): string;
  /** The graph as it stands, outputs replaced by those declared here when there are any. */
  build(): Graph;
}

export interface OpOptions {
  /** Node name, and prefix of its outputs' names; by default the operator in the builder's scope. */
  readonly name?: string;
  /** Exact name of the output (single-output nodes). */
  readonly output?: string;
  readonly domain?: string;
}

/**
 * A builder on top of `from` (or of an empty graph). Names of new nodes start with `scope`; none of `reserved` is minted.
 *
 * @example
 * const g = graphBuilder({ name: "double", opset: 17 });
 * const x = g.input("x", "float32", ["batch", 4]);
 * g.output(g.op("Add", [x, x]), "float32", ["batch", 4]);
 * const model = createModel(g.build(), { opset: g.opset });
 */
export function graphBuilder(options: {
  opset: number;
  from?: Graph;
  name?: string;
  scope?: string;
  reserved?: Iterable<string>;
}): GraphBuilder {
  const { opset, from = emptyGraph(options.name ?? "graph"), scope = "", reserved = [] } = options;
  return new Builder(opset, from, scope, reserved);
}

/** A model around a graph. */
export function createModel(
  graph: Graph,
  options: { opset: number; producer?: string; metadata?: ReadonlyMap<string, string> },
): Model {
  return {
    // IR version 8 goes with operator sets up to 18, 9 with 19 and 20, 10 with 21 and 22, 11 with 23 (ONNX's Versioning.md).
    irVersion: options.opset <= 18 ? 8 : options.opset <= 20 ? 9 : options.opset <= 22 ? 10 : 11,
    opsets: new Map([["", options.opset]]),
    producer: { name: options.producer ?? "lowrank", version: "" },
    domain: "",
    modelVersion: 0n,
    doc: "",
    metadata: options.metadata ?? new Map(),
    graph,
    functions: [],
  };
}

/** A node with its defaults filled in. */
export function makeNode(parts: Pick<Node, "op" | "inputs" | "outputs"> & Partial<Node>): Node {
  return { domain: "", name: "", attributes: new Map(), doc: "", overload: "", metadata: new Map(), ...parts };
}

function emptyGraph(name: string): Graph {
  return {
    name,
    doc: "",
    inputs: [],
    outputs: [],
    values: [],
    initializers: new Map(),
    nodes: [],
    quantization: [],
    metadata: new Map(),
  };
}

/** 2^63 - 1, which exporters write for "to the end", is 2^63 as a number: what is beyond the type becomes its limit. */
function toInt64(value: number): bigint {
  const exact = BigInt(value);
  return exact > INT64_MAX ? INT64_MAX : exact < -INT64_MAX - 1n ? -INT64_MAX - 1n : exact;
}

const INT64_MAX = 2n ** 63n - 1n;

class Builder implements GraphBuilder {
  readonly opset: number;
  readonly #from: Graph;
  readonly #scope: string;
  readonly #inputs: ValueInfo[];
  readonly #outputs: ValueInfo[] = [];
  readonly #initializers: Map<string, StoredTensor>;
  readonly #nodes: Node[];
  readonly #taken = new Set<string>();
  readonly #counters = new Map<string, number>();
  readonly #constants = new Map<string, Value>();
  readonly #shapes: ShapeTracker;

  constructor(opset: number, from: Graph, scope: string, reserved: Iterable<string>) {
    this.opset = opset;
    this.#from = from;
    this.#shapes = shapeTracker(from, { mint: true });
    this.#scope = scope;
    this.#inputs = [...from.inputs];
    this.#initializers = new Map(from.initializers);
    this.#nodes = [...from.nodes];
    for (const name of reserved) this.#taken.add(name);
    this.#take(from);
  }

  input(wanted: string, type: ElementType, shape: readonly Dim[]): Value {
    const name = this.freshName(wanted);
    this.#inputs.push({ name, type, shape, doc: "" });
    this.#shapes.addInput(name, { type, shape });
    return name;
  }

  output(value: Value, type: ElementType, shape?: readonly Dim[]): void {
    this.#outputs.push({ name: value, type, shape, doc: "" });
  }

  initializer(name: string, value: Tensor | StoredTensor): Value {
    const fresh = this.freshName(name);
    const stored = "bytes" in value ? value : fromTensor(value);
    this.#initializers.set(fresh, stored);
    this.#shapes.addConstant(fresh, stored);
    return fresh;
  }

  constant(type: "float32" | "int64", values: number | readonly number[]): Value {
    const list = typeof values === "number" ? [values] : values;
    const dims = typeof values === "number" ? [] : [values.length];
    const key = `${type}${JSON.stringify(dims)}${list.map((value) => (Object.is(value, -0) ? "-0" : String(value)))}`;
    let name = this.#constants.get(key);
    if (name === undefined) {
      const value =
        type === "float32"
          ? tensor("float32", dims, Float32Array.from(list))
          : tensor("int64", dims, BigInt64Array.from(list, toInt64));
      name = this.initializer(`${this.#scope}const`, value);
      this.#constants.set(key, name);
    }
    return name;
  }

  op(operator: string, inputs: readonly Value[], attributes: PlainAttributes = {}, options: OpOptions = {}): Value {
    return this.ops(operator, inputs, 1, attributes, options)[0]!;
  }

  ops(
    operator: string,
    inputs: readonly Value[],
    outputs: number,
    attributes: PlainAttributes = {},
    options: OpOptions = {},
  ): Value[] {
    const name = this.freshName(options.name ?? `${this.#scope}${operator}`);
    const values = Array.from({ length: outputs }, (_, index) => {
      if (options.output !== undefined && outputs === 1) return this.#claim(options.output);
      return this.freshName(`${name}_output_${index}`);
    });
    // A node's inputs end at the last one given.
    let end = inputs.length;
    while (end > 0 && inputs[end - 1] === "") end--;
    this.node(
      makeNode({
        op: operator,
        domain: options.domain ?? "",
        name,
        inputs: inputs.slice(0, end),
        outputs: values,
        attributes: new Map(Object.entries(attributes).map(([key, value]) => [key, fullAttribute(value)])),
      }),
    );
    return values;
  }

  node(node: Node): void {
    this.#takeNode(node);
    this.#nodes.push(node);
    this.#shapes.add(node);
  }

  info(value: Value): TensorInfo {
    return this.#shapes.infos.get(value) ?? { type: undefined, shape: undefined };
  }

  integers(value: Value): number[] | undefined {
    return this.#shapes.integers(value);
  }

  freshName(wanted: string): string {
    let name = wanted;
    while (this.#taken.has(name)) {
      const count = (this.#counters.get(wanted) ?? 0) + 1;
      this.#counters.set(wanted, count);
      name = `${wanted}_${count}`;
    }
    this.#taken.add(name);
    return name;
  }

  build(): Graph {
    return {
      ...this.#from,
      inputs: [...this.#inputs],
      outputs: this.#outputs.length > 0 ? [...this.#outputs] : this.#from.outputs,
      initializers: new Map(this.#initializers),
      nodes: [...this.#nodes],
    };
  }

  /** Names of a graph and of those inside it: ONNX wants them distinct across both. */
  #take({ inputs, initializers, nodes }: Graph): void {
    for (const { name } of inputs) this.#taken.add(name);
    for (const name of initializers.keys()) this.#taken.add(name);
    for (const node of nodes) this.#takeNode(node);
  }

  #takeNode(node: Node): void {
    this.#taken.add(node.name);
    for (const output of node.outputs) this.#taken.add(output);
    for (const graph of subgraphs(node)) this.#take(graph);
  }

  #claim(name: string): string {
    if (this.#taken.has(name)) throw new Error(`internal: the graph has a value ${name} already`);
    this.#taken.add(name);
    return name;
  }
}

function fullAttribute(value: PlainAttributes[string]): Attribute {
  if (typeof value === "number") return { kind: "int", value: BigInt(value) };
  if (typeof value === "string") return { kind: "string", value: new TextEncoder().encode(value) };
  if (Array.isArray(value)) return { kind: "ints", value: value.map(BigInt) };
  return value as Attribute;
}
