// One session, many adapters: by name, summed, and another for each row, against the same adapters run alone.
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { factorDims } from "../lora/factors.ts";
import { bits, drawn, linear, twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { type AdapterSession, createSession, type RunOptions } from "./infer.ts";
import type { AdapterChoice } from "./loaded-adapters.ts";

/** |a - b| of float32 sums over some values around 1, added in another order. */
const rounding = 1e-5;

const opened: AdapterSession[] = [];
afterAll(() => Promise.all(opened.map((session) => session.dispose())));

async function open(model: Model | AdaptedModel): Promise<AdapterSession> {
  const session = await createSession(model, { threads: 1 });
  opened.push(session);
  return session;
}

/** A random adapter of some of the sites. */
function adapterOf(adapted: AdaptedModel, name: string, config: LoraConfig, paths?: readonly string[]): Adapter {
  const resolved = resolveConfig(config);
  const sites = adapted.sites.filter(({ site }) => paths === undefined || paths.includes(site.modulePath));
  const tensors = sites.flatMap(({ site, a, b }): [string, Tensor][] => {
    const dims = factorDims(site, resolved.r);
    return [
      [a, drawn(name + a, ...dims.a)],
      [b, drawn(name + b, ...dims.b)],
    ];
  });
  return { config: resolved, tensors: new Map(tensors) };
}

/** x [batch, 5] of indices -> wte -> [batch 5, 4] -> fc, flat as exporters have it -> [batch, 5, 4] -> head [batch, 5, 3]. */
function tokens(): Model {
  const g = graphBuilder({ opset: 18 });
  const table = g.initializer("wte.weight", drawn("wte", 11, 4));
  const h = g.op("Gather", [table, g.input("x", "int64", ["batch", 5])], {}, { name: "/wte/Gather" });
  const flat = g.op("Reshape", [h, g.constant("int64", [-1, 4])]);
  const inner = g.op("Tanh", [linear(g, flat, "fc", [4, 4], "Gemm in,out")]);
  const back = g.op("Reshape", [inner, g.constant("int64", [-1, 5, 4])]);
  g.output(linear(g, back, "head", [4, 3], "MatMul"), "float32");
  return createModel(g.build(), { opset: 18 });
}

/** x [batch, 4, 5, 5] -> a Conv in two groups -> another -> a Linear over the mean of places. */
function images(): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["batch", 4, 5, 5]);
  const conv = (input: string, path: string, dims: number[], group: number) =>
    g.op(
      "Conv",
      [input, g.initializer(`${path}.weight`, drawn(path, ...dims))],
      { group, pads: [1, 1, 1, 1] },
      { name: `/${path}/Conv` },
    );
  const h = g.op("Relu", [conv(x, "conv1", [6, 2, 3, 3], 2)]);
  const mean = g.op("Flatten", [g.op("GlobalAveragePool", [conv(h, "conv2", [4, 6, 3, 3], 1)])]);
  g.output(linear(g, mean, "fc", [4, 3], "Gemm out,in"), "float32");
  return createModel(g.build(), { opset: 18 });
}

interface Case {
  readonly name: string;
  readonly model: Model;
  readonly paths: readonly string[];
  readonly input: (rows: number) => Tensor;
  /** Ranks are multiples of this. */
  readonly step: number;
}

const ids = (rows: number): Tensor =>
  tensor(
    "int64",
    [rows, 5],
    BigInt64Array.from({ length: rows * 5 }, (_, index) => BigInt((index * 7) % 11) - (index % 3 === 0 ? 11n : 0n)),
  );

const cases: readonly Case[] = [
  ...(["Gemm out,in", "Gemm in,out", "MatMul"] as const).map((form) => ({
    name: `Linear as ${form}`,
    model: twoLayers(form),
    paths: ["fc1", "fc2"],
    input: (rows: number) => drawn("x", rows, 3),
    step: 1,
  })),
  {
    name: "Linear over tokens",
    model: twoLayers("MatMul", "3d"),
    paths: ["fc1", "fc2"],
    input: (rows) => drawn("x", rows, 2, 3),
    step: 1,
  },
  { name: "Embedding, flat and shaped", model: tokens(), paths: ["wte", "fc", "head"], input: ids, step: 1 },
  {
    name: "Conv",
    model: images(),
    paths: ["conv1", "conv2", "fc"],
    input: (rows) => drawn("x", rows, 4, 5, 5),
    step: 2,
  },
];

async function output(session: AdapterSession, x: Tensor, options: RunOptions = {}): Promise<Tensor> {
  return (await session.run({ x }, options)).values().next().value!;
}

