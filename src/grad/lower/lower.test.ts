import { describe, expect, it } from "vitest";
import {
  createModel,
  float,
  type GraphBuilder,
  graphBuilder,
  type PlainAttributes,
  type Value,
} from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { inferShapes } from "../../onnx/shapes.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { type CheckedInput, checkGradient, checkTolerance } from "../testing/check.ts";
import { lower, lowerPath } from "./lower.ts";
import { loweringOf } from "./table.ts";
import { caseModel, difference, type LoweredCase, loweringError, run } from "./testing/compare.ts";

/** Rounding of a few float32 operations in another order. */
const tolerance = 1e-5;

const ids = (dims: readonly number[], ...values: readonly number[]) =>
  tensor("int64", dims, BigInt64Array.from(values, BigInt));
const ints = (dims: readonly number[], ...values: readonly number[]) => tensor("int32", dims, Int32Array.from(values));

/** May be seen: the first two keys by all, the third by the second query only. */
const seen = tensor("bool", [3, 3], Uint8Array.of(1, 1, 0, 1, 1, 1, 1, 1, 0));
const own = { domain: "", opset: 23 } as const;
const heads = { q_num_heads: 4, kv_num_heads: 2 };

const cases: Record<string, LoweredCase> = {
  "own Attention": {
    ...own,
    op: "Attention",
    inputs: [
      [2, 4, 3, 6],
      [2, 4, 5, 6],
      [2, 4, 5, 7],
    ],
  },
  "own Attention, causal, scale, heads joined, groups": {
    ...own,
    op: "Attention",
    inputs: [
      [2, 3, 24],
      [2, 3, 12],
      [2, 3, 12],
    ],
    attributes: { ...heads, is_causal: 1, scale: float(0.3) },
  },
  "own Attention, a mask of truth values": {
    ...own,
    op: "Attention",
    inputs: [[2, 4, 3, 6], [2, 4, 3, 6], [2, 4, 3, 6], seen],
  },
  "own Attention, a mask of numbers, heads joined": {
    ...own,
    op: "Attention",
    inputs: [
      [2, 3, 24],
      [2, 3, 12],
      [2, 3, 12],
      [2, 4, 3, 3],
    ],
    attributes: heads,
  },
  "own Attention, a cache, causal": {
    ...own,
    op: "Attention",
    inputs: [[2, 4, 3, 6], [2, 4, 3, 6], [2, 4, 3, 6], "", [2, 4, 2, 6], [2, 4, 2, 6]],
    attributes: { is_causal: 1 },
    outputs: [0, 1, 2],
  },
  "own Attention, soft cap": {
    ...own,
    op: "Attention",
    inputs: [
      [2, 4, 3, 6],
      [2, 4, 3, 6],
      [2, 4, 3, 6],
    ],
    attributes: { softcap: float(1.5) },
  },
  "own RotaryEmbedding": {
    ...own,
    op: "RotaryEmbedding",
    inputs: [[2, 4, 3, 8], [10, 4], [10, 4], ids([2, 3], 0, 1, 2, 5, 6, 7)],
  },
  "own RotaryEmbedding, heads joined, interleaved, partial": {
    ...own,
    op: "RotaryEmbedding",
    inputs: [[2, 3, 32], [10, 2], [10, 2], ids([2, 3], 0, 1, 2, 5, 6, 7)],
    attributes: { num_heads: 4, interleaved: 1, rotary_embedding_dim: 4 },
  },
  "own RotaryEmbedding, tables by place": {
    ...own,
    op: "RotaryEmbedding",
    inputs: [
      [2, 4, 3, 8],
      [2, 3, 4],
      [2, 3, 4],
    ],
  },
  MeanVarianceNormalization: { ...own, op: "MeanVarianceNormalization", inputs: [[2, 3, 4, 5]] },
  QuickGelu: { op: "QuickGelu", inputs: [[4, 8]] },
  "QuickGelu, alpha 1 (SiLU)": { op: "QuickGelu", inputs: [[4, 8]], attributes: { alpha: float(1) } },
  FusedMatMul: {
    op: "FusedMatMul",
    inputs: [
      [3, 4],
      [4, 5],
    ],
    attributes: { alpha: float(0.5) },
  },
  "FusedMatMul, transA": {
    op: "FusedMatMul",
    inputs: [
      [4, 3],
      [4, 5],
    ],
    attributes: { transA: 1 },
  },
  "FusedMatMul, transB, batches": {
    op: "FusedMatMul",
    inputs: [
      [2, 6, 3, 4],
      [6, 5, 4],
    ],
    attributes: { transB: 1 },
  },
  "FusedMatMul, transBatchA": {
    op: "FusedMatMul",
    inputs: [
      [3, 2, 6, 4],
      [2, 6, 4, 5],
    ],
    attributes: { transBatchA: 1 },
  },
  "FusedMatMul, transA, transBatchA, transB, transBatchB": {
    op: "FusedMatMul",
    inputs: [
      [4, 2, 6, 3],
      [5, 2, 6, 4],
    ],
    attributes: { transA: 1, transBatchA: 1, transB: 1, transBatchB: 1 },
  },
  "FusedGemm, Relu": { op: "FusedGemm", inputs: [[3, 4], [5, 4], [5]], attributes: { activation: "Relu", transB: 1 } },
  "FusedGemm, LeakyRelu": {
    op: "FusedGemm",
    inputs: [
      [4, 3],
      [4, 5],
      [3, 1],
    ],
    attributes: {
      activation: "LeakyRelu",
      activation_alpha: float(0.3),
      transA: 1,
      alpha: float(0.5),
      beta: float(2),
    },
  },
  "FusedGemm without c": {
    op: "FusedGemm",
    inputs: [
      [3, 4],
      [4, 5],
    ],
    attributes: { activation: "Tanh" },
  },
  "FusedConv, Relu": {
    op: "FusedConv",
    inputs: [
      [2, 2, 4, 4],
      [3, 2, 3, 3],
    ],
    attributes: { activation: "Relu", pads: [1, 1, 1, 1] },
  },
  "FusedConv, a sum, LeakyRelu": {
    op: "FusedConv",
    inputs: [[1, 4, 5], [4, 2, 3], [4], [1, 4, 3]],
    attributes: {
      activation: "LeakyRelu",
      activation_params: { kind: "floats", value: [Math.fround(0.2)] },
      group: 2,
      kernel_shape: [3],
    },
  },
  "FusedConv, Clip": {
    op: "FusedConv",
    inputs: [[1, 2, 3, 3], [2, 2, 2, 2], [2]],
    attributes: {
      activation: "Clip",
      activation_params: { kind: "floats", value: [-1, 1] },
      strides: [2, 2],
    },
  },
  SkipLayerNormalization: { op: "SkipLayerNormalization", inputs: [[2, 3, 8], [2, 3, 8], [8], [8]] },
  "SkipLayerNormalization, all inputs, the sum": {
    op: "SkipLayerNormalization",
    inputs: [[2, 3, 8], [3, 8], [8], [8], [8]],
    attributes: { epsilon: float(1e-5) },
    outputs: [0, 3],
  },
  "SkipLayerNormalization without beta": { op: "SkipLayerNormalization", inputs: [[2, 3, 8], [1, 3, 8], [8]] },
  SimplifiedLayerNormalization: {
    op: "SimplifiedLayerNormalization",
    domain: "",
    inputs: [[2, 3, 8], [8]],
    attributes: { epsilon: float(1e-6), axis: -1, stash_type: 1 },
  },
  SkipSimplifiedLayerNormalization: {
    op: "SkipSimplifiedLayerNormalization",
    inputs: [[2, 3, 8], [2, 3, 8], [8]],
    attributes: { epsilon: float(1e-6) },
    outputs: [0, 3],
  },
  "SkipSimplifiedLayerNormalization with a bias": {
    op: "SkipSimplifiedLayerNormalization",
    inputs: [[6, 8], [6, 8], [8], [8]],
  },
  EmbedLayerNormalization: {
    op: "EmbedLayerNormalization",
    inputs: [
      ints([2, 3], 1, 0, 4, 2, 2, 3),
      ints([2, 3], 0, 0, 1, 1, 0, 1),
      [5, 8],
      [6, 8],
      [2, 8],
      [8],
      [8],
      ints([2, 3], 1, 1, 0, 1, 1, 1),
    ],
    attributes: { epsilon: float(1e-5) },
    constants: [2, 3, 4, 5, 6],
    outputs: [0, 1],
  },
  "EmbedLayerNormalization without segments": {
    op: "EmbedLayerNormalization",
    inputs: [ints([2, 3], 1, 0, 4, 2, 2, 3), "", [5, 8], [6, 8], "", [8], [8], "", ints([1, 3], 3, 4, 5)],
    constants: [2, 3, 5, 6],
    outputs: [0, 1, 2],
  },
  RotaryEmbedding: {
    op: "RotaryEmbedding",
    inputs: [[2, 3, 16], ids([2, 3], 0, 1, 2, 4, 5, 6), [8, 2], [8, 2]],
    constants: [2, 3],
  },
  "RotaryEmbedding, offset": {
    op: "RotaryEmbedding",
    inputs: [[2, 3, 16], ids([1], 4), [8, 2], [8, 2]],
    constants: [2, 3],
  },
  "RotaryEmbedding, interleaved": {
    op: "RotaryEmbedding",
    inputs: [[2, 3, 16], ids([2, 3], 0, 1, 2, 4, 5, 6), [8, 2], [8, 2]],
    constants: [2, 3],
    attributes: { interleaved: 1, scale: float(1) },
  },
  "RotaryEmbedding, heads first": {
    op: "RotaryEmbedding",
    inputs: [[2, 4, 3, 6], ids([2, 3], 0, 1, 2, 4, 5, 6), [8, 3], [8, 3]],
  },
  "RotaryEmbedding, partial": {
    op: "RotaryEmbedding",
    inputs: [[2, 3, 16], ids([2, 3], 0, 1, 2, 4, 5, 6), [8, 2], [8, 2]],
    attributes: { rotary_embedding_dim: 4, num_heads: 2 },
  },
  "RotaryEmbedding, partial, heads first, interleaved": {
    op: "RotaryEmbedding",
    inputs: [[2, 2, 3, 8], ids([1], 1), [8, 2], [8, 2]],
    attributes: { rotary_embedding_dim: 4, num_heads: 2, interleaved: 1 },
  },
  MultiHeadAttention: {
    op: "MultiHeadAttention",
    inputs: [
      [2, 3, 8],
      [2, 3, 8],
      [2, 3, 8],
    ],
    attributes: { num_heads: 2 },
  },
  "MultiHeadAttention, causal": {
    op: "MultiHeadAttention",
    inputs: [[2, 3, 8], [2, 3, 8], [2, 3, 8], [24]],
    attributes: { num_heads: 2, unidirectional: 1, scale: float(0.7) },
    outputs: [0, 1, 2],
  },
  "MultiHeadAttention, cross, mask, bias of scores": {
    op: "MultiHeadAttention",
    inputs: [[2, 3, 8], [2, 5, 8], [2, 5, 12], [28], ints([2, 5], 1, 1, 1, 0, 0, 1, 1, 1, 1, 1), [1, 2, 3, 5]],
    attributes: { num_heads: 2 },
  },
  "MultiHeadAttention, lengths": {
    op: "MultiHeadAttention",
    inputs: [[2, 3, 8], [2, 5, 8], [2, 5, 8], "", ints([2], 3, 5)],
    attributes: { num_heads: 2, mask_filter_value: float(-100) },
  },
  "MultiHeadAttention, a mask for each query": {
    op: "MultiHeadAttention",
    inputs: [[1, 2, 8], [1, 3, 8], [1, 3, 8], "", ints([1, 2, 3], 1, 0, 0, 1, 1, 0)],
    attributes: { num_heads: 2 },
  },
  "MultiHeadAttention, keys with heads": {
    op: "MultiHeadAttention",
    inputs: [
      [2, 3, 8],
      [2, 2, 5, 4],
      [2, 2, 5, 4],
    ],
    attributes: { num_heads: 2 },
  },
  "MultiHeadAttention, a cache": {
    op: "MultiHeadAttention",
    inputs: [[2, 3, 8], [2, 3, 8], [2, 3, 8], "", "", "", [2, 2, 4, 4], [2, 2, 4, 4]],
    attributes: { num_heads: 2, unidirectional: 1 },
    outputs: [0, 1, 2],
  },
  Attention: { op: "Attention", inputs: [[2, 3, 8], [8, 24], [24]], attributes: { num_heads: 2 } },
  "Attention, causal, mask": {
    op: "Attention",
    inputs: [[2, 3, 8], [8, 24], [24], ints([2, 3], 1, 1, 0, 1, 1, 1)],
    attributes: { num_heads: 2, unidirectional: 1 },
  },
  "Attention, lengths": {
    op: "Attention",
    inputs: [[2, 3, 8], [8, 24], [24], ints([2], 2, 3)],
    attributes: { num_heads: 2 },
  },
  "Attention, sizes apart, bias of scores": {
    op: "Attention",
    inputs: [[2, 3, 8], [8, 20], [20], "", "", [2, 2, 3, 3]],
    attributes: { num_heads: 2, qkv_hidden_sizes: [8, 8, 4], scale: float(0.3) },
  },
  GroupQueryAttention: {
    op: "GroupQueryAttention",
    inputs: [[2, 3, 32], [2, 3, 16], [2, 3, 16], "", "", ints([2], 2, 2), ints([], 3)],
    attributes: { num_heads: 4, kv_num_heads: 2 },
    outputs: [0, 1, 2],
  },
  "GroupQueryAttention, rotary": {
    op: "GroupQueryAttention",
    inputs: [[2, 3, 64], [2, 3, 32], [2, 3, 32], "", "", ints([2], 2, 2), ints([], 3), [6, 8], [6, 8]],
    attributes: { num_heads: 4, kv_num_heads: 2, do_rotary: 1 },
    outputs: [0, 1, 2],
  },
  "GroupQueryAttention, a cache of length zero": {
    op: "GroupQueryAttention",
    inputs: [
      [1, 3, 64],
      [1, 3, 32],
      [1, 3, 32],
      [1, 2, 0, 16],
      [1, 2, 0, 16],
      ints([1], 2),
      ints([], 3),
      [6, 8],
      [6, 8],
    ],
    attributes: { num_heads: 4, kv_num_heads: 2, do_rotary: 1 },
    outputs: [0, 1, 2],
  },
  "GroupQueryAttention, a cache": {
    op: "GroupQueryAttention",
    inputs: [
      [1, 1, 64],
      [1, 1, 32],
      [1, 1, 32],
      [1, 2, 4, 16],
      [1, 2, 4, 16],
      ints([1], 4),
      ints([], 5),
      [6, 8],
      [6, 8],
    ],
    attributes: { num_heads: 4, kv_num_heads: 2, do_rotary: 1 },
    outputs: [0, 1, 2],
  },
  "GroupQueryAttention, packed, interleaved, window": {
    op: "GroupQueryAttention",
    inputs: [[1, 5, 96], "", "", "", "", ints([1], 4), ints([], 5), [6, 8], [6, 8]],
    attributes: { num_heads: 4, kv_num_heads: 1, do_rotary: 1, rotary_interleaved: 1, local_window_size: 2 },
  },
  "GroupQueryAttention, as many groups as heads, soft cap, scale": {
    op: "GroupQueryAttention",
    inputs: [[1, 4, 16], [1, 4, 16], [1, 4, 16], "", "", ints([1], 3), ints([], 4)],
    attributes: { num_heads: 2, kv_num_heads: 2, softcap: float(1.5), scale: float(0.6) },
  },
};

