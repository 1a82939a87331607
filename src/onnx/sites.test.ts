import { describe, expect, it } from "vitest";
import { tensor, zeros } from "../tensor.ts";
import {
  createModel,
  float,
  type GraphBuilder,
  graphBuilder,
  makeNode,
  type PlainAttributes,
  type Value,
} from "./builder.ts";
import { type Attribute, fromTensor, type Model } from "./model.ts";
import { modulePath } from "./module-path.ts";
import { readModel } from "./read.ts";
import { sites } from "./sites.ts";
import { goldenFile } from "./testing/protos.ts";

const isModule =
  (...modules: string[]) =>
  (path: string) =>
    modules.includes(path);

function pathOf(name: string, weight: string, modules: string[] = [], scopes?: string): string | undefined {
  const metadata = new Map(scopes === undefined ? [] : [["pkg.torch.onnx.name_scopes", scopes]]);
  return modulePath(
    makeNode({ op: "MatMul", name, inputs: [], outputs: ["y"], metadata }),
    weight,
    isModule(...modules),
  );
}

describe("module paths", () => {
  it("torch.export: the deepest module's scope stands last but one, and beats the weight's name", () => {
    expect(pathOf("node_MatMul_3", "lm_head.weight", [], "['', 'transformer', 'transformer.wte', 'embedding']")).toBe(
      "transformer.wte",
    );
    expect(pathOf("node_linear", "val_82", [], `['', "it's", 'linear']`)).toBe("it's");
  });

  it("torch.export: a module inside the scope that has the weight is the one", () => {
    expect(pathOf("node_Gemm", "attn.out_proj.weight", [], "['', 'attn', 'linear']")).toBe("attn.out_proj");
    expect(pathOf("node_Gemm", "attn2.out_proj.weight", [], "['', 'attn', 'linear']")).toBe("attn");
  });

  it("what quantizers write behind a weight's name is none of it", () => {
    expect(pathOf("n", "h.0.fc.weight_quantized")).toBe("h.0.fc");
    expect(pathOf("n", "h.0.fc.weight_Q4G32")).toBe("h.0.fc");
    expect(pathOf("n", "h.0.fc.weight_DQ_Q4")).toBe("h.0.fc");
    expect(pathOf("/model/layers.0/attn/q_proj/MatMul_Q4", "model.layers.0.attn.q_proj.MatMul.weight_Q4")).toBe(
      "model.layers.0.attn.q_proj",
    );
    expect(pathOf("n", "model.layers.0.mlp.up_proj.MatMulNBits.qweight")).toBe("model.layers.0.mlp.up_proj");
  });

  it("torch.export: scopes that name no module leave it to the other sources", () => {
    expect(pathOf("node", "fc.weight", [], "['', 'linear']")).toBe("fc");
    expect(pathOf("node", "fc.weight", [], "[]")).toBe("fc");
  });

  it("the weight's name, when it ends in .weight", () => {
    expect(pathOf("/other/Gemm", "encoder.layer.0.fc.weight")).toBe("encoder.layer.0.fc");
    expect(pathOf("", "onnx::MatMul.weight")).toBeUndefined();
  });

  it("TorchScript: a segment that is a dotted prefix of the next is dropped", () => {
    expect(pathOf("/body/body.1/body.1.0/conv/Conv", "onnx::Conv_3")).toBe("body.1.0.conv");
    expect(pathOf("/bert/encoder/layer.0/attention/self/query/MatMul", "onnx::MatMul_356")).toBe(
      "bert.encoder.layer.0.attention.self.query",
    );
    expect(pathOf("/encoder/encoder.0/encoder.0.fc/MatMul", "onnx::MatMul_1")).toBe("encoder.0.fc");
    // `layer` is no prefix of `layernorm` in dots.
    expect(pathOf("/layer/layernorm/MatMul", "w")).toBe("layer.layernorm");
  });

  it("TorchScript: a number at the end is a later call, unless a module is called so", () => {
    expect(pathOf("/fc_1/Gemm", "w", ["fc"])).toBe("fc");
    expect(pathOf("/fc_1/Gemm", "w", ["fc", "fc_1"])).toBe("fc_1");
    expect(pathOf("/fc_1/Gemm", "w", [])).toBe("fc_1");
    expect(pathOf("/block_2/fc/MatMul", "w", ["block.fc"])).toBe("block.fc");
    expect(pathOf("/block_2/fc_1/MatMul", "w", ["block.fc"])).toBe("block.fc");
    expect(pathOf("/block_2/fc_1/MatMul", "w", ["block_2.fc"])).toBe("block_2.fc");
  });

  it("nothing, when no source says one", () => {
    expect(pathOf("MatMul_3", "w")).toBeUndefined();
    expect(pathOf("/MatMul", "w")).toBeUndefined();
  });
});

