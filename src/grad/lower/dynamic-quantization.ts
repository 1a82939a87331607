// Products of dynamically quantized activations (onnx/dynamic-product.ts says how they are written) are joined in one
// com.microsoft.DynamicQuantizeMatMul, as ONNX Runtime itself does when it loads a model: the product is the same, and the
// activations' gradient has one rule instead of a cut at integers.
import { makeNode } from "../../onnx/builder.ts";
import { dynamicProducts } from "../../onnx/dynamic-product.ts";
import type { Model, Node } from "../../onnx/model.ts";

/** The model with such products joined; the same model when there are none. */
export function joinDynamicQuantization(model: Model): Model {
  const { graph } = model;
  if (!graph.nodes.some((node) => node.op.startsWith("MatMulInteger"))) return model;
  const productAt = dynamicProducts(graph);
  const joined = new Map<Node, Node>();
  for (const node of graph.nodes) {
    if (!node.op.startsWith("MatMulInteger")) continue;
    const product = productAt(node);
    if (product === undefined) continue;
    const { input, end, weight, weightScale, weightZero, bias } = product;
    // Inputs end at the last one that is there.
    const tail = bias ? [weightZero, bias] : weightZero ? [weightZero] : [];
    joined.set(
      end,
      makeNode({
        op: "DynamicQuantizeMatMul",
        domain: "com.microsoft",
        name: end.name,
        inputs: [input, weight, weightScale, ...tail],
        outputs: end.outputs,
      }),
    );
  }
  if (joined.size === 0) return model;
  const opsets = new Map([["com.microsoft", 1], ...model.opsets]);
  return { ...model, opsets, graph: { ...graph, nodes: graph.nodes.map((node) => joined.get(node) ?? node) } };
}
