// Where a branch may stand: on the rows of packed projections, at every call of a module, and on weights and inputs of any
// form that exporters write.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import {
  createModel,
  float,
  type GraphBuilder,
  graphBuilder,
  type PlainAttributes,
  type Value,
} from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { sites } from "../onnx/sites.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { gradcheck } from "../train/gradcheck.ts";
import { createSession } from "../train/infer.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter } from "./config.ts";
import { initAdapter } from "./init.ts";
import { selectSites } from "./targets.ts";
import { bits, drawn } from "./testing/models.ts";

/** |a - b| as a share of 1 + |a|: float32 sums over a handful of values. */
const rounding = 2e-5;

async function run(model: Model | AdaptedModel, inputs: Record<string, Tensor>, adapter: Adapter | null = null) {
  const session = await createSession(model, { threads: 1 });
  try {
    return (await session.run(inputs, { adapter })).values().next().value!;
  } finally {
    await session.dispose();
  }
}

function randomAdapter(adapted: AdaptedModel): Adapter {
  const tensors = adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)] as const);
  return { config: adapted.config!, tensors: new Map(tensors) };
}

function expectClose(actual: Tensor, expected: Tensor, tolerance = rounding): void {
  expect(actual.dims).toEqual(expected.dims);
  for (const [index, value] of [...actual.data].entries())
    expect(Math.abs(Number(value) - Number(expected.data[index])) / (1 + Math.abs(Number(value)))).toBeLessThan(
      tolerance,
    );
}

const golden = (path: string): Model => readModel(goldenFile(path), path);

describe("parts of packed layers", () => {
  const model = golden("packed/base.legacy.onnx");
  const selected = (targetModules: string | string[], excludeModules: string[] | null = null) =>
    selectSites({ targetModules, excludeModules }, sites(model)).map(({ modulePath }) => modulePath);
  const whole = ["vit.qkv", "mha.attn", "mha.attn.out_proj", "grouped.qkv_proj", "chunked.Wqkv"];

  it("are chosen when a list names them, beside the packed layer too", () => {
    expect(selected(["vit.q_proj", "grouped.v_proj"])).toEqual(["vit.q_proj", "grouped.v_proj"]);
    expect(selected(["k_proj"])).toEqual(["vit.k_proj", "mha.attn.k_proj", "grouped.k_proj", "chunked.k_proj"]);
    expect(selected(["Wqkv", "chunked.q_proj"])).toEqual(["chunked.Wqkv", "chunked.q_proj"]);
  });

  it("or when an expression means them and not the packed layer", () => {
    expect(selected("vit\\.[qv]_proj")).toEqual(["vit.q_proj", "vit.v_proj"]);
    expect(selected(".*")).toEqual([...whole, "head"]);
    expect(selected(".*qkv.*", ["vit.qkv"])).toEqual(["grouped.qkv_proj", "chunked.Wqkv"]);
    expect(selected("all-linear", ["head"])).toEqual(whole);
  });

  it("leave the model as it is with an adapter that is off, or fresh, bit for bit", async () => {
    const inputs = { x: drawn("x", 3, 6, 16) }; // TorchScript wrote MultiheadAttention for these sizes alone
    for (const file of ["packed/base.onnx", "packed/base.legacy.onnx"]) {
      const base = golden(file);
      const adapted = attachLora(base, { r: 3, targetModules: ["q_proj", "k_proj", "v_proj", "Wqkv"] });
      const expected = bits(await run(base, inputs));
      expect(bits(await run(adapted, inputs))).toEqual(expected);
      expect(bits(await run(adapted, inputs, initAdapter(adapted).adapter))).toEqual(expected);
    }
  });

  it("have gradients that agree with differences, and merge into the rows alone", async () => {
    const adapted = attachLora(model, { r: 2, loraAlpha: 6, targetModules: ["q_proj", "v_proj", "chunked.Wqkv"] });
    const inputs = { x: drawn("x", 3, 6, 16) }; // TorchScript wrote MultiheadAttention for these sizes alone
    const { passed, rows } = await gradcheck(adapted, inputs);
    expect([passed, rows.length]).toEqual([true, 18]);
    const adapter = randomAdapter(adapted);
    const merged = merge(model, adapter);
    expectClose(await run(merged, inputs), await run(adapted, inputs, adapter));
    expect(merged.graph.nodes).toEqual(model.graph.nodes);
    const rowsOf = (of: Model) => {
      const { weight } = sites(of).find(({ modulePath }) => modulePath === "vit.qkv")!;
      const values = new Float32Array(of.graph.initializers.get(weight)!.bytes.slice().buffer);
      return Array.from({ length: 48 }, (_, column) => values.filter((_, index) => index % 48 === column));
    };
    const [before, after] = [rowsOf(model), rowsOf(merged)];
    expect(after.slice(16, 32)).toEqual(before.slice(16, 32));
    expect(after[0]).not.toEqual(before[0]);
  });
});