/** "path operator in>out layout bias", for short. */
function list(model: Model): string[] {
  return sites(model).map(
    ({ modulePath: path, node, inFeatures, outFeatures, layout, bias }) =>
      `${path} ${node.op} ${inFeatures}>${outFeatures} ${layout} ${bias ?? "-"}`,
  );
}

const golden = (path: string) => list(readModel(goldenFile(path), path));

describe("sites of exported models", () => {
  it("mlp, reg and cnn: TorchScript's Gemm nodes", () => {
    expect(golden("mlp/model.onnx")).toEqual([
      "fc1 Gemm 20>16 out,in fc1.bias",
      "fc2 Gemm 16>24 out,in fc2.bias",
      "fc3 Gemm 24>5 out,in fc3.bias",
    ]);
    expect(golden("reg/model.onnx")).toEqual([
      "a Gemm 7>12 out,in a.bias",
      "b Gemm 12>12 out,in b.bias",
      "c Gemm 12>2 out,in c.bias",
    ]);
    expect(golden("cnn/model.onnx")).toEqual([
      "conv1 Conv 1>6 out,in conv1.bias",
      "conv2 Conv 6>8 out,in conv2.bias",
      "fc Gemm 8>4 out,in fc.bias",
    ]);
  });

  it("gpt2 by torch.export: Conv1D as Gemm, zero biases dropped, the tied output embedding as MatMul", () => {
    const block = (layer: number) => [
      `transformer.h.${layer}.attn.c_attn Gemm 16>48 in,out -`,
      ...["q", "k", "v"].map((part) => `transformer.h.${layer}.attn.${part}_proj Gemm 16>16 in,out -`),
      `transformer.h.${layer}.attn.c_proj Gemm 16>16 in,out -`,
      `transformer.h.${layer}.mlp.c_fc Gemm 16>64 in,out -`,
      `transformer.h.${layer}.mlp.c_proj Gemm 64>16 in,out -`,
    ];
    expect(golden("gpt2/base.onnx")).toEqual([
      "transformer.wte Gather 47>16 in,out -",
      "transformer.wpe Gather 16>16 in,out -",
      ...block(0),
      ...block(1),
      "lm_head MatMul 16>47 in,out -",
    ]);
  });

  /** The paths of distilbert's layers, with the sizes that both exporters agree on. */
  const distilbert = [
    "distilbert.embeddings.word_embeddings Gather 53>16 in,out",
    "distilbert.embeddings.position_embeddings Gather 20>16 in,out",
    ...[0, 1].flatMap((layer) => {
      const at = `distilbert.transformer.layer.${layer}`;
      const attention = ["q", "k", "v", "out"].map((part) => `${at}.attention.${part}_lin MatMul 16>16 in,out`);
      return [...attention, `${at}.ffn.lin1 MatMul 16>28 in,out`, `${at}.ffn.lin2 MatMul 28>16 in,out`];
    }),
    "pre_classifier Gemm 16>16 out,in",
    "classifier Gemm 16>2 out,in",
  ];
  const withoutBias = (lines: string[]) => lines.map((line) => line.split(" ").slice(0, 4).join(" "));
  const biases = (lines: string[]) => lines.map((line) => line.split(" ")[4]);

  it("distilbert by torch.export: paths from scopes; equal biases are one initializer", () => {
    const lines = golden("distilbert/base.onnx");
    expect(withoutBias(lines)).toEqual(distilbert);
    const shared = "distilbert.embeddings.LayerNorm.bias";
    const block = [shared, shared, shared, shared, "distilbert.transformer.layer.0.ffn.lin1.bias", shared];
    expect(biases(lines)).toEqual(["-", "-", ...block, ...block, "-", "-"]);
  });

  it("distilbert by TorchScript: paths from node names; equal biases come through Identity nodes", () => {
    const lines = golden("distilbert/base.legacy.onnx");
    expect(withoutBias(lines)).toEqual(distilbert);
    expect(biases(lines).indexOf("-", 2)).toBe(-1);
  });
});

