// What of the base itself is found, trained and left alone, where the fixtures of PEFT (train/variants.test.ts) do not reach.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter, LoraConfig } from "./config.ts";
import { initAdapter } from "./init.ts";
import { isKeptWhole, isSaved, moduleParameters } from "./saved.ts";
import { bits, drawn, linear, stack, twoLayers } from "./testing/models.ts";

const opset = 18;

function modelOf(build: (g: GraphBuilder) => Value): Model {
  const g = graphBuilder({ opset });
  g.output(build(g), "float32");
  return createModel(g.build(), { opset });
}

async function run(model: Model | AdaptedModel, inputs: Record<string, Tensor>, adapter?: Adapter): Promise<Tensor> {
  const session = await createSession(model, { threads: 1 });
  try {
    return [...(await session.run(inputs, adapter === undefined ? {} : { adapter })).values()][0]!;
  } finally {
    await session.dispose();
  }
}

/** An adapter with other values in every tensor than it starts from. */
function drawnAdapter(adapted: AdaptedModel): Adapter {
  const { adapter } = initAdapter(adapted);
  const moved = [...adapter.tensors].map(([key, value]) => {
    const change = drawn(`change ${key}`, value.data.length).data;
    const data = (value as Tensor<"float32">).data.map((one, index) => one + 0.5 * change[index]!);
    return [key, tensor("float32", value.dims, data)] as const;
  });
  return { config: adapter.config, tensors: new Map(moved) };
}

/** |a - b| / (1 + |b|) of float32 sums over some hundred values. */
const rounding = 2e-5;

function expectClose(actual: Tensor, expected: Tensor): void {
  expect(actual.dims).toEqual(expected.dims);
  const errors = [...(expected.data as Float32Array)].map(
    (value, index) => Math.abs(Number(actual.data[index]) - value) / (1 + Math.abs(value)),
  );
  expect(Math.max(...errors)).toBeLessThan(rounding);
}

/** Off and fresh it is the base, bit for bit; with other values it is what merging gives. */
async function expectConsistent(
  model: Model,
  config: LoraConfig,
  inputs: Record<string, Tensor>,
): Promise<AdaptedModel> {
  const adapted = attachLora(model, config);
  const base = await run(model, inputs);
  expect(bits(await run(adapted, inputs))).toEqual(bits(base));
  expect(bits(await run(adapted, inputs, initAdapter(adapted).adapter))).toEqual(bits(base));
  const adapter = drawnAdapter(adapted);
  const out = await run(adapted, inputs, adapter);
  expect(bits(out)).not.toEqual(bits(base));
  expectClose(out, await run(merge(model, adapter), inputs));
  return adapted;
}

