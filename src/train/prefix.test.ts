import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { inFolder } from "../runs/row-file.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { batchesOf, type DataSource } from "./data-source.ts";
import { accuracy } from "./metrics.ts";
import type { PrefixPlan } from "./prefix.ts";
import { inMemory } from "./row-store.ts";
import { task } from "./testing/task.ts";
import { type TrainOptions, train } from "./train.ts";

/** The same to the last bits of float32. */
const lossTolerance = 1e-6;

/** x [batch, 8] -> 32 -> 24 -> logits [batch, 4]: enough work below the head to be kept. */
function network(): Model {
  const g = graphBuilder({ opset: 18 });
  const layer = (x: string, name: string, from: number, to: number): string =>
    g.op("Gemm", [x, g.initializer(`${name}.weight`, drawn(name, to, from))], { transB: 1 }, { name: `/${name}/Gemm` });
  const hidden = g.op("Relu", [layer(g.input("x", "float32", ["batch", 8]), "fc1", 8, 64)]);
  const features = g.op("Relu", [layer(hidden, "fc2", 64, 16)]);
  g.output(g.op("Identity", [layer(features, "head", 16, 4)], {}, { output: "logits" }), "float32", ["batch", 4]);
  return createModel(g.build(), { opset: 18 });
}

const examples = task(44);
const source = (): DataSource => batchesOf(examples, { batchSize: 6, seed: 1 });
const config = { r: 2, loraAlpha: 4, targetModules: ["head"] };
const evaluation = {
  sets: { held: batchesOf(task(21, "held"), { batchSize: 5, shuffle: false }), few: [task(9, "few")] },
  metrics: { accuracy: accuracy() },
};

async function run(options: TrainOptions, model: Model = network(), data: DataSource = source(), more = {}) {
  const plans: PrefixPlan[] = [];
  const onPrefix = (plan: PrefixPlan) => plans.push(plan);
  const adapted = attachLora(model, { ...config, ...more });
  const trained = await train(adapted, data, { learningRate: 0.01, epochs: 4, seed: 3, onPrefix, ...options });
  await adapted.dispose();
  return { ...trained, plans };
}

function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length);
  for (let at = 0; at < expected.length; at++) {
    expect(Math.abs(actual[at]! - expected[at]!), `[${at}]`).toBeLessThanOrEqual(lossTolerance);
  }
}

function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-prefix-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

describe("training behind a frozen prefix", () => {
  it("learns what it would learn without: losses, adapter and evaluations", async () => {
    const plain = await run({ prefixCache: false, evaluation });
    const kept = await run({ evaluation });
    expect(plain.plans).toEqual([]);
    expect(kept.plans).toMatchObject([
      { on: true, nodes: 4, kept: [{ dims: [16] }], bytesPerExample: 64, place: "memory" },
    ]);
    expect(kept.history.losses.length).toBe(32);
    expectSame(kept.history.losses, plain.history.losses);
    for (const [key, value] of plain.adapter.tensors) {
      expectSame(kept.adapter.tensors.get(key)!.data as Float32Array, value.data as Float32Array);
    }
    for (const [at, { values }] of plain.history.evaluations.entries()) {
      expectSame(Object.values(kept.history.evaluations[at]!.values), Object.values(values));
    }
  });

  it("runs the prefix once for each example, whatever batches come later", async () => {
    // Nothing is read of x after the first pass: the source gives numbers that would break training.
    const broken: DataSource = {
      ...source(),
      async *batches(position) {
        for await (const given of source().batches(position)) {
          const x =
            given.next.epoch > 1 || (given.next.epoch === 1 && given.next.index > 0) ? nan(given.examples) : null;
          yield x === null ? given : { ...given, batch: { ...given.batch, inputs: { x } } };
        }
      },
    };
    const kept = await run({}, network(), broken);
    expectSame(kept.history.losses, (await run({ prefixCache: false })).history.losses);
    await expect(run({ prefixCache: false }, network(), broken)).rejects.toThrow("the loss is NaN");
  });

  it("with dropout, several batches a step and LoRA-FA: the same", async () => {
    for (const options of [{ accumulate: 3 }, { loraFa: {} }] as TrainOptions[]) {
      const kept = await run(options, network(), source(), { loraDropout: 0.25 });
      expect(kept.plans).toMatchObject([{ on: true }]);
      const plain = await run({ ...options, prefixCache: false }, network(), source(), { loraDropout: 0.25 });
      expectSame(kept.history.losses, plain.history.losses);
    }
  });

  it("keeps rows on the disk, and leaves no file", async () => {
    const folder = temporary();
    const kept = await run({ prefixCache: { places: [inMemory(100), inFolder(folder, 1e6)] }, evaluation });
    expect(kept.plans).toMatchObject([{ on: true, place: "disk" }]);
    expect(readdirSync(folder)).toEqual([]);
    expectSame(kept.history.losses, (await run({ prefixCache: false })).history.losses);
  });

  it("goes on from a checkpoint in the middle of a pass to the same bits", async () => {
    const unbroken = await run({});
    const held: Checkpoint[] = [];
    await run({ steps: 20, checkpoint: { every: { steps: 13 }, save: (state) => void held.push(state) } });
    const resumed = await run({ resume: held[0]! });
    expect(resumed.history.losses).toEqual(unbroken.history.losses);
    expect([...resumed.adapter.tensors.values()]).toEqual([...unbroken.adapter.tensors.values()]);
  });

  it("a bound that the evaluation does not fit under any more only makes that slower", async () => {
    const bound = { places: [inMemory(64 * 49)] };
    const kept = await run({ prefixCache: bound, evaluation });
    expect(kept.plans).toMatchObject([{ on: true }]);
    const plain = await run({ prefixCache: false, evaluation });
    expectSame(kept.history.losses, plain.history.losses);
    expectSame(
      kept.history.evaluations.map(({ values }) => values["held/loss"]!),
      plain.history.evaluations.map(({ values }) => values["held/loss"]!),
    );
  });
});