describe("com.microsoft.Attention with its packed projection", () => {
  /** x [batch, time, 6] -> two heads of 4 for queries and keys, and of `value` / 2 for values. */
  function attention(value: number): Model {
    const g = graphBuilder({ opset: 18 });
    const total = 16 + value;
    const inputs = [
      g.input("x", "float32", ["batch", "time", 6]),
      g.initializer("encoder.0.attention.qkv.weight", drawn("qkv", 6, total)),
      g.initializer("encoder.0.attention.qkv.bias", drawn("bias", total)),
    ];
    const sizes = value === 8 ? {} : { qkv_hidden_sizes: [8, 8, value] };
    const y = g.op("Attention", inputs, { num_heads: 2, ...sizes }, { domain: "com.microsoft" });
    g.output(g.op("MatMul", [y, g.initializer("out.weight", drawn("out", value, 5))]), "float32");
    const model = createModel(g.build(), { opset: 18 });
    return { ...model, opsets: new Map([...model.opsets, ["com.microsoft", 1]]) };
  }
  const inputs = { x: drawn("x", 2, 5, 6) };

  it.each([8, 12])("is a site with parts: values of width %i", async (value) => {
    const model = attention(value);
    expect(sites(model).map(({ modulePath: path, outFeatures, part }) => [path, outFeatures, part?.from])).toEqual([
      ["encoder.0.attention.qkv", 16 + value, undefined],
      ["encoder.0.attention.q_proj", 8, 0],
      ["encoder.0.attention.k_proj", 8, 8],
      ["encoder.0.attention.v_proj", value, 16],
      ["out", 5, undefined],
    ]);
    const adapted = attachLora(model, { r: 2, loraAlpha: 6, targetModules: ["qkv", "q_proj", "v_proj"] });
    expect(bits(await run(adapted, inputs))).toEqual(bits(await run(model, inputs)));
    const adapter = randomAdapter(adapted);
    const output = await run(adapted, inputs, adapter);
    expect(bits(output)).not.toEqual(bits(await run(model, inputs)));
    expectClose(await run(merge(model, adapter), inputs), output);
    const { passed, rows } = await gradcheck(adapted, inputs);
    expect([passed, rows.length], JSON.stringify(rows)).toEqual([true, 6]);
  });
});

describe("modules that are called several times", () => {
  const file = "shared/base.legacy.onnx";
  const inputs = { ids: tensor("int64", [2, 4], BigInt64Array.from([0, 3, 10, 3, 7, 1, 1, 2], BigInt)) };
  const targetModules = ["mix", "block.fc", "block.conv"];

  it("have one A and B, with a branch at each call", () => {
    const adapted = attachLora(golden(file), { r: 2, targetModules });
    expect(adapted.sites.map(({ site }) => [site.modulePath, site.calls.length])).toEqual([
      ["mix", 3],
      ["block.fc", 2],
      ["block.conv", 2],
    ]);
    expect(adapted.parameters).toHaveLength(6);
    const branches = adapted.model.graph.nodes.filter(({ name }) => /\/lora\/A(_\d+)?$/.test(name));
    expect(branches).toHaveLength(7);
  });

  it("are the base, bit for bit, without an adapter", async () => {
    const model = golden(file);
    const adapted = attachLora(model, { r: 2, targetModules: [...targetModules, "emb", "head"] });
    expect(bits(await run(adapted, inputs))).toEqual(bits(await run(model, inputs)));
  });

  it("are written once when they are merged, in each form that a call reads", () => {
    const model = golden(file);
    const merged = merge(model, randomAdapter(attachLora(model, { r: 2, targetModules })));
    expect([...merged.graph.initializers.keys()]).toEqual([...model.graph.initializers.keys()]);
    expect(merged.graph.nodes).toEqual(model.graph.nodes);
    const floats = (of: Model, name: string) => new Float32Array(of.graph.initializers.get(name)!.bytes.slice().buffer);
    const [gemm, product] = [floats(merged, "mix.weight"), floats(merged, "onnx::MatMul_35")];
    for (const [index, value] of gemm.entries()) expect(product[(index % 8) * 8 + Math.floor(index / 8)]).toBe(value);
    expect(gemm).not.toEqual(floats(model, "mix.weight"));
  });

  it("tied weights come apart when one of two is merged, and nothing unused stays", () => {
    const model = golden("shared/base.onnx");
    const merged = merge(model, randomAdapter(attachLora(model, { r: 2, targetModules: ["head"] })));
    const [emb, head] = ["emb", "head"].map((path) => sites(merged).find((site) => site.modulePath === path)!);
    expect(merged.graph.initializers.get(emb!.weight)).toBe(model.graph.initializers.get("head.weight"));
    expect(head!.weight).not.toBe(emb!.weight);
    const both = merge(model, randomAdapter(attachLora(model, { r: 2, targetModules: ["emb", "head"] })));
    expect([...both.graph.initializers.keys()].filter((name) => /emb|head/.test(name))).toHaveLength(2);
  });

  it("are refused by name where the weights differ", () => {
    const g = graphBuilder({ opset: 18 });
    let h = g.input("x", "float32", ["n", 4]);
    const metadata = new Map([["pkg.torch.onnx.name_scopes", "['', 'fc', 'linear']"]]);
    for (const name of ["a", "b"]) h = g.op("MatMul", [h, g.initializer(name, drawn(name, 4, 4))]);
    g.output(h, "float32");
    const model = createModel(g.build(), { opset: 18 });
    const nodes = model.graph.nodes.map((node) => ({ ...node, metadata }));
    const twice: Model = { ...model, graph: { ...model.graph, nodes } };
    expect(() => attachLora(twice)).toThrow(
      'targetModules: two layers are called "fc", with different weights; an adapter has one place for them: exclude it',
    );
    const alone: Model = { ...model, graph: { ...model.graph, nodes: [nodes[0]!, model.graph.nodes[1]!] } };
    const adapter = randomAdapter(attachLora(alone, { r: 2, targetModules: ["fc"] }));
    expect(() => merge(twice, adapter)).toThrow("fc: two layers with different weights are called so");
  });
});

