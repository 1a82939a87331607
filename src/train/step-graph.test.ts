import { describe, expect, it } from "vitest";
import { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { snapshot, stack, twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Graph, Model, ValueInfo } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { writeModel } from "../onnx/write.ts";
import { causalLm, crossEntropy, meanSquaredError } from "./losses.ts";
import { buildStepGraph } from "./step-graph.ts";
import { classes } from "./testing/fixture.ts";

const products = ({ nodes }: Graph) => nodes.filter(({ op }) => op === "Gemm" || op === "MatMul").length;

/** p [2, 3] + q [2, 3] as y: two parameters with one gradient, which is also the loss's. */
function sumOfTwo(more: Partial<Graph> = {}): Model {
  const g = graphBuilder({ opset: 17 });
  const x = g.input("x", "float32", [2, 3]);
  const zeros = (name: string) => g.initializer(name, { type: "float32", dims: [2, 3], bytes: new Uint8Array(24) });
  const sum = g.op("Add", [g.op("Add", [zeros("p"), zeros("q")]), x], {}, { output: "y" });
  g.output(sum, "float32", [2, 3]);
  return createModel({ ...g.build(), ...more }, { opset: 17 });
}

describe("what a LoRA step computes", () => {
  const stacked = stack(["a", "b", "c", "d"]);
  const count = (targetModules: string[]) =>
    products(buildStepGraph(attachLora(stacked, { targetModules }), meanSquaredError()).model.graph);

  it("no gradient of a frozen weight, and nothing below the lowest adapted layer", () => {
    // Four products of the base. Each adapted layer: A and B, dA and dB, and dh between them. Each layer between the lowest
    // adapted one and the loss: its dx, with two products more where it is adapted itself.
    expect(count(["d"])).toBe(4 + 5);
    expect(count(["c"])).toBe(4 + 5 + 1);
    expect(count(["a"])).toBe(4 + 5 + 3);
    expect(count(["c", "d"])).toBe(4 + 2 * 5 + 1 + 1);
  });

  it("keeps all of the model's outputs, after the loss and before the gradients", () => {
    const adapted = attachLora(twoLayers(), { targetModules: ["fc2"] });
    const { model, loss, outputs, gradients } = buildStepGraph(adapted, meanSquaredError());
    expect(model.graph.outputs.map(({ name }) => name)).toEqual([loss, "y", ...gradients.values()]);
    expect(outputs).toEqual(["y"]);
    expect([...gradients.keys()]).toEqual(adapted.parameters.map(({ key }) => key));
    expect(model.graph.outputs.slice(2).map(({ shape }) => shape)).toEqual(
      adapted.parameters.map(({ graphDims }) => graphDims),
    );
    expect(readModel(writeModel(model)).graph).toEqual(model.graph);
  });

  it("never changes the models that it starts from", () => {
    const adapted = attachLora(twoLayers());
    const before = [snapshot(adapted.base), snapshot(adapted.model)];
    buildStepGraph(adapted, meanSquaredError());
    expect([snapshot(adapted.base), snapshot(adapted.model)]).toEqual(before);
  });

  it("gives every parameter an output of its own", () => {
    const { model, gradients } = buildStepGraph(attachAll(sumOfTwo()), meanSquaredError());
    const names = model.graph.outputs.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(gradients.get("p")).not.toBe(gradients.get("q"));
  });

  it("keeps what an output is said to be", () => {
    const sequence: ValueInfo = { name: "s", type: undefined, shape: undefined, doc: "a sequence" };
    const base = sumOfTwo();
    const outputs = [...base.graph.outputs, sequence];
    const model = sumOfTwo({
      outputs,
      nodes: [
        ...base.graph.nodes,
        { ...base.graph.nodes[0]!, op: "SequenceConstruct", name: "s", inputs: ["x"], outputs: ["s"] },
      ],
    });
    expect(buildStepGraph(attachAll(model), meanSquaredError()).model.graph.outputs[2]).toEqual(sequence);
  });
});

describe("labels", () => {
  const labelsOf = (adapted: ReturnType<typeof attachLora>, loss: Parameters<typeof buildStepGraph>[1]) => {
    const { model, labels } = buildStepGraph(adapted, loss);
    return model.graph.inputs.find(({ name }) => name === labels)!;
  };

  it("are as many as the outputs, or lack the axis of the classes", () => {
    expect(labelsOf(attachLora(twoLayers()), meanSquaredError())).toMatchObject({
      type: "float32",
      shape: ["batch", 4],
    });
    expect(labelsOf(attachLora(twoLayers()), crossEntropy())).toMatchObject({ type: "int64", shape: ["batch"] });
    expect(labelsOf(attachLora(twoLayers("MatMul", "3d")), causalLm())).toMatchObject({
      type: "int64",
      shape: ["batch", "tokens"],
    });
  });

  it("get another name when the model has an input of theirs", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("labels", "float32", ["n", 3]);
    g.output(
      g.op("Mul", [x, g.initializer("p", { type: "float32", dims: [3], bytes: new Uint8Array(12) })]),
      "float32",
      ["n", 3],
    );
    expect(labelsOf(attachAll(createModel(g.build(), { opset: 17 })), meanSquaredError()).name).toBe("labels_1");
  });

  it("are checked against the classes of the output, for losses that have classes", () => {
    const step = buildStepGraph(attachLora(twoLayers()), crossEntropy());
    step.checkLabels(classes([0, 3, -100]));
    expect(() => step.checkLabels(classes([4]))).toThrow(/expected 0 to 3/);
    buildStepGraph(attachLora(twoLayers()), meanSquaredError()).checkLabels(classes([4]));
  });
});

