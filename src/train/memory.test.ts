import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { zeros } from "../tensor.ts";
import { crossEntropy, meanSquaredError } from "./losses.ts";
import { estimateMemory } from "./memory.ts";
import { adam, sgd } from "./optimizers.ts";
import { buildStepGraph } from "./step-graph.ts";

/** x [batch, 100] through layers of 100 -> 100, with Tanh between them. */
function deep(layers: number, width = 100): Model {
  const g = graphBuilder({ opset: 18 });
  let x = g.input("x", "float32", ["batch", width]);
  for (let layer = 0; layer < layers; layer++) {
    const weight = g.initializer(`fc${layer}.weight`, zeros([width, width]));
    x = g.op("Tanh", [g.op("MatMul", [x, weight], {}, { name: `/fc${layer}/MatMul` })]);
  }
  g.output(g.op("Identity", [x], {}, { output: "y" }), "float32", ["batch", width]);
  return createModel(g.build(), { opset: 18 });
}

const floats = (...dims: number[]) => ({ type: "float32", dims }) as const;

describe("the memory of a step", () => {
  it("of all weights: values, gradients and the optimizer's state, which stand for the weights", () => {
    const adapted = attachAll(deep(3));
    const { model } = buildStepGraph(adapted, meanSquaredError());
    const request = { feeds: { x: floats(8, 100), labels: floats(8, 100) }, parameters: adapted.parameters };
    const estimate = estimateMemory(model, { ...request, optimizer: adam() });
    // 30,000 weights: value, gradient, two moments.
    expect(estimate.trained).toBe(4 * 30_000 * 4);
    expect(estimateMemory(model, { ...request, optimizer: sgd({ momentum: 0.9 }) }).trained).toBe(3 * 30_000 * 4);
    expect(estimateMemory(model, { ...request, optimizer: null }).trained).toBe(2 * 30_000 * 4);
    // Two batches of input and labels.
    expect(estimate.batches).toBe(2 * 2 * 8 * 100 * 4);
    const { process, weights, activations, trained, batches, total } = estimate;
    expect(total).toBe(process + weights + activations + trained + batches);
    expect(weights).toBeLessThan(100);
  });

  it("of an adapter: the weights once for the model and once packed for each product that reads them", () => {
    const adapted = attachLora(deep(3), { r: 2, targetModules: ["fc0", "fc1", "fc2"] });
    const { model } = buildStepGraph(adapted, meanSquaredError());
    const request = {
      feeds: { x: floats(8, 100), labels: floats(8, 100) },
      parameters: adapted.parameters,
      optimizer: adam(),
    };
    const { weights } = estimateMemory(model, request);
    // Three forward, and backward through two of them.
    const packed = 5 * 40_000;
    expect(weights).toBeGreaterThanOrEqual(3 * 40_000 + packed);
    expect(weights).toBeLessThan(3 * 40_000 + packed + 1000);
    const loaded = estimateMemory(model, { ...request, resident: 5e8 });
    expect(loaded.process).toBe(5e8);
    expect(loaded.weights).toBe(packed);
  });

  it("grows with the batch and the depth, and falls when activations are computed again", () => {
    const held = (layers: number, batch: number, checkpointActivations = false): number => {
      const adapted = attachAll(deep(layers));
      const { model, labels } = buildStepGraph(adapted, crossEntropy(), { checkpointActivations });
      const feeds = { x: floats(batch, 100), [labels]: { type: "int64", dims: [batch] } as const };
      return estimateMemory(model, { feeds, parameters: adapted.parameters, optimizer: null }).activations;
    };
    // Each Tanh's output is held for its own gradient and for the next layer's weights.
    expect(held(17, 64) - held(16, 64)).toBe(2.5 * 64 * 100 * 4);
    expect(held(16, 128)).toBeGreaterThan(1.9 * held(16, 64));
    expect(held(64, 64, true)).toBeLessThan(0.5 * held(64, 64));
  });
});