describe("a lowered operator computes what the kernel computes", () => {
  for (const [name, given] of Object.entries(cases)) {
    it(name, async () => {
      expect(await loweringError(given)).toBeLessThan(tolerance);
    });
    it(`${name}; sizes unknown`, async () => {
      expect(await loweringError(given, false)).toBeLessThan(tolerance);
    });
  }
});

describe("GroupQueryAttention", () => {
  it("gives every token of a shorter sequence what the kernel gives; its padding has no meaning", async () => {
    const given: LoweredCase = {
      op: "GroupQueryAttention",
      inputs: [[2, 4, 64], [2, 4, 32], [2, 4, 32], "", "", ints([2], 3, 1), ints([], 4), [6, 8], [6, 8]],
      attributes: { num_heads: 4, kv_num_heads: 2, do_rotary: 1 },
    };
    const { model, feeds } = caseModel(given, true);
    const [kernel, lowered] = await Promise.all(
      [model, lower(model)].map(async (one) => [...(await run(one, feeds)).values()][0]!),
    );
    // The first sequence has 4 tokens, the second 2, of 64 values each.
    const tokens = (value: Tensor) => tensor("float32", [6, 64], (value.data as Float32Array).slice(0, 6 * 64));
    expect(difference(tokens(lowered!), tokens(kernel!))).toBeLessThan(tolerance);
  });

  it("is refused in a form that is not causal", () => {
    const { model } = caseModel(
      { ...cases.GroupQueryAttention!, attributes: { num_heads: 4, kv_num_heads: 2, causal: 0 } },
      true,
    );
    expect(() => lower(model)).toThrow(/GroupQueryAttention.*only with a causal mask/);
  });
});