describe("what cannot be trained", () => {
  it("operator sets out of range", () => {
    const model = twoLayers();
    for (const opset of [17, 24]) {
      // Attaching upgrades what is older, so that such a graph can only be made by hand.
      const { base, parameters, sites, config, model: adaptedModel } = attachLora(model);
      const outside = { ...adaptedModel, opsets: new Map([["", opset]]) };
      const adapted = new AdaptedModel({ base, model: outside, parameters, sites, config });
      expect(() => buildStepGraph(adapted, meanSquaredError())).toThrow(
        new RegExp(`operator set ${opset}: gradients can be written for 18 to 23`),
      );
    }
    for (const opset of [7, 16, 23])
      buildStepGraph(attachLora({ ...model, opsets: new Map([["", opset]]) }), meanSquaredError());
  });

  it("an output that is not there", () => {
    const loss = crossEntropy({ output: "logit" });
    expect(() => buildStepGraph(attachLora(twoLayers()), loss)).toThrow(
      'loss cross_entropy: the model has no output "logit"; it has y',
    );
  });

  it("an output of which not even the rank is known", () => {
    const g = graphBuilder({ opset: 17 });
    const p = g.initializer("p", { type: "float32", dims: [3], bytes: new Uint8Array(12) });
    const x = g.op("Mystery", [g.input("x", "float32", [3])], {}, { domain: "test" });
    g.output(g.op("Add", [x, p]), "float32");
    const adapted = attachAll(createModel(g.build(), { opset: 17 }));
    expect(() => buildStepGraph(adapted, meanSquaredError())).toThrow("loss mse: the rank of the output is unknown");
  });

  it("operators without a rule between the adapters and the loss, and none that lie below", () => {
    const base = readModel(goldenFile("distilbert/base.legacy.onnx"));
    const nodes = base.graph.nodes.map((node) => (node.op === "Erf" ? { ...node, op: "Mystery" } : node));
    const legacy = { ...base, graph: { ...base.graph, nodes } };
    expect(() => buildStepGraph(attachLora(legacy, { targetModules: ["v_lin"] }), crossEntropy())).toThrow(
      /no gradient rule for Mystery \(/,
    );
    buildStepGraph(attachLora(legacy, { targetModules: ["pre_classifier", "classifier"] }), crossEntropy());
  });
});