describe("packed projections", () => {
  /** "path from+width", for short. */
  const parts = (model: Model): string[] =>
    sites(model).flatMap((site) => (site.part ? [`${site.modulePath} ${site.part.from}+${site.outFeatures}`] : []));

  it.each(["base.onnx", "base.legacy.onnx"])("queries, keys and values, however they are taken apart: %s", (file) => {
    const model = readModel(goldenFile(`packed/${file}`), file);
    expect(parts(model)).toEqual([
      ...["vit.q_proj 0+16", "vit.k_proj 16+16", "vit.v_proj 32+16"],
      ...["mha.attn.q_proj 0+16", "mha.attn.k_proj 16+16", "mha.attn.v_proj 32+16"],
      ...["grouped.q_proj 0+16", "grouped.k_proj 16+8", "grouped.v_proj 24+8"],
      ...["chunked.q_proj 0+16", "chunked.k_proj 16+16", "chunked.v_proj 32+16"],
    ]);
    const whole = sites(model).filter(({ part }) => part === undefined);
    expect(whole.map(({ modulePath: path, outFeatures }) => [path, outFeatures])).toEqual([
      ["vit.qkv", 48],
      ["mha.attn", 48],
      ["mha.attn.out_proj", 16],
      ["grouped.qkv_proj", 32],
      ["chunked.Wqkv", 48],
      ["head", 5],
    ]);
  });

  /** A layer attn.qkv of 12 columns on [batch, time, 4], and what `take` does with it. */
  function packed(take: (g: GraphBuilder, y: Value) => Value[], other?: (g: GraphBuilder, y: Value) => void): Model {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", "time", 4]);
    const y = g.op("MatMul", [x, g.initializer("attn.qkv.weight", zeros([4, 12]))]);
    for (const value of take(g, y)) g.output(value, "float32");
    other?.(g, y);
    const model = createModel(g.build(), { opset: 18 });
    return { ...model, opsets: new Map([...model.opsets, ["com.microsoft", 1]]) };
  }
  const split = (sizes: number[]) => (g: GraphBuilder, y: Value) =>
    g.ops("Split", [y, g.constant("int64", sizes)], sizes.length, { axis: -1 });
  const slice = (g: GraphBuilder, y: Value, from: number, to: number) =>
    g.op("Slice", [y, ...[from, to, 2].map((value) => g.constant("int64", [value]))]);

  it("by the sizes of a Split, and inside GroupQueryAttention", () => {
    expect(parts(packed(split([4, 4, 4])))).toEqual(["attn.q_proj 0+4", "attn.k_proj 4+4", "attn.v_proj 8+4"]);
    expect(parts(packed(split([8, 2, 2])))).toEqual(["attn.q_proj 0+8", "attn.k_proj 8+2", "attn.v_proj 10+2"]);
    const grouped = packed((g, y) => [
      g.op("GroupQueryAttention", [y], { num_heads: 4, kv_num_heads: 1 }, { domain: "com.microsoft" }),
    ]);
    expect(parts(grouped)).toEqual(["attn.q_proj 0+8", "attn.k_proj 8+2", "attn.v_proj 10+2"]);
  });

  it("but not where the runs are others, overlap, leave columns out, or something else reads them", () => {
    expect(parts(packed(split([2, 2, 8])))).toEqual([]);
    expect(parts(packed(split([6, 6])))).toEqual([]);
    expect(parts(packed(split([3, 3, 3, 3])))).toEqual([]);
    expect(parts(packed((g, y) => [slice(g, y, 0, 4), slice(g, y, 4, 8), slice(g, y, 8, 11)]))).toEqual([]);
    expect(parts(packed((g, y) => [slice(g, y, 0, 5), slice(g, y, 4, 8), slice(g, y, 8, 12)]))).toEqual([]);
    expect(parts(packed((g, y) => [...split([4, 4, 4])(g, y), g.op("Relu", [y])]))).toEqual([]);
    // Heads outside, the three inside: the columns of queries do not lie together.
    const interleaved = (g: GraphBuilder, y: Value): Value[] => {
      const heads = g.op("Reshape", [y, g.constant("int64", [0, 0, 2, 6])]);
      return g.ops("Split", [heads], 3, { axis: -1, num_outputs: 3 });
    };
    expect(parts(packed(interleaved))).toEqual([]);
  });

  it("below the layer where another has the path", () => {
    const taken = packed(split([4, 4, 4]), (g) => {
      const x = g.input("z", "float32", ["batch", 4]);
      g.output(g.op("MatMul", [x, g.initializer("attn.k_proj.weight", zeros([4, 4]))]), "float32");
    });
    expect(parts(taken)).toEqual(["attn.qkv.q_proj 0+4", "attn.qkv.k_proj 4+4", "attn.qkv.v_proj 8+4"]);
  });
});