describe("what is in the way is said", () => {
  it("too much to keep", async () => {
    const { plans, history } = await run({ prefixCache: { places: [inMemory(64 * 20)] } });
    expect(plans).toEqual([{ on: false, reason: "0.00293 MiB would have to be kept, and 0.00122 MiB may be" }]);
    expect(history.losses.length).toBe(32);
  });

  it("examples that cannot be told apart", async () => {
    const nameless: DataSource = {
      ...source(),
      async *batches(position) {
        for await (const { batch, next, examples: count } of source().batches(position)) {
          yield { batch, next, examples: count };
        }
      },
    };
    const { plans } = await run({}, network(), nameless);
    expect(plans).toMatchObject([{ on: false, reason: expect.stringContaining("does not tell its examples apart") }]);
  });

  it("a prefix that looks at the whole batch", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 8]);
    const wide = g.op(
      "Gemm",
      [x, g.initializer("fc1.weight", drawn("fc1", 64, 8))],
      { transB: 1 },
      { name: "/fc1/Gemm" },
    );
    const centred = g.op("Sub", [wide, g.op("ReduceMean", [wide, g.constant("int64", [0])])]);
    const fc2 = g.initializer("fc2.weight", drawn("fc2", 8, 64));
    const features = g.op("Gemm", [centred, fc2], { transB: 1 }, { name: "/fc2/Gemm" });
    const head = g.initializer("head.weight", drawn("head", 4, 8));
    const logits = g.op("Gemm", [features, head], { transB: 1 }, { name: "/head/Gemm" });
    g.output(logits, "float32", ["batch", 4]);
    const { plans } = await run({}, createModel(g.build(), { opset: 18 }));
    expect(plans).toEqual([{ on: false, reason: "what it gives for an example depends on the others in its batch" }]);
  });

  it("nothing where there is nothing to gain: one pass, or a first layer that is trained", async () => {
    expect((await run({ epochs: 1 })).plans).toEqual([]);
    expect((await run({ epochs: 9, steps: 8 })).plans).toEqual([]);
    expect((await run({}, network(), source(), { targetModules: ["fc1"] })).plans).toEqual([]);
  });

  it("examples that change their size", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", "length", 8]);
    const weight = (name: string, ...dims: number[]) => g.initializer(`${name}.weight`, drawn(name, ...dims));
    const wide = g.op("MatMul", [x, weight("fc1", 8, 64)], {}, { name: "/fc1/MatMul" });
    const small = g.op("MatMul", [g.op("Relu", [wide]), weight("fc2", 64, 8)], {}, { name: "/fc2/MatMul" });
    const logits = g.op("MatMul", [small, weight("head", 8, 4)], {}, { name: "/head/MatMul" });
    g.output(g.op("ReduceMean", [logits, g.constant("int64", [1])], { keepdims: 0 }), "float32", ["batch", 4]);
    const growing: DataSource = {
      batchesPerEpoch: 2,
      async *batches({ epoch, index }) {
        for (let at = 2 * epoch + index; ; at++) {
          const length = 3 + (at % 2);
          const inputs = { x: tensor("float32", [2, length, 8], new Float32Array(16 * length)) };
          const next = { epoch: (at + 1) >> 1, index: (at + 1) % 2 };
          yield { batch: { inputs, labels: labels(2) }, next, examples: 2, keys: [2 * (at % 2), 2 * (at % 2) + 1] };
        }
      },
    };
    await expect(run({}, createModel(g.build(), { opset: 18 }), growing)).rejects.toThrow(
      "expected examples of the same sizes in all batches",
    );
  });
});

function nan(count: number): Tensor {
  const x = zeros([count, 8]);
  x.data.fill(Number.NaN);
  return x;
}

function labels(count: number): Tensor<"int64"> {
  return tensor("int64", [count], new BigInt64Array(count));
}
