// Activations and elementwise functions beyond the commonest (elementwise.ts). x, y: the node's input and output; d: the
// gradient of y. At kinks and ties the gradients are PyTorch's: clamp passes d at its bounds, equal values share it.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { floatAttribute, stringAttribute } from "../../onnx/model.ts";
import { type Rule, type RuleTable, single } from "../rule.ts";
import { add, div, inTypeOf, mul, scalar, sub, unary, where } from "./parts.ts";

type Slope = (x: Value, y: Value, g: GraphBuilder, number: (value: number) => Value) => Value;

/** dx = d y', with y' written from x and y. */
const slope = (derivative: Slope): Rule =>
  unary((x, y, d, g) =>
    mul(
      g,
      d,
      derivative(x, y, g, (value) => scalar(g, value, x)),
    ),
  );
/** dx = d / f, with y' = 1 / f. */
const over = (divisor: Slope): Rule =>
  unary((x, y, d, g) =>
    div(
      g,
      d,
      divisor(x, y, g, (value) => scalar(g, value, x)),
    ),
  );

const square = (g: GraphBuilder, x: Value): Value => mul(g, x, x);
const sqrt = (g: GraphBuilder, x: Value): Value => g.op("Sqrt", [x]);

/** The constants of the Selu operator. */
const selu = { alpha: 1.6732631921768188, gamma: 1.0507010221481323 } as const;

export const activationRules: RuleTable = {
  // y' = cos(x)
  Sin: slope((x, _y, g) => g.op("Cos", [x])),
  // y' = -sin(x)
  Cos: unary((x, _y, d, g) => g.op("Neg", [mul(g, d, g.op("Sin", [x]))])),
  // y' = 1 + y^2
  Tan: slope((_x, y, g, number) => add(g, number(1), square(g, y))),
  // y' = 1 / sqrt(1 - x^2)
  Asin: over((x, _y, g, number) => sqrt(g, sub(g, number(1), square(g, x)))),
  // y' = -1 / sqrt(1 - x^2)
  Acos: over((x, _y, g, number) => g.op("Neg", [sqrt(g, sub(g, number(1), square(g, x)))])),
  // y' = 1 / (1 + x^2)
  Atan: over((x, _y, g, number) => add(g, number(1), square(g, x))),
  // y' = cosh(x)
  Sinh: slope((x, _y, g) => g.op("Cosh", [x])),
  // y' = sinh(x)
  Cosh: slope((x, _y, g) => g.op("Sinh", [x])),
  // y' = 1 / sqrt(x^2 + 1)
  Asinh: over((x, _y, g, number) => sqrt(g, add(g, square(g, x), number(1)))),
  // y' = 1 / sqrt(x^2 - 1)
  Acosh: over((x, _y, g, number) => sqrt(g, sub(g, square(g, x), number(1)))),
  // y' = 1 / (1 - x^2)
  Atanh: over((x, _y, g, number) => sub(g, number(1), square(g, x))),
  // y = x > 0 ? gamma x : gamma alpha (e^x - 1); y' = x > 0 ? gamma : y + gamma alpha
  Selu: unary((x, y, d, g, node) => {
    const gamma = floatAttribute(node, "gamma", selu.gamma);
    const floor = scalar(g, gamma * floatAttribute(node, "alpha", selu.alpha), x);
    const rising = g.op("Greater", [x, scalar(g, 0, x)]);
    return mul(g, d, where(g, rising, scalar(g, gamma, x), add(g, y, floor)));
  }),
  // y = max(x, 0) + min(alpha (e^(x / alpha) - 1), 0); y' = x > 0 ? 1 : y / alpha + 1
  Celu: unary((x, y, d, g, node) => {
    const alpha = scalar(g, floatAttribute(node, "alpha", 1), x);
    const falling = mul(g, d, add(g, div(g, y, alpha), scalar(g, 1, x)));
    return where(g, g.op("Greater", [x, scalar(g, 0, x)]), d, falling);
  }),
  Gelu: unary((x, _y, d, g, node) => {
    const isTanh = stringAttribute(node, "approximate", "none") === "tanh";
    return mul(g, d, isTanh ? geluTanh(x, g) : geluErf(x, g));
  }),
  // y = x / (1 + |x|); y' = 1 / (1 + |x|)^2
  Softsign: over((x, _y, g, number) => square(g, add(g, number(1), g.op("Abs", [x])))),
  // y = clip(alpha x + beta, 0, 1); y' = 0 < y < 1 ? alpha : 0
  HardSigmoid: unary((x, y, d, g, node) => {
    const alpha = scalar(g, floatAttribute(node, "alpha", 0.2), x);
    return where(g, between(g, y, scalar(g, 0, x), scalar(g, 1, x)), mul(g, d, alpha), scalar(g, 0, x));
  }),
  // y = x clip(x / 6 + 1/2, 0, 1); y' = 0 below -3, 1 above 3, x / 3 + 1/2 between
  HardSwish: unary((x, _y, d, g) => {
    const inner = add(g, mul(g, x, scalar(g, 1 / 3, x)), scalar(g, 0.5, x));
    const low = g.op("LessOrEqual", [x, scalar(g, -3, x)]);
    const high = g.op("GreaterOrEqual", [x, scalar(g, 3, x)]);
    return where(g, low, scalar(g, 0, x), where(g, high, d, mul(g, d, inner)));
  }),
  // y = x t, t = tanh(log(1 + e^x)); y' = t + x (1 - t^2) sigmoid(x)
  Mish: slope((x, _y, g, number) => {
    const t = g.op("Tanh", [g.op("Softplus", [x])]);
    return add(g, t, mul(g, mul(g, x, g.op("Sigmoid", [x])), sub(g, number(1), square(g, t))));
  }),
  // y = x s, s = sigmoid(alpha x); y' = s + alpha y (1 - s)
  Swish: unary((x, y, d, g, node) => {
    const alpha = scalar(g, floatAttribute(node, "alpha", 1), x);
    const s = g.op("Sigmoid", [mul(g, alpha, x)]);
    return mul(g, d, add(g, s, mul(g, mul(g, alpha, y), sub(g, scalar(g, 1, x), s))));
  }),
  // y = x > 0 ? x : slope x; dx = x > 0 ? d : slope d, d(slope) = x > 0 ? 0 : x d
  PRelu: single(({ inputs: [x, factor] }, d, g) => {
    const rising = g.op("Greater", [x!, scalar(g, 0, x!)]);
    return [where(g, rising, d, mul(g, d, factor!)), where(g, rising, scalar(g, 0, x!), mul(g, d, x!))];
  }),
  // y = x > alpha ? x : 0
  ThresholdedRelu: unary((x, _y, d, g, node) => {
    const alpha = scalar(g, floatAttribute(node, "alpha", 1), x);
    return where(g, g.op("Greater", [x, alpha]), d, scalar(g, 0, x));
  }),
  // y = min(max(x, low), high); d goes to x within the bounds (at them too), and to the bound that holds elsewhere
  Clip: single(({ inputs: [x, low, high] }, d, g) => {
    const zero = scalar(g, 0, x!);
    const under = low && g.op("Less", [x!, low]);
    const above = high && g.op("Greater", [x!, high]);
    const within = under ? where(g, under, zero, d) : d;
    return [
      above ? where(g, above, zero, within) : within,
      under ? where(g, under, d, zero) : null,
      above ? where(g, above, d, zero) : null,
    ];
  }),
  Max: single((node, d, g) => shared(g, node.inputs, node.outputs[0]!, d)),
  Min: single((node, d, g) => shared(g, node.inputs, node.outputs[0]!, d)),
  // y = sum(x_i) / n
  Mean: single(({ inputs }, d, g) => inputs.map(() => mul(g, d, scalar(g, 1 / inputs.length, d)))),
  // y = a - n b with a whole number n, toward zero or minus infinity; da = d, db = -n d
  Mod: single(({ inputs: [a, b], outputs: [y] }, d, g) => {
    const n = g.op("Round", [div(g, sub(g, a!, y!), b!)]);
    return [d, g.op("Neg", [mul(g, d, n)])];
  }),
  // As Cast
  CastLike: single(({ inputs: [x] }, d, g) => [inTypeOf(g, d, x!), null]),
};

