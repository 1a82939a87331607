// Decoders exported with a cache, against PyTorch without one: scripts/fixtures/cache.py.
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { withoutCache } from "../onnx/cache.ts";
import type { Model } from "../onnx/model.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { gradcheck } from "./gradcheck.ts";
import { createSession } from "./infer.ts";
import { causalLm } from "./losses.ts";
import { randomInputs } from "./random-inputs.ts";
import { compileStep, loadParameters } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";
import { byKey, fixtureAnswers, fixtureModel, worstShare } from "./testing/answers.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const loss = causalLm();

describe.each([
  ["llama", "cache/llama.onnx", ["q_proj", "v_proj"]],
  ["gpt2", "cache/gpt2.onnx", ["c_attn"]],
])("%s with a cache", (name, file, targetModules) => {
  const model = fixtureModel(file);
  const answers = fixtureAnswers(`cache/${name}.safetensors`);
  const input_ids = answers.get("input_ids")!;
  const adapted = attachLora(model, { r: 2, loraAlpha: 4, targetModules });
  const tensors = byKey(answers, adapted, "lora");

  it("gives PyTorch's loss, logits and gradients from tokens alone", async () => {
    const result = await valueAndGrad(adapted, { tensors }, { inputs: { input_ids }, labels: input_ids }, loss);
    await adapted.dispose();
    expect(Math.abs(result.loss - Number(answers.get("loss")!.data[0]))).toBeLessThan(1e-5);
    expect([...result.outputs.keys()]).toEqual(["logits"]);
    expect(worstShare(result.outputs.get("logits"), answers.get("logits")!)).toBeLessThanOrEqual(1);
    const expected = byKey(answers, adapted, "grad");
    expect(expected.size).toBe(name === "llama" ? 8 : 4);
    for (const [key, value] of expected) expect(worstShare(result.grads.get(key), value), key).toBeLessThanOrEqual(1);
  });

  it("trains without a trace of the cache", async () => {
    const { graph } = buildStepGraph(adapted, loss).model;
    expect(graph.inputs.filter(({ name: input }) => input.startsWith("past"))).toEqual([]);
    expect(graph.outputs.filter(({ name: output }) => output.startsWith("present"))).toEqual([]);
    // Keys and values are not copied behind an empty tensor.
    const before = new Set(model.graph.outputs.map(({ name: output }) => output));
    const appended = graph.nodes.filter(({ outputs }) =>
      outputs.some((output) => before.has(output) && output !== "logits"),
    );
    expect(appended.map(({ op }) => op)).toEqual(["Identity", "Identity", "Identity", "Identity"]);
    const step = await compileStep(adapted, loss, null);
    loadParameters(step, adapted, tensors);
    // Another shape, and back: what is made for a batch is of its shape.
    const short = rows(input_ids, 1, 4);
    await step.run({ inputs: { input_ids: short }, labels: short });
    const value = await step.run({ inputs: { input_ids }, labels: input_ids });
    await step.dispose();
    expect(Math.abs(value - Number(answers.get("loss")!.data[0]))).toBeLessThan(1e-5);
  });

  it("still has it for inference, empty where a call gives none", async () => {
    const session = await createSession(adapted);
    const adapter = { config: adapted.config!, tensors };
    const all = await session.run({ input_ids }, { adapter });
    expect(worstShare(all.get("logits"), answers.get("logits")!)).toBeLessThanOrEqual(1);
    // The last token behind a cache of the five before it.
    const first = await session.run({ input_ids: rows(input_ids, 2, 5) }, { adapter });
    const past = [...first].flatMap(([key, value]) =>
      key.startsWith("present")
        ? [[key.replace("present.", "past_key_values.").replace("present_", "past_"), value] as const]
        : [],
    );
    const last = tensor(
      "int64",
      [2, 1],
      BigInt64Array.from([5, 11], (at) => (input_ids.data as BigInt64Array)[at]!),
    );
    const position_ids = tensor("int64", [2, 1], BigInt64Array.of(5n, 5n));
    const attention_mask = tensor("int64", [2, 6], new BigInt64Array(12).fill(1n));
    const next = await session.run(
      { input_ids: last, position_ids, attention_mask, ...Object.fromEntries(past) },
      { adapter },
    );
    await session.dispose();
    const logits = answers.get("logits")!;
    const expected = tensor(
      "float32",
      [2, 31],
      Float32Array.from({ length: 62 }, (_, at) => Number(logits.data[(at < 31 ? 5 : 11) * 31 + (at % 31)])),
    );
    expect(worstShare({ ...next.get("logits")!, dims: [2, 31] } as Tensor, expected)).toBeLessThanOrEqual(1);
  });

  it("agrees with central differences at made-up inputs", async () => {
    const { passed } = await gradcheck(adapted, randomInputs(model));
    expect(passed).toBe(true);
  });
});