describe("shape inference knows what the kernel gives", () => {
  for (const [name, given] of Object.entries(cases)) {
    it(name, async () => {
      const { model, feeds } = caseModel(given, true);
      const infos = inferShapes(model.graph);
      const symbolic = inferShapes(caseModel(given, false).model.graph);
      for (const [output, { type, dims }] of await run(model, feeds)) {
        const info = infos.get(output)!;
        expect(info.type).toBe(type);
        expect(symbolic.get(output)?.shape?.length).toBe(dims.length);
        // A size may be unknown; one that is claimed is right.
        expect(info.shape?.map((dim, axis) => dim ?? dims[axis])).toEqual(dims);
      }
    });
  }
});

/** The node of a case, lowered onto a function's inputs. */
function loweredOnto(
  g: GraphBuilder,
  op: string,
  inputs: readonly Value[],
  attributes: PlainAttributes,
  domain: string,
) {
  const probe = graphBuilder({ opset: g.opset });
  probe.op(op, inputs, attributes, { domain });
  const node = { ...probe.build().nodes[0]!, outputs: ["lowered"] };
  loweringOf(domain, op)!(node, g);
  return "lowered";
}

const isFloat = (input: LoweredCase["inputs"][number]): boolean =>
  input !== "" && (!("data" in input) || input.type === "float32");

