// Models whose weights or activations are float16 or bfloat16, computed in float32: weights stay stored in their own type,
// each behind a Cast, and so do the graph's inputs and outputs, which are cast where they come in and go out. Gradients of
// half the precision would underflow, and the CPU runtime has few kernels for it (it casts around each node itself).
import { throwFaults } from "../errors.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "./builder.ts";
import { subgraphs } from "./check.ts";
import { type ElementType, elementCode, elementType } from "./elements.ts";
import { producers, reads } from "./graph.ts";
import { type Attribute, describeNode, type Graph, type Model, type Node, type ValueInfo } from "./model.ts";
import type { TensorInfo } from "./shape-row.ts";
import { inferShapes } from "./shapes.ts";

type Half = "float16" | "bfloat16";

/** Whether a type is a floating-point type of 16 bits. */
export function isHalf(type: ElementType | undefined): type is Half {
  return type === "float16" || type === "bfloat16";
}

/**
 * The same model, computed in float32; the same object when nothing in it is float16 or bfloat16. Inputs and outputs keep
 * their types, but for bfloat16, which no JavaScript runtime takes or gives: those become float32.
 *
 * @throws LowrankError "model" that lists control flow and model-local functions which read or give such values.
 * @example const model = computedInFloat32(readModel(bytes)); // a `model.half()` export: weights still float16
 */
export function computedInFloat32(model: Model): Model {
  const infos = inferShapes(model.graph);
  if (![...infos.values()].some(({ type }) => isHalf(type))) return model;
  const faults = unconvertible(model, infos);
  throwFaults("model", "float16 and bfloat16", faults);
  return { ...model, graph: new Widener(model, infos).graph() };
}

/** Attributes that say in which type a node computes. */
const typeAttributes = new Set(["dtype", "to", "output_dtype", "precision", "stash_type"]);

class Widener {
  readonly #given: Graph;
  readonly #infos: ReadonlyMap<string, TensorInfo>;
  readonly #g: GraphBuilder;
  readonly #nodes: Node[] = [];
  /** What stands for a value of 16 bits in the new graph. */
  readonly #wide = new Map<string, string>();

  constructor({ graph, opsets }: Model, infos: ReadonlyMap<string, TensorInfo>) {
    this.#given = graph;
    this.#infos = infos;
    this.#g = graphBuilder({ opset: opsets.get("") ?? 0, from: graph });
  }