describe("weights that the graph computes from constants", () => {
  /** x [2, 3] times a weight that `build` makes; the site's kind, sizes and layout. */
  function computed(build: (g: GraphBuilder) => Value, opset = 21): string[] {
    const g = graphBuilder({ opset });
    g.output(g.op("MatMul", [g.input("x", "float32", ["n", "t", 3]), build(g)], {}, { name: "/fc/MatMul" }), "float32");
    return list(createModel(g.build(), { opset }));
  }
  const expected = ["fc MatMul 3>5 in,out -"];

  it("Transpose, Reshape, Cast and Identity", () => {
    expect(computed((g) => g.op("Transpose", [g.initializer("w", zeros([5, 3]))]))).toEqual(expected);
    expect(computed((g) => g.op("Reshape", [g.initializer("w", zeros([15])), g.constant("int64", [3, -1])]))).toEqual(
      expected,
    );
    const half = tensor("float16", [3, 5], new Uint16Array(15));
    expect(computed((g) => g.op("Identity", [g.op("Cast", [g.initializer("w", half)], { to: 1 })]))).toEqual(expected);
  });

  it("ConstantOfShape and DequantizeLinear", () => {
    expect(computed((g) => g.op("ConstantOfShape", [g.constant("int64", [3, 5])]))).toEqual(expected);
    const quantized = (g: GraphBuilder) => g.initializer("w", tensor("int8", [3, 5], new Int8Array(15)));
    expect(computed((g) => g.op("DequantizeLinear", [quantized(g), g.constant("float32", 0.5)]))).toEqual(expected);
  });

  it("a module's name from the stored weight, where the node says none", () => {
    const g = graphBuilder({ opset: 21 });
    const weight = g.op("Transpose", [g.initializer("block.fc.weight", zeros([5, 3]))]);
    g.output(g.op("MatMul", [g.input("x", "float32", ["n", 3]), weight], {}, { name: "node_1" }), "float32");
    expect(sites(createModel(g.build(), { opset: 21 }))[0]!.modulePath).toBe("block.fc");
  });

  it("but not what differs from run to run, or hangs on an input", () => {
    expect(computed((g) => g.op("RandomNormal", [], { shape: [3, 5] }))).toEqual([]);
    expect(computed((g) => g.op("Relu", [g.input("w", "float32", [3, 5])]))).toEqual([]);
  });
});