interface Form {
  readonly name: string;
  /** The layer on x; W is [3, 5] where it is stored as [in, out]. */
  readonly build: (g: GraphBuilder, x: Value) => Value;
  readonly x: readonly number[];
}

const stored = (g: GraphBuilder, ...dims: number[]): Value => g.initializer("w", drawn("w", ...dims));
const bias = (g: GraphBuilder): Value => g.initializer("fc.bias", drawn("bias", 5));
const named = { name: "/fc/MatMul" };
const int8 = (...dims: number[]): Tensor =>
  tensor(
    "int8",
    dims,
    Int8Array.from({ length: elementCount(dims) }, (_, index) => ((index * 37) % 200) - 100),
  );
const halves = (...dims: number[]): Tensor =>
  tensor(
    "float16",
    dims,
    Uint16Array.from({ length: elementCount(dims) }, (_, index) => 0x3000 + 97 * index),
  );

const columnScales = tensor("float32", [5], Float32Array.of(0.01, 0.02, 0.005, 0.01, 0.02));

/** Weights that the graph computes from constants, each on x [batch, time, 3]. */
const weights: Readonly<Record<string, (g: GraphBuilder) => Value>> = {
  initializer: (g) => stored(g, 3, 5),
  Identity: (g) => g.op("Identity", [stored(g, 3, 5)]),
  Transpose: (g) => g.op("Transpose", [stored(g, 5, 3)]),
  "Transpose of an Identity": (g) => g.op("Transpose", [g.op("Identity", [stored(g, 5, 3)])], { perm: [1, 0] }),
  Cast: (g) => g.op("Cast", [g.initializer("w", halves(3, 5))], { to: 1 }),
  "DequantizeLinear, one scale": (g) =>
    g.op("DequantizeLinear", [g.initializer("w", int8(3, 5)), g.constant("float32", 0.01)]),
  "DequantizeLinear, a scale for each column": (g) =>
    g.op("DequantizeLinear", [g.initializer("w", int8(3, 5)), g.initializer("s", columnScales)], { axis: 1 }),
  "DequantizeLinear, blocks": (g) =>
    g.op("DequantizeLinear", [g.initializer("w", int8(4, 5)), g.initializer("s", drawn("s", 2, 5))], {
      axis: 0,
      block_size: 2,
    }),
  ConstantOfShape: (g) =>
    g.op("ConstantOfShape", [g.constant("int64", [3, 5])], {
      value: { kind: "tensor", value: { type: "float32", dims: [1], bytes: new Uint8Array([0, 0, 0, 63]) } },
    }),
  Constant: (g) => {
    const bytes = new Uint8Array(drawn("w", 3, 5).data.buffer as ArrayBuffer);
    return g.op("Constant", [], { value: { kind: "tensor", value: { type: "float32", dims: [3, 5], bytes } } });
  },
  Reshape: (g) => g.op("Reshape", [stored(g, 15), g.constant("int64", [3, 5])]),
};

const gemm = (attributes: PlainAttributes, dims: number[]) => (g: GraphBuilder, x: Value) =>
  g.op("Gemm", [x, stored(g, ...dims), bias(g)], attributes, named);

