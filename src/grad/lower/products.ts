// Matrix products and convolutions that ONNX Runtime fuses with transposes, scales, sums and activations.
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
  // y = activation(conv(x, w) + bias + z)
  FusedConv: (node, g) => {
    const { activation: _, activation_params: __, ...attributes } = Object.fromEntries(node.attributes);
    const [x, w, bias = "", z = ""] = node.inputs as [Value, Value, Value?, Value?];
    const product = g.op("Conv", [x, w, bias], attributes);
    const sum = z === "" ? product : g.op("Add", [product, z]);
    const activation = stringAttribute(node, "activation", "");
    const stated = node.attributes.get("activation_params");
    const values = stated?.kind === "floats" ? [...stated.value] : [];
    // Activation parameters are stated by their places: Clip's are its bounds.
    if (activation === "") return end(g, node, "Identity", [sum]);
    if (activation === "Clip" && values.length === 2)
      return end(g, node, "Clip", [sum, scalar(g, values[0]!), scalar(g, values[1]!)]);
    const takes = fusedActivations[activation];
    if (takes === undefined || values.length > takes.length)
      refuse(node, `the activation ${JSON.stringify(activation)} with [${values}] is not supported`);
    end(g, node, activation, [sum], statedFloats(Object.fromEntries(takes.map((key, at) => [key, values[at]]))));
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