  graph(): Graph {
    const { inputs, outputs, values, initializers, nodes } = this.#given;
    const made = producers(this.#given);
    // Outputs keep their names, so that what computes them gives way.
    for (const { name } of outputs) {
      if (made.has(name) && this.#type(name) === "float16") this.#wide.set(name, this.#g.freshName(`${name}/float32`));
    }
    for (const { name } of inputs) if (this.#type(name) === "float16") this.#cast(name);
    for (const node of nodes) this.#nodes.push(...this.#node(node));
    for (const { name } of outputs) {
      const wide = this.#wide.get(name);
      if (wide !== undefined && made.has(name)) this.#nodes.push(castNode(this.#g, wide, name, "float16"));
    }
    const widened = (info: ValueInfo): ValueInfo => ({ ...withoutProto(info), type: "float32" });
    return {
      ...this.#given,
      inputs: inputs.map((info) => (info.type === "bfloat16" && !initializers.has(info.name) ? widened(info) : info)),
      outputs: outputs.map((info) => (info.type === "bfloat16" ? widened(info) : info)),
      values: values.map((info) => (isHalf(info.type) && !initializers.has(info.name) ? widened(info) : info)),
      nodes: this.#nodes,
    };
  }

  #type(name: string): ElementType | undefined {
    return this.#infos.get(name)?.type;
  }

  #node(node: Node): Node[] {
    const { op, domain } = node;
    // A cast reads what is stored as it is.
    const readsStored = op === "Cast" && domain === "" && this.#given.initializers.has(node.inputs[0] ?? "");
    const inputs = readsStored ? node.inputs : node.inputs.map((name) => this.#input(name));
    const outputs = node.outputs.map((name) => this.#wide.get(name) ?? name);
    const typed = this.#retyped(node);
    const isSame = typed === node && inputs.every((name, at) => name === node.inputs[at]);
    const changed = isSame ? node : { ...typed, inputs };
    if (!makesHalf(node))
      return [outputs.some((name, at) => name !== node.outputs[at]) ? { ...changed, outputs } : changed];
    // Filled with values of 16 bits: cast behind it.
    const [output = ""] = outputs;
    const narrow = this.#g.freshName(`${output}/${this.#type(node.outputs[0]!) ?? "half"}`);
    return [{ ...changed, outputs: [narrow] }, castNode(this.#g, narrow, output, "float32")];
  }

  /** The float32 form of a value: cast where it is stored or comes in, computed so otherwise. */
  #input(name: string): string {
    const wide = this.#wide.get(name);
    if (wide !== undefined) return wide;
    if (this.#given.initializers.has(name) && isHalf(this.#type(name))) return this.#cast(name);
    return name;
  }

  #cast(name: string): string {
    const wide = this.#g.freshName(`${name}/float32`);
    this.#nodes.push(castNode(this.#g, name, wide, "float32"));
    this.#wide.set(name, wide);
    return wide;
  }

  /** The node without saying that it computes in 16 bits. */
  #retyped(node: Node): Node {
    const changes = [...node.attributes].flatMap(([name, attribute]): [string, Attribute][] =>
      typeAttributes.has(name) && attribute.kind === "int" && isHalf(elementType(Number(attribute.value)))
        ? [[name, { kind: "int", value: BigInt(elementCode("float32")) }]]
        : [],
    );
    return changes.length === 0 ? node : { ...node, attributes: new Map([...node.attributes, ...changes]) };
  }
}

/** Whether a node's own values are of 16 bits: a Constant, ConstantOfShape. */
function makesHalf({ op, domain, attributes }: Node): boolean {
  const value = attributes.get("value");
  const isMade = domain === "" && (op === "Constant" || op === "ConstantOfShape");
  return isMade && value?.kind === "tensor" && isHalf(value.value.type);
}

function castNode(g: GraphBuilder, from: string, to: string, type: ElementType): Node {
  const attributes = new Map([["to", { kind: "int", value: BigInt(elementCode(type)) } as const]]);
  return makeNode({ op: "Cast", name: g.freshName(`${to}/cast`), inputs: [from], outputs: [to], attributes });
}

function withoutProto({ name, shape, doc, metadata }: ValueInfo): Omit<ValueInfo, "type"> {
  return { name, shape, doc, ...(metadata && { metadata }) };
}

/** Nodes with graphs or functions inside that meet values of 16 bits: their insides would have to change as well. */
function unconvertible({ graph, functions }: Model, infos: ReadonlyMap<string, TensorInfo>): string[] {
  const local = new Set(functions.map(({ domain, name }) => `${domain}.${name}`));
  return graph.nodes.flatMap((node) => {
    const inner = subgraphs(node);
    if (inner.length === 0 && !local.has(`${node.domain}.${node.op}`)) return [];
    const meets = [...reads(node), ...node.outputs].some((name) => isHalf(infos.get(name)?.type));
    return meets || inner.some(holdsHalf)
      ? [`${describeNode(node)}: expected float32 in and around it, got 16 bits; export the model in float32`]
      : [];
  });
}

function holdsHalf(graph: Graph): boolean {
  const infos = [...graph.inputs, ...graph.outputs, ...graph.values, ...graph.initializers.values()];
  return (
    infos.some(({ type }) => isHalf(type)) ||
    graph.nodes.some((node) => makesHalf(node) || subgraphs(node).some(holdsHalf))
  );
}
