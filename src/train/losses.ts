// Losses, written into the graph. Each gives its value and, in closed form, the gradient of the output it is measured on,
// from which the backward walk starts: that spares the large intermediates that differentiating its parts would need.
import { LowrankError } from "../errors.ts";
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import type { Tensor, TensorType } from "../tensor.ts";

/** A loss over one output of a model. Means weigh as PyTorch's do. */
export interface Loss {
  readonly name: string;
  /** Element type of the labels. */
  readonly labels: TensorType;
  /** Where labels are classes, that is indices into the output's last axis: the one label that counts for nothing. */
  readonly ignoreIndex?: number;
  /** Which output it is measured on; by default the first. */
  readonly output: string | undefined;
  /** Adds the scalar loss and d loss / d output. */
  build(g: GraphBuilder, output: Value, labels: Value): { loss: Value; gradient: Value };
}

export interface CrossEntropyOptions {
  readonly output?: string;
  /** Labels of this value count for nothing; default -100, as in PyTorch. */
  readonly ignoreIndex?: number;
}

/**
 * Cross entropy: the mean of -log softmax(logits)[label] over the labels that are not ignored.
 * Logits [..., classes], labels int64 [...]. As torch.nn.functional.cross_entropy with classes on the last axis.
 *
 * @example await train(adapted, data, { loss: crossEntropy() });
 */
export function crossEntropy({ output, ignoreIndex = -100 }: CrossEntropyOptions = {}): Loss {
  return {
    name: "cross_entropy",
    labels: "int64",
    ignoreIndex,
    output,
    build: (g, logits, labels) => softmaxCrossEntropy(g, logits, labels, ignoreIndex),
  };
}

/**
 * Causal language modelling: cross entropy of logits[:, :-1] against labels[:, 1:]. Logits [batch, tokens, vocabulary],
 * labels int64 [batch, tokens].
 */
export function causalLm({ output, ignoreIndex = -100 }: CrossEntropyOptions = {}): Loss {
  return {
    name: "causal_lm",
    labels: "int64",
    ignoreIndex,
    output,
    build: (g, logits, labels) => {
      // Labels move one to the left instead of cutting the logits, which are the largest tensor of the step.
      const [one, axis] = [g.constant("int64", [1]), g.constant("int64", [1])];
      const rest = g.op("Slice", [labels, one, g.constant("int64", [2 ** 31 - 1]), axis]);
      const first = g.op("Slice", [labels, g.constant("int64", [0]), one, axis]);
      const ignored = g.op("Expand", [g.constant("int64", [ignoreIndex]), g.op("Shape", [first])]);
      return softmaxCrossEntropy(g, logits, g.op("Concat", [rest, ignored], { axis: 1 }), ignoreIndex);
    },
  };
}

/**
 * Throws LowrankError "data" unless every label is a class or `ignoreIndex`. The graph would read a negative one from the
 * end of the classes.
 *
 * @param classes how many there are; undefined when the model does not say.
 */
export function checkClasses({ data }: Tensor, classes: number | undefined, ignoreIndex: number): void {
  const limit = classes ?? Number.POSITIVE_INFINITY;
  for (let index = 0; index < data.length; index++) {
    const label = Number(data[index]);
    if ((label >= 0 && label < limit) || label === ignoreIndex) continue;
    const wanted = classes === undefined ? "0 or more" : `0 to ${classes - 1}`;
    throw new LowrankError(
      "data",
      `batch: labels: expected ${wanted}, or ${ignoreIndex} to be ignored, got ${label} at [${index}]`,
    );
  }
}

/** Mean squared error over all elements: mean((output - labels)^2). Labels float32 in the output's shape. */
export function meanSquaredError({ output }: { output?: string } = {}): Loss {
  return {
    name: "mse",
    labels: "float32",
    output,
    build: (g, prediction, labels) => {
      const difference = g.op("Sub", [prediction, labels]);
      const count = g.op("Cast", [g.op("Size", [difference])], { to: 1 });
      const loss = g.op("Div", [g.op("ReduceSum", [g.op("Mul", [difference, difference])], { keepdims: 0 }), count]);
      // d mean(e^2) / d output = 2 e / n
      return { loss, gradient: g.op("Mul", [difference, g.op("Div", [g.constant("float32", 2), count])]) };
    },
  };
}

// With p = softmax(z), w = 1 / count where a label counts and 0 where it is ignored:
// loss = -sum(w log p[label]);  d loss / d z = w (p - onehot(label)).
function softmaxCrossEntropy(
  g: GraphBuilder,
  logits: Value,
  labels: Value,
  ignoreIndex: number,
): { loss: Value; gradient: Value } {
  const last = g.constant("int64", [-1]);
  const ignored = g.op("Equal", [labels, g.constant("int64", ignoreIndex)]);
  const index = g.op("Unsqueeze", [g.op("Where", [ignored, g.constant("int64", 0), labels]), last]);
  const counts = g.op("Cast", [g.op("Unsqueeze", [g.op("Not", [ignored]), last])], { to: 1 });
  const weight = g.op("Div", [counts, g.op("ReduceSum", [counts], { keepdims: 0 })]); // [..., 1]

  const logProbabilities = g.op("LogSoftmax", [logits], { axis: -1 }); // [..., classes]
  const picked = g.op("GatherElements", [logProbabilities, index], { axis: -1 }); // [..., 1]
  const loss = g.op("Neg", [g.op("ReduceSum", [g.op("Mul", [picked, weight])], { keepdims: 0 })]);

  const scaled = g.op("Mul", [g.op("Exp", [logProbabilities]), weight]);
  const atLabel = g.op("Mul", [g.op("Sub", [g.op("Exp", [picked]), g.constant("float32", 1)]), weight]);
  return { loss, gradient: g.op("ScatterElements", [scaled, index, atLabel], { axis: -1 }) };
}