describe("gradients through a lowered operator", () => {
  const differentiated = [
    "own Attention, causal, scale, heads joined, groups",
    "own Attention, a mask of numbers, heads joined",
    "own RotaryEmbedding, heads joined, interleaved, partial",
    "MeanVarianceNormalization",
    "QuickGelu",
    "FusedMatMul, transA, transBatchA, transB, transBatchB",
    "FusedGemm, LeakyRelu",
    "FusedConv, a sum, LeakyRelu",
    "SkipLayerNormalization, all inputs, the sum",
    "SkipSimplifiedLayerNormalization with a bias",
    "SimplifiedLayerNormalization",
    "RotaryEmbedding, partial, heads first, interleaved",
    "RotaryEmbedding",
    "MultiHeadAttention, causal",
    "MultiHeadAttention, cross, mask, bias of scores",
    "Attention, causal, mask",
    "GroupQueryAttention, packed, interleaved, window",
    "GroupQueryAttention",
  ];
  for (const name of differentiated) {
    const given = cases[name]!;
    for (const known of ["static", "shared"] as const) {
      it(`${name}; sizes ${known}`, async () => {
        const inputs = given.inputs.flatMap((input, index): CheckedInput[] => {
          if (!isFloat(input) || input === "" || "data" in input) return [];
          // Tables of angles, and weights apart from the first, are frozen: what is left is what adapters reach.
          return [{ dims: input, range: [-1, 1], frozen: frozenInputs[given.op]?.includes(index) ?? false }];
        });
        const { error, precision } = await checkGradient(
          (g, values) => {
            const floats = [...values];
            const names = given.inputs.map((input) => {
              if (input === "") return "";
              return "data" in input ? g.initializer("given", input) : floats.shift()!;
            });
            return loweredOnto(g, given.op, names, given.attributes ?? {}, given.domain ?? "com.microsoft");
          },
          inputs,
          { known, opset: 18 },
        );
        expect(error).toBeLessThan(checkTolerance[precision]);
      });
    }
  }
});

