// Which nodes are layers: Linear (Gemm, MatMul, and their quantized forms), Conv1d to 3d and Embedding (Gather), where the
// weight is a constant. Sizes and layouts in PyTorch's terms.
import type { DynamicProduct } from "../dynamic-product.ts";
import { floatAttribute, intAttribute, type Node } from "../model.ts";
import type { QuantizedWeight, Site, SiteKind } from "../sites.ts";
import type { Constants } from "./constants.ts";

/** What a node alone says of its site. */
export type Layer = Pick<
  Site,
  | "kind"
  | "weight"
  | "weightInput"
  | "input"
  | "output"
  | "inFeatures"
  | "outFeatures"
  | "layout"
  | "factor"
  | "kernel"
  | "groups"
  | "quantized"
  | "fused"
> & {
  /** The bias that the node itself adds, if any. */
  readonly ownBias: string | undefined;
};

/** The layer that a node is, or undefined when it is none. */
export function layerAt(
  node: Node,
  constants: Constants,
  productAt: (node: Node) => DynamicProduct | undefined,
): Layer | undefined {
  if (node.domain === "" && Object.hasOwn(layers, node.op)) return layers[node.op]!(node, constants);
  if (node.domain === "com.microsoft" && Object.hasOwn(contribLayers, node.op)) {
    return contribLayers[node.op]!(node, constants);
  }
  const product = productAt(node);
  return product && dynamic(product, constants);
}

const layers: Readonly<Record<string, (node: Node, constants: Constants) => Layer | undefined>> = {
  Gemm: linear,
  MatMul: linear,
  Conv: convolution,
  Gather: embedding,
};

const contribLayers: typeof layers = { MatMulNBits: blocks, Attention: attention };

const plain = { weightInput: 1, factor: 1, kernel: [], groups: 1, quantized: undefined, fused: false } as const;

/** The sizes of a node's constant weight; undefined when it is none, or what it is applied to is constant as well. */
function weightDims(node: Node, input: number, applied: number, constants: Constants): readonly number[] | undefined {
  // A constant times a constant is no layer; it only computes another weight.
  if (node.inputs[applied] === undefined || constants.info(node.inputs[applied]) !== undefined) return undefined;
  const dims = constants.info(node.inputs[input])?.shape;
  return dims?.every((dim) => typeof dim === "number") ? dims : undefined;
}

function linear(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 1, 0, constants);
  const factor = node.op === "Gemm" ? floatAttribute(node, "alpha", 1) : 1;
  if (dims?.length !== 2 || factor === 0) return undefined;
  const [rows, columns] = dims as [number, number];
  const rest = {
    ...plain,
    kind: "Linear",
    weight: node.inputs[1]!,
    input: node.inputs[0]!,
    output: node.outputs[0]!,
    factor,
    ownBias: node.op === "Gemm" ? node.inputs[2] : undefined,
  } as const;
  return node.op === "Gemm" && intAttribute(node, "transB", 0) !== 0
    ? { ...rest, inFeatures: columns, outFeatures: rows, layout: "out,in" }
    : { ...rest, inFeatures: rows, outFeatures: columns, layout: "in,out" };
}

const convolutions: Readonly<Record<number, SiteKind>> = { 3: "Conv1d", 4: "Conv2d", 5: "Conv3d" };

function convolution(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 1, 0, constants);
  const kind = dims && convolutions[dims.length];
  if (dims === undefined || kind === undefined) return undefined;
  const [outFeatures, perGroup, ...kernel] = dims as [number, number, ...number[]];
  const groups = intAttribute(node, "group", 1);
  return {
    ...plain,
    kind,
    weight: node.inputs[1]!,
    input: node.inputs[0]!,
    output: node.outputs[0]!,
    inFeatures: perGroup * groups,
    outFeatures,
    layout: "out,in",
    kernel,
    groups,
    ownBias: node.inputs[2],
  };
}

function embedding(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 0, 1, constants);
  if (dims?.length !== 2 || intAttribute(node, "axis", 0) !== 0) return undefined;
  // Tables of integers are no weights.
  if (constants.info(node.inputs[0])?.type?.includes("float") !== true) return undefined;
  const [inFeatures, outFeatures] = dims as [number, number];
  return {
    ...plain,
    kind: "Embedding",
    weight: node.inputs[0]!,
    weightInput: 0,
    input: node.inputs[1]!,
    output: node.outputs[0]!,
    inFeatures,
    outFeatures,
    layout: "in,out",
    ownBias: undefined,
  };
}

/** com.microsoft.Attention: its projection W [in, queries + keys + values] of x [batch, time, in]. */
function attention(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 1, 0, constants);
  if (dims?.length !== 2) return undefined;
  const [inFeatures, outFeatures] = dims as [number, number];
  return {
    ...plain,
    kind: "Linear",
    weight: node.inputs[1]!,
    input: node.inputs[0]!,
    output: node.outputs[0]!,
    inFeatures,
    outFeatures,
    layout: "in,out",
    fused: true,
    ownBias: node.inputs[2],
  };
}

/** com.microsoft.MatMulNBits: W [out, in] in blocks along its rows. */
function blocks(node: Node, constants: Constants): Layer | undefined {
  const [input = "", weight = "", scale = "", zero = "", , bias = ""] = node.inputs;
  const [inFeatures, outFeatures] = [intAttribute(node, "K", 0), intAttribute(node, "N", 0)];
  if (constants.info(weight) === undefined || constants.info(input) !== undefined) return undefined;
  if (inFeatures < 1 || outFeatures < 1) return undefined;
  const quantized: QuantizedWeight = { form: "blocks", scale, zero };
  const output = node.outputs[0]!;
  return {
    ...plain,
    kind: "Linear",
    weight,
    input,
    output,
    inFeatures,
    outFeatures,
    layout: "out,in",
    quantized,
    ownBias: bias,
  };
}

/** Dynamically quantized activations times W [in, out] in 8 bits. */
function dynamic(product: DynamicProduct, constants: Constants): Layer | undefined {
  const { input, end, weight, weightScale, weightZero, bias } = product;
  const dims = constants.info(weight)?.shape;
  if (dims?.length !== 2 || !dims.every((dim) => typeof dim === "number")) return undefined;
  if (constants.info(weightScale) === undefined || constants.info(input) !== undefined) return undefined;
  const [inFeatures, outFeatures] = dims as [number, number];
  const quantized: QuantizedWeight = { form: "dynamic", scale: weightScale, zero: weightZero };
  const output = end.outputs[0]!;
  return {
    ...plain,
    kind: "Linear",
    weight,
    input,
    output,
    inFeatures,
    outFeatures,
    layout: "in,out",
    quantized,
    ownBias: bias,
  };
}
