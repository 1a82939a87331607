// The engine on models of several kinds: what may share a run, what gets a session of its own, and whose failure is whose.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { writeAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import { drawn, linear, opset, twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { saveModel } from "../runs/save-model.ts";
import { tensor } from "../tensor.ts";
import type { AdapterSource, Engine, EngineOptions, ItemResult } from "./engine.ts";
import { openEngine } from "./local-engine.ts";
import { adapterFor, aloneWith, distance, temporaryFolder } from "./testing/fixture.ts";

const folder = temporaryFolder();
let count = 0;

async function open(model: Model, options: Partial<EngineOptions> = {}): Promise<Engine> {
  const path = join(folder, `${count++}.onnx`);
  await saveModel(model, path);
  return openEngine({ model: path, maxRank: 64, maxSessions: 3, threads: 1, ...options });
}

const sourceOf = (adapter: Adapter): AdapterSource => ({ home: "peft", files: writeAdapter(adapter) });

/** The first output, or the failure's status. */
function answerOf(result: ItemResult): number[] | number {
  if ("failure" in result) return result.failure.status;
  return [...(Object.values(result.outputs)[0]!.data as Float32Array)];
}

/** ids int64 [batch, tokens] -> emb (8 x 4) -> fc (4 -> 3) -> y [batch, tokens, 3]. */
function tokens(): Model {
  const g = graphBuilder({ name: "tokens", opset });
  const ids = g.input("ids", "int64", ["batch", "tokens"]);
  const weight = g.initializer("emb.weight", drawn("emb.weight", 8, 4));
  const rows = g.op("Gather", [weight, ids], { axis: 0 }, { name: "/emb/Gather" });
  const y = linear(g, rows, "fc", [4, 3], "MatMul");
  g.output(y, "float32", ["batch", "tokens", 3]);
  return createModel(g.build(), { opset });
}

const model = twoLayers();
const x = drawn("x", 4, 3);
const rowAt = (row: number): ReturnType<typeof drawn> => tensor("float32", [1, 3], x.data.slice(row * 3, row * 3 + 3));

