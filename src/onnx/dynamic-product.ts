// Products of dynamically quantized activations, as quantization tools write them: DynamicQuantizeLinear, MatMulInteger,
// Cast, and a Mul with both scales; or com.microsoft's MatMulIntegerToFloat for the last three, and DynamicQuantizeMatMul
// for all four, as ONNX Runtime writes them (docs/ContribOperators.md). Found here, for sites and for gradients.
import { consumers, producers } from "./graph.ts";
import { type Graph, intAttribute, type Node } from "./model.ts";

/** y = (quantized(input) weight) times both scales, however it is written. */
export interface DynamicProduct {
  /** The float value that is quantized. */
  readonly input: string;
  /** The node that multiplies integers. */
  readonly product: Node;
  /** The node whose output is y: the product itself, or the Mul behind it. */
  readonly end: Node;
  /** 8 bits, [in, out]. */
  readonly weight: string;
  /** One, or one for each column. */
  readonly weightScale: string;
  /** As the scale; "" when there is none. */
  readonly weightZero: string;
  /** Added in the node itself; "" when there is none. */
  readonly bias: string;
}

/** Finds such products in one graph: tells of each node whether it is the multiplying one. */
export function dynamicProducts(graph: Graph): (node: Node) => DynamicProduct | undefined {
  const made = producers(graph);
  const readers = consumers(graph);
  const only = (value: string): Node | undefined => {
    const list = readers.get(value) ?? [];
    return list.length === 1 ? list[0] : undefined;
  };
  return (node) => {
    if (node.op === "DynamicQuantizeMatMul" && node.domain === "com.microsoft") {
      const [input = "", weight = "", weightScale = "", weightZero = "", bias = ""] = node.inputs;
      return { input, product: node, end: node, weight, weightScale, weightZero, bias };
    }
    const written = node.op === "MatMulInteger" ? integerProduct(node, only, made) : scaledProduct(node);
    const quantizer = made.get(node.inputs[0] ?? "");
    if (written === undefined || quantizer?.op !== "DynamicQuantizeLinear") return undefined;
    const [, scale, zero] = quantizer.outputs;
    if (written.zero !== zero || written.scale !== scale) return undefined;
    const { end, weightScale, weightZero, bias } = written;
    return {
      input: quantizer.inputs[0]!,
      product: node,
      end,
      weight: node.inputs[1]!,
      weightScale,
      weightZero,
      bias,
    };
  };
}

/** A product of quantized activations: its last node, and what it reads. */
interface WrittenProduct {
  readonly end: Node;
  readonly scale: string | undefined;
  readonly zero: string | undefined;
  readonly weightScale: string;
  readonly weightZero: string;
  readonly bias: string;
}

/** MatMulInteger(q, w, zero, weightZero), Cast to float, Mul by (scale weightScale). */
function integerProduct(
  product: Node,
  only: (value: string) => Node | undefined,
  made: ReadonlyMap<string, Node>,
): WrittenProduct | undefined {
  const cast = only(product.outputs[0]!);
  if (cast?.op !== "Cast" || intAttribute(cast, "to", 0) !== 1) return undefined;
  const end = only(cast.outputs[0]!);
  if (end?.op !== "Mul") return undefined;
  const scales = made.get(otherInput(end, cast.outputs[0]!) ?? "");
  const scale = made.get(product.inputs[0] ?? "")?.outputs[1];
  const weightScale = scales?.op === "Mul" && scale !== undefined ? otherInput(scales, scale) : undefined;
  if (weightScale === undefined) return undefined;
  return { end, scale, zero: product.inputs[2], weightScale, weightZero: product.inputs[3] ?? "", bias: "" };
}

/** com.microsoft.MatMulIntegerToFloat: the same in one node. */
function scaledProduct(node: Node): WrittenProduct | undefined {
  if (node.op !== "MatMulIntegerToFloat" || node.domain !== "com.microsoft") return undefined;
  const [, , scale, weightScale, zero, weightZero = "", bias = ""] = node.inputs;
  return { end: node, scale, zero, weightScale: weightScale!, weightZero, bias };
}

/** The input beside `name` of a node with two; undefined when `name` is neither. */
function otherInput({ inputs: [a, b] }: Node, name: string): string | undefined {
  return a === name ? b : b === name ? a : undefined;
}
