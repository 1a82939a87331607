import { describe, expect, it } from "vitest";
import { readAdapter } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { type Prediction, type PredictOptions, predict } from "./predict.ts";

async function all(...args: Parameters<typeof predict>): Promise<Prediction[]> {
  const found: Prediction[] = [];
  for await (const one of predict(...args)) found.push(one);
  return found;
}

describe("predict", () => {
  it("names the likeliest class with its probability, as PyTorch's logits have it with PEFT's adapter", async () => {
    const model = readModel(goldenFile("distilbert/base.onnx"), "distilbert");
    const { tensors } = readSafetensors(goldenFile("distilbert/tensors.safetensors"), "distilbert");
    const adapter = readAdapter({
      "adapter_config.json": goldenFile("distilbert/adapter/adapter_config.json"),
      "adapter_model.safetensors": goldenFile("distilbert/adapter/adapter_model.safetensors"),
    });
    const inputs = {
      input_ids: tensors.get("input.input_ids")!,
      attention_mask: tensors.get("input.attention_mask")!,
    };
    const labels = ["ham", "spam"];
    for (const [name, options] of [
      ["logits", { adapter, labels }],
      ["base.logits", { labels }],
    ] as [string, PredictOptions][]) {
      const found = await all(model, [inputs], options);
      const logits = Array.from(tensors.get(name)!.data as Float32Array);
      expect(found.map(({ index }) => index)).toEqual([0, 1]);
      for (const { index, label, probability, probabilities } of found) {
        const [ham, spam] = [logits[2 * index]!, logits[2 * index + 1]!];
        const share = 1 / (1 + Math.exp(ham - spam));
        expect(label).toBe(spam > ham ? "spam" : "ham");
        expect(probability).toBeCloseTo(Math.max(share, 1 - share), 4);
        expect(probabilities!.spam).toBeCloseTo(share, 4);
      }
    }
  });

  it("counts rows on over batches, numbers classes that have no name, and gives numbers where asked", async () => {
    const batches = [{ x: drawn("x", 2, 3) }, { x: drawn("z", 1, 3) }];
    const classes = await all(twoLayers(), batches);
    expect(classes.map(({ index, label }) => [index, typeof label])).toEqual([
      [0, "number"],
      [1, "number"],
      [2, "number"],
    ]);
    const numbers = await all(twoLayers(), batches, { kind: "numbers" });
    const values = numbers[2]!.value as readonly number[];
    expect(values).toHaveLength(4);
    expect(classes[2]!.label).toBe(values.indexOf(Math.max(...values)));
  });

  it("refuses names that are not one for each score, and an output that is not there", async () => {
    const batches = [{ x: drawn("x", 2, 3) }];
    await expect(all(twoLayers(), batches, { labels: ["one"] })).rejects.toThrow(/each of the 4 scores.*got 1/);
    await expect(all(twoLayers(), batches, { output: "q" })).rejects.toThrow(/no output "q"; it has y/);
  });
});

describe("labels that hold or not", () => {
  const batches = [{ x: drawn("x", 2, 3) }];
  const sigmoid = (score: number): number => 1 / (1 + Math.exp(-score));

  it("are given where they are likely enough, the likeliest first, each with a probability of its own", async () => {
    const numbers = await all(twoLayers(), batches, { kind: "numbers" });
    const names = ["a", "b", "c", "d"];
    for (const [threshold, options] of [
      [0.5, { kind: "labels", labels: names }],
      [0.3, { kind: "labels", labels: names, threshold: 0.3 }],
      [0.999, { kind: "labels", labels: names, threshold: 0.999 }],
    ] as [number, PredictOptions][]) {
      for (const [row, found] of (await all(twoLayers(), batches, options)).entries()) {
        const shares = (numbers[row]!.value as readonly number[]).map(sigmoid);
        const wanted = [...shares.keys()].filter((at) => shares[at]! >= threshold);
        expect(found.labels).toEqual(wanted.sort((a, b) => shares[b]! - shares[a]!).map((at) => names[at]));
        expect(found.probabilities).toEqual(Object.fromEntries(shares.map((share, at) => [names[at], share])));
        expect(found).not.toHaveProperty("label");
      }
    }
  });
});
