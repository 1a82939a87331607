import { describe, expect, it } from "vitest";
import { createModel, type GraphBuilder, graphBuilder, makeNode, type PlainAttributes } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { zeros } from "../tensor.ts";
import { keptOnCpu } from "./webgpu.ts";

const model = (build: (g: GraphBuilder) => void): Model => {
  const g = graphBuilder({ opset: 20 });
  build(g);
  return createModel(g.build(), { opset: 20 });
};

/** A node that reads x, of whatever shape, and a constant of each of these shapes. */
const reading = (op: string, shapes: readonly (readonly number[])[], attributes: PlainAttributes = {}): Model =>
  model((g) => {
    const x = g.input("x", "float32", [1, 6, 8, 8]);
    g.op(op, [x, ...shapes.map((shape, at) => g.initializer(`w${at}`, zeros(shape)))], attributes, { name: "it" });
  });

const slice = (steps: readonly number[]): Model =>
  model((g) => {
    const [starts, ends, axes] = [g.constant("int64", [7]), g.constant("int64", [-9]), g.constant("int64", [2])];
    g.op(
      "Slice",
      [g.input("x", "float32", [1, 6, 8, 8]), starts, ends, axes, g.constant("int64", steps)],
      {},
      { name: "it" },
    );
  });

describe("keptOnCpu", () => {
  it.each<[string, Model]>([
    [
      "pooling that gives indices",
      model((g) =>
        g.ops("MaxPool", [g.input("x", "float32", [1, 1, 4, 4])], 2, { kernel_shape: [2, 2] }, { name: "it" }),
      ),
    ],
    ["Conv of 6 channels to 8", reading("Conv", [[8, 6, 3, 3]])],
    [
      "Conv of 6 channels to as many as an adapter has",
      model((g) =>
        g.op(
          "Conv",
          [g.input("x", "float32", [1, 6, 8, 8]), g.input("a", "float32", ["r", 6, 3, 3])],
          {},
          { name: "it" },
        ),
      ),
    ],
    ["Conv in three dimensions with groups", reading("Conv", [[6, 3, 3, 3, 3]], { group: 2 })],
    ["ConvTranspose in three dimensions", reading("ConvTranspose", [[6, 4, 3, 3, 3]])],
    ["ConvTranspose of two channels in each group", reading("ConvTranspose", [[6, 1, 3, 3]], { group: 3 })],
    ["cosines", reading("Cos", [])],
    ["sines", reading("Sin", [])],
    ["Einsum with an ellipsis", reading("Einsum", [[8, 2]], { equation: "...ij,jk->...ik" })],
    ["a scale that is broadcast over a second axis", reading("LayerNormalization", [[8]], { axis: -2 })],
    ["the same, with axes counted from the front", reading("LayerNormalization", [[8]], { axis: 2 })],
    ["RMSNormalization with such a scale", reading("RMSNormalization", [[8]], { axis: -2 })],
    ["resizing with antialiasing", reading("Resize", [], { antialias: 1 })],
    ["slices backwards", slice([-1])],
  ])("keeps %s", (_, given) => {
    expect(keptOnCpu(given).onCpu).toEqual(["it"]);
  });

  it.each<[string, Model]>([
    ["pooling", reading("MaxPool", [], { kernel_shape: [2, 2] })],
    ["Conv of 6 channels to 7", reading("Conv", [[7, 6, 3, 3]])],
    ["Conv of 3 channels to 8", reading("Conv", [[8, 3, 3, 3]])],
    ["Conv of 12 channels to 8", reading("Conv", [[8, 12, 3, 3]])],
    ["Conv in three dimensions", reading("Conv", [[8, 4, 3, 3, 3]])],
    ["Conv with groups", reading("Conv", [[8, 3, 3, 3]], { group: 2 })],
    ["ConvTranspose by channel", reading("ConvTranspose", [[6, 1, 3, 3]], { group: 6 })],
    ["Einsum", reading("Einsum", [[8, 2]], { equation: "abij,jk->abik" })],
    ["LayerNormalization", reading("LayerNormalization", [[8]])],
    ["slices", slice([2])],
    ["operators of other domains", model((g) => g.op("Sin", [g.input("x", "float32", [1])], {}, { domain: "custom" }))],
  ])("leaves %s to the GPU, and the model as it is", (_, given) => {
    expect(keptOnCpu(given)).toEqual({ model: given, onCpu: [] });
    expect(keptOnCpu(given).model).toBe(given);
  });

  it("names nodes that have no name, also inside others, and changes nothing else", () => {
    const inner = model((g) => g.node(makeNode({ op: "Sin", inputs: ["x"], outputs: ["y"] }))).graph;
    const given = model((g) => {
      const x = g.input("x", "float32", [1]);
      g.node(makeNode({ op: "Cos", inputs: [x], outputs: ["c"] }));
      g.op("If", [g.input("b", "bool", [])], {
        then_branch: { kind: "graph", value: inner },
        else_branch: { kind: "graph", value: inner },
      });
    });
    const { model: named, onCpu } = keptOnCpu(given);
    expect(onCpu).toEqual(["on_cpu/Cos_0", "on_cpu/Sin_1", "on_cpu/Sin_2"]);
    expect(named.graph.nodes[0]).toEqual({ ...given.graph.nodes[0], name: "on_cpu/Cos_0" });
    const then = named.graph.nodes[1]!.attributes.get("then_branch");
    expect(then).toMatchObject({ kind: "graph", value: { nodes: [{ op: "Sin", name: "on_cpu/Sin_1" }] } });
    expect(given.graph.nodes[0]!.name).toBe("");
  });
});