describe("modules trained whole", () => {
  it("leave the base bit for bit also where a constant weight rounds differently than an input", async () => {
    const model = modelOf((g) => {
      const x = g.input("x", "float32", ["n", 300]);
      return linear(g, linear(g, x, "body", [300, 200], "Gemm out,in"), "head", [200, 7], "Gemm out,in");
    });
    for (const rows of [1, 8]) {
      const adapted = await expectConsistent(
        model,
        { r: 2, targetModules: ["body"], modulesToSave: ["head"] },
        { x: drawn("x", rows, 300) },
      );
      expect(adapted.parameters.slice(2).map(({ key, dims }) => [key, dims])).toEqual([
        ["base_model.model.head.weight", [7, 200]],
        ["base_model.model.head.bias", [7]],
      ]);
    }
  });

  it.each(["Gemm in,out", "MatMul"] as const)(
    "takes %s, in the layout that the file calls the weight's",
    async (form) => {
      const config = { r: 2, targetModules: ["fc1"], modulesToSave: ["fc2"] };
      const adapted = await expectConsistent(twoLayers(form), config, { x: drawn("x", 6, 3) });
      // As Hugging Face's Conv1D: a weight of the module's own name is stored as PyTorch stores it.
      expect(adapted.parameters[2]).toMatchObject({ key: "base_model.model.fc2.weight", dims: [5, 4] });
    },
  );

  it("takes a weight that an exporter turned and renamed as PyTorch's", async () => {
    const model = modelOf((g) => {
      const x = g.input("x", "float32", ["n", "t", 3]);
      const h = linear(g, x, "body", [3, 5], "MatMul");
      const weight = g.initializer("onnx::MatMul_12", drawn("w", 5, 4));
      return g.op("MatMul", [h, weight], {}, { name: "/head/MatMul" });
    });
    const config = { r: 1, targetModules: ["body"], modulesToSave: ["head"] };
    const adapted = await expectConsistent(model, config, { x: drawn("x", 2, 3, 3) });
    expect(adapted.parameters.slice(2).map(({ key, dims }) => [key, dims])).toEqual([
      ["base_model.model.head.weight", [4, 5]],
    ]);
  });

  it("takes a layer that is called twice, and one of two that share a weight", async () => {
    const twice = modelOf((g) => {
      const x = g.input("x", "float32", ["n", 4]);
      const weight = g.initializer("fc.weight", drawn("w", 4, 4));
      const first = g.op("Gemm", [x, weight], { transB: 1 }, { name: "/fc/Gemm" });
      const second = g.op("Gemm", [first, weight], { transB: 1 }, { name: "/fc_1/Gemm" });
      return linear(g, second, "top", [4, 3], "Gemm out,in");
    });
    const config = { r: 2, targetModules: ["top"], modulesToSave: ["fc"] };
    const adapted = await expectConsistent(twice, config, { x: drawn("x", 3, 4) });
    expect(adapted.parameters.map(({ key }) => key).slice(2)).toEqual(["base_model.model.fc.weight"]);

    const tied = modelOf((g) => {
      const ids = g.input("ids", "int64", ["n"]);
      const weight = g.initializer("emb.weight", drawn("w", 6, 4));
      const h = linear(g, g.op("Gather", [weight, ids], {}, { name: "/emb/Gather" }), "mid", [4, 4], "Gemm out,in");
      const turned = g.op("Transpose", [weight], { perm: [1, 0] });
      return g.op("MatMul", [h, turned], {}, { name: "/head/MatMul" });
    });
    const ids = tensor("int64", [3], BigInt64Array.of(0n, 5n, 2n));
    for (const modulesToSave of [["head"], ["emb"], ["emb", "head"]]) {
      await expectConsistent(tied, { r: 1, targetModules: ["mid"], modulesToSave }, { ids });
    }
    // The head of a tied embedding follows its rows.
    await expectConsistent(tied, { r: 1, targetModules: ["mid"], trainableTokenIndices: [5, 1] }, { ids });
    const both = { r: 1, targetModules: ["mid"], trainableTokenIndices: [5, 1], modulesToSave: ["head"] };
    await expectConsistent(tied, both, { ids });
  });

  it("lets an output layer follow trained rows when the embedding's weight is its own", () => {
    const ids = (g: GraphBuilder): Value => g.input("ids", "int64", ["n"]);
    const weight = drawn("w", 6, 4);
    /** An embedding, and an output layer of the same values under a name. */
    const language = (head: string): Model =>
      modelOf((g) => {
        const h = g.op("Gather", [g.initializer("emb.weight", weight), ids(g)], {}, { name: "/emb/Gather" });
        const mid = linear(g, h, "mid", [4, 4], "Gemm out,in");
        const own = head === "emb.weight" ? head : g.initializer(head, weight);
        const turned = g.op("Transpose", [own], { perm: [1, 0] });
        return g.op("MatMul", [mid, turned], {}, { name: "/head/MatMul" });
      });
    const follows = (head: string, config: LoraConfig): boolean => {
      const { model } = attachLora(language(head), { r: 1, targetModules: ["mid"], ...config });
      return model.graph.nodes.some(({ name }) => name.startsWith("head/tokens"));
    };
    const rows = { trainableTokenIndices: { emb: [5, 1] } };
    expect(follows("emb.weight", rows)).toBe(true);
    expect(follows("onnx::MatMul_12", rows)).toBe(true);
    expect(follows("head.weight", rows)).toBe(false); // two parameters that are equal
    const baseOf = (library: string | null) => ({
      ...rows,
      extra: { auto_mapping: library && { base_model_class: "Net", parent_library: library } },
    });
    expect(follows("emb.weight", baseOf(null))).toBe(true);
    expect(follows("emb.weight", baseOf("transformers.models.gpt2.modeling_gpt2"))).toBe(true);
    expect(follows("emb.weight", baseOf("transformers_modules.custom"))).toBe(true);
    expect(follows("emb.weight", baseOf("__main__"))).toBe(false);
    const both = (head: number[]) => ({ r: 1, targetModules: ["mid"], trainableTokenIndices: { emb: [5, 1], head } });
    const saved = (head: number[]) => attachLora(language("emb.weight"), both(head)).parameters.slice(2);
    expect(saved([5, 1]).map(({ key }) => key)).toEqual(["base_model.model.emb.token_adapter.trainable_tokens_delta"]);
    expect(saved([5]).map(({ key, dims }) => [key, dims])).toEqual([
      ["base_model.model.emb.token_adapter.trainable_tokens_delta", [2, 4]],
      ["base_model.model.head.token_adapter.trainable_tokens_delta", [1, 4]],
    ]);
  });

  it("makes a bias that torch.export says it dropped, in front of what follows", async () => {
    const call =
      "%linear : call_function[target=aten.linear.default](args = (%x, %p_fc_weight, %p_fc_bias), kwargs = {})";
    const metadata = new Map([["pkg.torch.onnx.fx_node", call]]);
    for (const form of ["Gemm out,in", "MatMul"] as const) {
      const plain = modelOf((g) =>
        g.op("Relu", [linear(g, g.input("x", "float32", ["n", 3]), "fc", [3, 4], form, false)]),
      );
      const nodes = plain.graph.nodes.map((node) => (node.op === "Relu" ? node : { ...node, metadata }));
      const model = { ...plain, graph: { ...plain.graph, nodes } };
      const adapted = await expectConsistent(model, { r: 1, bias: "lora_only" }, { x: drawn("x", 2, 3) });
      expect(adapted.parameters[2]).toMatchObject({ key: "base_model.model.fc.base_layer.bias", dims: [4] });
      expect(attachLora(plain, { r: 1, bias: "lora_only" }).parameters).toHaveLength(2);
    }
  });

  it("finds a bias that was fused into a later node, though the exporter's call names one", async () => {
    const call =
      "%linear : call_function[target=aten.linear.default](args = (%x, %p_fc_weight, %p_fc_bias), kwargs = {})";
    const plain = modelOf((g) => {
      const product = linear(g, g.input("x", "float32", ["n", 3]), "fc", [3, 4], "MatMul", false);
      const bias = g.initializer("fc.bias", drawn("bias", 4));
      return g.op("BiasGelu", [product, bias], {}, { domain: "com.microsoft" });
    });
    const metadata = new Map([["pkg.torch.onnx.fx_node", call]]);
    const nodes = plain.graph.nodes.map((node) => (node.op === "BiasGelu" ? node : { ...node, metadata }));
    const opsets = new Map([...plain.opsets, ["com.microsoft", 1]]);
    const model = { ...plain, opsets, graph: { ...plain.graph, nodes } };
    const adapted = await expectConsistent(model, { r: 1, bias: "lora_only" }, { x: drawn("x", 2, 3) });
    expect(adapted.parameters[2]!.start!().data).toEqual(drawn("bias", 4).data);
  });

  it("names what is not there, but not the heads that PEFT lists for every model", () => {
    const model = stack(["body", "classifier"]);
    const config = { targetModules: ["body"] };
    expect(attachLora(model, { ...config, modulesToSave: ["classifier", "score"] }).parameters).toHaveLength(4);
    expect(() => attachLora(model, { ...config, modulesToSave: ["score"] })).toThrow(
      /modulesToSave: "score" matches no module with parameters/,
    );
    expect(() => attachLora(model, { ...config, modulesToSave: ["classifier", "pooler"] })).toThrow(
      /"pooler" matches no module/,
    );
    expect(attachLora(model, { modulesToSave: ["classifier"] }).sites.map(({ site }) => site.modulePath)).toEqual([
      "body",
    ]);
  });

  it("match as PEFT matches them", () => {
    expect(isSaved("a.pre_classifier", ["classifier"])).toBe(true);
    expect(isSaved("classifier.dense", ["classifier"])).toBe(true);
    expect(isSaved("classifier_head", ["classifier"])).toBe(false);
    expect(isKeptWhole("a.pre_classifier", ["classifier"])).toBe(false);
    expect(isKeptWhole("a.classifier.dense", ["classifier"])).toBe(true);
  });

  it("finds the parameters of normalizations by their scopes, where equal ones are one initializer", () => {
    const g = graphBuilder({ opset });
    const [x, ones] = [g.input("x", "float32", ["n", 4]), g.initializer("first.weight", drawn("ones", 4))];
    const node = (from: Value): Value => g.op("LayerNormalization", [from, ones], {});
    g.output(node(node(x)), "float32");
    const plain = g.build();
    const nodes = plain.nodes.map((one, index) => {
      const scopes = `['', '${["first", "second"][index]}', 'layer_norm']`;
      return { ...one, metadata: new Map([["pkg.torch.onnx.name_scopes", scopes]]) };
    });
    expect([...moduleParameters({ ...plain, nodes }, []).keys()]).toEqual(["first.weight", "second.weight"]);
  });
});

