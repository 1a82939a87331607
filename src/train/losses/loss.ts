// What a loss is. Each writes its value into the graph and, where it knows one, the gradient of the output that it is measured
// on in closed form: the backward walk starts there, which spares the large intermediates that differentiating the loss's own
// operators would need. A loss without a closed form is differentiated like the rest of the graph.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import type { Dim } from "../../onnx/model.ts";
import type { Tensor, TensorType } from "../../tensor.ts";

/** A loss over one output of a model (or over several). Means weigh as PyTorch's do. */
export interface Loss {
  readonly name: string;
  /** Element type of the labels. */
  readonly labels: TensorType;
  /** Where labels are classes or other indices: the one label that counts for nothing. */
  readonly ignoreIndex?: number;
  /** Which output it is measured on; by default the first. */
  readonly output: string | undefined;
  /** Further outputs that it reads, by name. */
  readonly otherOutputs?: readonly string[];
  /**
   * The labels that belong to an output of this shape. By default int64 labels are classes on the output's last axis, which
   * they lack, and other labels have the output's own shape.
   */
  labelsFor?(output: readonly Dim[]): LabelInfo;
  /**
   * What the loss's mean has divided by for a batch of these labels: with it, several batches are averaged as one batch that
   * holds them all would be. Default: labels that are not ignored, where there is an `ignoreIndex`, else all their elements.
   */
  weigh?(labels: Tensor): number;
  /** Adds the loss. `output` and the names in `otherOutputs` are values of the graph. */
  build(g: GraphBuilder, output: Value, labels: Value): LossNodes;
}

export interface LabelInfo {
  readonly shape: readonly Dim[];
  /** How many classes there are, where labels are classes and the model tells. */
  readonly classes?: number;
}

/** What a loss has written. */
export interface LossNodes {
  /** A float32 scalar. */
  readonly loss: Value;
  /** d loss / d output, in the output's shape. Left out, the walk goes through the loss's own operators. */
  readonly gradient?: Value;
  /** With `gradient`: d loss / d each of `otherOutputs`. */
  readonly otherGradients?: ReadonlyMap<Value, Value>;
}

/** The labels of a loss for an output of this shape; see `Loss.labelsFor`. */
export function labelsOf(loss: Loss, output: readonly Dim[]): LabelInfo {
  if (loss.labelsFor !== undefined) return loss.labelsFor(output);
  if (loss.labels !== "int64") return { shape: output };
  const classes = output.at(-1);
  return { shape: output.slice(0, -1), ...(typeof classes === "number" && { classes }) };
}

/** How much a batch of these labels counts in a mean over several batches; see `Loss.weigh`. */
export function weightOf(loss: Loss, labels: Tensor): number {
  if (loss.weigh !== undefined) return loss.weigh(labels);
  return loss.ignoreIndex === undefined ? labels.data.length : countLabels(labels, loss.ignoreIndex);
}

/**
 * How many labels are not ignored, or with weights [classes] their sum.
 *
 * @param shifted the first label of each row [..., row] counts for nothing, as in `causalLm`.
 */
export function countLabels(
  { data, dims }: Tensor,
  ignoreIndex: number,
  classWeights?: readonly number[],
  shifted = false,
): number {
  const row = dims.at(-1) ?? 1;
  let sum = 0;
  for (let index = 0; index < data.length; index++) {
    const label = Number(data[index]);
    if (label === ignoreIndex || (shifted && index % row === 0)) continue;
    sum += classWeights?.[label] ?? 1;
  }
  return sum;
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

/** How many elements a value has, as a float32 scalar. */
export function countOf(g: GraphBuilder, value: Value): Value {
  return g.op("Cast", [g.op("Size", [value])], { to: 1 });
}

/** The sum over all elements, as a scalar. */
export function total(g: GraphBuilder, value: Value): Value {
  return g.op("ReduceSum", [value], { keepdims: 0 });
}

/** Throws LowrankError "config" unless `value` is a finite number of at least `from`, or above it where `above`. */
export function checkNumber(
  name: string,
  value: number,
  { from, to = Number.POSITIVE_INFINITY, above = false }: { from: number; to?: number; above?: boolean },
): void {
  if (Number.isFinite(value) && (above ? value > from : value >= from) && value <= to) return;
  const wanted = above
    ? `a number above ${from}`
    : to < Number.POSITIVE_INFINITY
      ? `${from} to ${to}`
      : `${from} or more`;
  throw new LowrankError("config", `${name}: expected ${wanted}, got ${value}`);
}