/** Rules of the domain com.microsoft: what the runtime fuses, and join-gelu.ts joins. */
export const contribActivationRules: RuleTable = {
  Gelu: biased(geluErf),
  BiasGelu: biased(geluErf),
  FastGelu: biased(geluTanh),
};

/** y = f(x + bias), the bias left out or not; dx = dbias = d f' */
function biased(derivative: (x: Value, g: GraphBuilder) => Value): Rule {
  return single(({ inputs: [x, bias] }, d, g) => {
    const dx = mul(g, d, derivative(bias ? add(g, x!, bias) : x!, g));
    return [dx, bias ? dx : null];
  });
}

/** y = x P, P = (1 + erf(x / sqrt 2)) / 2; y' = P + x e^(-x^2 / 2) / sqrt(2 pi) */
function geluErf(x: Value, g: GraphBuilder): Value {
  const number = (value: number): Value => scalar(g, value, x);
  const erf = g.op("Erf", [mul(g, x, number(Math.SQRT1_2))]);
  const share = mul(g, number(0.5), add(g, number(1), erf));
  const bell = g.op("Exp", [mul(g, number(-0.5), square(g, x))]);
  return add(g, share, mul(g, x, mul(g, bell, number(1 / Math.sqrt(2 * Math.PI)))));
}

/**
 * y = x (1 + tanh(u)) / 2 = x s, s = sigmoid(2 u), 2 u = x p, p = 2 c (1 + k x^2) (Hendrycks & Gimpel 2016);
 * y' = s + x s (1 - s) 2 u' = s (1 + (1 - s) x (3 p - 4 c))
 */
function geluTanh(x: Value, g: GraphBuilder): Value {
  const number = (value: number): Value => scalar(g, value, x);
  const [c, k] = [Math.sqrt(2 / Math.PI), 0.044715];
  const p = add(g, number(2 * c), mul(g, number(2 * c * k), square(g, x)));
  const s = g.op("Sigmoid", [mul(g, x, p)]);
  const inner = mul(g, x, sub(g, mul(g, number(3), p), number(4 * c)));
  return mul(g, s, add(g, number(1), mul(g, sub(g, number(1), s), inner)));
}

const between = (g: GraphBuilder, x: Value, low: Value, high: Value): Value =>
  g.op("And", [g.op("Greater", [x, low]), g.op("Less", [x, high])]);

/** d goes to the inputs that equal y, in equal shares where several do. */
function shared(g: GraphBuilder, inputs: readonly Value[], y: Value, d: Value): Value[] {
  if (inputs.length === 1) return [d];
  const holds = inputs.map((input) => inTypeOf(g, g.op("Cast", [g.op("Equal", [input, y])], { to: 1 }), y));
  const share = div(g, d, g.op("Sum", holds));
  return holds.map((one) => mul(g, share, one));
}
