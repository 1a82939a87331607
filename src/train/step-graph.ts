// The training step as one graph: the adapted model's forward pass, the loss, and the gradients of its parameters.
import { LowrankError } from "../errors.ts";
import { backward, differentiableOpsets } from "../grad/walk.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { graphBuilder } from "../onnx/builder.ts";
import { prune } from "../onnx/graph.ts";
import type { Dim, Model } from "../onnx/model.ts";
import type { Loss } from "./losses.ts";

export interface StepGraph {
  readonly model: Model;
  /** Names in that graph. */
  readonly labels: string;
  readonly loss: string;
  /** The model's outputs. */
  readonly outputs: readonly string[];
  /** The gradient of each parameter, by the parameter's key. */
  readonly gradients: ReadonlyMap<string, string>;
}

/**
 * Writes loss and gradients behind an adapted model.
 *
 * @throws LowrankError "model" when an operator in the way has no gradient rule (all are listed), or the operator set is
 * out of range; "config" when the loss names an output that is not there.
 */
export function buildStepGraph(adapted: AdaptedModel, loss: Loss): StepGraph {
  const { graph } = adapted.model;
  const opset = adapted.model.opsets.get("") ?? 0;
  if (opset < differentiableOpsets.from || opset > differentiableOpsets.to) {
    throw new LowrankError(
      "model",
      `operator set ${opset}: gradients can be written for ${differentiableOpsets.from} to ${differentiableOpsets.to}; export the model again`,
    );
  }
  const g = graphBuilder({ opset, from: graph, scope: "grad/" });
  const target = outputOf(adapted, loss);
  const shape = g.info(target.name).shape ?? target.shape;
  const labels = g.input("labels", loss.labels, labelShape(loss, shape));
  const { loss: value, gradient } = loss.build(g, target.name, labels);
  const gradients = backward(
    g,
    new Map([[target.name, gradient]]),
    adapted.parameters.map(({ key }) => key),
  );

  g.output(value, "float32", []);
  for (const { name, type, shape: dims } of graph.outputs) g.output(name, type ?? "float32", dims);
  for (const { key, graphDims } of adapted.parameters) g.output(gradients.get(key)!, "float32", graphDims);
  return {
    model: { ...adapted.model, graph: prune(g.build()) },
    labels,
    loss: value,
    outputs: graph.outputs.map(({ name }) => name),
    gradients,
  };
}

function outputOf(adapted: AdaptedModel, loss: Loss) {
  const { outputs } = adapted.model.graph;
  const found = loss.output === undefined ? outputs[0] : outputs.find(({ name }) => name === loss.output);
  if (found !== undefined) return found;
  const names = outputs.map(({ name }) => name).join(", ");
  throw new LowrankError(
    "config",
    `loss ${loss.name}: the model has no output ${JSON.stringify(loss.output)}; it has ${names}`,
  );
}

/** Class labels lack the axis of the classes; values have the output's own shape. */
function labelShape(loss: Loss, shape: readonly Dim[] | undefined): readonly Dim[] {
  if (shape === undefined) throw new LowrankError("model", `loss ${loss.name}: the rank of the output is unknown`);
  return loss.labels === "int64" ? shape.slice(0, -1) : shape;
}
