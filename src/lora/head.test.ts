import { describe, expect, it } from "vitest";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import { LowrankError } from "../errors.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { attachLora } from "./attach.ts";
import { labelsOfModel, withHead } from "./head.ts";
import { initAdapter } from "./init.ts";
import { twoLayers } from "./testing/models.ts";

/** ids [batch, tokens] -> rows of a table [batch, tokens, 3]; with a mask among the inputs, or without. */
function encoder(hasMask = true): Model {
  const g = graphBuilder({ opset: 18 });
  const ids = g.input("input_ids", "int64", ["batch", "tokens"]);
  if (hasMask) g.input("attention_mask", "int64", ["batch", "tokens"]);
  const table = Float32Array.from({ length: 30 }, (_, index) => index);
  const rows = g.op("Gather", [g.initializer("table", tensor("float32", [10, 3], table)), ids]);
  g.output(g.op("Tanh", [g.op("Mul", [rows, g.constant("float32", 0.01)])], {}, { output: "hidden" }), "float32", [
    "batch",
    "tokens",
    3,
  ]);
  return createModel(g.build(), { opset: 18 });
}

const int64 = (dims: number[], ...values: number[]): Tensor =>
  tensor("int64", dims, BigInt64Array.from(values, BigInt));

async function run(model: Model, feeds: Record<string, Tensor>, name: string): Promise<Float32Array> {
  const session = await openSession(model, { threads: 1 });
  try {
    return (await session.run(new Map(Object.entries(feeds)), [name])).get(name)!.data as Float32Array;
  } finally {
    await session.dispose();
  }
}

/** w features + b, with the head's own weights. */
function applied(model: Model, features: readonly number[]): number[] {
  const stored = model.graph.initializers.get("classifier.weight")!;
  const weight = new Float32Array(stored.bytes.slice().buffer);
  const width = features.length;
  return Array.from({ length: stored.dims[0]! }, (_, label) =>
    features.reduce((sum, value, index) => sum + value * weight[label * width + index]!, 0),
  );
}

const row = (id: number): number[] => [0, 1, 2].map((index) => Math.tanh(0.01 * (3 * id + index)));

describe("withHead", () => {
  const ids = int64([2, 3], 4, 7, 1, 2, 9, 5);
  const mask = int64([2, 3], 1, 1, 0, 0, 1, 1); // padding on the right, and on the left

  it.each([
    ["cls", [row(4), row(2)]],
    ["mean", [row(4).map((value, i) => (value + row(7)[i]!) / 2), row(9).map((value, i) => (value + row(5)[i]!) / 2)]],
    ["last", [row(7), row(5)]],
  ] as const)("reads a sequence by %s, and no padding", async (pooling, expected) => {
    const model = withHead(encoder(), { labels: 4, pooling });
    const logits = await run(model, { input_ids: ids, attention_mask: mask }, "logits");
    expect(logits).toHaveLength(8);
    const wanted = expected.flatMap((features) => applied(model, features));
    logits.forEach((value, index) => {
      expect(value).toBeCloseTo(wanted[index]!, 6);
    });
  });

  it.each([
    ["mean", row(4).map((value, i) => (value + row(7)[i]! + row(1)[i]!) / 3)],
    ["last", row(1)],
  ] as const)("takes all tokens where there is no mask: %s", async (pooling, features) => {
    const model = withHead(encoder(false), { labels: ["a", "b"], pooling });
    const logits = await run(model, { input_ids: ids }, "logits");
    applied(model, features).forEach((value, index) => {
      expect(logits[index]).toBeCloseTo(value, 6);
    });
  });

  it.each(["Gemm out,in", "Gemm in,out", "MatMul"] as const)("replaces a head for other labels: %s", (form) => {
    const model = withHead(twoLayers(form), { labels: 7 });
    expect(sites(model).map(({ modulePath, outFeatures }) => [modulePath, outFeatures])).toEqual([
      ["fc1", 5],
      ["classifier", 7],
    ]);
    expect(model.graph.outputs).toEqual([{ name: "logits", type: "float32", shape: ["batch", 7], doc: "" }]);
    expect([...model.graph.initializers.keys()].some((name) => name.startsWith("fc2"))).toBe(false);
  });

  it("averages an image's features", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 2, "height", "width"]);
    g.output(g.op("Relu", [x], {}, { output: "features" }), "float32", ["batch", 2, "height", "width"]);
    const model = withHead(createModel(g.build(), { opset: 18 }), { labels: 2 });
    const logits = await run(model, { x: tensor("float32", [1, 2, 1, 2], Float32Array.of(1, 3, -1, 4)) }, "logits");
    applied(model, [2, 2]).forEach((value, index) => {
      expect(logits[index]).toBeCloseTo(value, 6);
    });
  });

  it("keeps the label names, draws by the seed, and leaves the model that it was given", () => {
    const base = encoder();
    const before = base.graph.nodes.length;
    const model = withHead(base, { labels: ["ham", "spam"] });
    expect(labelsOfModel(model)).toEqual(["ham", "spam"]);
    expect(labelsOfModel(base)).toBeNull();
    expect(base.graph.nodes).toHaveLength(before);
    const weights = (seed: number) =>
      withHead(base, { labels: 2, seed }).graph.initializers.get("classifier.weight")!.bytes;
    expect(weights(1)).toEqual(weights(1));
    expect(weights(1)).not.toEqual(weights(2));
  });

  it("is saved whole with an adapter, and with its label names", () => {
    const model = withHead(twoLayers(), { labels: ["ham", "spam", "rest"] });
    const adapted = attachLora(model, { r: 2, targetModules: ["fc1"], modulesToSave: ["classifier"] });
    const { adapter } = initAdapter(adapted);
    const files = writeAdapter(adapter);
    expect([...files.keys()]).toEqual(["adapter_config.json", "adapter_model.safetensors", "labels.json"]);
    const read = readAdapter(files);
    expect(read.labels).toEqual(["ham", "spam", "rest"]);
    expect([...read.tensors].map(([key, { dims }]) => [key, dims])).toEqual([
      ["base_model.model.classifier.bias", [3]],
      ["base_model.model.classifier.weight", [3, 5]],
      ["base_model.model.fc1.lora_A.weight", [2, 3]],
      ["base_model.model.fc1.lora_B.weight", [5, 2]],
    ]);
    const broken = new Map([...files, ["labels.json", new TextEncoder().encode("{}")]]);
    expect(() => readAdapter(broken)).toThrow(/labels\.json: expected a JSON list of names/);
  });

  it.each([
    [{ labels: 1 }, "config", "head: expected 2 labels or more, got 1"],
    [{ labels: ["a", "a"] }, "config", 'head: expected labels that are all different, got \\["a","a"\\]'],
    [{ labels: 2, output: "nothing" }, "config", 'head: the model has no output "nothing"; it has hidden'],
    [
      { labels: 2, mask: "nothing" },
      "config",
      /^head: the model has no input "nothing"; it has input_ids, attention_mask$/,
    ],
  ])("refuses %o", (options, code, message) => {
    expect(() => withHead(encoder(), options)).toThrow(LowrankError);
    expect(() => withHead(encoder(), options)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});
