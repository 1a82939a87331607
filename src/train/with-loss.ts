// A model whose first output is its loss on labels that it is given: for measuring any model, with adapters or without, in the
// session that also gives its outputs.
import { LowrankError } from "../errors.ts";
import { graphBuilder } from "../onnx/builder.ts";
import { withoutCache } from "../onnx/cache.ts";
import { computedInFloat32 } from "../onnx/float32.ts";
import { prune } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import type { Tensor } from "../tensor.ts";
import { checkClasses, type Loss, labelsOf } from "./losses.ts";

export interface MeasuredModel {
  /** Adapt it and run it as the model itself; it reads `labels` as well, and gives `loss` as well. */
  readonly model: Model;
  /** Names in its graph. */
  readonly labels: string;
  readonly loss: string;
  /** The output that is measured. */
  readonly scores: string;
  /** Throws LowrankError "data" for class labels that are no classes of the output. */
  checkLabels(labels: Tensor): void;
}

/**
 * The model with a loss behind it, and without a decoder's cache.
 *
 * @throws LowrankError "config" when the loss names an output that is not there; "model" when its rank is unknown.
 * @example
 * const { model, labels, loss } = withLoss(base, crossEntropy());
 * const session = await createSession(attachLora(model, adapter.config));
 * const outputs = await session.run({ ...batch.inputs, [labels]: batch.labels }, { adapter });
 */
export function withLoss(base: Model, loss: Loss): MeasuredModel {
  const model = computedInFloat32(upgradeModel(withoutCache(base)));
  const { graph } = model;
  const target = graph.outputs.find(({ name }) => loss.output === undefined || name === loss.output);
  if (target === undefined) {
    const names = graph.outputs.map(({ name }) => name).join(", ");
    throw new LowrankError("config", `loss ${loss.name}: the model has no output ${loss.output}; it has ${names}`);
  }
  const g = graphBuilder({ opset: model.opsets.get("") ?? 0, from: graph, scope: "measure/" });
  const { shape = target.shape, type } = g.info(target.name);
  if (shape === undefined) throw new LowrankError("model", `loss ${loss.name}: the rank of the output is unknown`);
  const { shape: labelShape, classes } = labelsOf(loss, shape);
  const labels = g.input("labels", loss.labels, labelShape);
  const scores = type === undefined || type === "float32" ? target.name : g.op("Cast", [target.name], { to: 1 });
  const value = loss.build(g, scores, labels).loss;
  const outputs = [{ name: value, type: "float32" as const, shape: [], doc: "" }, ...graph.outputs];
  return {
    model: { ...model, graph: prune({ ...g.build(), outputs }) },
    labels,
    loss: value,
    scores: target.name,
    checkLabels: (given) => {
      if (loss.ignoreIndex !== undefined) checkClasses(given, classes, loss.ignoreIndex);
    },
  };
}
