// Dropout: gradients against PyTorch's with the same masks, statistics and determinism of the masks, and sizes that shape
// inference cannot tell.
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, LoraConfig } from "../lora/config.ts";
import { floats, gap, type Named, peftFixture, peftNetwork, tensors, type Values } from "../lora/testing/peft.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { fillMask, maskDrawer, withDropout } from "./dropout.ts";
import { createSession } from "./infer.ts";
import { crossEntropy } from "./losses.ts";
import { type Batch, compileStep, copyParameters, loadParameters } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";
import { train } from "./train.ts";
import { valueAndGrad } from "./value-and-grad.ts";

interface Dropped {
  readonly x: Values;
  readonly labels: number[];
  readonly adapter: Named;
  readonly masks: Named;
  readonly loss: number;
  readonly grads: Named;
}

const fixture = peftFixture<Dropped>("dropout");
const base = peftNetwork(fixture.weights);
const config: LoraConfig = { r: 2, loraAlpha: 4, targetModules: ["fc1", "fc2"], loraDropout: 0.4 };
const adapted = attachLora(base, config);
const adapter: Adapter = { config: adapted.config!, tensors: tensors(fixture.adapter) };
const x = floats(fixture.x);
const batch: Batch = { inputs: { x }, labels: tensor("int64", [4], BigInt64Array.from(fixture.labels, BigInt)) };

describe("withDropout", () => {
  it("gives PyTorch's loss and gradients for its masks", async () => {
    const dropped = withDropout(adapted);
    expect(dropped.masks.map(({ modulePath }) => modulePath)).toEqual(["fc1", "fc2"]);
    const graph = buildStepGraph(dropped.adapted, crossEntropy());
    const session = await openSession(graph.model);
    const feeds = new Map<string, Tensor>([...adapter.tensors, ["x", x], [graph.labels, batch.labels]]);
    for (const { modulePath, input } of dropped.masks) feeds.set(input, floats(fixture.masks[modulePath]!));
    const results = await session.run(feeds);
    await session.dispose();
    expect(Number(results.get(graph.loss)!.data[0])).toBeCloseTo(fixture.loss, 6);
    expect([...graph.gradients.keys()].sort()).toEqual(Object.keys(fixture.grads).sort());
    for (const [key, values] of Object.entries(fixture.grads)) {
      expect(gap(results.get(graph.gradients.get(key)!), values)).toBeLessThan(1e-6);
    }
  });

  it("leaves the model that it was given alone, and Embeddings as they are", () => {
    const names = adapted.model.graph.inputs.map(({ name }) => name);
    withDropout(adapted);
    expect(adapted.model.graph.inputs.map(({ name }) => name)).toEqual(names);
    const g = graphBuilder({ opset: 18 });
    const table = g.initializer("wte.weight", tensor("float32", [3, 2], new Float32Array(6)));
    g.output(g.op("Gather", [table, g.input("ids", "int64", ["batch"])], {}, { output: "y" }), "float32", ["batch", 2]);
    const model = createModel(g.build(), { opset: 18 });
    expect(withDropout(attachLora(model, { targetModules: ["wte"], loraDropout: 0.1 })).masks).toEqual([]);
  });
});

