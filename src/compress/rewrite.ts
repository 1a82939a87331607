// Layers rewritten: one product becomes two (`<path>.0`, `<path>.1`), weights become codes with a DequantizeLinear behind them
// or a MatMulNBits. Biases, alpha and beta stay with the last product.
import { type GraphBuilder, graphBuilder, makeNode } from "../onnx/builder.ts";
import { prune } from "../onnx/graph.ts";
import { rounded } from "../onnx/half.ts";
import { type Attribute, fromTensor, type Graph, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import type { Call, Site } from "../onnx/sites.ts";
import { tensor } from "../tensor.ts";
import type { QuantizedForm } from "./options.ts";
import { blockSize, type QuantizedRows } from "./quantize.ts";
import type { Weight } from "./spectrum.ts";

/** One product with a weight [out, in]. */
export interface Piece {
  /** The module path that it will have. */
  readonly path: string;
  readonly weight: Weight;
  readonly storedType: "float32" | "float16" | "bfloat16";
  readonly quantized: (QuantizedRows & { readonly form: QuantizedForm }) | null;
}

/** What a layer becomes: one product (its own, in fewer bits), or two. */
export interface Replacement {
  readonly site: Site;
  readonly pieces: readonly Piece[];
}

/** The model with layers replaced, without the nodes and weights that nothing reads any more. */
export function rewritten(model: Model, replacements: readonly Replacement[]): Model {
  const writer = new Writer(model);
  for (const replacement of replacements) writer.replace(replacement);
  const usesBlocks = replacements.some(({ pieces }) => pieces.some(({ quantized }) => quantized?.form === "int4"));
  const opsets = new Map(model.opsets);
  if (usesBlocks && !opsets.has("com.microsoft")) opsets.set("com.microsoft", 1);
  return { ...model, opsets, graph: writer.graph() };
}

class Writer {
  readonly #model: Model;
  readonly #names: GraphBuilder;
  readonly #initializers: Map<string, StoredTensor>;
  readonly #changed = new Map<Node, readonly Node[]>();
  /** The values that hold a piece's weight, by layout, or by part where it is in blocks. */
  readonly #weights = new Map<Piece, Map<Held, string>>();
  /** Nodes that compute them, before the first use. */
  #pending: Node[] = [];

  constructor(model: Model) {
    this.#model = model;
    this.#initializers = new Map(model.graph.initializers);
    this.#names = graphBuilder({ opset: model.opsets.get("") ?? 0, from: model.graph });
  }

  replace({ site, pieces }: Replacement): void {
    for (const call of site.calls) {
      let input = call.input;
      const nodes = pieces.flatMap((piece, index) => {
        const isLast = index === pieces.length - 1;
        const output = isLast ? call.output : this.#names.freshName(`${piece.path}/output`);
        const place: Place = { call, input, output, isLast, isRenamed: pieces.length > 1, factor: site.factor };
        input = output;
        return this.#product(piece, place);
      });
      this.#changed.set(call.node, nodes);
    }
  }

  graph(): Graph {
    const { graph, irVersion } = this.#model;
    const nodes = graph.nodes.flatMap((node) => this.#changed.get(node) ?? [node]);
    const pruned = prune({ ...graph, initializers: this.#initializers, nodes });
    const isGone = (name: string): boolean => graph.initializers.has(name) && !pruned.initializers.has(name);
    const fresh = [...pruned.initializers].filter(([name]) => !graph.initializers.has(name));
    // Before IR version 4, every initializer is listed as an input too.
    const listed = irVersion < 4 ? fresh.map(([name, { type, dims }]) => ({ name, type, shape: dims, doc: "" })) : [];
    return { ...pruned, inputs: [...graph.inputs.filter(({ name }) => !isGone(name)), ...listed] };
  }

  #product(piece: Piece, place: Place): Node[] {
    return piece.quantized?.form === "int4" ? this.#blocks(piece, piece.quantized, place) : this.#floats(piece, place);
  }

  /** A Gemm or MatMul like the layer's own. */
  #floats(piece: Piece, { call, input, output, isLast, isRenamed }: Place): Node[] {
    const { node } = call;
    const weight = this.#weight(piece, call.layout);
    const before = this.#pending;
    this.#pending = [];
    const name = isRenamed ? this.#names.freshName(`/${piece.path.replaceAll(".", "/")}/${node.op}`) : node.name;
    // Exporters' metadata names the module as it was.
    const metadata = isRenamed ? new Map<string, string>() : node.metadata;
    if (isLast) return [...before, { ...node, name, metadata, inputs: [input, weight, ...node.inputs.slice(2)] }];
    const attributes = new Map<string, Attribute>();
    if (node.op === "Gemm" && call.layout === "out,in") attributes.set("transB", { kind: "int", value: 1n });
    return [
      ...before,
      makeNode({ op: node.op, name, inputs: [input, weight], outputs: [output], attributes, metadata }),
    ];
  }

  #blocks(piece: Piece, rows: QuantizedRows, { call, input, output, isLast, isRenamed, factor }: Place): Node[] {
    const { node } = call;
    const { out, into } = piece.weight;
    const dims = [out, Math.ceil(into / blockSize)];
    const codes = this.#once(piece, "codes", () => {
      const stored = fromTensor(tensor("uint8", [...dims, blockSize / 2], rows.codes));
      return this.#store(`${piece.path}.weight_Q4G${blockSize}`, stored);
    });
    const scales = this.#once(piece, "scales", () => {
      // A Gemm's alpha goes into the scales.
      const values = isLast ? rows.scales.map((scale) => scale * factor) : rows.scales;
      return this.#store(`${piece.path}.weight_scales`, fromTensor(tensor("float32", dims, values)));
    });
    const bias = isLast && node.op === "Gemm" ? node.inputs[2] : undefined;
    const product = bias ? this.#names.freshName(`${output}/product`) : output;
    const int = (value: number): Attribute => ({ kind: "int", value: BigInt(value) });
    const multiply = makeNode({
      op: "MatMulNBits",
      domain: "com.microsoft",
      name: this.#names.freshName(`/${piece.path.replaceAll(".", "/")}/MatMulNBits`),
      inputs: [input, codes, scales],
      outputs: [product],
      attributes: new Map([
        ["K", int(into)],
        ["N", int(out)],
        ["bits", int(4)],
        ["block_size", int(blockSize)],
      ]),
      metadata: isRenamed ? new Map() : node.metadata,
    });
    return bias ? [multiply, makeNode({ op: "Add", inputs: [product, bias], outputs: [output] })] : [multiply];
  }

  /** The value that holds a weight in a layout; int8 is dequantized along its outputs. */
  #weight(piece: Piece, layout: Call["layout"]): string {
    return this.#once(piece, layout, () => {
      const { path, weight, quantized, storedType } = piece;
      const { out, into } = weight;
      const dims = layout === "out,in" ? [out, into] : [into, out];
      if (quantized === null) {
        const values = layout === "out,in" ? weight.values : turned(weight.values, out, into);
        return this.#store(`${path}.weight`, rounded(storedType, dims, values));
      }
      const codes = new Int8Array(quantized.codes.buffer);
      const laid = layout === "out,in" ? codes : turned(codes, out, into);
      const stored = this.#store(`${path}.weight_quantized`, fromTensor(tensor("int8", dims, laid)));
      const scale = this.#store(`${path}.weight_scale`, fromTensor(tensor("float32", [out], quantized.scales)));
      const output = this.#names.freshName(`${path}.weight_dequantized`);
      this.#pending.push(
        makeNode({
          op: "DequantizeLinear",
          name: this.#names.freshName(`/${path.replaceAll(".", "/")}/DequantizeLinear`),
          inputs: [stored, scale],
          outputs: [output],
          attributes: new Map([["axis", { kind: "int", value: layout === "out,in" ? 0n : 1n }]]),
        }),
      );
      return output;
    });
  }

  #once(piece: Piece, held: Held, make: () => string): string {
    const made = this.#weights.get(piece) ?? new Map<Held, string>();
    const name = made.get(held) ?? make();
    this.#weights.set(piece, made.set(held, name));
    return name;
  }

  #store(name: string, value: StoredTensor): string {
    const fresh = this.#names.freshName(name);
    this.#initializers.set(fresh, value);
    return fresh;
  }
}

type Held = Call["layout"] | "codes" | "scales";

interface Place {
  readonly call: Call;
  readonly input: string;
  readonly output: string;
  readonly isLast: boolean;
  /** The product has another module path than the layer had. */
  readonly isRenamed: boolean;
  /** The layer's alpha, for the last product. */
  readonly factor: number;
}

/** [rows, columns] as [columns, rows]. */
function turned<T extends Float32Array | Int8Array>(values: T, rows: number, columns: number): T {
  const out = values.slice() as T;
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = values[i * columns + j]!;
  return out;
}