describe("trained rows of an embedding", () => {
  const model = modelOf((g) => {
    const ids = g.input("ids", "int64", ["n", "t"]);
    const weight = (name: string): Value => g.initializer(`${name}.weight`, drawn(name, 6, 4));
    const tokens = g.op("Gather", [weight("model.embed_tokens"), ids], {}, { name: "/model/embed_tokens/Gather" });
    const h = g.op("Add", [
      tokens,
      g.op("Gather", [weight("model.positions"), ids], {}, { name: "/model/positions/Gather" }),
    ]);
    return linear(g, h, "fc", [4, 3], "MatMul");
  });
  const ids = tensor("int64", [2, 3], BigInt64Array.of(0n, 5n, 2n, 1n, -1n, 4n));

  it("are those of the input embedding, or of the one that is named", async () => {
    const list = await expectConsistent(model, { r: 1, trainableTokenIndices: [5, 2] }, { ids });
    const key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    expect(list.parameters[2]).toMatchObject({ key, dims: [2, 4] });
    await expectConsistent(model, { r: 1, trainableTokenIndices: { positions: [0], embed_tokens: [1, 3] } }, { ids });
  });

  it("are refused where they are not", () => {
    expect(() => attachLora(model, { trainableTokenIndices: { word: [1], positions: [6] } })).toThrow(
      expect.objectContaining({
        faults: [
          'trainableTokenIndices "word": expected one embedding, got 0; name one of model.embed_tokens, model.positions',
          'trainableTokenIndices "positions": expected rows below 6, got 6',
        ],
      }),
    );
  });
});

