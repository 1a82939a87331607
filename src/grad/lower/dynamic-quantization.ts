// Products of dynamically quantized activations, as quantization tools write them: DynamicQuantizeLinear, MatMulInteger,
// Cast, and a Mul with both scales; or MatMulIntegerToFloat for the last three. They are joined in one com.microsoft.DynamicQuantizeMatMul, as ONNX Runtime itself does
// when it loads a model: the product is the same, and the activations' gradient has one rule instead of a cut at integers.
import { makeNode } from "../../onnx/builder.ts";
import { consumers, producers } from "../../onnx/graph.ts";
import { intAttribute, type Model, type Node } from "../../onnx/model.ts";

/** The model with such products joined; the same model when there are none. */
export function joinDynamicQuantization(model: Model): Model {
  const { graph } = model;
  if (!graph.nodes.some((node) => node.op.startsWith("MatMulInteger"))) return model;
  const made = producers(graph);
  const readers = consumers(graph);
  const only = (value: string): Node | undefined => {
    const list = readers.get(value) ?? [];
    return list.length === 1 ? list[0] : undefined;
  };
  const joined = new Map<Node, Node>();
  for (const product of graph.nodes) {
    const written = product.op === "MatMulInteger" ? integerProduct(product, only, made) : scaledProduct(product);
    const quantizer = made.get(product.inputs[0] ?? "");
    if (written === undefined || quantizer?.op !== "DynamicQuantizeLinear") continue;
    const [, scale, zero] = quantizer.outputs;
    if (written.zero !== zero || written.scale !== scale) continue;
    const { end, weightScale, weightZero, bias } = written;
    // Inputs end at the last one that is there.
    const tail = bias ? [weightZero, bias] : weightZero ? [weightZero] : [];
    joined.set(
      end,
      makeNode({
        op: "DynamicQuantizeMatMul",
        domain: "com.microsoft",
        name: end.name,
        inputs: [quantizer.inputs[0]!, product.inputs[1]!, weightScale, ...tail],
        outputs: end.outputs,
      }),
    );
  }
  if (joined.size === 0) return model;
  const opsets = new Map([["com.microsoft", 1], ...model.opsets]);
  return { ...model, opsets, graph: { ...graph, nodes: graph.nodes.map((node) => joined.get(node) ?? node) } };
}

/** A product of quantized activations, however it is written: its last node, and what it reads. */
interface WrittenProduct {
  readonly end: Node;
  readonly scale: string | undefined;
  readonly zero: string | undefined;
  readonly weightScale: string;
  readonly weightZero: string;
  readonly bias?: string;
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
  return { end, scale, zero: product.inputs[2], weightScale, weightZero: product.inputs[3] ?? "" };
}

/** com.microsoft.MatMulIntegerToFloat: the same in one node, as the runtime writes it. */
function scaledProduct(node: Node): WrittenProduct | undefined {
  if (node.op !== "MatMulIntegerToFloat" || node.domain !== "com.microsoft") return undefined;
  const [, , scale, weightScale, zero, weightZero = "", bias = ""] = node.inputs;
  return { end: node, scale, zero, weightScale: weightScale!, weightZero, bias };
}

/** The input beside `name` of a node with two; undefined when `name` is neither. */
function otherInput({ inputs: [a, b] }: Node, name: string): string | undefined {
  return a === name ? b : b === name ? a : undefined;
}
