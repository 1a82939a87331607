// Activations that ONNX Runtime fuses; those with a rule of their own are in rules/activations.ts.
import { float } from "../../onnx/builder.ts";
import { floatAttribute } from "../../onnx/model.ts";
import { end, type LoweringTable, scalar } from "./lowering.ts";

export const activationLowerings: LoweringTable = {
  // y = x sigmoid(alpha x)
  QuickGelu: (node, g) => {
    const x = node.inputs[0]!;
    const alpha = scalar(g, floatAttribute(node, "alpha", 1.702));
    end(g, node, "Mul", [x, g.op("Sigmoid", [g.op("Mul", [x, alpha])])]);
  },
};

/** The activations that FusedGemm and FusedConv name, with the attributes that each takes. */
export const fusedActivations: Readonly<Record<string, readonly ("alpha" | "beta")[]>> = {
  Relu: [],
  Sigmoid: [],
  Tanh: [],
  Softplus: [],
  Softsign: [],
  LeakyRelu: ["alpha"],
  Elu: ["alpha"],
  HardSigmoid: ["alpha", "beta"],
};

/** An activation's defaults are ONNX's own: only what is stated is passed on. */
export function statedFloats(
  values: Readonly<Record<string, number | undefined>>,
): Record<string, ReturnType<typeof float>> {
  return Object.fromEntries(
    Object.entries(values).flatMap(([key, value]) => (value === undefined ? [] : [[key, float(value)]])),
  );
}
