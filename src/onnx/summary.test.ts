import { describe, expect, it } from "vitest";
import { studyNetwork } from "../study/network.ts";
import { tensor, zeros } from "../tensor.ts";
import { createModel, type GraphBuilder, graphBuilder } from "./builder.ts";
import type { Model } from "./model.ts";
import { readModel } from "./read.ts";
import { summary } from "./summary.ts";
import { goldenFile } from "./testing/protos.ts";

function model(build: (g: GraphBuilder) => string): Model {
  const g = graphBuilder({ opset: 17 });
  g.output(build(g), "float32");
  return createModel(g.build(), { opset: 17 });
}

/** "name shape parameters", for short. */
function lines(of: Model): string[] {
  return summary(of).rows.map(
    ({ name, outputShape, parameters }) =>
      `${name} ${outputShape === undefined ? "?" : JSON.stringify(outputShape)} ${parameters}`,
  );
}

describe("the study's network", () => {
  const relu = studyNetwork("relu", 0);
  const table = summary(relu);

  it("has the table that torchsummary prints for it", () => {
    expect(lines(relu)).toEqual([
      "Linear-1 [-1,1000] 785000",
      "ReLU-2 [-1,1000] 0",
      "Linear-3 [-1,2000] 2002000",
      "ReLU-4 [-1,2000] 0",
      "Linear-5 [-1,10] 20010",
      "ReLU-6 [-1,10] 0",
    ]);
    expect(table.rows.map(({ modulePath }) => modulePath)).toEqual([
      "fc1",
      undefined,
      "fc2",
      undefined,
      "fc3",
      undefined,
    ]);
  });

  it("has 2,807,010 parameters in 10.71 MiB, 0.05 of activations and 0.00 of input", () => {
    expect(table.parameters).toBe(2_807_010);
    expect(table.parametersMiB).toBe((2_807_010 * 4) / 2 ** 20);
    expect(table.parametersMiB.toFixed(2)).toBe("10.71");
    expect(table.activationsMiB).toBe((2 * 6020 * 4) / 2 ** 20);
    expect(table.activationsMiB.toFixed(2)).toBe("0.05");
    expect(table.inputMiB).toBe((784 * 4) / 2 ** 20);
    expect(table.inputMiB.toFixed(2)).toBe("0.00");
    expect((table.inputMiB + table.activationsMiB + table.parametersMiB).toFixed(2)).toBe("10.76");
  });

  it("would get 6,794 parameters from an adapter of rank 1, 0.242 % of its own", () => {
    const added = table.rows.map((row) => row.lora(1));
    expect(added).toEqual([1784, 0, 3000, 0, 2010, 0]);
    expect(added.reduce((sum, count) => sum + count)).toBe(6794);
    expect(((100 * 6794) / table.parameters).toFixed(3)).toBe("0.242");
    expect(table.rows[0]!.lora(8)).toBe(8 * 1784);
  });

  it("has one row less with a linear head", () => {
    expect(lines(studyNetwork("linear", 0)).at(-1)).toBe("Linear-5 [-1,10] 20010");
    expect(summary(studyNetwork("linear", 0)).parameters).toBe(2_807_010);
  });
});

describe("any model", () => {
  it("counts a bias that is added behind a product with its layer", () => {
    const linear = model((g) => {
      const h = g.op("MatMul", [g.input("x", "float32", ["batch", 3]), g.initializer("fc.weight", zeros([3, 5]))]);
      return g.op("Tanh", [g.op("Add", [h, g.initializer("fc.bias", zeros([5]))])]);
    });
    expect(lines(linear)).toEqual(["Linear-1 [-1,5] 20", "Tanh-2 [-1,5] 0"]);
  });

  it("counts a weight once, however many read it, and also behind Identity nodes", () => {
    const shared = model((g) => {
      const weight = g.initializer("fc.weight", zeros([3, 3]));
      const first = g.op("MatMul", [g.input("x", "float32", ["batch", 3]), g.op("Identity", [weight])]);
      return g.op("MatMul", [first, weight]);
    });
    expect(lines(shared)).toEqual(["Linear-1 [-1,3] 9", "Linear-2 [-1,3] 0"]);
  });

  it("counts no scalars, shapes, truth values or running statistics", () => {
    const mixed = model((g) => {
      const x = g.input("x", "float32", [1, 3]);
      const statistics = ["scale", "shift", "mean", "variance"].map((name) => g.initializer(name, zeros([3])));
      const normal = g.op("BatchNormalization", [x, ...statistics]);
      const half = g.op("Mul", [normal, g.constant("float32", 0.5)]);
      const mask = g.initializer("mask", tensor("bool", [3], new Uint8Array(3)));
      return g.op("Where", [mask, g.op("Reshape", [half, g.constant("int64", [1, 3])]), half]);
    });
    expect(lines(mixed)).toEqual(["BatchNorm-1 [1,3] 6", "Mul-2 [1,3] 0", "Reshape-3 [1,3] 0", "Where-4 [1,3] 0"]);
  });

  it("counts quantized weights of 8 bits and fewer", () => {
    const quantized = model((g) => {
      const weight = g.initializer("w", tensor("int8", [4, 2], new Int8Array(8)));
      const small = g.initializer("v", { type: "int4", dims: [3], bytes: new Uint8Array(2) });
      const wide = g.initializer("i", tensor("int32", [9], new Int32Array(9)));
      return g.op("QLinear", [g.input("x", "float32", ["n", 4]), weight, small, wide], {}, { domain: "test" });
    });
    expect(lines(quantized)).toEqual(["QLinear-1 ? 11"]);
  });

  it("counts the parameters of golden models as PyTorch does", () => {
    const count = (path: string) => summary(readModel(goldenFile(path), path)).parameters;
    expect(count("mlp/model.onnx")).toBe(20 * 16 + 16 + 16 * 24 + 24 + 24 * 5 + 5);
    expect(count("reg/model.onnx")).toBe(7 * 12 + 12 + 12 * 12 + 12 + 12 * 2 + 2 + 2 * 12); // and a LayerNorm
  });
});
