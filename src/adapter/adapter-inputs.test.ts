// The exported model with an adapter's parameters fed gives what the adapted model gives; with rank 0, the base.
import { afterAll, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, LoraConfig } from "../lora/config.ts";
import { modulesOf } from "../lora/keys.ts";
import { drawn, layerForms, twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { writeModel } from "../onnx/write.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type AdapterSession, createSession } from "../train/infer.ts";
import { withAdapterInputs } from "./adapter-inputs.ts";
import { adapterParameters, readOnnxAdapter, writeOnnxAdapter } from "./onnx-adapter.ts";
import { quantizeAdapter } from "./storage.ts";

const opened: AdapterSession[] = [];
afterAll(async () => {
  for (const session of opened) await session.dispose();
});

async function run(
  model: Parameters<typeof createSession>[0],
  inputs: Record<string, Tensor>,
  adapter?: Adapter,
): Promise<Tensor> {
  const session = await createSession(model);
  opened.push(session);
  const outputs = await session.run(inputs, adapter === undefined ? {} : { adapter });
  return [...outputs.values()][0]!;
}

/** A drawn adapter for a model, of the ranks that `config` has. */
function adapterFor(model: Model, config: LoraConfig): Adapter {
  const adapted = attachLora(model, config);
  const tensors = new Map(adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)] as const));
  return { config: adapted.config!, tensors };
}

function largestDifference(a: Tensor, b: Tensor): number {
  expect(a.dims).toEqual(b.dims);
  const [x, y] = [a.data as Float32Array, b.data as Float32Array];
  return Math.max(...x.map((value, i) => Math.abs(value - y[i]!)));
}

const config: LoraConfig = { r: 2, loraAlpha: 5, useRslora: true, rankPattern: { fc2: 3 }, alphaPattern: { fc2: 4 } };

/** tokens [batch, 4] -> Embedding (6 x 3) -> Conv1d over the tokens (grouped) -> y. */
function mixed(): Model {
  const g = graphBuilder({ name: "mixed", opset: 18 });
  const ids = g.input("x", "int64", ["batch", 4]);
  const table = g.initializer("embed.weight", drawn("embed.weight", 6, 4));
  const rows = g.op("Gather", [table, ids], {}, { name: "/embed/Gather" });
  const weight = g.initializer("conv.weight", drawn("conv.weight", 4, 2, 3));
  const y = g.op("Conv", [rows, weight], { group: 2, pads: [1, 1] }, { name: "/conv/Conv", output: "y" });
  g.output(y, "float32", ["batch", 4, 4]);
  return createModel(g.build(), { opset: 18 });
}