/** The values of one row. */
function rowOf(value: Tensor, row: number): Float32Array {
  const size = elementCount(value.dims.slice(1));
  return (value.data as Float32Array).subarray(row * size, (row + 1) * size);
}

function distance(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, index) => Math.max(most, Math.abs(value - b[index]!)), 0);
}

describe.each(cases)("$name", ({ model, paths, input, step }) => {
  const adapted = attachLora(model, { r: 4, loraAlpha: 8, targetModules: [...paths] });
  const ranks = [1, 2, 4].map((rank) => rank * step);
  const adapters = new Map(
    ranks.flatMap((r, index): [string, Adapter][] => [
      [`all ${r}`, adapterOf(adapted, `all ${r}`, { r, loraAlpha: r })],
      [`some ${r}`, adapterOf(adapted, `some ${r}`, { r, loraAlpha: 2 * r, useRslora: true }, [paths[index % 2]!])],
    ]),
  );

  it("gives each row its own adapter, whatever the others have", async () => {
    const session = await open(adapted);
    for (const [name, adapter] of adapters) session.load(name, adapter);
    const row = fc.option(fc.constantFrom(...adapters.keys()), { nil: null });
    await fc.assert(
      fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 12 }), async (rows) => {
        const x = input(rows.length);
        const mixed = await output(session, x, { rows });
        const base = await output(session, x);
        expect(mixed.dims).toEqual(base.dims);
        for (const name of new Set(rows)) {
          const alone = await output(session, x, { adapter: name });
          for (const [index, wanted] of rows.entries()) {
            if (wanted !== name) continue;
            // A row of the base is exactly that: nothing is added to it.
            if (name === null) expect(rowOf(mixed, index)).toEqual(rowOf(base, index));
            expect(distance(rowOf(mixed, index), rowOf(alone, index))).toBeLessThan(rounding);
          }
        }
      }),
      { numRuns: 25 },
    );
  });

  it("sums adapters with weights, as merging them one after another does", async () => {
    const session = await open(adapted);
    for (const [name, adapter] of adapters) session.load(name, adapter);
    const [first, second] = [`all ${ranks[2]}`, `some ${ranks[1]}`];
    const x = input(3);
    // The weight goes into alpha: a scale is linear in it.
    const scaled = (name: string, weight: number): Adapter => {
      const { config, tensors } = adapters.get(name)!;
      return { config: { ...config, loraAlpha: config.loraAlpha * weight }, tensors };
    };
    const expected = await output(await open(merge(merge(model, scaled(second, 0.4)), scaled(first, 0.7))), x);
    const sum = [
      { adapter: first, weight: 0.7 },
      { adapter: adapters.get(second)!, weight: 0.4 },
    ];
    const actual = await output(session, x, { adapter: sum });
    expect(distance(rowOf(actual, 0), rowOf(expected, 0))).toBeLessThan(rounding);
    const byRow = await output(session, x, { rows: [null, sum, first] });
    expect(distance(rowOf(byRow, 1), rowOf(expected, 1))).toBeLessThan(rounding);
    // An adapter and its negative are nothing.
    const nothing = [{ adapter: first }, { adapter: first, weight: -1 }];
    const base = await output(session, x);
    expect(distance(rowOf(await output(session, x, { adapter: nothing }), 2), rowOf(base, 2))).toBeLessThan(rounding);
    expect(bits(await output(session, x, { adapter: [] }))).toEqual(bits(base));
    expect(bits(await output(session, x, { adapter: [{ adapter: first }] }))).toEqual(
      bits(await output(session, x, { adapter: first })),
    );
  });

  it("is the base bit for bit with no adapter, after and before others", async () => {
    const session = await open(adapted);
    const x = input(4);
    const base = bits(await output(await open(model), x));
    const rows: AdapterChoice[] = [...adapters.values()].slice(0, 4);
    for (const options of [{}, { rows: [null, null, null, null] }]) {
      expect(bits(await output(session, x, options))).toEqual(base);
      expect(bits(await output(session, x, { rows }))).not.toEqual(base);
      expect(bits(await output(session, x, options))).toEqual(base);
    }
  });
});

