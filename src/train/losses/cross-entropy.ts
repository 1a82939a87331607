// Cross entropy over classes, and over the next token. PyTorch's torch.nn.functional.cross_entropy says how class weights,
// label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7) and ignored labels enter the mean.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { tensor } from "../../tensor.ts";
import { checkNumber, countLabels, type Loss, type LossNodes, total } from "./loss.ts";

export interface CrossEntropyOptions {
  readonly output?: string;
  /** Labels of this value count for nothing; default -100, as in PyTorch. */
  readonly ignoreIndex?: number;
  /** The share of each target that is spread evenly over all classes, 0 to 1; default 0. */
  readonly labelSmoothing?: number;
  /** How much each class counts, [classes]: a weighted mean, as in PyTorch. Default: all the same. */
  readonly classWeights?: readonly number[];
}

/**
 * Cross entropy: the mean of -log softmax(logits)[label] over the labels that are not ignored.
 * Logits [..., classes], labels int64 [...]. As torch.nn.functional.cross_entropy with classes on the last axis.
 *
 * @throws LowrankError "config" for a smoothing outside 0 to 1, or a weight below 0.
 * @example await train(adapted, data, { loss: crossEntropy({ labelSmoothing: 0.1 }) });
 */
export function crossEntropy(options: CrossEntropyOptions = {}): Loss {
  const { ignoreIndex = -100, output } = options;
  checkOptions("crossEntropy", options);
  return {
    name: "cross_entropy",
    labels: "int64",
    ignoreIndex,
    output,
    weigh: (labels) => countLabels(labels, ignoreIndex, options.classWeights),
    build: (g, logits, labels) => softmaxCrossEntropy(g, logits, labels, { ...options, ignoreIndex }),
  };
}

/**
 * Causal language modelling: cross entropy of logits[:, :-1] against labels[:, 1:]. Logits [batch, tokens, vocabulary],
 * labels int64 [batch, tokens].
 *
 * @throws LowrankError "config" as `crossEntropy` does.
 * @example await train(adapted, data, { loss: causalLm() });
 */
export function causalLm(options: CrossEntropyOptions = {}): Loss {
  const { ignoreIndex = -100, output } = options;
  checkOptions("causalLm", options);
  return {
    name: "causal_lm",
    labels: "int64",
    ignoreIndex,
    output,
    weigh: (labels) => countLabels(labels, ignoreIndex, options.classWeights, true),
    build: (g, logits, labels) => {
      // Labels move one to the left instead of cutting the logits, which are the largest tensor of the step.
      const [one, axis] = [g.constant("int64", [1]), g.constant("int64", [1])];
      const rest = g.op("Slice", [labels, one, g.constant("int64", [2 ** 31 - 1]), axis]);
      const first = g.op("Slice", [labels, g.constant("int64", [0]), one, axis]);
      const ignored = g.op("Expand", [g.constant("int64", [ignoreIndex]), g.op("Shape", [first])]);
      // One less and one more: the sum of sizes is not known to be the labels' own, which keeps gradients' shapes static.
      const shifted = g.op("Reshape", [g.op("Concat", [rest, ignored], { axis: 1 }), g.op("Shape", [labels])]);
      return softmaxCrossEntropy(g, logits, shifted, { ...options, ignoreIndex });
    },
  };
}

function checkOptions(name: string, { labelSmoothing = 0, classWeights = [] }: CrossEntropyOptions): void {
  checkNumber(`${name}: labelSmoothing`, labelSmoothing, { from: 0, to: 1 });
  classWeights.forEach((weight, index) => {
    checkNumber(`${name}: classWeights[${index}]`, weight, { from: 0 });
  });
}

interface Terms extends CrossEntropyOptions {
  readonly ignoreIndex: number;
}

/**
 * With p = softmax(z), w = c[label] / sum(c[label]) (c: class weights) where a label counts and 0 where it is ignored:
 * loss = -sum(w log p[label]);  d loss / d z = w (p - onehot(label)).
 */
