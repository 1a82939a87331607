import { describe, expect, it } from "vitest";
import { readAdapter } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import { attachLora } from "../lora/attach.ts";
import { type Adapter, resolveConfig } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import { causalLm, crossEntropy, meanSquaredError } from "../train/losses.ts";
import type { Batch } from "../train/step.ts";
import { evaluateAdapters } from "./evaluate.ts";

function adapterOn(path: "fc1" | "fc2", inFeatures: number, outFeatures: number, name: string): Adapter {
  const { a, b } = adapterKeys(path);
  return {
    config: resolveConfig({ r: 2, loraAlpha: 4, targetModules: [path] }),
    tensors: new Map([
      [a, drawn(name + a, 2, inFeatures)],
      [b, drawn(name + b, outFeatures, 2)],
    ]),
  };
}

const batches: Batch[] = [0, 1, 2].map((at) => ({
  inputs: { x: drawn(`x${at}`, at + 2, 3) },
  labels: tensor(
    "int64",
    [at + 2],
    BigInt64Array.from({ length: at + 2 }, (_, row) => (row === 1 ? -100n : BigInt((row + at) % 4))),
  ),
}));

describe("evaluateAdapters", () => {
  const adapters = [
    { name: "one", adapter: adapterOn("fc1", 3, 5, "one") },
    { name: "two", adapter: adapterOn("fc2", 5, 4, "two") },
  ];

  it("measures base and adapters as each alone would be, over batches of different sizes", async () => {
    const model = twoLayers();
    const seen: number[] = [];
    const { results, changes, examples, kind } = await evaluateAdapters(model, adapters, batches, {
      loss: crossEntropy(),
      onBatch: (count) => seen.push(count),
    });
    expect([examples, kind, seen]).toEqual([9, "classes", [2, 5, 9]]);
    expect(results.map(({ name }) => name)).toEqual(["base", "one", "two"]);
    const predictions: number[][] = [];
    for (const [at, result] of results.entries()) {
      const adapter = at === 0 ? null : adapters[at - 1]!.adapter;
      const session = await createSession(attachLora(model, { targetModules: ["fc1", "fc2"] }));
      let [sum, count, right] = [0, 0, 0];
      const chosen: number[] = [];
      const confusion = Array.from({ length: 4 }, () => [0, 0, 0, 0]);
      for (const { inputs, labels } of batches) {
        const y = (await session.run(inputs, { adapter })).get("y")!;
        for (let row = 0; row < labels.data.length; row++) {
          const scores = Array.from(y.data.slice(4 * row, 4 * row + 4), Number);
          const best = scores.indexOf(Math.max(...scores));
          chosen.push(best);
          const label = Number(labels.data[row]);
          if (label === -100) continue;
          sum += Math.log(scores.reduce((total, score) => total + Math.exp(score), 0)) - scores[label]!;
          count++;
          if (best === label) right++;
          confusion[label]![best]!++;
        }
      }
      await session.dispose();
      predictions.push(chosen);
      expect(result.loss).toBeCloseTo(sum / count, 5);
      expect(result.accuracy).toBeCloseTo(right / count, 12);
      expect(result.confusion).toEqual(confusion);
      const labels = batches.flatMap((batch) => Array.from(batch.labels.data as BigInt64Array, Number));
      const wrong = chosen.flatMap((read, index) =>
        labels[index] === -100 || labels[index] === read ? [] : [{ index, label: labels[index]!, read }],
      );
      expect(result.wrong).toEqual(wrong);
      expect(result.classes!.reduce((total, one) => total + one.examples, 0)).toBe(6);
    }
    const [before, after] = [predictions[0]!, predictions[1]!];
    expect(changes[0]!.changed).toBe(before.filter((value, at) => value !== after[at]).length);
    for (const { index, base: from, adapter: to } of changes[0]!.examples) {
      expect([from, to]).toEqual([before[index], after[index]]);
    }
  });

  it("gives PyTorch's loss of a decoder with PEFT's adapter, and its perplexity", async () => {
    const model = readModel(goldenFile("gpt2/base.onnx"), "gpt2");
    const { tensors } = readSafetensors(goldenFile("gpt2/tensors.safetensors"), "gpt2");
    const adapter = readAdapter({
      "adapter_config.json": goldenFile("gpt2/adapter/adapter_config.json"),
      "adapter_model.safetensors": goldenFile("gpt2/adapter/adapter_model.safetensors"),
    });
    const batch = { inputs: { input_ids: tensors.get("input.input_ids")! }, labels: tensors.get("labels")! };
    const { results, kind } = await evaluateAdapters(model, [{ name: "peft", adapter }], [batch], { loss: causalLm() });
    expect(kind).toBe("language");
    expect(results[1]!.loss).toBeCloseTo(Number(tensors.get("loss")!.data[0]), 4);
    expect(results[1]!.perplexity).toBeCloseTo(Math.exp(results[1]!.loss), 10);
    expect(results[0]!.loss).not.toBeCloseTo(results[1]!.loss, 4);
  });

  it("measures numbers, and the base alone", async () => {
    const labels = drawn("t", 4, 4);
    const { results, changes } = await evaluateAdapters(
      twoLayers(),
      [],
      [{ inputs: { x: drawn("x", 4, 3) }, labels }],
      {
        loss: meanSquaredError(),
      },
    );
    const session = await createSession(twoLayers());
    const y = (await session.run({ x: drawn("x", 4, 3) })).get("y")!;
    await session.dispose();
    const off = Array.from(labels.data as Float32Array, (label, at) => Number(y.data[at]) - label);
    expect(results).toHaveLength(1);
    expect(results[0]!.loss).toBeCloseTo(off.reduce((sum, value) => sum + value * value, 0) / 16, 5);
    expect(results[0]!.meanAbsoluteError).toBeCloseTo(off.reduce((sum, value) => sum + Math.abs(value), 0) / 16, 6);
    expect(changes).toEqual([]);
  });

  it("refuses labels that are no classes, an adapter of another model, and no data", async () => {
    const bad = [{ inputs: { x: drawn("x", 1, 3) }, labels: tensor("int64", [1], BigInt64Array.of(7n)) }];
    await expect(evaluateAdapters(twoLayers(), [], bad, { loss: crossEntropy() })).rejects.toThrow(
      /expected 0 to 3.*got 7/,
    );
    const misfit = [{ name: "bad", adapter: adapterOn("fc1", 4, 5, "bad") }];
    await expect(evaluateAdapters(twoLayers(), misfit, batches, { loss: crossEntropy() })).rejects.toThrow(/fc1/);
    await expect(evaluateAdapters(twoLayers(), [], [], { loss: crossEntropy() })).rejects.toThrow(
      /expected an example/,
    );
  });
});