describe("off", () => {
  it("is the base bit for bit where the runtime fuses what lies behind a layer", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 3, 8]);
    const h = g.op("Add", [x, linear(g, x, "fc", [8, 8], "MatMul")]);
    const ones = g.initializer("ln.weight", drawn("ln.weight", 8));
    const norm = g.op("LayerNormalization", [h, ones, g.initializer("ln.bias", drawn("ln.bias", 8))]);
    g.output(linear(g, norm, "head", [8, 4], "MatMul"), "float32");
    const model = createModel(g.build(), { opset: 18 });
    const [base, session] = [await open(model), await open(attachLora(model, { r: 2 }))];
    for (let seed = 0; seed < 5; seed++) {
      const inputs = { x: drawn(`x${seed}`, 16, 3, 8) };
      const [[off], [plain]] = [[...(await session.run(inputs)).values()], [...(await base.run(inputs)).values()]];
      expect(bits(off!)).toEqual(bits(plain!));
    }
  });
});

describe("loading and unloading", () => {
  const adapted = attachLora(twoLayers(), { r: 2, loraAlpha: 2 });
  const [first, second] = [adapterOf(adapted, "first", { r: 2 }), adapterOf(adapted, "second", { r: 3 })];
  const x = drawn("x", 4, 3);

  it("replaces what had the name, and forgets what is unloaded", async () => {
    const session = await open(adapted);
    session.load("a", first);
    const before = await output(session, x, { adapter: "a" });
    expect(before).toEqual(await output(session, x, { adapter: first }));
    session.load("a", second);
    session.load("b", first);
    expect(session.loaded).toEqual(["a", "b"]);
    expect(await output(session, x, { adapter: "b" })).toEqual(before);
    expect(await output(session, x, { adapter: "a" })).toEqual(await output(session, x, { adapter: second }));
    session.unload("a");
    expect(session.loaded).toEqual(["b"]);
    await expect(output(session, x, { adapter: "a" })).rejects.toMatchObject({ code: "adapter" });
  });

  it("sums what a list says now: with other weights, and adapters loaded anew", async () => {
    const session = await open(adapted);
    session.load("a", first);
    const sum = [{ adapter: "a", weight: 0.5 }];
    const half = await output(session, x, { adapter: sum });
    expect(await output(session, x, { adapter: sum })).toEqual(half);
    sum[0]!.weight = 1;
    expect(await output(session, x, { adapter: sum })).toEqual(await output(session, x, { adapter: "a" }));
    sum[0]!.weight = 0.5;
    session.load("a", second);
    const other = await output(session, x, { adapter: sum });
    expect(other).toEqual(await output(session, x, { adapter: [{ adapter: second, weight: 0.5 }] }));
    expect(other).not.toEqual(half);
    session.unload("a");
    await expect(output(session, x, { adapter: sum })).rejects.toThrow(/no adapter is loaded/);
  });

  it("lets runs that have begun end with what they began with, each with its own", async () => {
    const session = await open(adapted);
    session.load("a", first);
    session.load("b", second);
    const expected = {
      a: await output(session, x, { adapter: "a" }),
      b: await output(session, x, { adapter: "b" }),
      mixed: await output(session, x, { rows: ["a", "b", null, "a"] }),
      other: await output(session, x, { rows: ["b", "b", "b", null] }),
    };
    const runs = [
      output(session, x, { rows: ["a", "b", null, "a"] }),
      output(session, x, { adapter: "b" }),
      output(session, x, { rows: ["b", "b", "b", null] }),
      output(session, x, { adapter: "a" }),
    ];
    session.load("a", second);
    session.unload("b");
    const [mixed, b, other, a] = await Promise.all(runs);
    expect({ a, b, mixed, other }).toEqual(expected);
    // The new "a" takes the old one's place in rows too.
    const replaced = await output(session, x, { rows: ["a", "a", "a", "a"] });
    expect(distance(rowOf(replaced, 0), rowOf(expected.b, 0))).toBeLessThan(rounding);
  });

  it("goes on after a run that failed", async () => {
    const session = await open(adapted);
    session.load("a", first);
    const rows = ["a", null, "a", "a"];
    const expected = await output(session, x, { rows });
    const failing = output(session, drawn("x", 4, 2), { rows });
    const next = output(session, x, { rows });
    await expect(failing).rejects.toMatchObject({ code: "data" });
    expect(await next).toEqual(expected);
  });

  it("disposes when its runs are done, once, and runs no more", async () => {
    const session = await createSession(adapted, { threads: 1 });
    session.load("a", first);
    const run = output(session, x, { rows: ["a", null, "a", "a"] });
    await Promise.all([session.dispose(), session.dispose()]);
    expect((await run).dims).toEqual([4, 4]);
    await expect(output(session, x)).rejects.toMatchObject({
      code: "runtime",
      message: "run: the session is disposed; open another",
    });
  });
});

