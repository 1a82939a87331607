// The graph itself; what it computes is in train/rows.test.ts.
import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Dim, Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { writeModel } from "../onnx/write.ts";
import { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import { withRows } from "./rows.ts";
import { linear, snapshot, twoLayers } from "./testing/models.ts";

/** x of these dimensions, its first two axes swapped when `swaps`, through one Linear layer 3 -> 3. */
function oneLayer(dims: readonly Dim[], swaps: boolean): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", dims);
  const h = swaps ? g.op("Transpose", [x], { perm: [1, 0, 2] }) : x;
  g.output(linear(g, h, "fc", [3, 3], "MatMul"), "float32");
  return createModel(g.build(), { opset: 18 });
}

describe("withRows", () => {
  it("puts each branch into an If, keeps the base's nodes and weights, and changes nothing that it was given", () => {
    const adapted = attachLora(twoLayers("MatMul"), { r: 2, loraAlpha: 6 });
    const before = snapshot(adapted.model);
    const { model, inputs, sites, faults } = withRows(adapted);
    expect(snapshot(adapted.model)).toEqual(before);
    expect(faults.size).toBe(0);
    const operators = model.graph.nodes.map(({ op }) => op);
    expect(operators.filter((op) => op === "If")).toHaveLength(2);
    // MatMul and Add of two layers, Tanh, Identity: what the base has.
    expect(operators.filter((op) => op !== "If").sort()).toEqual(
      twoLayers("MatMul")
        .graph.nodes.map(({ op }) => op)
        .sort(),
    );
    for (const [name, { bytes }] of adapted.base.graph.initializers)
      expect(model.graph.initializers.get(name)!.bytes).toBe(bytes);
    const added = model.graph.inputs.slice(adapted.model.graph.inputs.length).map(({ name }) => name);
    expect(added).toEqual([
      ...Object.values(inputs),
      ...sites.flatMap((site) => (site.form === "bank" ? [site.a, site.b] : [site.mask])),
    ]);
    // A model that the reader, which checks names and order in subgraphs too, takes as it is.
    expect(readModel(writeModel(model)).graph.nodes.map(({ op }) => op)).toEqual(operators);
  });

  it.each([
    ["the batch first", ["batch", "tokens", 3], false, undefined],
    ["tokens first", ["batch", "tokens", 3], true, "its input's first axis is tokens, not the batch"],
    ["a fixed batch first", [4, 6, 3], false, undefined],
    ["a fixed size that the batch does not divide", [4, 6, 3], true, "its input's first axis is 6, not the batch"],
    ["sizes that nothing is known of", [null, null, 3], true, undefined],
  ] as const)("finds out whether a layer's rows are the batch's: %s", (_, dims, swaps, fault) => {
    const { sites, faults } = withRows(attachLora(oneLayer(dims, swaps), { r: 1 }));
    expect([sites.length, faults.get("fc")]).toEqual([fault === undefined ? 1 : 0, fault]);
  });

  it("leaves a branch alone that reads more than A and B", () => {
    const adapted = attachLora(twoLayers(), { r: 1, targetModules: ["fc1"] });
    // As if A's product had a parameter more, as it has with DoRA.
    const g = graphBuilder({ opset: 18, from: adapted.model.graph });
    const extra = g.input("extra", "float32", [5]);
    const graph = g.build();
    const changed = {
      ...graph,
      nodes: graph.nodes.map((node) =>
        node.inputs.includes(adapted.sites[0]!.a) ? { ...node, inputs: [...node.inputs, extra] } : node,
      ),
    };
    const parameters = [...adapted.parameters, { key: extra, type: "float32", dims: [5], graphDims: [5] } as const];
    const { base, sites: all, config } = adapted;
    const model = { ...adapted.model, graph: changed };
    const { sites, faults } = withRows(new AdaptedModel({ base, model, parameters, sites: all, config }));
    expect([sites, faults.get("fc1")]).toEqual([[], "it is more than LoRA with A and B"]);
  });
});