describe("masks", () => {
  it("are 0 with the given probability, else 1 / (1 - p)", () => {
    const values = new Float32Array(100_001);
    fillMask(values, 0.3, 1, "test");
    const kept = values.filter((value) => value !== 0);
    expect(new Set(kept)).toEqual(new Set([Math.fround(1 / 0.7)]));
    // Four deviations of a binomial distribution.
    expect(Math.abs(kept.length / values.length - 0.7)).toBeLessThan(4 * Math.sqrt((0.3 * 0.7) / values.length));
    fillMask(values, 0, 1, "test");
    expect(new Set(values)).toEqual(new Set([1]));
  });

  it("are decided by seed, step and module, for batches of any shape", async () => {
    const draw = async (seed: number, steps: readonly number[], rows = 4): Promise<Record<string, number[]>> => {
      const drawer = maskDrawer(withDropout(adapted), 0.4, seed);
      let masks: ReadonlyMap<string, Tensor> = new Map();
      for (const step of steps)
        masks = await drawer.draw({ x: tensor("float32", [rows, 6], new Float32Array(rows * 6)) }, step);
      return Object.fromEntries([...masks].map(([name, { data }]) => [name, Array.from(data as Float32Array)]));
    };
    const third = await draw(5, [0, 1, 2]);
    expect(Object.entries(third).map(([name, { length }]) => [name, length])).toEqual([
      ["fc1/lora/mask", 24],
      ["fc2/lora/mask", 32],
    ]);
    expect(await draw(5, [2])).toEqual(third);
    expect(await draw(5, [0, 1, 2], 4)).not.toEqual(await draw(5, [1]));
    expect(await draw(6, [2])).not.toEqual(third);
    expect((await draw(5, [0, 2], 9))["fc2/lora/mask"]).toHaveLength(72);
    expect(() => maskDrawer(withDropout(adapted), 1, 0)).toThrow("loraDropout: expected a number");
  });

  it("have sizes from a run where inference cannot tell them", async () => {
    // Rows where a column is above zero: their number is known only when the graph runs.
    const g = graphBuilder({ opset: 18 });
    const input = g.input("x", "float32", ["batch", 6]);
    const first = g.op("Gather", [input, g.constant("int64", 0)], { axis: 1 });
    const rows = g.op("Squeeze", [
      g.op("NonZero", [g.op("Greater", [first, g.constant("float32", 0)])]),
      g.constant("int64", [0]),
    ]);
    const weight = g.initializer("fc.weight", floats(fixture.weights["fc1.weight"]!));
    const y = g.op("Gemm", [g.op("Gather", [input, rows]), weight], { transB: 1 }, { name: "/fc/Gemm" });
    g.output(g.op("Identity", [y], {}, { output: "y" }), "float32", ["kept", 8]);
    const model: Model = createModel(g.build(), { opset: 18 });
    const data = Float32Array.from({ length: 30 }, (_, i) => (i % 12 === 0 ? 1 : -1));
    const drawer = maskDrawer(withDropout(attachLora(model, { targetModules: ["fc"] })), 0.5, 0);
    const masks = await drawer.draw({ x: tensor("float32", [5, 6], data) }, 0);
    expect([...masks.values()].map(({ dims }) => dims)).toEqual([[3, 6]]);
    await drawer.dispose();
  });
});

describe("training with dropout", () => {
  async function losses(seed: number, from = 0): Promise<number[]> {
    const step = await compileStep(adapted, crossEntropy(), null, { seed });
    loadParameters(step, adapted, adapter.tensors);
    const found: number[] = [];
    for (let index = from; index < 5; index++) found.push(await step.run(batch, from === 0 ? undefined : index));
    expect(copyParameters(step, adapted)).toEqual(new Map(adapter.tensors));
    await step.dispose();
    return found;
  }

  it("draws anew at each step, the same by seed and step", async () => {
    const all = await losses(1);
    expect(new Set(all).size).toBe(5);
    expect(await losses(1)).toEqual(all);
    expect(await losses(1, 3)).toEqual(all.slice(3));
    expect(await losses(2)).not.toEqual(all);
  });

  it("is deterministic as a whole", async () => {
    const run = () =>
      train(
        adapted,
        Array.from({ length: 6 }, () => batch),
        { seed: 3, learningRate: 0.05 },
      );
    const [first, second] = [await run(), await run()];
    expect(first.history.losses).toEqual(second.history.losses);
    expect(first.adapter.tensors).toEqual(second.adapter.tensors);
  });

  it("is off in evaluation", async () => {
    const plain = attachLora(base, { ...config, loraDropout: 0 });
    const loss = crossEntropy();
    expect(await valueAndGrad(adapted, adapter, batch, loss)).toEqual(await valueAndGrad(plain, adapter, batch, loss));
    const sessions = [await createSession(adapted), await createSession(plain)];
    const [on, off] = await Promise.all(sessions.map((session) => session.run({ x }, { adapter })));
    expect(on).toEqual(off);
    for (const each of [...sessions, adapted, plain]) await each.dispose();
  });
});