describe("Conv and Embedding", () => {
  const conv = (dims: number[], attributes: PlainAttributes = {}) => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["n", null, ...dims.slice(2).map(() => null)]);
    const inputs = [x, g.initializer("c.weight", zeros(dims)), g.initializer("c.bias", zeros([dims[0]!]))];
    g.output(g.op("Conv", inputs, attributes), "float32");
    return sites(createModel(g.build(), { opset: 18 }));
  };

  it("Conv1d, 2d and 3d, with kernel, groups and the channels of all groups", () => {
    expect(conv([8, 3, 5])).toMatchObject([
      { kind: "Conv1d", modulePath: "c", inFeatures: 3, outFeatures: 8, kernel: [5], groups: 1, bias: "c.bias" },
    ]);
    expect(conv([8, 3, 5, 2], { group: 4 })).toMatchObject([
      { kind: "Conv2d", inFeatures: 12, outFeatures: 8, kernel: [5, 2], groups: 4, layout: "out,in", weightInput: 1 },
    ]);
    expect(conv([8, 3, 1, 2, 3])).toMatchObject([{ kind: "Conv3d", kernel: [1, 2, 3] }]);
  });

  it("a Conv that carries the scope of the BatchNorm folded into it goes by its weight's name", () => {
    const metadata = new Map([
      ["pkg.torch.onnx.class_hierarchy", "['M', 'torch.nn.modules.batchnorm.BatchNorm1d', 'aten.batch_norm.default']"],
      ["pkg.torch.onnx.name_scopes", "['', 'body.1', 'batch_norm']"],
    ]);
    const node = makeNode({ op: "Conv", name: "node_Conv_11", inputs: [], outputs: ["y"], metadata });
    expect(modulePath(node, "body.0.weight", () => false)).toBe("body.0");
  });

  it("a Conv whose weight the exporter computed holds a BatchNorm", () => {
    const conv = (weight: string) => {
      const g = graphBuilder({ opset: 17 });
      const x = g.input("x", "float32", ["n", 3, 8]);
      const w = g.initializer(weight, tensor("float32", [8, 3, 5], new Float32Array(120)));
      g.output(g.op("Conv", [x, w], {}, { name: "/body/body.0/Conv" }), "float32");
      return sites(createModel(g.build(), { opset: 17 }));
    };
    expect(conv("onnx::Conv_195")).toMatchObject([{ modulePath: "body.0", foldedNorm: true }]);
    expect(conv("body.0.weight")).toMatchObject([{ modulePath: "body.0", foldedNorm: false }]);
  });

  it("a path of scopes that lacks some goes by the bias's name", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", ["n", 3]);
    const w = g.initializer("onnx::MatMul_377", tensor("float32", [3, 2], new Float32Array(6)));
    const y = g.op("MatMul", [x, w], {}, { name: "/m/decoder/layers.0/q_proj/MatMul" });
    const bias = g.initializer("m.model.decoder.layers.0.q_proj.bias", tensor("float32", [2], new Float32Array(2)));
    g.output(g.op("Add", [bias, y]), "float32");
    expect(sites(createModel(g.build(), { opset: 17 }))).toMatchObject([
      { modulePath: "m.model.decoder.layers.0.q_proj" },
    ]);
  });

  const gather = (table: Parameters<GraphBuilder["initializer"]>[1], attributes: PlainAttributes = {}) => {
    const g = graphBuilder({ opset: 18 });
    const ids = g.input("ids", "int64", ["n", "t"]);
    g.output(g.op("Gather", [g.initializer("wte.weight", table), ids], attributes), "float32");
    return sites(createModel(g.build(), { opset: 18 }));
  };

  it("Gather of a matrix of numbers along its first axis", () => {
    expect(gather(zeros([11, 4]))).toMatchObject([
      { kind: "Embedding", modulePath: "wte", inFeatures: 11, outFeatures: 4, layout: "in,out", weightInput: 0 },
    ]);
    expect(gather(zeros([11, 4]), { axis: 1 })).toEqual([]);
    expect(gather(zeros([11]))).toEqual([]);
    expect(gather(tensor("int64", [2, 2], new BigInt64Array(4)))).toEqual([]);
  });

  it("a weight that two layers read is said by each, through Transpose as well", () => {
    const g = graphBuilder({ opset: 18 });
    const table = g.initializer("wte.weight", zeros([11, 4]));
    const h = g.op("Gather", [table, g.input("ids", "int64", ["n"])]);
    g.output(g.op("MatMul", [h, g.op("Transpose", [table])], {}, { name: "/lm_head/MatMul" }), "float32");
    expect(
      sites(createModel(g.build(), { opset: 18 })).map(({ modulePath: path, sharedWith }) => [path, sharedWith]),
    ).toEqual([
      ["wte", ["wte", "lm_head"]],
      ["lm_head", ["wte", "lm_head"]],
    ]);
  });
});

