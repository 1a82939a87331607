// Matrix products that ONNX Runtime fuses with transposes, scales and activations.
import { float, type GraphBuilder, type Value } from "../../onnx/builder.ts";
import { floatAttribute, intAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import { rankOf } from "../rule.ts";
import { fusedActivations, statedFloats } from "./activations.ts";
import { end, type LoweringTable, refuse, scalar } from "./lowering.ts";

export const productLowerings: LoweringTable = {
  // y = alpha op(a) op(b)
  FusedMatMul: (node, g) => {
    const alpha = floatAttribute(node, "alpha", 1);
    const a = factor(g, node, node.inputs[0]!, "A");
    const b = factor(g, node, node.inputs[1]!, "B");
    if (alpha === 1) return end(g, node, "MatMul", [a, b]);
    end(g, node, "Mul", [g.op("MatMul", [a, b]), scalar(g, alpha)]);
  },
  // y = activation(alpha op(a) op(b) + beta c)
  FusedGemm: (node, g) => {
    const activation = stringAttribute(node, "activation", "");
    const takes = fusedActivations[activation];
    if (takes === undefined) refuse(node, `the activation ${JSON.stringify(activation)} is not supported`);
    const product = g.op("Gemm", node.inputs, {
      alpha: float(floatAttribute(node, "alpha", 1)),
      beta: float(floatAttribute(node, "beta", 1)),
      transA: intAttribute(node, "transA", 0),
      transB: intAttribute(node, "transB", 0),
    });
    const stated = (key: string): number | undefined =>
      node.attributes.has(`activation_${key}`) ? floatAttribute(node, `activation_${key}`, 0) : undefined;
    end(g, node, activation, [product], statedFloats(Object.fromEntries(takes.map((key) => [key, stated(key)]))));
  },
};

/** One factor of FusedMatMul with its axes in MatMul's order. */
function factor(g: GraphBuilder, node: Node, value: Value, which: "A" | "B"): Value {
  const transposed = intAttribute(node, `trans${which}`, 0) !== 0;
  const batchInside = intAttribute(node, `transBatch${which}`, 0) !== 0;
  if (!transposed && !batchInside) return value;
  const rank = rankOf(g, node, value);
  if (rank < 2) return value;
  // Axes of a matrix [row, column] with its batch in front, or between the two (transBatch).
  const batch = Array.from({ length: rank - 2 }, (_, index) => index + (batchInside ? 1 : 0));
  const matrix = [batchInside ? 0 : rank - 2, rank - 1];
  return g.op("Transpose", [value], { perm: [...batch, ...(transposed ? matrix.reverse() : matrix)] });
}