/** Inputs that no gradient is asked for. */
const frozenInputs: Readonly<Record<string, readonly number[]>> = {
  RotaryEmbedding: [2, 3],
  MultiHeadAttention: [3],
  GroupQueryAttention: [7, 8],
};

describe("lowerPath", () => {
  /** x -> QuickGelu (below p) -> + p -> QuickGelu -> y */
  function twoActivations(): Model {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 4]);
    const below = g.op("QuickGelu", [x], {}, { domain: "com.microsoft" });
    const h = g.op("Add", [below, g.input("p", "float32", [4])]);
    g.output(g.op("QuickGelu", [h], {}, { domain: "com.microsoft", output: "y" }), "float32", ["batch", 4]);
    const model = createModel(g.build(), { opset: 18 });
    return { ...model, opsets: new Map([...model.opsets, ["com.microsoft", 1]]) };
  }

  it("rewrites what lies between the parameters and the target, and nothing else", () => {
    const operators = lowerPath(twoActivations(), ["p"], ["y"]).graph.nodes.map((node) => node.op);
    expect(operators).toEqual(["QuickGelu", "Add", "Mul", "Sigmoid", "Mul"]);
  });

  it("keeps the outputs' names, and the model that it was given", () => {
    const model = twoActivations();
    const lowered = lower(model);
    expect(lowered.graph.outputs).toEqual(model.graph.outputs);
    expect(lowered.graph.nodes.some((node) => node.domain !== "")).toBe(false);
    expect(model.graph.nodes.map((node) => node.op)).toEqual(["QuickGelu", "Add", "QuickGelu"]);
    expect(lower(lowered)).toBe(lowered);
  });

  it("lists every operator in the way at once", () => {
    const model = twoActivations();
    const graph = graphBuilder({ opset: 18, from: model.graph });
    graph.op("Mystery", ["y"], {}, { output: "z", domain: "com.example", name: "odd" });
    graph.op("MultiHeadAttention", ["z"], { num_heads: 2 }, { output: "w", domain: "com.microsoft", name: "packed" });
    const wanted = { ...model, graph: graph.build() };
    expect(() => lowerPath(wanted, ["p"], ["w"])).toThrow(/2 faults[\s\S]*com\.example\.Mystery[\s\S]*packed/);
  });
});