describe("the engine", () => {
  it("runs the base, plain adapters of several ranks, DoRA and sums in one job", async () => {
    const engine = await open(model, { samples: [sourceOf(adapterFor(model, 1))] });
    const plain = adapterFor(model, 1);
    const other = adapterFor(model, 2, { r: 3, loraAlpha: 9 });
    const dora = adapterFor(model, 3, { useDora: true });
    for (const [key, adapter] of Object.entries({ plain, other, dora })) await engine.load(key, key, sourceOf(adapter));
    const sum = [
      { key: "plain", weight: 0.5 },
      { key: "other", weight: 2 },
    ];
    const { results } = await engine.run({
      inputs: { x },
      items: [
        { rows: 1, choices: ["plain"] },
        { rows: 2, choices: ["dora", null] },
        { rows: 1, choices: [sum] },
      ],
    });
    const [first, second, third] = results.map(answerOf) as number[][];
    expect(distance(first!, await aloneWith(model, plain, { x: rowAt(0) }))).toBeLessThan(1e-4);
    expect(distance(second!.slice(0, 4), await aloneWith(model, dora, { x: rowAt(1) }))).toBeLessThan(1e-4);
    expect(distance(second!.slice(4), await aloneWith(model, null, { x: rowAt(2) }))).toBeLessThan(1e-4);
    const alone = await engine.run({ inputs: { x: rowAt(3) }, items: [{ rows: 1, choices: [sum] }] });
    expect(distance(third!, answerOf(alone.results[0]!) as number[])).toBeLessThan(1e-4);
    // A sum over two kinds has no meaning.
    const mixed = [
      { key: "plain", weight: 1 },
      { key: "dora", weight: 1 },
    ];
    const { results: refused } = await engine.run({ inputs: { x: rowAt(0) }, items: [{ rows: 1, choices: [mixed] }] });
    expect(refused).toMatchObject([{ failure: { status: 400, message: expect.stringContaining("of one kind") } }]);
    await engine.dispose();
  });

  it("keeps one request's failure its own", async () => {
    const engine = await open(tokens());
    const ids = tensor("int64", [3, 2], BigInt64Array.from([1n, 2n, 99n, 0n, 3n, 4n]));
    const { results } = await engine.run({
      inputs: { ids },
      items: [1, 1, 1].map((rows) => ({ rows, choices: [null] })),
    });
    const [first, bad, last] = results.map(answerOf);
    expect(bad).toBe(400);
    for (const [answer, at] of [
      [first, 0],
      [last, 4],
    ] as const) {
      const own = tensor("int64", [1, 2], ids.data.slice(at, at + 2));
      expect(distance(answer as number[], await aloneWith(tokens(), null, { ids: own }))).toBeLessThan(1e-5);
    }
    const { results: gone } = await engine.run({
      inputs: { ids: tensor("int64", [1, 1], BigInt64Array.of(1n)) },
      items: [{ rows: 1, choices: ["gone"] }],
    });
    expect(gone).toMatchObject([{ failure: { status: 503 } }]);
    await engine.dispose();
  });

  it("gives kinds that differ sessions of their own, as many as it may, and takes them back", async () => {
    const engine = await open(model, { maxSessions: 2 });
    const kinds = [
      adapterFor(model, 1),
      adapterFor(model, 2, { useDora: true }),
      adapterFor(model, 3, { useDora: true, targetModules: ["fc1"] }),
    ];
    await engine.load("a", "a", sourceOf(kinds[0]!));
    await engine.load("b", "b", sourceOf(kinds[1]!));
    const saved: Adapter = {
      ...kinds[0]!,
      config: { ...kinds[0]!.config, modulesToSave: ["fc2"], targetModules: ["fc1"] },
    };
    const tensors = new Map([...saved.tensors].filter(([key]) => key.includes(".fc1.")));
    tensors.set("base_model.model.fc2.weight", drawn("saved", 4, 5));
    tensors.set("base_model.model.fc2.bias", drawn("saved bias", 4));
    const whole = sourceOf({ ...saved, tensors });
    await expect(engine.load("c", "c", whole)).rejects.toMatchObject({
      code: "config",
      message: expect.stringContaining("--max-sessions"),
    });
    await engine.unload("b");
    await engine.load("c", "c", whole);
    const { results } = await engine.run({ inputs: { x }, items: [{ rows: 4, choices: ["c"] }] });
    expect(
      distance(answerOf(results[0]!) as number[], await aloneWith(model, { ...saved, tensors }, { x })),
    ).toBeLessThan(1e-4);
    await engine.dispose();
  });

  it("refuses an adapter of another model by name, and holds nothing of it", async () => {
    const engine = await open(model);
    const foreign = adapterFor(tokens(), 1, { targetModules: ["fc"] });
    await expect(engine.load("f", 'adapter "f"', sourceOf(foreign))).rejects.toMatchObject({
      code: "adapter",
      message: expect.stringContaining('adapter "f": '),
    });
    await engine.load("f", "f", sourceOf(adapterFor(model, 1)));
    await engine.dispose();
  });

  it("shares runs where rows are apart, and not where they are not", async () => {
    const fixed = graphBuilder({ name: "fixed", opset });
    fixed.output(linear(fixed, fixed.input("x", "float32", [2, 3]), "fc", [3, 2], "MatMul"), "float32", [2, 2]);
    const summed = graphBuilder({ name: "summed", opset });
    summed.output(summed.op("ReduceSum", [summed.input("x", "float32", ["batch", 3])], { keepdims: 0 }), "float32", []);
    const engines = await Promise.all(
      [model, tokens(), createModel(fixed.build(), { opset }), createModel(summed.build(), { opset })].map((one) =>
        open(one),
      ),
    );
    expect(engines.map(({ description }) => description.sharesRuns)).toEqual([true, true, false, false]);
    expect(engines.map(({ description }) => description.modules)).toEqual([["fc1", "fc2"], ["fc"], ["fc"], []]);
    // A model without layers answers, too.
    const { results } = await engines[3]!.run({
      inputs: { x: tensor("float32", [1, 3], Float32Array.of(1, 2, 3)) },
      items: [{ rows: 1, choices: [null] }],
    });
    expect(answerOf(results[0]!)).toEqual([6]);
    await Promise.all(engines.map((engine) => engine.dispose()));
  });
});