export function softmaxCrossEntropy(g: GraphBuilder, logits: Value, labels: Value, terms: Terms): LossNodes {
  const { labelSmoothing = 0, ignoreIndex } = terms;
  const column = g.op("Unsqueeze", [labels, g.constant("int64", [-1])]); // [..., 1]
  const ignored = g.op("Equal", [column, g.constant("int64", ignoreIndex)]);
  const index = g.op("Where", [ignored, g.constant("int64", 0), column]);
  const counts = g.op("Where", [ignored, g.constant("float32", 0), g.constant("float32", 1)]);
  const classWeights = weightsValue(g, logits, terms.classWeights);
  const weighted = classWeights === null ? counts : g.op("Mul", [counts, g.op("Gather", [classWeights, index])]);
  const sum = total(g, weighted);
  const weight = g.op("Div", [weighted, sum]); // [..., 1]

  const logProbabilities = g.op("LogSoftmax", [logits], { axis: -1 }); // [..., classes]
  const picked = g.op("GatherElements", [logProbabilities, index], { axis: -1 }); // [..., 1]
  const loss = g.op("Neg", [total(g, g.op("Mul", [picked, weight]))]);
  const probabilities = g.op("Exp", [logProbabilities]);
  if (labelSmoothing === 0) {
    const scaled = g.op("Mul", [probabilities, weight]);
    const atLabel = g.op("Mul", [g.op("Sub", [g.op("Exp", [picked]), g.constant("float32", 1)]), weight]);
    return { loss, gradient: g.op("ScatterElements", [scaled, index, atLabel], { axis: -1 }) };
  }

  // Smoothed by e, K classes: the target of a row is t = (1 - e) w onehot(label) + (e / K) c / sum(c[label]), and
  // loss = -sum(t log p);  d loss / d z = p sum(t) - t.
  const kept = g.constant("float32", 1 - labelSmoothing);
  const share = g.op("Div", [g.constant("float32", labelSmoothing), classCount(g, logits)]);
  const row = g.op("Div", [counts, sum]); // [..., 1]
  const perClass = g.op("Mul", [share, classWeights ?? g.constant("float32", [1])]); // [classes], or [1] for all of them
  const spread = g.op("Mul", [row, perClass]); // [..., classes or 1]
  const smooth = g.op("Neg", [total(g, g.op("Mul", [logProbabilities, spread]))]);
  const mass = g.op("Add", [
    g.op("Mul", [kept, weight]),
    g.op("Mul", [row, massOf(g, perClass, logits, classWeights)]),
  ]);
  const even = g.op("Sub", [g.op("Mul", [probabilities, mass]), spread]);
  const atLabel = g.op("Neg", [g.op("Mul", [kept, weight])]);
  return {
    loss: g.op("Add", [g.op("Mul", [kept, loss]), smooth]),
    gradient: g.op("ScatterElements", [even, index, atLabel], { axis: -1, reduction: "add" }),
  };
}

/** The sum of `perClass` over all classes. */
function massOf(g: GraphBuilder, perClass: Value, logits: Value, classWeights: Value | null): Value {
  return classWeights === null ? g.op("Mul", [perClass, classCount(g, logits)]) : total(g, perClass);
}

/** How many classes the last axis holds, as float32 [1]. */
function classCount(g: GraphBuilder, logits: Value): Value {
  const size = g.info(logits).shape?.at(-1);
  if (typeof size === "number") return g.constant("float32", [size]);
  return g.op("Cast", [g.op("Shape", [logits], { start: -1 })], { to: 1 });
}

function weightsValue(g: GraphBuilder, logits: Value, weights: readonly number[] | undefined): Value | null {
  if (weights === undefined) return null;
  const classes = g.info(logits).shape?.at(-1);
  if (typeof classes === "number" && classes !== weights.length) {
    throw new LowrankError("config", `classWeights: expected ${classes}, one for each class, got ${weights.length}`);
  }
  return g.initializer("class_weights", tensor("float32", [weights.length], Float32Array.from(weights)));
}
