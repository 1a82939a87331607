import { expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { initAdapter } from "../lora/init.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { withoutZipMaps } from "../onnx/zip-map.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { meanSquaredError } from "./losses.ts";
import { support } from "./support.ts";
import { valueAndGrad } from "./value-and-grad.ts";

/** x W, softmax, and both outputs of a classifier as skl2onnx writes them. */
function classifier(): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("X", "float32", [null, 2]);
  const w = g.initializer("coefficient", tensor("float32", [2, 3], Float32Array.of(1, 0, -1, 0.5, 2, 0)));
  const p = g.op("Softmax", [g.op("MatMul", [x, w], {}, { name: "MatMul" })], { axis: 1 });
  g.output(g.op("ArgMax", [p], { axis: 1, keepdims: 0 }, { output: "output_label" }), "int64", [null]);
  g.op("ZipMap", [p], {}, { domain: "ai.onnx.ml", output: "output_probability" });
  const { graph, ...model } = createModel(g.build(), { opset: 18 });
  const map = { name: "output_probability", type: undefined, shape: undefined, doc: "" };
  return {
    ...model,
    opsets: new Map([...model.opsets, ["ai.onnx.ml", 1]]),
    graph: { ...graph, outputs: [...graph.outputs, map] },
  };
}

const inputs = { X: tensor("float32", [1, 2], Float32Array.of(1, 2)) };
/** softmax of [2, 4, -1] */
const probabilities = [0.1185, 0.8756, 0.0059];

it("a model without maps stays as it is", () => {
  const { graph, ...rest } = classifier();
  const plain = { ...rest, graph: { ...graph, outputs: graph.outputs.slice(0, 1) } };
  expect(withoutZipMaps(plain)).toBe(plain);
});

it("probabilities that are handed out as maps are read, and trained on", async () => {
  const model = classifier();
  const session = await createSession(model, { threads: 1 });
  const read = await session.run(inputs);
  await session.dispose();
  const values = [...(read.get("output_probability")!.data as Float32Array)];
  for (const [at, value] of probabilities.entries()) expect(values[at]).toBeCloseTo(value, 4);

  const config = { r: 1, targetModules: ["coefficient"] };
  expect(support(model, config, { output: "output_probability" }).verdict.trainable).toBe(true);
  const adapted = attachLora(model, config);
  expect(adapted.base).toBe(model);
  const labels = tensor("float32", [1, 3], Float32Array.of(0, 1, 0));
  const loss = meanSquaredError({ output: "output_probability" });
  const result = await valueAndGrad(adapted, initAdapter(adapted).adapter, { inputs, labels }, loss, { threads: 1 });
  await adapted.dispose();
  expect(result.loss).toBeCloseTo((0.1185 ** 2 + 0.1244 ** 2 + 0.0059 ** 2) / 3, 4);
});
