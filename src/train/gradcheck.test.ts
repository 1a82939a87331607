import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { createRandom } from "../random.ts";
import { tensor } from "../tensor.ts";
import { gradcheck, gradcheckTolerance } from "./gradcheck.ts";
import { randomInputs } from "./random-inputs.ts";

const options = { threads: 1 };

/** y = f(x W): f is written with `op`, and a constant where one is given. */
function layerThen(op: string, constant?: number): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["rows", 3]);
  const w = g.initializer("fc.weight", tensor("float32", [3, 2], Float32Array.of(1, -0.5, 0.25, 2, 0.5, 1)));
  const product = g.op("MatMul", [x, w], {}, { name: "/fc/MatMul" });
  const others = constant === undefined ? [] : [g.constant("float32", constant)];
  g.output(g.op(op, [product, ...others], {}, { output: "y" }), "float32", ["rows", 2]);
  return createModel(g.build(), { opset: 18 });
}

describe("gradcheck", () => {
  it("passes where gradients are right: every parameter has a row, in float64", async () => {
    const model = readModel(goldenFile("mlp/model.onnx"));
    const adapted = attachLora(model, { r: 2 });
    const checked = await gradcheck(adapted, randomInputs(model), options);
    expect(checked).toMatchObject({ passed: true, precision: "float64", tolerance: gradcheckTolerance.float64 });
    expect(checked.rows.map(({ key }) => key)).toEqual(adapted.parameters.map(({ key }) => key));
    for (const { analytic, numeric, error } of checked.rows) {
      expect(error).toBeLessThan(1e-5);
      expect(Math.abs(numeric)).toBeGreaterThan(1e-4);
      expect(analytic).toBeCloseTo(numeric, 5);
    }
  });

  it("falls back to float32 where the runtime has no float64", async () => {
    const model = layerThen("Erf");
    const checked = await gradcheck(attachLora(model, { r: 2 }), randomInputs(model), options);
    expect(checked).toMatchObject({ passed: true, precision: "float32", tolerance: gradcheckTolerance.float32 });
  });

  it("passes where float32 steps cross kinks: a Conv has no float64, and 300 ReLUs lie close to theirs", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 1, 10, 10]);
    const random = createRandom(1, "kernel");
    const kernel = tensor(
      "float32",
      [3, 1, 1, 1],
      Float32Array.from({ length: 3 }, () => random.normal()),
    );
    const y = g.op("Relu", [g.op("Conv", [x, g.initializer("c.weight", kernel)], {}, { name: "/c/Conv" })]);
    g.output(g.op("Identity", [y], {}, { output: "y" }), "float32", [1, 3, 10, 10]);
    const model = createModel(g.build(), { opset: 18 });
    for (const seed of [0, 1, 2, 3]) {
      const adapted = attachLora(model, { r: 2, targetModules: ["c"] });
      const checked = await gradcheck(adapted, randomInputs(model, { seed }), { seed, ...options });
      expect(checked).toMatchObject({ passed: true, precision: "float32" });
    }
  });

  it("finds gradients that are not those of the function: rounding up has slope 0, and jumps", async () => {
    // 10^6 steps over the range of a parameter: each difference crosses some, and sees the slope that the walk calls zero.
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["rows", 3]);
    const w = g.initializer("fc.weight", tensor("float32", [3, 2], Float32Array.of(1, -0.5, 0.25, 2, 0.5, 1)));
    const product = g.op("MatMul", [x, w], {}, { name: "/fc/MatMul" });
    const stairs = g.op("Ceil", [g.op("Mul", [product, g.constant("float32", 1e7)])]);
    const sum = g.op("Add", [product, g.op("Mul", [stairs, g.constant("float32", 1e-7)])], {}, { output: "y" });
    g.output(sum, "float32", ["rows", 2]);
    const model = createModel(g.build(), { opset: 18 });
    const checked = await gradcheck(attachLora(model, { r: 2 }), randomInputs(model), options);
    expect(checked.passed).toBe(false);
    // y = x W + (about) x W: the differences are twice the gradients.
    for (const { analytic, numeric } of checked.rows) expect(numeric / analytic).toBeCloseTo(2, 0);
  });

  it("is the same for the same seed, and another point for another", async () => {
    const model = twoLayers();
    const adapted = attachLora(model);
    const run = async (seed: number) =>
      (await gradcheck(adapted, randomInputs(model, { seed }), { seed, ...options })).rows;
    const [first, again, other] = [await run(1), await run(1), await run(2)];
    expect(again).toEqual(first);
    expect(other[0]!.numeric).not.toBe(first[0]!.numeric);
  });

  it("has no error where every gradient is zero", async () => {
    const model = layerThen("Mul", 0);
    const { rows, passed } = await gradcheck(attachLora(model, { r: 2 }), randomInputs(model), options);
    expect(passed).toBe(true);
    expect(rows.map(({ analytic, numeric, error }) => [Math.abs(analytic), Math.abs(numeric), error])).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
  });

  it("needs all inputs", async () => {
    await expect(gradcheck(attachLora(twoLayers()), {}, options)).rejects.toThrow(/input x: missing/);
  });
});
