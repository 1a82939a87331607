import { describe, expect, it } from "vitest";
import { twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { tensor } from "../tensor.ts";
import { support } from "./support.ts";

/** ids -> table -> below -> two nodes that nothing is known of -> above -> y; the layers are [4, 4]. */
function withObstacle(): Model {
  const g = graphBuilder({ name: "obstacle", opset: 18 });
  const ids = g.input("ids", "int64", ["rows"]);
  const matrix = (name: string, rows = 4) =>
    g.initializer(`${name}.weight`, tensor("float32", [rows, 4], new Float32Array(4 * rows).fill(0.1)));
  const layer = (x: string, name: string) => g.op("MatMul", [x, matrix(name)], {}, { name: `/${name}/MatMul` });
  const embedded = g.op("Gather", [matrix("table", 9), ids], {}, { name: "/table/Gather" });
  const below = layer(embedded, "below");
  const other = (x: string, name: string) => g.op("Riddle", [x], {}, { name, domain: "test" });
  const between = other(other(below, "first"), "second");
  g.output(g.op("Identity", [layer(between, "above")], {}, { output: "y" }), "float32", ["rows", 4]);
  const model = createModel(g.build(), { opset: 18 });
  // Stated, as exporters state it: the walk must know ranks behind an operator that it does not know.
  const stated = [between].map((name) => ({ name, type: "float32" as const, shape: ["rows", 4], doc: "" }));
  return { ...model, opsets: new Map([...model.opsets, ["test", 1]]), graph: { ...model.graph, values: stated } };
}

describe("what a model offers", () => {
  it("counts weights that ConstantOfShape makes, once each", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["rows", 4]);
    const weight = g.op("ConstantOfShape", [g.constant("int64", [4, 4])]);
    const bias = g.op("ConstantOfShape", [g.constant("int64", [4])]);
    const gemm = (h: string, name: string) => g.op("Gemm", [h, weight, bias], {}, { name: `/${name}/Gemm` });
    g.output(gemm(gemm(x, "first"), "second"), "float32", ["rows", 4]);
    expect(support(createModel(g.build(), { opset: 18 })).parameters).toBe(20);
  });

  it("its inputs, outputs, operators and sites", () => {
    const { verdict, ...about } = support(withObstacle()) as ReturnType<typeof support> & { verdict?: undefined };
    expect(verdict).toBeUndefined();
    expect(about).toMatchObject({
      opset: 18,
      producer: "lowrank",
      parameters: 9 * 4 + 2 * 16,
      inputs: [{ name: "ids", type: "int64", shape: ["rows"] }],
      outputs: [{ name: "y", type: "float32", shape: ["rows", 4] }],
      operators: [
        { operator: "MatMul", count: 2, gradient: "rule" },
        { operator: "test.Riddle", count: 2, gradient: "none" },
        { operator: "Gather", count: 1, gradient: "rule" },
        { operator: "Identity", count: 1, gradient: "rule" },
      ],
    });
    const linear = about.sites.filter(({ kind }) => kind === "Linear");
    expect(linear).toEqual([
      { modulePath: "below", kind: "Linear", operator: "MatMul", shape: [4, 4], parameters: 16, foldedNorm: false },
      { modulePath: "above", kind: "Linear", operator: "MatMul", shape: [4, 4], parameters: 16, foldedNorm: false },
    ]);
  });

  it("tells of older forms what they are rewritten in: Upsample is Resize now", () => {
    const g = graphBuilder({ opset: 9 });
    const x = g.input("x", "float32", [1, 1, 2, 2]);
    const scales = g.initializer("scales", tensor("float32", [4], Float32Array.of(1, 1, 2, 2)));
    g.output(g.op("Upsample", [x, scales], {}, { output: "y" }), "float32", [1, 1, 4, 4]);
    expect(support(createModel(g.build(), { opset: 9 })).operators).toEqual([
      { operator: "Upsample", count: 1, gradient: "lowered" },
    ]);
  });

  it("as plain data: JSON gives it back", () => {
    const all = support(withObstacle(), { targetModules: ["below"] });
    expect(JSON.parse(JSON.stringify(all))).toEqual(all);
  });

  it("counts weight and bias of a layer", () => {
    const { sites } = support(readModel(goldenFile("mlp/model.onnx")));
    expect(sites.map(({ modulePath, parameters }) => [modulePath, parameters])).toEqual([
      ["fc1", 336],
      ["fc2", 408],
      ["fc3", 125],
    ]);
  });
});

