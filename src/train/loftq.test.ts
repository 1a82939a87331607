// LoftQ on a quantized base: the error that quantization left, against the best that its rank allows (Eckart and Young 1936).
import { describe, expect, it } from "vitest";
import { deltaOf, thinModules } from "../adapter/thin.ts";
import { type Matrix, matrix } from "../linalg/matrix.ts";
import { svd } from "../linalg/svd.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { floats, peftFixture, peftNetwork, type Values } from "../lora/testing/peft.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { initLoftq } from "./loftq.ts";

const { weights } = peftFixture<object>("optimizers");
const float = peftNetwork(weights);
const layers = ["fc1", "fc2", "fc3"];

/** 4-bit symmetric values of a matrix [out, in], a scale for each row of it. */
function quantize(values: readonly number[], rows: number, columns: number) {
  const scales = Float32Array.from(
    { length: rows },
    (_, i) => Math.max(...values.slice(i * columns, (i + 1) * columns).map(Math.abs)) / 7,
  );
  const codes = Int8Array.from(values, (value, i) => Math.round(value / scales[Math.floor(i / columns)]!));
  return { codes, scales, back: Array.from(codes, (code, i) => Math.fround(code * scales[Math.floor(i / columns)]!)) };
}

/** The same network over DequantizeLinear; fc2 as MatMul over a transposed weight. */
function quantizedNetwork(): Model {
  const g = graphBuilder({ name: "network", opset: 18 });
  let value = g.input("x", "float32", ["batch", 6]);
  for (const name of layers) {
    const { dims, data } = weights[`${name}.weight`]!;
    const { codes, scales } = quantize(data, dims[0]!, dims[1]!);
    const stored = g.initializer(`${name}.weight`, tensor("int8", dims, codes));
    const dequantized = g.op(
      "DequantizeLinear",
      [stored, g.initializer(`${name}.scale`, tensor("float32", [dims[0]!], scales))],
      { axis: 0 },
    );
    const bias = g.initializer(`${name}.bias`, floats(weights[`${name}.bias`]!));
    value =
      name === "fc2"
        ? g.op("Add", [
            g.op(
              "MatMul",
              [value, g.op("Transpose", [dequantized], { perm: [1, 0] })],
              {},
              { name: `/${name}/MatMul` },
            ),
            bias,
          ])
        : g.op("Gemm", [value, dequantized, bias], { transB: 1 }, { name: `/${name}/Gemm` });
    value = name === "fc3" ? g.op("Identity", [value], {}, { output: "y" }) : g.op("Tanh", [value]);
  }
  g.output(value, "float32", ["batch", 3]);
  return createModel(g.build(), { opset: 18 });
}

function lost(name: string): Matrix {
  const { dims, data } = weights[`${name}.weight`]!;
  const { back } = quantize(data, dims[0]!, dims[1]!);
  return matrix(
    dims[0]!,
    dims[1]!,
    data.map((value, i) => Math.fround(value) - back[i]!),
  );
}

describe("initLoftq", () => {
  it("leaves the least error that the rank allows, at any scale", async () => {
    const { adapted, adapter } = await initLoftq(attachLora(quantizedNetwork(), { r: 2, loraAlpha: 6 }), float);
    expect(adapter.config.initLoraWeights).toBe(true);
    expect(adapted.sites.map(({ site }) => site.modulePath)).toEqual(layers);
    for (const name of layers) {
      const error = lost(name);
      const { a, b } = adapterKeys(name);
      const [A, B] = [adapter.tensors.get(a)!, adapter.tensors.get(b)!];
      const rest = error.data.map((value, i) => {
        const [out, into] = [Math.floor(i / error.columns), i % error.columns];
        const at = (k: number): number => Number(B.data[out * 2 + k]) * Number(A.data[k * error.columns + into]);
        return value - 3 * (at(0) + at(1));
      });
      expect(Math.hypot(...rest)).toBeCloseTo(Math.hypot(...svd(error).s.slice(2)), 7);
    }
  });

  it("has the product of PEFT's factors where alpha is r", async () => {
    const { loftq } = peftFixture<{ loftq: Readonly<Record<string, Values>> }>("starts");
    const { adapter } = await initLoftq(attachLora(quantizedNetwork(), { r: 2, loraAlpha: 2 }), float);
    for (const module of thinModules(adapter, "test")) {
      const expected = loftq[module.path]!.data;
      for (const [index, value] of deltaOf(module).data.entries())
        expect(Math.abs(value - expected[index]!)).toBeLessThan(1e-6);
    }
  });

  it("brings the quantized model near the float one: all the way at full rank", async () => {
    const x = tensor(
      "float32",
      [3, 6],
      Float32Array.from({ length: 18 }, (_, i) => Math.sin(i)),
    );
    const outputs = async (model: Model | AdaptedModel, adapter: Adapter | null = null): Promise<number[]> => {
      const session = await createSession(model);
      const { data } = (await session.run({ x }, { adapter })).get("y")!;
      await session.dispose();
      return Array.from(data as Float32Array);
    };
    const exact = await outputs(float);
    const gapTo = (values: number[]): number => Math.max(...values.map((value, i) => Math.abs(value - exact[i]!)));
    const gaps: number[] = [];
    for (const r of [0, 2, 6]) {
      const { adapted, adapter } = await initLoftq(attachLora(quantizedNetwork(), { r: Math.max(r, 1) }), float);
      gaps.push(gapTo(await outputs(adapted, r === 0 ? null : adapter)));
    }
    expect(gaps[1]!).toBeLessThan(0.7 * gaps[0]!);
    expect(gaps[2]!).toBeLessThan(1e-5);
  });

  it("names the layers that the float model lacks", async () => {
    const other = { ...float, graph: { ...float.graph, nodes: float.graph.nodes.slice(0, 1) } };
    await expect(initLoftq(attachLora(quantizedNetwork()), other)).rejects.toThrow(
      /2 faults[\s\S]*fc2: the float model has no such layer[\s\S]*fc3: the float model/,
    );
    await expect(initLoftq(attachLora(quantizedNetwork()), quantizedNetwork())).rejects.toThrow(
      /fc1: expected a stored float32 weight, got one that the graph computes/,
    );
  });
});
