// A loss of the user's own, written with the graph builder. Its gradient is found by the walk that differentiates the model.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import type { Dim } from "../../onnx/model.ts";
import type { Tensor, TensorType } from "../../tensor.ts";
import type { Loss } from "./loss.ts";

export interface CustomLoss {
  /** For messages. */
  readonly name: string;
  /** Element type of the labels. */
  readonly labels: TensorType;
  /** The labels' shape, from the output's; by default the output's own, without its last axis for int64 labels. */
  readonly labelShape?: (output: readonly Dim[]) => readonly Dim[];
  /** Which output it is measured on; by default the first. */
  readonly output?: string;
  /** Further outputs that `build` reads by their names. */
  readonly otherOutputs?: readonly string[];
  /** What the loss's mean divides by for a batch of these labels: see `Loss.weigh`. */
  weigh?(labels: Tensor): number;
  /** Adds nodes and returns the loss: a float32 scalar (reduce with `keepdims: 0`). */
  build(g: GraphBuilder, output: Value, labels: Value): Value;
}

/**
 * A loss written with ONNX operators that have gradient rules (docs/OPERATORS.md).
 *
 * @example
 * const logCosh = customLoss({
 *   name: "log_cosh",
 *   labels: "float32",
 *   build(g, output, labels) {
 *     const e = g.op("Sub", [output, labels]);
 *     // log cosh e = e + log(1 + exp(-2 e)) - log 2; the constant does not matter
 *     const values = g.op("Add", [e, g.op("Softplus", [g.op("Mul", [e, g.constant("float32", -2)])])]);
 *     return g.op("ReduceMean", [values], { keepdims: 0 });
 *   },
 * });
 */
export function customLoss(loss: CustomLoss): Loss {
  const { name, labels, labelShape, output, otherOutputs = [], build } = loss;
  return {
    name,
    labels,
    output,
    otherOutputs,
    ...(loss.weigh !== undefined && { weigh: loss.weigh }),
    ...(labelShape !== undefined && { labelsFor: (shape: readonly Dim[]) => ({ shape: labelShape(shape) }) }),
    build: (g, value, given) => ({ loss: build(g, value, given) }),
  };
}
