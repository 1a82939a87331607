import { describe, expect, it } from "vitest";
import { attachAll } from "../../lora/full.ts";
import { twoLayers } from "../../lora/testing/models.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import {
  binaryCrossEntropy,
  contrastive,
  cosineEmbedding,
  crossEntropy,
  customLoss,
  distillation,
  huber,
  type Loss,
  meanSquaredError,
  smoothL1,
} from "../losses.ts";
import { buildStepGraph } from "../step-graph.ts";
import { classes, floats } from "../testing/fixture.ts";
import { valueAndGrad } from "../value-and-grad.ts";

/** a = x p and b = x q, [rows, 2] each, from x [rows, 3]. */
function twoOutputs(): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["rows", 3]);
  const weight = (name: string, data: number[]) => g.initializer(name, floats({ dims: [3, 2], data }));
  const named = (name: string, w: Value) => g.op("MatMul", [x, w], {}, { output: name });
  g.output(named("a", weight("p", [1, -0.5, 0.25, 2, 0.5, 1])), "float32", ["rows", 2]);
  g.output(named("b", weight("q", [0.3, 1, -1, 0.5, 2, 0.1])), "float32", ["rows", 2]);
  return createModel(g.build(), { opset: 18 });
}

const x = floats({ dims: [2, 3], data: [1, 0.5, -1, 0.25, 2, -0.75] });

async function gradients(model: Model, loss: Loss, labels: Tensor) {
  const adapted = attachAll(model);
  const { graph } = model;
  const tensors = new Map<string, Tensor>(
    adapted.parameters.map(({ key, dims }) => {
      const { bytes } = graph.initializers.get(key)!;
      return [key, tensor("float32", dims, new Float32Array(bytes.slice().buffer))];
    }),
  );
  try {
    return await valueAndGrad(adapted, { tensors }, { inputs: { x }, labels }, loss, { threads: 1 });
  } finally {
    await adapted.dispose();
  }
}

const squares = (g: GraphBuilder, output: Value, labels: Value): Value => {
  const difference = g.op("Sub", [output, labels]);
  return g.op("ReduceMean", [g.op("Mul", [difference, difference])], { keepdims: 0 });
};