/** The first tokens of the first rows. */
function rows({ dims, data }: Tensor, count: number, length: number): Tensor<"int64"> {
  const values = BigInt64Array.from({ length: count * length }, (_, at) =>
    BigInt(data[Math.floor(at / length) * dims[1]! + (at % length)]!),
  );
  return tensor("int64", [count, length], values);
}

describe("caches of other kinds", () => {
  const attention = (operator: string, past: readonly string[], inputs: readonly string[], outputs: number): Model => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", "tokens", 8]);
    for (const name of past) g.input(name, "float32", ["batch", 2, "past_length", 4]);
    const [y = "", ...present] = g.ops(
      operator,
      inputs.map((name) => (name === "q" ? x : name)),
      outputs,
      { num_heads: 2 },
      { domain: "com.microsoft" },
    );
    g.output(y, "float32");
    for (const name of present) g.output(name, "float32");
    const built = createModel(g.build(), { opset: 18 });
    return { ...built, opsets: new Map([...built.opsets, ["com.microsoft", 1]]) };
  };

  it("an attention operator's own: left out where it comes in and where it is given back", async () => {
    const past = ["past_key_values.0.key", "past_key_values.0.value"];
    const model = attention("MultiHeadAttention", past, ["q", "q", "q", "", "", "", ...past], 3);
    const { graph } = withoutCache(model);
    expect(graph.inputs.map(({ name }) => name)).toEqual(["x"]);
    expect([graph.outputs.length, graph.nodes.length]).toEqual([1, 1]);
    expect([...graph.nodes[0]!.inputs.slice(0, 3), ...graph.nodes[0]!.outputs.slice(1)]).toEqual(["x", "x", "x"]);
    const x = tensor(
      "float32",
      [1, 3, 8],
      Float32Array.from({ length: 24 }, (_, at) => Math.sin(at)),
    );
    const nothing = tensor("float32", [1, 2, 0, 4], new Float32Array(0));
    const results: (number | bigint)[][] = [];
    for (const [one, feeds] of [
      [model, past],
      [withoutCache(model), []],
    ] as const) {
      const session = await openSession(one);
      const [name = ""] = session.outputs;
      results.push([
        ...(await session.run(new Map<string, Tensor>([["x", x], ...feeds.map((key) => [key, nothing] as const)]))).get(
          name,
        )!.data,
      ]);
      await session.dispose();
    }
    results[1]!.forEach((value, at) => {
      expect(value).toBeCloseTo(Number(results[0]![at]), 5);
    });
  });

  it("refuses those that cannot be empty, all at once", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("input_ids", "float32", ["batch", "tokens"]);
    g.input("past_key_values.0.encoder.key", "float32", ["batch", 2, "encoder_length", 4]);
    g.input("past_key_values.0.key", "float32", [1, 2, 128, 4]);
    g.output(g.op("Relu", [x]), "float32");
    expect(() => withoutCache(createModel(g.build(), { opset: 18 }))).toThrow(
      expect.objectContaining({
        code: "model",
        faults: [
          expect.stringMatching(/past_key_values.0.encoder.key .*use the export without a cache/),
          expect.stringMatching(/past_key_values.0.key \[1, 2, 128, 4\]: expected one axis of any length/),
        ],
      }),
    );
  });

  it("drops what the export that fills a cache gives back, and leaves other models as they are", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("input_ids", "float32", ["batch", "tokens"]);
    g.output(g.op("Relu", [x]), "float32");
    const one = createModel(g.build(), { opset: 18 });
    expect(withoutCache(one)).toBe(one);
    g.op("Neg", [x], {}, { output: "present.0.key" });
    g.output("present.0.key", "float32");
    const { graph } = withoutCache(createModel(g.build(), { opset: 18 }));
    expect(graph).toEqual(one.graph);
  });

  it("refuses a merged decoder with advice", () => {
    const g = graphBuilder({ opset: 18 });
    const branch = graphBuilder({ opset: 18, scope: "branch/" });
    branch.op("Constant", [], { value_float: { kind: "float", value: 1 } }, { output: "logits_inner" });
    branch.output("logits_inner", "float32");
    const choice = g.input("use_cache_branch", "bool", [1]);
    const body = { kind: "graph", value: branch.build() } as const;
    const other = { kind: "graph", value: { ...body.value, name: "else" } } as const;
    g.output(g.op("If", [choice], { then_branch: body, else_branch: other }), "float32");
    const model = createModel(g.build(), { opset: 18 });
    expect(() => attachLora(model, { targetModules: "all-linear" })).toThrow(
      /merged decoder .* use decoder_model.onnx or decoder_with_past_model.onnx/,
    );
  });
});