describe("withAdapterInputs", () => {
  it.each(layerForms)("gives the adapted outputs for %s", async (form) => {
    for (const shape of form === "MatMul" ? (["2d", "3d"] as const) : (["2d"] as const)) {
      const base = twoLayers(form, shape);
      const adapter = adapterFor(base, config);
      const x = shape === "2d" ? drawn("x", 7, 3) : drawn("x", 2, 7, 3);
      const exported = readModel(writeModel(withAdapterInputs(base, config)));
      const fed = { x, ...Object.fromEntries(adapterParameters(adapter, { model: exported })) };
      const expected = await run(attachLora(base, config), { x }, adapter);
      expect(largestDifference(await run(exported, fed), expected)).toBeLessThan(1e-6);
      const off = { x, ...Object.fromEntries(adapterParameters(null, { model: exported })) };
      expect(await run(exported, off)).toEqual(await run(base, { x }));
    }
  });

  it("names its inputs as the files do, with a rank of any size", () => {
    const { graph } = withAdapterInputs(twoLayers(), config);
    expect(graph.inputs.map(({ name, type, shape }) => [name, type, shape])).toEqual([
      ["x", "float32", ["batch", 3]],
      ["fc1.lora_A.weight", "float32", [3, "rank_0"]],
      ["fc1.lora_B.weight", "float32", ["rank_0", 5]],
      ["fc2.lora_A.weight", "float32", [5, "rank_1"]],
      ["fc2.lora_B.weight", "float32", ["rank_1", 4]],
    ]);
    expect([...graph.initializers.keys()].some((name) => name.includes("lora"))).toBe(false);
  });

  it.each(["float16", "int8"] as const)("computes with %s inputs what the rounded adapter gives", async (dtype) => {
    const base = twoLayers();
    const adapter = adapterFor(base, { r: 2, loraAlpha: 4 });
    const exported = readModel(writeModel(withAdapterInputs(base, { r: 2, loraAlpha: 4 }, { dtype })));
    const parameters = adapterParameters(adapter, { model: exported });
    expect([...parameters.values()].map(({ type }) => type)).toContain(dtype);
    const x = drawn("x", 7, 3);
    const expected = await run(
      attachLora(base, { r: 2, loraAlpha: 4 }),
      { x },
      quantizeAdapter(adapter, dtype).adapter,
    );
    expect(largestDifference(await run(exported, { x, ...Object.fromEntries(parameters) }), expected)).toBeLessThan(
      1e-6,
    );
    const off = { x, ...Object.fromEntries(adapterParameters(null, { model: exported })) };
    expect(await run(exported, off)).toEqual(await run(base, { x }));
    // The file for this model, read back, is the rounded adapter with its scale in B.
    const read = readOnnxAdapter(writeOnnxAdapter(adapter, { model: exported }));
    expect(new Set(read.storage?.values())).toEqual(new Set([dtype]));
    expect(largestDifference(await run(attachLora(base, read.config), { x }, read), expected)).toBeLessThan(1e-6);
  });

  it("takes Embeddings and grouped Convs", async () => {
    const base = mixed();
    const both = { r: 4, loraAlpha: 6, targetModules: ["embed", "conv"] };
    const adapter = adapterFor(base, both);
    expect(modulesOf(adapter)).toHaveLength(2);
    const x = tensor("int64", [2, 4], BigInt64Array.of(0n, 5n, 2n, 1n, 3n, 3n, 4n, 0n));
    const expected = await run(attachLora(base, both), { x }, adapter);
    for (const [dtype, tolerance] of [
      ["float32", 1e-5],
      ["int8", 0.2],
    ] as const) {
      const exported = readModel(writeModel(withAdapterInputs(base, both, { dtype })));
      const fed = { x, ...Object.fromEntries(adapterParameters(adapter, { model: exported })) };
      expect(largestDifference(await run(exported, fed), expected)).toBeLessThan(tolerance);
      const off = { x, ...Object.fromEntries(adapterParameters(null, { model: exported })) };
      expect(await run(exported, off)).toEqual(await run(base, { x }));
    }
  });

  it("fills what the adapter leaves out, and refuses what the model lacks", () => {
    const base = twoLayers();
    const exported = withAdapterInputs(base, { r: 2 });
    const one = adapterFor(base, { r: 1, targetModules: ["fc2"] });
    const parameters = adapterParameters(one, { model: exported });
    expect([...parameters].map(([name, { dims }]) => [name, dims])).toEqual([
      ["fc2.lora_A.weight", [5, 1]],
      ["fc2.lora_B.weight", [1, 4]],
      ["fc1.lora_A.weight", [3, 0]],
      ["fc1.lora_B.weight", [0, 5]],
    ]);
    const narrow = withAdapterInputs(base, { r: 2, targetModules: ["fc1"] });
    expect(() => adapterParameters(one, { model: narrow })).toThrow("fc2.lora_A: the model has no input for it");
    expect(() => withAdapterInputs(exported, { r: 2 })).toThrow(LowrankError);
  });

  it("has empty defaults when its inputs are optional", () => {
    for (const dtype of ["float32", "float16", "bfloat16", "int8"] as const) {
      const { graph } = readModel(writeModel(withAdapterInputs(twoLayers(), { r: 2 }, { optional: true, dtype })));
      const own = graph.inputs.filter(({ name }) => name !== "x");
      expect(own).toHaveLength(dtype === "int8" ? 8 : 4);
      for (const { name, type, shape } of own) {
        const value = graph.initializers.get(name);
        expect([value?.type, value?.dims]).toEqual([type, shape?.map((dim) => (typeof dim === "number" ? dim : 0))]);
      }
    }
  });
});