describe("customLoss", () => {
  it("is differentiated by the walk: the mean of squares, written out, has the built-in loss's value and gradients", async () => {
    const labels = floats({ dims: [2, 2], data: [0.1, -2, 3, 0.5] });
    const own = customLoss({ name: "squares", labels: "float32", output: "b", build: squares });
    const [ours, theirs] = [
      await gradients(twoOutputs(), own, labels),
      await gradients(twoOutputs(), meanSquaredError({ output: "b" }), labels),
    ];
    expect(ours.loss).toBeCloseTo(theirs.loss, 6);
    for (const [key, { data }] of theirs.grads) {
      const got = ours.grads.get(key)!.data;
      data.forEach((value, index) => {
        expect(Number(got[index])).toBeCloseTo(Number(value), 5);
      });
    }
    expect([...(theirs.grads.get("p")!.data as Float32Array)].map(Math.abs)).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it("may read several outputs: d sum(w a b) goes to both", async () => {
    const product = customLoss({
      name: "product",
      labels: "float32",
      labelShape: (output) => output.slice(0, 1),
      output: "a",
      otherOutputs: ["b"],
      build: (g, a, labels) => {
        const weight = g.op("Unsqueeze", [labels, g.constant("int64", [1])]);
        return g.op("ReduceSum", [g.op("Mul", [g.op("Mul", [a, "b"]), weight])], { keepdims: 0 });
      },
    });
    const { loss, grads } = await gradients(twoOutputs(), product, floats({ dims: [2], data: [1, 0.5] }));
    // a = [[0.625, -0.5], [0.375, 3.125]], b = [[-2.2, 1.15], [-3.425, 1.175]]; d loss / d p = x^T (w b)
    expect(loss).toBeCloseTo(0.625 * -2.2 - 0.5 * 1.15 + 0.5 * (0.375 * -3.425 + 3.125 * 1.175), 5);
    const [, first] = grads.get("p")!.data as Float32Array;
    expect(first).toBeCloseTo(1 * 1.15 + 0.25 * 0.5 * 1.175, 5);
    expect(grads.get("q")!.data[0]).toBeCloseTo(1 * 0.625 + 0.25 * 0.5 * 0.375, 5);
  });

  it("must be a scalar", () => {
    const wrong = customLoss({ name: "rows", labels: "float32", build: (g, a, b) => g.op("Sub", [a, b]) });
    expect(() => buildStepGraph(attachAll(twoLayers()), wrong)).toThrow(
      "loss rows: expected a float32 scalar, got float32 with 2 axes; reduce it with keepdims: 0",
    );
  });

  it("must be made of operators that have gradients", () => {
    const wrong = customLoss({
      name: "odd",
      labels: "float32",
      build: (g, a, b) =>
        g.op("ReduceSum", [g.op("Mystery", [g.op("Sub", [a, b])], {}, { domain: "test" })], { keepdims: 0 }),
    });
    expect(() => buildStepGraph(attachAll(twoLayers()), wrong)).toThrow(/no gradient rule for test\.Mystery/);
  });
});

describe("losses over two outputs", () => {
  it("reach the parameters below both", async () => {
    const loss = contrastive({ output: "a", secondOutput: "b", scale: 1, similarity: "dot" });
    const { grads } = await gradients(twoOutputs(), loss, classes([0, 1]));
    for (const key of ["p", "q"]) {
      expect(Math.max(...Array.from(grads.get(key)!.data as Float32Array, Math.abs))).toBeGreaterThan(1e-3);
    }
  });

  it("must be there, all of them, and differ", () => {
    const step = (loss: Loss) => () => buildStepGraph(attachAll(twoOutputs()), loss);
    expect(step(contrastive({ output: "c", secondOutput: "d" }))).toThrow(
      /2 faults\n.*no output "c"; it has a, b\n.*no output "d"; it has a, b/,
    );
    expect(step(cosineEmbedding({ secondOutput: "a" }))).toThrow('loss cosine_embedding: both outputs are "a"');
  });

  it("want rows of vectors", () => {
    expect(() => buildStepGraph(attachAll(twoLayers("MatMul", "3d")), contrastive())).toThrow(
      "loss info_nce: expected an output [rows, features], got 3 axes; add pooling to the model",
    );
  });
});

describe("an output that is not float32", () => {
  it("is cast for the loss, and the gradient back", async () => {
    const g = graphBuilder({ opset: 18 });
    const given = g.input("x", "float32", ["rows", 3]);
    const product = g.op("MatMul", [given, g.initializer("p", floats({ dims: [3, 1], data: [1, -0.5, 0.25] }))]);
    g.output(g.op("Cast", [product], { to: 11 }, { output: "y" }), "float64", ["rows", 1]);
    const model = createModel(g.build(), { opset: 18 });
    const { loss, grads } = await gradients(model, meanSquaredError(), floats({ dims: [2, 1], data: [0, 1] }));
    // x p = [0.5, -0.9375], e = [0.5, -1.9375]; d / d p = x^T e
    expect(loss).toBeCloseTo((0.5 ** 2 + 1.9375 ** 2) / 2, 6);
    const expected = [1 * 0.5 - 0.25 * 1.9375, 0.5 * 0.5 - 2 * 1.9375, -1 * 0.5 + 0.75 * 1.9375];
    expected.forEach((value, index) => {
      expect(Number(grads.get("p")!.data[index])).toBeCloseTo(value, 5);
    });
  });
});

describe("options out of range", () => {
  const cases: [() => unknown, string][] = [
    [() => crossEntropy({ labelSmoothing: 1.5 }), "crossEntropy: labelSmoothing: expected 0 to 1, got 1.5"],
    [() => crossEntropy({ classWeights: [1, -1] }), "crossEntropy: classWeights[1]: expected 0 or more, got -1"],
    [() => huber({ delta: 0 }), "huber: delta: expected a number above 0, got 0"],
    [() => smoothL1({ beta: -1 }), "smoothL1: beta: expected a number above 0, got -1"],
    [
      () => binaryCrossEntropy({ posWeight: Number.NaN }),
      "binaryCrossEntropy: posWeight[0]: expected 0 or more, got NaN",
    ],
    [() => contrastive({ scale: 0 }), "contrastive: scale: expected a number above 0, got 0"],
    [() => cosineEmbedding({ margin: 2 }), "cosineEmbedding: margin: expected -1 to 1, got 2"],
    [() => distillation({ temperature: 0 }), "distillation: temperature: expected a number above 0, got 0"],
  ];
  it.each(cases)("case %#", (make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: "config", message }));
  });

  it("weights that are not one for each class", () => {
    const step = (loss: Loss) => () => buildStepGraph(attachAll(twoLayers()), loss);
    expect(step(crossEntropy({ classWeights: [1, 2] }))).toThrow(/expected 4, one for each class, got 2/);
    expect(step(binaryCrossEntropy({ posWeight: [1, 2] }))).toThrow(/expected 1 or 4 weights, got 2/);
  });
});

describe("distillation", () => {
  it("takes a teacher that rules a class out", async () => {
    const g = graphBuilder({ opset: 18 });
    const given = g.input("x", "float32", ["rows", 3]);
    const p = g.initializer("p", floats({ dims: [3], data: [0, 0, 0] }));
    g.output(g.op("Add", [given, p], {}, { output: "y" }), "float32", ["rows", 3]);
    const labels = floats({ dims: [2, 3], data: [0, 0, Number.NEGATIVE_INFINITY, 1, 1, 1] });
    const { loss } = await gradients(createModel(g.build(), { opset: 18 }), distillation(), labels);
    const softmax = (row: number[]) => {
      const sum = row.reduce((total, value) => total + Math.exp(value), 0);
      return row.map((value) => Math.exp(value) / sum);
    };
    const rows = [[...x.data].slice(0, 3), [...x.data].slice(3)].map(softmax);
    const expected =
      0.5 * Math.log(0.5 / rows[0]![0]!) +
      0.5 * Math.log(0.5 / rows[0]![1]!) +
      rows[1]!.reduce((sum, value) => sum + Math.log(1 / 3 / value) / 3, 0);
    expect(loss).toBeCloseTo(expected / 2, 5);
  });
});