describe("the verdict", () => {
  it("trainable, with what would be trained", () => {
    const { verdict } = support(withObstacle(), { r: 2, targetModules: ["above"] });
    expect(verdict).toEqual({ trainable: true, targets: ["above"], parameters: 16, obstacles: [], faults: [] });
  });

  it("every operator in the way, with all of its nodes, in the trainer's own words", () => {
    const { verdict } = support(withObstacle(), { r: 2, targetModules: ["below", "above"] });
    expect(verdict).toMatchObject({
      trainable: false,
      targets: ["below", "above"],
      parameters: 32,
      obstacles: [{ operator: "test.Riddle", nodes: ["first", "second"] }],
    });
    expect(verdict.faults).toEqual([
      expect.stringContaining('there is no gradient rule for test.Riddle ("first", "second") between the adapters'),
    ]);
  });

  it("is on the output that is asked for", () => {
    const model = withObstacle();
    const below = model.graph.nodes.find(({ name }) => name === "/below/MatMul")!.outputs[0]!;
    const outputs = [...model.graph.outputs, { name: below, type: "float32" as const, shape: ["rows", 4], doc: "" }];
    const both = { ...model, graph: { ...model.graph, outputs } };
    const config = { targetModules: ["below"] };
    expect(support(both, config).verdict.trainable).toBe(false);
    expect(support(both, config, { output: below }).verdict.trainable).toBe(true);
  });

  it("tells weights that cannot be adapted", () => {
    const model = twoLayers();
    const initializers = new Map(model.graph.initializers);
    for (const [name, { dims }] of initializers) {
      if (dims.length === 2) {
        initializers.set(name, { type: "float64", dims, bytes: new Uint8Array(8 * dims[0]! * dims[1]!) });
      }
    }
    const { verdict } = support({ ...model, graph: { ...model.graph, initializers } }, {});
    expect(verdict).toMatchObject({ trainable: false, targets: [], parameters: 0 });
    expect(verdict.faults.length).toBeGreaterThan(0);
  });

  it("leaves mistakes in the question to the one who asks", () => {
    expect(() => support(twoLayers(), { targetModules: ["nope"] })).toThrow(
      expect.objectContaining({ code: "config" }),
    );
    expect(() => support(twoLayers(), { r: 0 })).toThrow(expect.objectContaining({ code: "config" }));
    expect(() => support(twoLayers(), {}, { output: "z" })).toThrow(/no output "z"; it has y/);
  });
});

describe("an output that no gradient leads to", () => {
  it("is refused, and the outputs that could be measured are named", () => {
    // As scikit-learn's classifiers are exported: the label first.
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["rows", 4]);
    const w = g.initializer("fc.weight", tensor("float32", [4, 3], new Float32Array(12).fill(0.1)));
    const p = g.op("Softmax", [g.op("MatMul", [x, w], {}, { name: "/fc/MatMul" })], {}, { output: "probabilities" });
    g.output(g.op("ArgMax", [p], { axis: 1, keepdims: 0 }, { output: "label" }), "int64", ["rows"]);
    g.output(p, "float32", ["rows", 3]);
    const model = createModel(g.build(), { opset: 18 });
    expect(support(model, { r: 1 }).verdict).toMatchObject({
      trainable: false,
      faults: [
        'loss support: no gradient gets from the output "label" (int64) to what is trained; measure it on probabilities',
      ],
    });
    expect(support(model, { r: 1 }, { output: "probabilities" }).verdict.trainable).toBe(true);
  });
});

it("a model whose layers compute in integers is refused with advice", () => {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "uint8", ["rows", 4]);
  g.output(g.op("QLinearMatMul", [x, ...Array<string>(7).fill(x)], {}, { output: "y" }), "uint8", ["rows", 4]);
  const { verdict } = support(createModel(g.build(), { opset: 18 }), { r: 1 });
  expect(verdict.faults).toEqual([expect.stringMatching(/layers compute in integers \(QLinearMatMul\).*QDQ/)]);
});
