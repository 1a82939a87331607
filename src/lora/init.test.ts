import { describe, expect, it } from "vitest";
import type { Tensor } from "../tensor.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { LoraConfig } from "./config.ts";
import { attachAll } from "./full.ts";
import { disabledTensors, type InitOptions, initAdapter } from "./init.ts";
import { adapterKeys } from "./keys.ts";
import { bits, stack, twoLayers } from "./testing/models.ts";

function tensorsOf(adapted: AdaptedModel, options?: InitOptions): ReadonlyMap<string, Tensor> {
  return initAdapter(adapted, options).adapter.tensors;
}

/** A of a 4 -> 4 layer at a rank so high that its statistics are sharp. */
function largeA(config: LoraConfig, options?: InitOptions): Float32Array {
  const adapted = attachLora(stack(["a"]), { r: 10_000, ...config });
  return tensorsOf(adapted, options).get(adapterKeys("a").a)!.data as Float32Array;
}

function statistics(values: Float32Array): { mean: number; deviation: number; largest: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return {
    mean,
    deviation: Math.sqrt(square),
    largest: values.reduce((most, value) => Math.max(most, Math.abs(value)), 0),
  };
}

describe("A", () => {
  // 40,000 values: the mean is within 4 deviations / 200, the deviation within 4 / sqrt(80,000).
  it("is uniform in +-1/sqrt(in) by default", () => {
    const { mean, deviation, largest } = statistics(largeA({}));
    expect(Math.abs(mean)).toBeLessThan(0.02 * 0.289);
    expect(deviation).toBeCloseTo(0.5 / Math.sqrt(3), 2); // 1/sqrt(4) = 0.5
    expect(largest).toBeLessThanOrEqual(0.5);
    expect(largest).toBeGreaterThan(0.499);
  });

  it("is N(0, (1/r)^2) when it is gaussian", () => {
    const { mean, deviation } = statistics(largeA({ initLoraWeights: "gaussian" }));
    expect(Math.abs(mean)).toBeLessThan(0.02 * 1e-4);
    expect(Math.abs(deviation * 10_000 - 1)).toBeLessThan(0.015);
  });

  it("is N(0, 1) when it is normal, as in the study", () => {
    const values = largeA({}, { method: "normal" });
    const { mean, deviation } = statistics(values);
    expect(Math.abs(mean)).toBeLessThan(0.02);
    expect(Math.abs(deviation - 1)).toBeLessThan(0.015);
    // The share within one deviation tells a normal distribution from others of the same moments.
    expect(values.filter((value) => Math.abs(value) < 1).length / values.length).toBeCloseTo(0.683, 1);
  });

  it("is of each site's own rank", () => {
    const adapted = attachLora(twoLayers(), { r: 2, rankPattern: { fc2: 3 } });
    expect([...tensorsOf(adapted)].map(([key, { type, dims }]) => [key, type, dims])).toEqual([
      [adapterKeys("fc1").a, "float32", [2, 3]],
      [adapterKeys("fc1").b, "float32", [5, 2]],
      [adapterKeys("fc2").a, "float32", [3, 5]],
      [adapterKeys("fc2").b, "float32", [4, 3]],
    ]);
  });
});

describe("B", () => {
  it("is zero, whatever A is", () => {
    const adapted = attachLora(twoLayers());
    for (const method of [true, "gaussian", "normal"] as const) {
      for (const { b } of adapted.sites)
        expect(new Set(bits(tensorsOf(adapted, { method }).get(b)!))).toEqual(new Set([0]));
    }
  });
});

describe("the seed", () => {
  const adapted = attachLora(twoLayers());
  const { a } = adapterKeys("fc1");

  it("decides all values", () => {
    const all = (options?: InitOptions) => [...tensorsOf(adapted, options)].map(([key, value]) => [key, bits(value)]);
    expect(all({ seed: 5 })).toEqual(all({ seed: 5 }));
    expect(all()).toEqual(all({ seed: 0 }));
    expect(all({ seed: 5 })).not.toEqual(all({ seed: 6 }));
  });

  it("gives each module its own values, whatever else is targeted", () => {
    const alone = attachLora(twoLayers(), { targetModules: ["fc2"] });
    const key = adapterKeys("fc2").a;
    expect(bits(tensorsOf(alone).get(key)!)).toEqual(bits(tensorsOf(adapted).get(key)!));
    expect(bits(tensorsOf(adapted).get(a)!).slice(0, 15)).not.toEqual(bits(tensorsOf(adapted).get(key)!).slice(0, 15));
  });

  it("makes new arrays each time", () => {
    const first = tensorsOf(adapted).get(a)!;
    first.data[0] = 99;
    expect(tensorsOf(adapted).get(a)!.data[0]).not.toBe(99);
  });
});

describe("initAdapter", () => {
  it("gives the configuration along, and the model as it is", () => {
    const adapted = attachLora(twoLayers(), { r: 2, loraAlpha: 3, taskType: "SEQ_CLS" });
    const made = initAdapter(adapted);
    expect(made.adapted).toBe(adapted);
    expect(made.adapter.config).toBe(adapted.config);
    expect(made.adapter.config).toMatchObject({ r: 2, loraAlpha: 3, taskType: "SEQ_CLS" });
  });

  it("refuses a model without branches, and methods that it does not have", () => {
    expect(() => initAdapter(attachAll(twoLayers()))).toThrow(/no LoRA branches; use attachLora/);
    const adapted = attachLora(twoLayers(), { initLoraWeights: "kaiming" });
    expect(() => initAdapter(adapted)).toThrow(/initLoraWeights: expected true, false, "gaussian".*, got "kaiming"/);
    expect(() => initAdapter(adapted, { method: "eva" as "olora" })).toThrow(/call initEva\(adapted, batches\)/);
  });
});

describe("disabledTensors", () => {
  it("are of rank 0", () => {
    const shapes = [...disabledTensors(attachLora(twoLayers()))].map(([key, { dims, data }]) => [
      key,
      dims,
      data.length,
    ]);
    expect(shapes).toEqual([
      [adapterKeys("fc1").a, [0, 3], 0],
      [adapterKeys("fc1").b, [5, 0], 0],
      [adapterKeys("fc2").a, [0, 5], 0],
      [adapterKeys("fc2").b, [4, 0], 0],
    ]);
  });
});
