// The training step as one graph: the adapted model's forward pass, the loss, and the gradients of its parameters.
import { LowrankError } from "../errors.ts";
import { backward, differentiableOpsets } from "../grad/walk.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { graphBuilder, type Value } from "../onnx/builder.ts";
import { prune } from "../onnx/graph.ts";
import type { Dim, Model, ValueInfo } from "../onnx/model.ts";
import type { Tensor } from "../tensor.ts";
import { checkClasses, type Loss } from "./losses.ts";

export interface StepGraph {
  readonly model: Model;
  /** Names in that graph. */
  readonly labels: string;
  readonly loss: string;
  /** The model's outputs. */
  readonly outputs: readonly string[];
  /** The gradient of each parameter, by the parameter's key. */
  readonly gradients: ReadonlyMap<string, string>;
  /** Throws LowrankError "data" for class labels that are no classes of the output. */
  checkLabels(labels: Tensor): void;
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
  const computed = backward(
    g,
    new Map([[target.name, gradient]]),
    adapted.parameters.map(({ key }) => key),
  );

  // Two parameters may have one gradient (those of p + q); outputs are told apart by name.
  const taken = new Set([value, ...graph.outputs.map(({ name }) => name)]);
  const gradients = new Map<string, Value>();
  for (const [key, name] of computed) {
    const own = taken.has(name) ? g.op("Identity", [name]) : name;
    taken.add(own);
    gradients.set(key, own);
  }
  const outputs = [
    floats(value, []),
    ...graph.outputs,
    ...adapted.parameters.map(({ key, graphDims }) => floats(gradients.get(key)!, graphDims)),
  ];
  const classes = shape?.at(-1);
  return {
    model: { ...adapted.model, graph: prune({ ...g.build(), outputs }) },
    labels,
    checkLabels: (given) => {
      if (loss.ignoreIndex === undefined) return;
      checkClasses(given, typeof classes === "number" ? classes : undefined, loss.ignoreIndex);
    },
    loss: value,
    outputs: graph.outputs.map(({ name }) => name),
    gradients,
  };
}

function floats(name: string, shape: readonly Dim[]): ValueInfo {
  return { name, type: "float32", shape, doc: "" };
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
