// Losses that compare an output with a target of its own shape, element by element; means are over all elements, as PyTorch's
// reduction "mean". e: output - target, n: how many elements.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { tensor } from "../../tensor.ts";
import { checkNumber, countOf, type Loss, type LossNodes, total } from "./loss.ts";

export interface LossOptions {
  /** Which output it is measured on; by default the first. */
  readonly output?: string;
}

/**
 * Mean squared error over all elements: mean(e^2). Labels float32 in the output's shape.
 *
 * @example await train(adapted, data, { loss: meanSquaredError() });
 */
export function meanSquaredError({ output }: LossOptions = {}): Loss {
  return regression("mse", output, (g, difference) => ({
    values: g.op("Mul", [difference, difference]),
    slope: g.op("Mul", [difference, g.constant("float32", 2)]),
  }));
}

/**
 * Mean absolute error over all elements: mean(|e|). Labels float32 in the output's shape.
 *
 * @example await train(adapted, data, { loss: meanAbsoluteError() });
 */
export function meanAbsoluteError({ output }: LossOptions = {}): Loss {
  return regression("mae", output, (g, difference) => ({
    values: g.op("Abs", [difference]),
    slope: g.op("Sign", [difference]),
  }));
}

/**
 * Huber's loss (1964): e^2 / 2 within `delta` (default 1) of the target, delta (|e| - delta / 2) beyond it. Labels float32 in
 * the output's shape.
 *
 * @throws LowrankError "config" unless delta is above 0.
 * @example await train(adapted, data, { loss: huber({ delta: 0.5 }) });
 */
export function huber({ output, delta = 1 }: LossOptions & { readonly delta?: number } = {}): Loss {
  checkNumber("huber: delta", delta, { from: 0, above: true });
  return regression("huber", output, (g, difference) => huberTerms(g, difference, delta));
}

/**
 * PyTorch's smooth L1 loss: Huber's with delta = beta (default 1), divided by beta. Labels float32 in the output's shape.
 *
 * @throws LowrankError "config" unless beta is above 0.
 * @example await train(adapted, data, { loss: smoothL1({ beta: 0.1 }) });
 */
export function smoothL1({ output, beta = 1 }: LossOptions & { readonly beta?: number } = {}): Loss {
  checkNumber("smoothL1: beta", beta, { from: 0, above: true });
  return regression("smooth_l1", output, (g, difference) => {
    const { values, slope } = huberTerms(g, difference, beta);
    const scale = g.constant("float32", 1 / beta);
    return { values: g.op("Mul", [values, scale]), slope: g.op("Mul", [slope, scale]) };
  });
}

/**
 * Binary cross entropy of sigmoid(logits), for one or several labels that are each true or false. Labels float32 0 to 1 in the
 * output's shape. As torch.nn.functional.binary_cross_entropy_with_logits.
 *
 * @param options `posWeight` is how much a true label counts: one number, or one for each element of the last axis.
 * @throws LowrankError "config" for a weight below 0.
 * @example await train(adapted, data, { loss: binaryCrossEntropy({ posWeight: [1, 20, 3] }) });
 */
export function binaryCrossEntropy({
  output,
  posWeight = 1,
}: LossOptions & { readonly posWeight?: number | readonly number[] } = {}): Loss {
  const weights = typeof posWeight === "number" ? [posWeight] : posWeight;
  weights.forEach((weight, index) => {
    checkNumber(`binaryCrossEntropy: posWeight[${index}]`, weight, { from: 0 });
  });
  return {
    name: "bce_with_logits",
    labels: "float32",
    output,
    build: (g, logits, labels) => binaryTerms(g, logits, labels, weights),
  };
}

// y: label, q: posWeight, l = 1 + (q - 1) y
// loss = mean((1 - y) z + l log(1 + e^-z));  n d loss / d z = (1 - y) - l sigmoid(-z)
function binaryTerms(g: GraphBuilder, logits: Value, labels: Value, weights: readonly number[]): LossNodes {
  const one = g.constant("float32", 1);
  const negative = g.op("Neg", [logits]);
  const rest = g.op("Sub", [one, labels]);
  const softplus = g.op("Softplus", [negative]);
  const pull = g.op("Sigmoid", [negative]);
  const scaled = (value: Value): Value => {
    if (weights.length === 1 && weights[0] === 1) return value;
    const more = checkedWeights(g, logits, weights);
    return g.op("Mul", [value, g.op("Add", [one, g.op("Mul", [more, labels])])]);
  };
  const values = g.op("Add", [g.op("Mul", [rest, logits]), scaled(softplus)]);
  return mean(g, values, g.op("Sub", [rest, scaled(pull)]));
}

/** q - 1 as [1] or [classes]. */
function checkedWeights(g: GraphBuilder, logits: Value, weights: readonly number[]): Value {
  const classes = g.info(logits).shape?.at(-1);
  if (weights.length > 1 && typeof classes === "number" && classes !== weights.length) {
    throw new LowrankError("config", `posWeight: expected 1 or ${classes} weights, got ${weights.length}`);
  }
  const more = Float32Array.from(weights, (weight) => weight - 1);
  return g.initializer("pos_weight", tensor("float32", [weights.length], more));
}

interface Terms {
  /** The loss of each element. */
  readonly values: Value;
  /** Its derivative. */
  readonly slope: Value;
}

function regression(
  name: string,
  output: string | undefined,
  terms: (g: GraphBuilder, difference: Value) => Terms,
): Loss {
  return {
    name,
    labels: "float32",
    output,
    build: (g, prediction, labels) => {
      const { values, slope } = terms(g, g.op("Sub", [prediction, labels]));
      return mean(g, values, slope);
    },
  };
}

/** With q = min(|e|, delta): q (|e| - q / 2), whose slope is e held within delta. */
function huberTerms(g: GraphBuilder, difference: Value, delta: number): Terms {
  const size = g.op("Abs", [difference]);
  const limit = g.constant("float32", delta);
  const inside = g.op("Min", [size, limit]);
  const half = g.op("Mul", [inside, g.constant("float32", 0.5)]);
  return {
    values: g.op("Mul", [inside, g.op("Sub", [size, half])]),
    slope: g.op("Clip", [difference, g.constant("float32", -delta), limit]),
  };
}

function mean(g: GraphBuilder, values: Value, slope: Value): LossNodes {
  const count = countOf(g, values);
  return { loss: g.op("Div", [total(g, values), count]), gradient: g.op("Div", [slope, count]) };
}
