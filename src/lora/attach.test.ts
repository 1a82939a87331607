import { afterAll, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { type Model, toTensor } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { writeModel } from "../onnx/write.ts";
import { openSession, type Session, type Tensors } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { LoraConfig } from "./config.ts";
import { disabledTensors, initAdapter, parameterCount } from "./init.ts";
import { adapterKeys } from "./keys.ts";
import { bits, drawn, type LayerForm, layerForms, snapshot, stack, twoLayers } from "./testing/models.ts";

/** |a - b| of float32 sums over a handful of values around 1. */
const rounding = 1e-6;

const opened: Session[] = [];
afterAll(() => Promise.all(opened.map((session) => session.dispose())));

async function runner(model: Parameters<typeof openSession>[0]): Promise<(feeds: Tensors) => Promise<Tensor>> {
  const session = await openSession(model, { threads: 1 });
  opened.push(session);
  return async (feeds) => (await session.run(feeds)).get("y")!;
}

const inputOf = (shape: "2d" | "3d") => (shape === "2d" ? drawn("x", 6, 3) : drawn("x", 2, 3, 3));

/** Random A and B for every site, of the given ranks or those that were attached. */
function randomTensors(adapted: AdaptedModel, rank?: number): Map<string, Tensor> {
  return new Map(
    adapted.sites.flatMap(({ site, r, a, b }) => [
      [a, drawn(a, rank ?? r, site.inFeatures)] as const,
      [b, drawn(b, site.outFeatures, rank ?? r)] as const,
    ]),
  );
}

/** y = tanh(x W1^T + b1) W2^T + b2 with W + s B A for W, in float64. */
function expectedOutput(adapted: AdaptedModel, tensors: Tensors, x: Tensor, form: LayerForm): number[] {
  const { initializers } = adapted.base.graph;
  const values = (name: string) => toTensor(initializers.get(name)!).data as Float32Array;
  const layer = (rows: number[][], path: string, [inFeatures, outFeatures]: [number, number]) => {
    const [weight, bias] = [values(`${path}.weight`), values(`${path}.bias`)];
    const site = adapted.sites.find((one) => one.site.modulePath === path);
    const [A, B] = site ? [tensors.get(site.a)!, tensors.get(site.b)!] : [undefined, undefined];
    const effective = (out: number, column: number) => {
      let sum = form === "Gemm out,in" ? weight[out * inFeatures + column]! : weight[column * outFeatures + out]!;
      const r = A?.dims[0] ?? 0;
      for (let k = 0; k < r; k++)
        sum += site!.scale * Number(B!.data[out * r + k]) * Number(A!.data[k * inFeatures + column]);
      return sum;
    };
    return rows.map((row) =>
      Array.from({ length: outFeatures }, (_, out) =>
        row.reduce((sum, value, column) => sum + value * effective(out, column), bias[out]!),
      ),
    );
  };
  const rows = Array.from({ length: x.data.length / 3 }, (_, index) => [
    ...(x.data as Float32Array).subarray(3 * index, 3 * index + 3),
  ]);
  const hidden = layer(rows, "fc1", [3, 5]).map((row) => row.map(Math.tanh));
  return layer(hidden, "fc2", [5, 4]).flat();
}

function expectClose(actual: Tensor, expected: readonly number[]): void {
  expect(actual.data.length).toBe(expected.length);
  for (const [index, value] of expected.entries())
    expect(Math.abs(Number(actual.data[index]) - value)).toBeLessThan(10 * rounding);
}

const shapes = layerForms.flatMap((form) =>
  (form === "MatMul" ? (["2d", "3d"] as const) : (["2d"] as const)).map((shape) => ({ form, shape })),
);

describe.each(shapes)("a model of $form layers over $shape inputs", ({ form, shape }) => {
  const model = twoLayers(form, shape);
  const adapted = attachLora(model, { r: 2, loraAlpha: 6 });
  const x = inputOf(shape);

  it("is the base, bit for bit, with an adapter of rank 0", async () => {
    const [base, off] = [await runner(model), await runner(adapted.model)];
    expect(bits(await off(new Map([...disabledTensors(adapted), ["x", x]])))).toEqual(
      bits(await base(new Map([["x", x]]))),
    );
  });

  it("is the base, bit for bit, with a fresh adapter", async () => {
    const [base, fresh] = [await runner(model), await runner(adapted.model)];
    const { tensors } = initAdapter(adapted).adapter;
    expect(bits(await fresh(new Map([...tensors, ["x", x]])))).toEqual(bits(await base(new Map([["x", x]]))));
  });

  it("has W + s B A with an adapter, of any rank in one session", async () => {
    const run = await runner(adapted.model);
    for (const rank of [undefined, 1, 7]) {
      const tensors = randomTensors(adapted, rank);
      expectClose(await run(new Map([...tensors, ["x", x]])), expectedOutput(adapted, tensors, x, form));
    }
  });

  it("keeps the base's own nodes and weights, and can be written and read", () => {
    for (const [name, stored] of model.graph.initializers)
      expect(adapted.model.graph.initializers.get(name)).toBe(stored);
    expect(readModel(writeModel(adapted.model)).graph.nodes).toEqual(adapted.model.graph.nodes);
    expect(adapted.model.graph.outputs).toEqual(model.graph.outputs);
  });
});

describe("attachLora", () => {
  it("takes one site alone, at a scale of 1 and at others", async () => {
    const x = inputOf("2d");
    for (const [loraAlpha, useRslora, scale] of [
      [4, false, 1],
      [1, false, 0.25],
      [6, true, 3],
    ] as const) {
      const adapted = attachLora(twoLayers(), { r: 4, loraAlpha, useRslora, targetModules: ["fc2"] });
      expect(adapted.sites.map((site) => site.scale)).toEqual([scale]);
      const tensors = randomTensors(adapted);
      const run = await runner(adapted.model);
      expectClose(await run(new Map([...tensors, ["x", x]])), expectedOutput(adapted, tensors, x, "Gemm out,in"));
    }
  });

  it("upgrades a model of an older operator set, and keeps it as the base", async () => {
    const model: Model = { ...twoLayers(), opsets: new Map([["", 9]]) };
    const adapted = attachLora(model, { r: 2, loraAlpha: 6 });
    expect(adapted.base).toBe(model);
    expect(adapted.model.opsets.get("")).toBe(18);
    const tensors = randomTensors(adapted);
    const x = inputOf("2d");
    const run = await runner(adapted.model);
    expectClose(await run(new Map([...tensors, ["x", x]])), expectedOutput(adapted, tensors, x, "Gemm out,in"));
  });

  it("names the parameters as PEFT does, with a symbol for each rank", () => {
    const adapted = attachLora(twoLayers(), { r: 2, rankPattern: { fc2: 3 }, alphaPattern: { fc1: 4 } });
    const [fc1, fc2] = [adapterKeys("fc1"), adapterKeys("fc2")];
    expect(adapted.parameters).toEqual([
      { key: fc1.a, type: "float32", dims: [2, 3], graphDims: ["rank_0", 3] },
      { key: fc1.b, type: "float32", dims: [5, 2], graphDims: [5, "rank_0"] },
      { key: fc2.a, type: "float32", dims: [3, 5], graphDims: ["rank_1", 5] },
      { key: fc2.b, type: "float32", dims: [4, 3], graphDims: [4, "rank_1"] },
    ]);
    expect(adapted.sites.map(({ r, scale }) => [r, scale])).toEqual([
      [2, 2],
      [3, 8 / 3],
    ]);
    expect(parameterCount(adapted)).toBe(2 * 3 + 5 * 2 + 3 * 5 + 4 * 3);
    const inputs = adapted.model.graph.inputs.map(({ name }) => name);
    expect(inputs).toEqual(["x", fc1.a, fc1.b, fc2.a, fc2.b]);
  });

  it("adds two products for each site", () => {
    const count = (form: LayerForm, shape: "2d" | "3d") => {
      const model = twoLayers(form, shape);
      return attachLora(model).model.graph.nodes.length - model.graph.nodes.length;
    };
    expect(count("Gemm out,in", "2d")).toBe(4);
    expect(count("MatMul", "2d")).toBe(4);
    // Two products, two transpositions and a sum.
    expect(count("MatMul", "3d")).toBe(10);
  });

  it("never changes the model that it is given", () => {
    const model = twoLayers("MatMul", "3d");
    const before = snapshot(model);
    const adapted = attachLora(model, { r: 2 });
    initAdapter(adapted);
    disabledTensors(adapted);
    expect(snapshot(model)).toEqual(before);
    expect(adapted.base).toBe(model);
  });

  it("works on the exports of language models, TorchScript's and torch.export's", async () => {
    const files = [
      ["distilbert/base.legacy.onnx", 12 + 2],
      ["distilbert/base.onnx", 12 + 2],
      ["gpt2/base.onnx", 8],
    ] as const;
    for (const [path, count] of files) {
      const adapted = attachLora(readModel(goldenFile(path), path), { r: 2 });
      expect(adapted.sites.length).toBe(count);
      opened.push(await openSession(adapted.model, { threads: 1 }));
    }
  });

  it("refuses weights of other types than float32 and its halves, all of them at once", () => {
    const g = graphBuilder({ opset: 17 });
    const double = tensor("float64", [4, 4], new Float64Array(16));
    let h = g.input("x", "float64", ["n", 4]);
    for (const path of ["a", "b"]) h = g.op("MatMul", [h, g.initializer(`${path}.weight`, double)]);
    g.output(h, "float64", ["n", 4]);
    const model = createModel(g.build(), { opset: 17 });
    expect(() => attachLora(model)).toThrow(
      expect.objectContaining({
        code: "model",
        faults: ["a", "b"].map(
          (path) => `${path}: expected float32, float16 or bfloat16 weights, got float64; convert the model`,
        ),
      }),
    );
  });

  it("refuses a model that is adapted already", () => {
    expect(() => attachLora(attachLora(twoLayers()).model)).toThrow(/it is adapted already/);
  });

  it("reports a faulty configuration before anything else", () => {
    expect(() => attachLora(stack(["a"]), { r: 0, targetModules: ["b"] })).toThrow(LowrankError);
  });

  it("notes layers that store [in, out], which PEFT wants to know of, unless told", () => {
    const of = (config: LoraConfig, form: LayerForm): boolean | undefined =>
      attachLora(twoLayers(form), config).config?.fanInFanOut;
    expect(of({}, "Gemm in,out")).toBe(true);
    expect(of({}, "Gemm out,in")).toBe(false);
    expect(of({ fanInFanOut: false }, "Gemm in,out")).toBe(false);
  });
});

describe("AdaptedModel", () => {
  it("makes what it holds once, and frees it on dispose", async () => {
    const adapted = attachLora(twoLayers());
    let made = 0;
    let freed = 0;
    const make = async () => {
      made++;
      return { dispose: async () => void freed++ };
    };
    const [first, second] = await Promise.all([adapted.hold("k", make), adapted.hold("k", make)]);
    expect(first).toBe(second);
    await adapted.hold("other", make);
    expect(made).toBe(2);
    await adapted.dispose();
    expect(freed).toBe(2);
    await adapted.hold("k", make);
    expect(made).toBe(3);
    await adapted.dispose();
  });

  it("forgets what could not be made, and tries again", async () => {
    const adapted = attachLora(twoLayers());
    await expect(adapted.hold("k", () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    const dispose = async () => {};
    expect(await adapted.hold("k", async () => ({ dispose }))).toEqual({ dispose });
    await adapted.dispose();
  });
});
