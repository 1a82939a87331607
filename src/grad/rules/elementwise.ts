// Elementwise arithmetic and activations. x, y: the node's input and output; d: the gradient of y.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { producers, storedValue } from "../../onnx/graph.ts";
import { describeNode, floatAttribute, intAttribute } from "../../onnx/model.ts";
import { type RuleTable, rankOf, single } from "../rule.ts";
import { inTypeOf, mul, scalar, unary } from "./parts.ts";

/** 1 - x */
const complement = (g: GraphBuilder, x: Value): Value => g.op("Sub", [scalar(g, 1, x), x]);

/** 0 where x is 0, and `other` elsewhere: keeps 0 x infinity out. */
const whereZero = (g: GraphBuilder, x: Value, other: Value): Value =>
  g.op("Where", [g.op("Equal", [x, scalar(g, 0, x)]), scalar(g, 0, x), other]);

export const elementwiseRules: RuleTable = {
  // d(a + b) = da + db
  Add: single((_, d) => [d, d]),
  // d(a - b) = da - db
  Sub: single((_, d, g) => [d, g.op("Neg", [d])]),
  // d(a b) = b da + a db
  Mul: single(({ inputs: [a, b] }, d, g) => [mul(g, d, b!), mul(g, d, a!)]),
  // d(a / b) = da / b - (y / b) db
  Div: single(({ inputs: [, b], outputs: [y] }, d, g) => {
    const da = g.op("Div", [d, b!]);
    return [da, g.op("Neg", [mul(g, da, y!)])];
  }),
  // d sum(x_i) = sum dx_i
  Sum: single(({ inputs }, d) => inputs.map(() => d)),
  // d(a^b) = b a^(b-1) da + y log(a) db, with 0 for da where b = 0, and for db where a = 0
  Pow: single(({ inputs: [a, exponent], outputs: [y] }, d, g) => {
    const b = inTypeOf(g, exponent!, a!);
    const slope = mul(g, b, g.op("Pow", [a!, g.op("Sub", [b, scalar(g, 1, b)])]));
    const da = mul(g, d, whereZero(g, b, slope));
    return [da, mul(g, d, whereZero(g, a!, mul(g, y!, g.op("Log", [a!]))))];
  }),
  Neg: unary((_x, _y, d, g) => g.op("Neg", [d])),
  // y' = y
  Exp: unary((_x, y, d, g) => mul(g, d, y)),
  // y' = 1 / x
  Log: unary((x, _y, d, g) => g.op("Div", [d, x])),
  // y' = 1 / (2 y)
  Sqrt: unary((_x, y, d, g) => g.op("Div", [d, g.op("Add", [y, y])])),
  // y' = -y^2
  Reciprocal: unary((_x, y, d, g) => g.op("Neg", [mul(g, d, mul(g, y, y))])),
  // y' = sign(x)
  Abs: unary((x, _y, d, g) => mul(g, d, g.op("Sign", [x]))),
  // y' = y (1 - y)
  Sigmoid: unary((_x, y, d, g) => mul(g, d, mul(g, y, complement(g, y)))),
  // y' = 1 - y^2
  Tanh: unary((_x, y, d, g) => mul(g, d, complement(g, mul(g, y, y)))),
  // y' = [y > 0]
  Relu: unary((_x, y, d, g) => g.op("Where", [g.op("Greater", [y, scalar(g, 0, y)]), d, scalar(g, 0, y)])),
  // y' = x > 0 ? 1 : alpha
  LeakyRelu: unary((x, _y, d, g, node) => {
    const slope = scalar(g, floatAttribute(node, "alpha", 0.01), x);
    return g.op("Where", [g.op("Greater", [x, scalar(g, 0, x)]), d, mul(g, d, slope)]);
  }),
  // y' = x > 0 ? 1 : y + alpha
  Elu: unary((x, y, d, g, node) => {
    const alpha = scalar(g, floatAttribute(node, "alpha", 1), x);
    return g.op("Where", [g.op("Greater", [x, scalar(g, 0, x)]), d, mul(g, d, g.op("Add", [y, alpha]))]);
  }),
  // y = log(1 + e^x), y' = sigmoid(x)
  Softplus: unary((x, _y, d, g) => mul(g, d, g.op("Sigmoid", [x]))),
  // y' = 2 / sqrt(pi) exp(-x^2)
  Erf: unary((x, _y, d, g) => {
    const bell = g.op("Exp", [g.op("Neg", [mul(g, x, x)])]);
    return mul(g, d, mul(g, scalar(g, 2 / Math.sqrt(Math.PI), x), bell));
  }),
  Identity: unary((_x, _y, d) => d),
  // Between floating types the gradient is cast back; casts to integers never get here: the walk follows floats only.
  Cast: unary((x, _y, d, g) => inTypeOf(g, d, x)),
  // y = c ? a : b
  Where: single(({ inputs: [c] }, d, g) => [
    null,
    g.op("Where", [c!, d, scalar(g, 0, d)]),
    g.op("Where", [c!, scalar(g, 0, d), d]),
  ]),
  // In training, y = x mask / (1 - ratio) as long as the mask is kept; otherwise the identity.
  Dropout: (node, [d], g) => {
    const [, ratio, training] = node.inputs;
    if (!training || isFalse(g, training)) return [d!];
    const kept = node.outputs[1];
    if (!kept) throw new LowrankError("model", `${describeNode(node)}: it may train, and its mask is no output of it`);
    const mask = g.op("CastLike", [kept, d!]);
    const dropped = g.op("Div", [mul(g, d!, mask), complement(g, ratio ? inTypeOf(g, ratio, d!) : scalar(g, 0.5, d!))]);
    return [g.op("Where", [training, dropped, d!])];
  },
  // y = log(softmax(x)), dx = d - softmax(x) sum(d)
  LogSoftmax: single((node, d, g) => {
    const axis = intAttribute(node, "axis", -1);
    const sum = g.op("ReduceSum", [d, g.constant("int64", [axis])], { keepdims: 1 });
    return [g.op("Sub", [d, mul(g, g.op("Exp", [node.outputs[0]!]), sum)])];
  }),
  // dx = y (d - sum(d y))
  Softmax: single((node, d, g) => {
    const axis = intAttribute(node, "axis", -1);
    const y = node.outputs[0]!;
    const sum = g.op("ReduceSum", [mul(g, d, y), g.constant("int64", [axis])], { keepdims: 1 });
    return [mul(g, y, g.op("Sub", [d, sum]))];
  }),
  // n = (x - mean) * inv, y = n scale + bias; dx = inv (dn - mean(dn) - n mean(dn n)), over the normalized axes (Ba et al. 2016)
  LayerNormalization: single((node, d, g) => {
    const [x, scale, bias] = node.inputs;
    const axis = intAttribute(node, "axis", -1);
    const last = axis < 0 ? -axis : rankOf(g, node, x!) - axis;
    const axes = Array.from({ length: last }, (_, index) => index - last);
    const mean = (value: Value): Value =>
      g.op("ReduceMean", [value, ...meanAxes(g, axes)], { ...meanAttributes(g, axes), keepdims: 1 });
    const centred = g.op("Sub", [x!, mean(x!)]);
    const variance = mean(mul(g, centred, centred));
    const epsilon = scalar(g, floatAttribute(node, "epsilon", 1e-5), x!);
    const inv = g.op("Reciprocal", [g.op("Sqrt", [g.op("Add", [variance, epsilon])])]);
    const n = mul(g, centred, inv);
    const dn = mul(g, d, scale!);
    const dx = mul(g, inv, g.op("Sub", [g.op("Sub", [dn, mean(dn)]), mul(g, n, mean(mul(g, dn, n)))]));
    return [dx, mul(g, d, n), bias ? d : null];
  }),
};

/** Whether a value is a constant that holds false. */
function isFalse(g: GraphBuilder, name: Value): boolean {
  const graph = g.build();
  return storedValue(graph, producers(graph), name)?.bytes[0] === 0;
}

// ReduceMean takes its axes as an input only from opset 18 on.
function meanAxes(g: GraphBuilder, axes: readonly number[]): Value[] {
  return g.opset >= 18 ? [g.constant("int64", axes)] : [];
}

function meanAttributes(g: GraphBuilder, axes: readonly number[]): Record<string, readonly number[]> {
  return g.opset >= 18 ? {} : { axes };
}
