import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { attachLora } from "./attach.ts";
import { attachAll, currentWeights, withWeights } from "./full.ts";
import { bits, drawn, snapshot, twoLayers } from "./testing/models.ts";

describe("attachAll", () => {
  it("makes every weight an input, and keeps the rest", () => {
    const model = twoLayers();
    const adapted = attachAll(model);
    expect(adapted.parameters).toEqual([
      { key: "fc1.weight", type: "float32", dims: [5, 3], graphDims: [5, 3] },
      { key: "fc1.bias", type: "float32", dims: [5], graphDims: [5] },
      { key: "fc2.weight", type: "float32", dims: [4, 5], graphDims: [4, 5] },
      { key: "fc2.bias", type: "float32", dims: [4], graphDims: [4] },
    ]);
    expect(adapted.model.graph.inputs.map(({ name }) => name)).toEqual([
      "x",
      "fc1.weight",
      "fc1.bias",
      "fc2.weight",
      "fc2.bias",
    ]);
    expect(adapted.model.graph.initializers.size).toBe(0);
    expect(adapted.model.graph.nodes).toBe(model.graph.nodes);
    expect(adapted.config).toBeNull();
    expect(adapted.sites).toEqual([]);
  });

  it("runs as the base does when it is given the base's weights", async () => {
    const model = twoLayers("MatMul", "3d");
    const adapted = attachAll(model);
    const x = drawn("x", 2, 3, 3);
    const [base, full] = await Promise.all([openSession(model), openSession(adapted.model)]);
    const expected = (await base.run(new Map([["x", x]]))).get("y")!;
    const actual = (await full.run(new Map([...currentWeights(adapted), ["x", x]]))).get("y")!;
    expect(actual.dims).toEqual([2, 3, 4]);
    for (const [index, value] of [...expected.data].entries()) expect(actual.data[index]).toBeCloseTo(Number(value), 6);
    await Promise.all([base.dispose(), full.dispose()]);
  });

  it("leaves out scalars, integers and running statistics", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", ["n", 2]);
    const statistics = ["scale", "shift", "mean", "variance"].map((name) => g.initializer(name, zeros([2])));
    const y = g.op("Mul", [g.op("BatchNormalization", [x, ...statistics]), g.constant("float32", 2)]);
    g.output(g.op("Reshape", [y, g.constant("int64", [-1])]), "float32");
    const adapted = attachAll(createModel(g.build(), { opset: 17 }));
    expect(adapted.parameters.map(({ key }) => key)).toEqual(["scale", "shift"]);
    expect([...adapted.model.graph.initializers.keys()]).toEqual(["mean", "variance", "const", "const_1"]);
  });

  it("lists an initializer that was an input already only once", () => {
    const model = twoLayers();
    const { graph } = model;
    const listed = { name: "fc1.weight", type: "float32", shape: [5, 3], doc: "" } as const;
    const older: Model = { ...model, graph: { ...graph, inputs: [...graph.inputs, listed] } };
    const inputs = attachAll(older).model.graph.inputs.map(({ name }) => name);
    expect(inputs).toEqual(["x", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
  });

  it("never changes the model that it is given", () => {
    const model = readModel(goldenFile("reg/model.onnx"));
    const before = snapshot(model);
    const adapted = attachAll(model);
    const tensors = new Map([...currentWeights(adapted)].map(([name, { dims }]) => [name, zeros(dims)]));
    withWeights(model, tensors);
    expect(snapshot(model)).toEqual(before);
  });
});

describe("currentWeights and withWeights", () => {
  it("give a model back as it was", () => {
    const model = readModel(goldenFile("mlp/model.onnx"));
    expect(withWeights(model, currentWeights(attachAll(model)))).toEqual(model);
  });

  it("put other values in, and leave the rest", () => {
    const model = twoLayers();
    const bias = drawn("new", 5);
    const changed = withWeights(model, new Map([["fc1.bias", bias]]));
    const weights = currentWeights(attachAll(changed));
    expect(bits(weights.get("fc1.bias")!)).toEqual(bits(bias));
    expect(changed.graph.initializers.get("fc1.weight")).toBe(model.graph.initializers.get("fc1.weight"));
  });

  it("list everything that does not fit", () => {
    const tensors = new Map<string, Tensor>([
      ["fc1.bias", zeros([4])],
      ["nothing", zeros([1])],
      ["fc2.bias", tensor("float64", [4], new Float64Array(4))],
      ["fc2.weight", zeros([4, 5])],
    ]);
    expect(() => withWeights(twoLayers(), tensors)).toThrow(
      expect.objectContaining({
        code: "model",
        faults: [
          "fc1.bias: expected float32 [5], got float32 [4]",
          "nothing: the model has no such weight",
          "fc2.bias: expected float32 [4], got float64 [4]",
        ],
      }),
    );
  });

  it("have no weights of a model that was adapted with LoRA", () => {
    expect(() => currentWeights(attachLora(twoLayers()))).toThrow(/adapted with LoRA; use attachAll/);
  });
});