describe("trained biases", () => {
  it("of all modules, or of the targets alone, start as the base's", async () => {
    const model = twoLayers("Gemm out,in");
    const keys = (config: LoraConfig): string[] => attachLora(model, config).parameters.map(({ key }) => key.slice(17));
    expect(keys({ targetModules: ["fc1"], bias: "all" }).slice(2)).toEqual(["fc1.base_layer.bias", "fc2.bias"]);
    expect(keys({ targetModules: ["fc1"], bias: "lora_only" }).slice(2)).toEqual(["fc1.base_layer.bias"]);
    for (const form of ["Gemm out,in", "MatMul"] as const)
      await expectConsistent(
        twoLayers(form),
        { targetModules: ["fc1"], bias: "all", loraBias: true },
        { x: drawn("x", 6, 3) },
      );
  });

  it("of B are scaled with it when an adapter of another scale runs", async () => {
    const model = twoLayers();
    const x = drawn("x", 6, 3);
    const adapter = drawnAdapter(attachLora(model, { r: 2, loraAlpha: 6, loraBias: true }));
    const other = attachLora(model, { r: 3, loraAlpha: 2, loraBias: true });
    expectClose(await run(other, { x }, adapter), await run(merge(model, adapter), { x }));
  });
});

describe("moduleParameters", () => {
  it("gives what the base has, as PyTorch has it", () => {
    const model = twoLayers("MatMul");
    const all: Site[] = sites(model);
    const parameters = moduleParameters(model.graph, all);
    expect([...parameters.keys()]).toEqual(["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    expect(parameters.get("fc1.bias")!.values()).toEqual(drawn("fc1.bias", 5));
    expect(parameters.get("fc1.weight")!.values()).toEqual(drawn("fc1.weight", 3, 5));
  });
});