const forms: readonly Form[] = [
  ...Object.entries(weights).map(
    ([name, weight]): Form => ({
      name: `weight by ${name}`,
      build: (g, x) => g.op("MatMul", [x, weight(g)], {}, named),
      x: [2, 4, name.endsWith("blocks") ? 4 : 3],
    }),
  ),
  ...[[3], [4, 3], [2, 4, 3], [2, 1, 4, 3]].map(
    (x): Form => ({
      name: `x of rank ${x.length}, bias behind`,
      build: (g, value) => g.op("Add", [g.op("MatMul", [value, stored(g, 3, 5)], {}, named), bias(g)]),
      x,
    }),
  ),
  {
    name: "x of rank 3, bias before",
    build: (g, x) => g.op("Add", [bias(g), g.op("MatMul", [x, stored(g, 3, 5)], {}, named)]),
    x: [2, 4, 3],
  },
  { name: "Gemm", build: gemm({}, [3, 5]), x: [4, 3] },
  { name: "Gemm, transB", build: gemm({ transB: 1 }, [5, 3]), x: [4, 3] },
  { name: "Gemm, alpha and beta", build: gemm({ alpha: float(0.5), beta: float(3) }, [3, 5]), x: [4, 3] },
  { name: "Gemm, negative alpha, transB", build: gemm({ alpha: float(-2), transB: 1 }, [5, 3]), x: [4, 3] },
  { name: "Gemm, transA", build: gemm({ transA: 1 }, [3, 5]), x: [3, 4] },
  { name: "Gemm, transA and transB", build: gemm({ transA: 1, transB: 1, alpha: float(2) }, [5, 3]), x: [3, 4] },
  {
    name: "Gemm of a computed weight",
    build: (g, x) => g.op("Gemm", [x, weights.Cast!(g), bias(g)], {}, named),
    x: [4, 3],
  },
];

/** y = tanh(layer(x)); x has its sizes but for the columns that the layer reads as symbols. */
function modelOf({ build, x }: Form): Model {
  const g = graphBuilder({ opset: 21 });
  const columns = x[0] === 3 && x.length === 2 ? 0 : x.length - 1;
  const dims = x.map((size, axis) => (axis === columns ? size : `size_${axis}`));
  g.output(g.op("Tanh", [build(g, g.input("x", "float32", dims))]), "float32");
  return createModel(g.build(), { opset: 21 });
}

describe.each(forms)("LoRA on a layer: $name", (form) => {
  const model = modelOf(form);
  const adapted = attachLora(model, { r: 2, loraAlpha: 6, targetModules: ["fc"] });
  const inputs = { x: drawn("x", ...form.x) };

  it("adds s B A x", async () => {
    const adapter = randomAdapter(adapted);
    const [A, B] = adapted.parameters.map(({ key }) => adapter.tensors.get(key)!);
    // The same layer with s (B A)^T for its weight, and x as the layer reads it.
    const g = graphBuilder({ opset: 21 });
    const x = g.input("x", "float32", inputs.x.dims);
    const turned = form.name.includes("transA") ? g.op("Transpose", [x]) : x;
    const product = g.op("MatMul", [g.initializer("B", B!), g.initializer("A", A!)]);
    const delta = g.op("MatMul", [turned, g.op("Transpose", [g.op("Mul", [product, g.constant("float32", 3)])])]);
    const base = modelOf(form).graph;
    g.output(delta, "float32");
    const expected = await run(createModel(g.build(), { opset: 21 }), inputs);
    const before = await run(
      { ...model, graph: { ...base, outputs: [{ ...base.outputs[0]!, name: lastInput(base) }] } },
      inputs,
    );
    const values = before.data as Float32Array;
    const sum = values.map((value, index) => Math.tanh(value + Number(expected.data[index])));
    expectClose(await run(adapted, inputs, adapter), tensor("float32", before.dims, sum));
  });

  it("is the base, bit for bit, when it is off", async () => {
    expect(bits(await run(adapted, inputs))).toEqual(bits(await run(model, inputs)));
  });

  it("merges", async () => {
    const adapter = randomAdapter(adapted);
    // The runtime rounds what it multiplies with a weight in 8 bits to 8 bits as well (MatMulNBits of accuracy level 4).
    const tolerance = /DequantizeLinear, (one|a) scale/.test(form.name) ? 0.02 : rounding;
    expectClose(await run(merge(model, adapter), inputs), await run(adapted, inputs, adapter), tolerance);
  });

  it("has gradients that agree with differences", async () => {
    const { passed, rows } = await gradcheck(adapted, inputs);
    expect([passed, rows.length], JSON.stringify(rows)).toEqual([true, 2]);
  });
});

/** What the last node, a Tanh, reads. */
function lastInput({ nodes }: Model["graph"]): string {
  return nodes.at(-1)!.inputs[0]!;
}
