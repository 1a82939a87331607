import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { initAdapter } from "../lora/init.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { checkModel } from "../onnx/check.ts";
import type { Model } from "../onnx/model.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { meanSquaredError } from "../train/losses.ts";
import { adam } from "../train/optimizers.ts";
import { compileStep, loadParameters } from "../train/step.ts";
import { buildStepGraph } from "../train/step-graph.ts";

const width = 8;

/** Blocks of a residual network: x + down(tanh(up(x))), with `wide` times the width inside. */
function residual(blocks: number, wide: number): Model {
  const g = graphBuilder({ opset: 18 });
  let x = g.input("x", "float32", ["batch", width]);
  for (let block = 0; block < blocks; block++) {
    const linear = (value: string, name: string, from: number, to: number): string =>
      g.op(
        "MatMul",
        [value, g.initializer(`${block}.${name}.weight`, drawn(`${block} ${name}`, from, to))],
        {},
        {
          name: `/${block}/${name}/MatMul`,
        },
      );
    const inner = g.op("Tanh", [linear(x, "up", width, wide * width)]);
    const squared = g.op("Mul", [inner, inner]);
    x = g.op("Add", [x, linear(squared, "down", wide * width, width)]);
  }
  g.output(g.op("Identity", [x], {}, { output: "y" }), "float32", ["batch", width]);
  return createModel(g.build(), { opset: 18 });
}

const adapt = (model: Model) => attachLora(model, { r: 2, targetModules: ["up", "down"] });
const options = { checkpointActivations: true };

describe("activations computed again", () => {
  it("gives the same loss and gradients, step by step", async () => {
    const results: { losses: number[]; gradients: number[][] }[] = [];
    for (const checkpointActivations of [false, true]) {
      const adapted = adapt(residual(6, 4));
      const step = await compileStep(adapted, meanSquaredError(), adam(), { checkpointActivations, threads: 1 });
      const { adapter } = initAdapter(adapted, { seed: 1 });
      const filled = [...adapter.tensors].map(([key, value]): [string, Tensor] => [key, drawn(key, ...value.dims)]);
      loadParameters(step, adapted, new Map(filled));
      const losses: number[] = [];
      for (const seed of ["a", "b"]) {
        losses.push(await step.run({ inputs: { x: drawn(seed, 5, width) }, labels: drawn(`${seed} y`, 5, width) }));
      }
      results.push({ losses, gradients: [...step.gradients.values()].map((values) => [...values]) });
      await step.dispose();
    }
    const [plain, again] = results as [(typeof results)[0], (typeof results)[0]];
    expect(again.losses.every(Number.isFinite)).toBe(true);
    expect(again.losses).toEqual(plain.losses);
    expect(again.gradients).toEqual(plain.gradients);
    expect(plain.gradients.flat().some((value) => value !== 0)).toBe(true);
  });

  it("repeats each block but the last, and reads no activation inside a block from the forward pass", () => {
    const { model } = buildStepGraph(adapt(residual(6, 4)), meanSquaredError(), options);
    expect(checkModel(model)).toEqual([]);
    const again = model.graph.nodes.filter(({ name }) => name.includes("_again"));
    expect(again.filter(({ op }) => op === "Tanh").length).toBe(5);
    // All copies wait: none reads what the forward pass has made but through a Reshape.
    const copies = new Set(again.flatMap(({ outputs }) => outputs));
    const plain = buildStepGraph(adapt(residual(6, 4)), meanSquaredError()).model.graph;
    const forward = new Set(plain.nodes.flatMap(({ outputs }) => outputs).filter((name) => !name.startsWith("grad/")));
    const read = again.flatMap(({ inputs }) => inputs).filter((name) => forward.has(name) && !copies.has(name));
    expect(read.filter((name) => /Add|Tanh|Mul_|MatMul/.test(name) && !/lora/.test(name))).toEqual([]);
  });

  it("leaves a graph alone in which nothing can be saved", () => {
    const shallow = adapt(residual(1, 4));
    const plain = buildStepGraph(shallow, meanSquaredError());
    expect(buildStepGraph(shallow, meanSquaredError(), options).model.graph.nodes.length).toBe(
      plain.model.graph.nodes.length,
    );
  });

  it("works for whole sequences of tokens and a mask that all blocks read", async () => {
    const g = graphBuilder({ opset: 18 });
    let x = g.input("x", "float32", ["batch", "tokens", width]);
    const mask = g.op("Unsqueeze", [g.input("mask", "float32", ["batch", "tokens"]), g.constant("int64", [2])]);
    for (let block = 0; block < 4; block++) {
      const up = g.initializer(`${block}.up.weight`, drawn(`${block} up`, width, 4 * width));
      const down = g.initializer(`${block}.down.weight`, drawn(`${block} down`, 4 * width, width));
      const inner = g.op("Tanh", [g.op("MatMul", [x, up], {}, { name: `/${block}/up/MatMul` })]);
      const out = g.op("MatMul", [g.op("Mul", [inner, mask]), down], {}, { name: `/${block}/down/MatMul` });
      x = g.op("Add", [x, out]);
    }
    g.output(g.op("Identity", [x], {}, { output: "y" }), "float32", ["batch", "tokens", width]);
    const adapted = adapt(createModel(g.build(), { opset: 18 }));
    const gradients: number[][] = [];
    for (const checkpointActivations of [false, true]) {
      const step = await compileStep(adapted, meanSquaredError(), null, { checkpointActivations, threads: 1 });
      const start = adapted.parameters.map(({ key, dims }): [string, Tensor] => [key, drawn(key, ...dims)]);
      loadParameters(step, adapted, new Map(start));
      const ones = tensor("float32", [2, 3], new Float32Array(6).fill(1));
      await step.run({ inputs: { x: drawn("x", 2, 3, width), mask: ones }, labels: drawn("y", 2, 3, width) });
      gradients.push([...step.gradients.values()].flatMap((values) => [...values]));
      await step.dispose();
    }
    expect(gradients[1]).toEqual(gradients[0]);
  });
});
