// Activations that ONNX Runtime fuses: Gelu (Hendrycks & Gimpel 2016) with its bias and its approximations.
import { float, type GraphBuilder, type Value } from "../../onnx/builder.ts";
import { floatAttribute } from "../../onnx/model.ts";
import { addIfGiven, end, type LoweringTable, scalar } from "./lowering.ts";

/** 1 + erf(x / sqrt(2)), twice the normal distribution's function */
function gaussian(g: GraphBuilder, x: Value): Value {
  return g.op("Add", [g.op("Erf", [g.op("Mul", [x, scalar(g, Math.SQRT1_2)])]), scalar(g, 1)]);
}

const half = (g: GraphBuilder, x: Value): Value => g.op("Mul", [x, scalar(g, 0.5)]);

export const activationLowerings: LoweringTable = {
  // y = x/2 (1 + erf(x / sqrt(2)))
  Gelu: (node, g) => {
    const x = node.inputs[0]!;
    end(g, node, "Mul", [half(g, x), gaussian(g, x)]);
  },
  // gelu(a + b)
  BiasGelu: (node, g) => {
    const x = g.op("Add", node.inputs);
    end(g, node, "Mul", [half(g, x), gaussian(g, x)]);
  },
  // y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), x = input + bias
  FastGelu: (node, g) => {
    const x = addIfGiven(g, node.inputs[0]!, node.inputs[1]);
    const cubic = g.op("Mul", [g.op("Mul", [x, x]), scalar(g, 0.044715 * Math.sqrt(2 / Math.PI))]);
    const inner = g.op("Mul", [x, g.op("Add", [cubic, scalar(g, Math.sqrt(2 / Math.PI))])]);
    end(g, node, "Mul", [half(g, x), g.op("Add", [g.op("Tanh", [inner]), scalar(g, 1)])]);
  },
  // y = x sigmoid(alpha x)
  QuickGelu: (node, g) => {
    const x = node.inputs[0]!;
    const alpha = scalar(g, floatAttribute(node, "alpha", 1.702));
    end(g, node, "Mul", [x, g.op("Sigmoid", [g.op("Mul", [x, alpha])])]);
  },
};

/** The activations that FusedGemm names, with the attributes that each takes. */
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