describe("what is a site", () => {
  const vector = (...values: number[]) => tensor("float32", [values.length], Float32Array.from(values));

  function model(build: (g: GraphBuilder, x: Value) => Value): Model {
    const g = graphBuilder({ opset: 17 });
    g.output(build(g, g.input("x", "float32", ["batch", 3])), "float32");
    return createModel(g.build(), { opset: 17 });
  }
  const gemm = (attributes: PlainAttributes, dims = [3, 3]) =>
    model((g, x) => g.op("Gemm", [x, g.initializer("fc.weight", zeros(dims))], attributes));

  it("a Gemm whose weight is a matrix, whichever way round", () => {
    expect(list(gemm({}, [3, 5]))).toEqual(["fc Gemm 3>5 in,out -"]);
    expect(list(gemm({ transB: 1 }, [5, 3]))).toEqual(["fc Gemm 3>5 out,in -"]);
    expect(list(gemm({ transB: 1, beta: float(0.5) }, [5, 3]))).toEqual(["fc Gemm 3>5 out,in -"]);
  });

  it("a Gemm of x^T, and one with a factor, which is told", () => {
    expect(list(gemm({ transA: 1 }, [3, 5]))).toEqual(["fc Gemm 3>5 in,out -"]);
    expect(sites(gemm({ alpha: float(2) }))).toMatchObject([{ modulePath: "fc", factor: 2 }]);
    expect(list(gemm({ alpha: float(0) }))).toEqual([]);
  });

  it("no product of two inputs, or of two constants, and none with a vector or a stack", () => {
    expect(list(model((g, x) => g.op("MatMul", [x, g.input("z", "float32", [3, 3])])))).toEqual([]);
    expect(
      list(model((g) => g.op("MatMul", [g.initializer("p", zeros([3, 3])), g.initializer("q.weight", zeros([3, 3]))]))),
    ).toEqual([]);
    expect(list(model((g, x) => g.op("MatMul", [x, g.initializer("v.weight", zeros([3]))])))).toEqual([]);
    expect(list(model((g, x) => g.op("MatMul", [x, g.initializer("v.weight", zeros([2, 3, 3]))])))).toEqual([]);
    expect(
      list(
        model((g, x) => g.op("MatMul", [x, g.initializer("v.weight", zeros([3, 3]))], {}, { domain: "com.example" })),
      ),
    ).toEqual([]);
  });

  it("a weight in a Constant node, or behind Identity nodes", () => {
    const value: Attribute = { kind: "tensor", value: fromTensor(zeros([3, 5])) };
    expect(
      list(model((g, x) => g.op("MatMul", [x, g.op("Constant", [], { value })], {}, { name: "/fc/MatMul" }))),
    ).toEqual(["fc MatMul 3>5 in,out -"]);
    const shared = model((g, x) => {
      const weight = g.initializer("w", zeros([3, 5]));
      return g.op("MatMul", [x, g.op("Identity", [g.op("Identity", [weight])])], {}, { name: "/fc/MatMul" });
    });
    expect(list(shared)).toEqual(["fc MatMul 3>5 in,out -"]);
  });

  it("with the bias of an Add behind it, from either side, when nothing else reads the product", () => {
    const biased = (build: (g: GraphBuilder, h: Value, bias: Value) => Value, bias = vector(1, 2, 3, 4, 5)) =>
      model((g, x) =>
        build(g, g.op("MatMul", [x, g.initializer("fc.weight", zeros([3, 5]))]), g.initializer("fc.bias", bias)),
      );
    expect(list(biased((g, h, bias) => g.op("Add", [h, bias])))).toEqual(["fc MatMul 3>5 in,out fc.bias"]);
    expect(list(biased((g, h, bias) => g.op("Add", [bias, h])))).toEqual(["fc MatMul 3>5 in,out fc.bias"]);
    expect(list(biased((g, h, bias) => g.op("Mul", [h, bias])))).toEqual(["fc MatMul 3>5 in,out -"]);
    expect(list(biased((g, h, bias) => g.op("Add", [h, bias]), vector(1)))).toEqual(["fc MatMul 3>5 in,out -"]);
    expect(list(biased((g, h, bias) => g.op("Mul", [g.op("Add", [h, bias]), h])))).toEqual(["fc MatMul 3>5 in,out -"]);
  });

  it("called after its weight, its node, or its place when no exporter said a path", () => {
    const named = (weight: string, name?: string) =>
      list(
        model((g, x) =>
          g.op("MatMul", [x, g.initializer(weight, zeros([3, 5]))], {}, name === undefined ? {} : { name }),
        ),
      )[0]!.split(" ")[0];
    expect(named("theta", "product")).toBe("theta");
    expect(named("onnx::MatMul_7", "my/product")).toBe("my.product");
    const nameless = model((g, x) => {
      g.node(makeNode({ op: "MatMul", inputs: [x, g.initializer("onnx::w", zeros([3, 5]))], outputs: ["y"] }));
      return "y";
    });
    expect(sites(nameless)[0]!.modulePath).toBe("MatMul_0");
  });
});
