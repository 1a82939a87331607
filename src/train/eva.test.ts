// EVA against PEFT's components and ranks (test/fixtures/lora/eva.json).
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { floats, gap, type Named, peftFixture, peftNetwork, type Values } from "../lora/testing/peft.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { initEva } from "./eva.ts";

interface Case {
  readonly options: { readonly rho: number; readonly whiten?: boolean; readonly adjust_scaling_factors?: boolean };
  readonly rank: Readonly<Record<string, number>>;
  readonly alpha: Readonly<Record<string, number>>;
  readonly targets: string[];
  readonly start: Named;
}

const { weights, batches, cases } = peftFixture<{ batches: Values[]; cases: Case[] }>("eva");
const samples = batches.map((values) => ({ inputs: { x: floats(values) } }));
const config = { r: 2, loraAlpha: 4, targetModules: ["fc1", "fc2", "fc3"] };

describe("initEva", () => {
  it.each(cases.map((one) => [JSON.stringify(one.options), one] as const))("finds PEFT's: %s", async (_name, one) => {
    const { rho, whiten = false, adjust_scaling_factors: adjustScalingFactors = true } = one.options;
    const base = peftNetwork(weights);
    const { adapted, adapter } = await initEva(attachLora(base, config), samples, {
      rho,
      whiten,
      adjustScalingFactors,
    });
    expect(adapter.config.rankPattern).toEqual(one.rank);
    expect(adapter.config.alphaPattern).toEqual(one.alpha);
    expect(adapter.config.initLoraWeights).toBe("eva");
    expect(adapted.sites.map(({ site }) => site.modulePath).sort()).toEqual(one.targets);
    expect([...adapter.tensors.keys()].map((key) => key.replace("base_model.model.", "")).sort()).toEqual(
      Object.keys(one.start)
        .map((key) => key.replace("base_model.model.", ""))
        .sort(),
    );
    for (const [key, values] of Object.entries(one.start))
      expect(gap(adapter.tensors.get(key), values)).toBeLessThan(2e-5);
    expect(adapted.base).toBe(base);
  });

  /** x [batch, tokens, 3] through two layers that read the same. */
  function twins(): ReturnType<typeof createModel> {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", "tokens", 3]);
    g.input("attention_mask", "int64", ["batch", "tokens"]);
    const layer = (name: string) =>
      g.op(
        "MatMul",
        [x, g.initializer(`${name}.weight`, tensor("float32", [3, 4], new Float32Array(12).fill(1)))],
        {},
        { name: `/${name}/MatMul` },
      );
    g.output(g.op("Add", [layer("q"), layer("v")], {}, { output: "y" }), "float32", ["batch", "tokens", 4]);
    return createModel(g.build(), { opset: 18 });
  }

  it("leaves out hidden tokens and labels of -100, and gives layers of the same inputs the same directions", async () => {
    // Along the first axis in what counts, along the second in what does not.
    const x = tensor(
      "float32",
      [2, 4, 3],
      Float32Array.from({ length: 24 }, (_, i) => {
        const token = Math.floor(i / 3) % 4;
        const along = token < 2 ? 0 : 1;
        return i % 3 === along ? (token % 2 === 0 ? 1 : -1) * (along === 0 ? 1 + Math.floor(i / 12) : 50) : 0;
      }),
    );
    const mask = tensor("int64", [2, 4], BigInt64Array.of(1n, 1n, 0n, 1n, 1n, 1n, 0n, 1n));
    const labels = tensor("int64", [2, 4], BigInt64Array.of(5n, 5n, 5n, -100n, 5n, 5n, 5n, -100n));
    const sample = { inputs: { x, attention_mask: mask as Tensor }, labels };
    const { adapter } = await initEva(attachLora(twins(), { r: 1 }), [sample], { rho: 1 });
    for (const [key, { data }] of adapter.tensors) {
      if (key.includes("lora_A"))
        expect(Array.from(data as Float32Array, (value) => Math.round(value * 1e6) / 1e6 + 0)).toEqual([1, 0, 0]);
      else expect(new Set(data as Float32Array)).toEqual(new Set([0]));
    }
    const unmasked = await initEva(attachLora(twins(), { r: 1 }), [sample], { rho: 1, useLabelMask: false });
    expect(Math.abs(Number(unmasked.adapter.tensors.values().next().value!.data[1]))).toBeGreaterThan(0.99);
  });

  it("says what is wrong", async () => {
    const adapted = attachLora(peftNetwork(weights), config);
    await expect(initEva(adapted, [])).rejects.toThrow("initEva: expected batches, got none");
    await expect(initEva(adapted, samples, { rho: 0.5, tau: 2 })).rejects.toThrow(/2 faults[\s\S]*rho[\s\S]*tau/);
    await expect(initEva(adapted, samples, { rho: 5 })).rejects.toThrow(
      "fc1: 10 components of 6 features; lower r or rho",
    );
    const few = [{ inputs: { x: tensor("float32", [3, 6], new Float32Array(18)) } }];
    await expect(initEva(adapted, few)).rejects.toThrow("fc1: expected batches of at least 4 rows");
  });
});
