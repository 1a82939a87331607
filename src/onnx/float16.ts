// Mixed precision: products of matrices and convolutions in float16, all else in float32, as PyTorch's autocast has it
// (Micikevicius et al. 2017, arXiv:1710.03740). Weights that only products read are stored in float16; what comes and goes
// between them is cast. Inputs and outputs of the graph stay as they are, so that parameters and gradients are float32.
import { toBytes } from "../tensor.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "./builder.ts";
import { elementCode } from "./elements.ts";
import { producers, prune } from "./graph.ts";
import { floatsOf, toHalf } from "./half.ts";
import type { Graph, Model, Node, StoredTensor } from "./model.ts";
import type { TensorInfo } from "./shape-row.ts";
import { inferShapes } from "./shapes.ts";

/** What is computed in float16: where the time goes, and where GPUs have units for it. */
const products = new Set(["MatMul", "Gemm", "Conv", "ConvTranspose"]);

/**
 * The same model with its float32 products in float16. A product whose stored weight does not fit (over 65504) stays in
 * float32, and so do graphs inside nodes.
 *
 * @example const half = productsInFloat16(buildStepGraph(adapted, loss).model);
 */
export function productsInFloat16(model: Model): Model {
  const graph = new Narrower(model).graph();
  return { ...model, graph: prune(graph) };
}

class Narrower {
  readonly #given: Graph;
  readonly #infos: ReadonlyMap<string, TensorInfo>;
  readonly #made: ReadonlyMap<string, Node>;
  readonly #g: GraphBuilder;
  readonly #initializers: Map<string, StoredTensor>;
  readonly #nodes: Node[] = [];
  /** The float16 form of a value; null for a weight that has none. */
  readonly #half = new Map<string, string | null>();

  constructor({ graph, opsets }: Model) {
    this.#given = graph;
    this.#infos = inferShapes(graph);
    this.#made = producers(graph);
    this.#g = graphBuilder({ opset: opsets.get("") ?? 0, from: graph });
    this.#initializers = new Map(graph.initializers);
  }

  graph(): Graph {
    for (const node of this.#given.nodes) this.#add(node);
    return { ...this.#given, nodes: this.#nodes, initializers: this.#initializers };
  }

  #add(node: Node): void {
    const isProduct = node.domain === "" && products.has(node.op);
    const read = node.inputs.filter((name) => name !== "");
    const isFloat32 = [...read, ...node.outputs].every((name) => this.#infos.get(name)?.type === "float32");
    if (!isProduct || !isFloat32 || read.some((name) => !this.#fits(name))) {
      this.#nodes.push(node);
      return;
    }
    const inputs = node.inputs.map((name) => (name === "" ? name : this.#narrowed(name)));
    const [output = ""] = node.outputs;
    const narrow = this.#g.freshName(`${output}/float16`);
    this.#nodes.push({ ...node, inputs, outputs: [narrow] });
    this.#cast(narrow, output, "float32");
  }

  /** Whether a value's float16 form is finite as far as that is known: stored weights are looked through. */
  #fits(name: string): boolean {
    const source = this.#source(name);
    if (!this.#given.initializers.has(source)) return true;
    if (!this.#half.has(source)) this.#store(source, this.#given.initializers.get(source)!);
    return this.#half.get(source) !== null;
  }

  /** What a value is a transposition or widening of, or itself. */
  #source(name: string): string {
    let at = name;
    let made = this.#made.get(at);
    while (made?.op === "Transpose" && made.domain === "") {
      at = made.inputs[0]!;
      made = this.#made.get(at);
    }
    const isWidened = made?.op === "Cast" && made.domain === "" && this.#infos.get(made.inputs[0]!)?.type === "float16";
    return isWidened ? made!.inputs[0]! : at;
  }

  #store(name: string, stored: StoredTensor): void {
    if (stored.type === "float16") {
      this.#half.set(name, name);
      return;
    }
    const bits = toHalf("float16", floatsOf(stored));
    if (bits.some((value) => (value & 0x7fff) === 0x7c00)) {
      this.#half.set(name, null);
      return;
    }
    const half = this.#g.freshName(`${name}/float16`);
    this.#initializers.set(half, { type: "float16", dims: stored.dims, bytes: toBytes(bits) });
    this.#half.set(name, half);
  }

  /** The float16 form of a value: a weight as it is stored then, its transpose, what was widened, or a cast. */
  #narrowed(name: string): string {
    const known = this.#half.get(name);
    if (known !== undefined && known !== null) return known;
    const made = this.#made.get(name);
    const half = this.#g.freshName(`${name}/float16`);
    this.#half.set(name, half);
    if (made?.op === "Cast" && made.domain === "" && this.#source(name) !== name) {
      this.#half.set(name, made.inputs[0]!);
      return made.inputs[0]!;
    }
    if (made?.op === "Transpose" && made.domain === "") {
      const from = this.#narrowed(made.inputs[0]!);
      this.#nodes.push({ ...made, name: this.#g.freshName(`${made.name}/float16`), inputs: [from], outputs: [half] });
    } else this.#cast(name, half, "float16");
    return half;
  }

  #cast(from: string, to: string, type: "float16" | "float32"): void {
    const attributes = new Map([["to", { kind: "int", value: BigInt(elementCode(type)) } as const]]);
    const name = this.#g.freshName(`${to}/cast`);
    this.#nodes.push(makeNode({ op: "Cast", name, inputs: [from], outputs: [to], attributes }));
  }
}