describe("what cannot be", () => {
  const adapted = attachLora(twoLayers(), { r: 2, loraAlpha: 2 });
  const x = drawn("x", 3, 3);

  it("names that are not loaded: all of them at once, with those that are", async () => {
    const session = await open(adapted);
    await expect(output(session, x, { adapter: "a" })).rejects.toThrow(
      'run: adapter "a": no adapter is loaded; load it first',
    );
    session.load("b", adapterOf(adapted, "b", { r: 2 }));
    await expect(output(session, x, { rows: ["a", "b", "c"] })).rejects.toMatchObject({
      code: "adapter",
      faults: ['adapter "a": loaded are "b"; load it first', 'adapter "c": loaded are "b"; load it first'],
    });
    expect(() => session.unload("c")).toThrow('unload: adapter "c": loaded are "b"; load it first');
    await expect(output(session, x, { adapter: [{ adapter: "b", weight: Number.NaN }] })).rejects.toThrow(
      "run: weight: expected a finite number, got NaN",
    );
  });

  it("an adapter that does not fit: nothing is loaded", async () => {
    const session = await open(attachLora(twoLayers(), { r: 2, targetModules: ["fc1"] }));
    expect(() => session.load("a", adapterOf(adapted, "a", { r: 2 }))).toThrow(
      expect.objectContaining({ code: "adapter", faults: [expect.stringMatching(/fc2.lora_A/), expect.anything()] }),
    );
    expect(session.loaded).toEqual([]);
  });

  it("rows of another number than the batch's, or beside an adapter", async () => {
    const session = await open(adapted);
    session.load("a", adapterOf(adapted, "a", { r: 2 }));
    await expect(output(session, x, { rows: ["a", null] })).rejects.toMatchObject({
      code: "data",
      message: "rows: expected one for each of the 3 rows of the batch, got 2",
    });
    await expect(output(session, x, { rows: ["a", null, null], adapter: "a" })).rejects.toThrow(
      "run: expected adapter or rows, got both",
    );
  });

  it("adapters of a plain model", async () => {
    const session = await open(twoLayers());
    const plain = /plain model: open it on attachLora/;
    await expect(output(session, x, { rows: ["a", null, null] })).rejects.toThrow(plain);
    expect(() => session.load("a", adapterOf(adapted, "a", {}))).toThrow(plain);
    expect(session.loaded).toEqual([]);
    expect(bits(await output(session, x, { rows: [null, null, null] }))).toEqual(bits(await output(session, x)));
  });
});

describe("GPT-2, as PEFT adapted it", () => {
  const model = readModel(goldenFile("gpt2/base.onnx"));
  const { tensors } = readSafetensors(goldenFile("gpt2/tensors.safetensors"), "gpt2");
  const inputs = Object.fromEntries(
    [...tensors].flatMap(([key, value]) => (key.startsWith("input.") ? [[key.slice(6), value]] : [])),
  );
  const files = ["adapter_config.json", "adapter_model.safetensors"].map(
    (one) => [one, goldenFile(`gpt2/adapter/${one}`)] as const,
  );
  const adapter = readAdapter(new Map(files));
  const count = inputs.input_ids!.dims[0]!;

  it("gives every other row the adapter, as PyTorch computed it", async () => {
    const session = await open(attachLora(model, adapter.config));
    const rows = Array.from({ length: count }, (_, row) => (row % 2 === 0 ? adapter : null));
    const logits = (await session.run(inputs, { rows })).get("logits")!;
    for (const row of rows.keys()) {
      const expected = tensors.get(row % 2 === 0 ? "logits" : "base.logits")!;
      expect(distance(rowOf(logits, row), rowOf(expected, row))).toBeLessThan(1e-4);
    }
  });

  it("refuses rows at its positions, which all rows share", async () => {
    const adapted = attachLora(model, { r: 2, targetModules: ["wpe", "c_attn"] });
    const session = await open(adapted);
    const [wpe, attention] = [
      adapterOf(adapted, "a", { r: 2 }, ["transformer.wpe"]),
      adapterOf(adapted, "a", { r: 2 }, ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]),
    ];
    const rows = (one: Adapter) => ({ rows: Array.from({ length: count }, (_, row) => (row === 0 ? one : null)) });
    await expect(session.run(inputs, rows(wpe))).rejects.toMatchObject({
      code: "adapter",
      faults: [
        expect.stringMatching(
          /wpe.lora_embedding_A: its input's first axis is 1, not the batch; run each adapter's rows/,
        ),
        expect.anything(),
      ],
    });
    // Adapters that leave it alone may differ from row to row all the same.
    expect((await session.run(inputs, rows(attention))).get("logits")!.dims[0]).toBe(count);
    expect((await session.run(inputs, { adapter: wpe })).get("logits")!.dims[0]).toBe(count);
  });
});
