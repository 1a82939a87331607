import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll, currentWeights, withWeights } from "../lora/full.ts";
import { initAdapter } from "../lora/init.ts";
import { bits, drawn, snapshot, twoLayers } from "../lora/testing/models.ts";
import { createRandom } from "../random.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { crossEntropy, meanSquaredError } from "./losses.ts";
import type { Batch } from "./step.ts";
import { classes, fixture, fixtureAdapter, fixtureBatches, fixtureModel, floats, keyOf } from "./testing/fixture.ts";
import { type StepProgress, train, trainAll } from "./train.ts";

/** What 20 steps add up to in float32, where sums are taken in another order than PyTorch takes them. */
const trajectoryTolerance = 5e-6;

function expectClose(actual: ArrayLike<number>, expected: readonly number[], tolerance: number, what: string): void {
  expect(actual.length).toBe(expected.length);
  for (const [index, value] of expected.entries()) {
    expect(Math.abs(actual[index]! - value), `${what} [${index}]`).toBeLessThan(tolerance);
  }
}

const lora = () => attachLora(fixtureModel(), { r: fixture.r, loraAlpha: fixture.loraAlpha });
const steps = fixture.lora.losses.length;
const { learningRate } = fixture;

describe("PyTorch's trajectory over 20 steps of Adam", () => {
  it("with LoRA on both layers: losses and adapter", async () => {
    const adapted = lora();
    const { adapter, history } = await train(adapted, fixtureBatches(steps), {
      adapter: fixtureAdapter(adapted.config!),
      learningRate,
    });
    expectClose(history.losses, fixture.lora.losses, trajectoryTolerance, "loss");
    for (const [name, values] of Object.entries(fixture.lora.parameters)) {
      const trained = adapter.tensors.get(keyOf(name))!;
      expect(trained.dims).toEqual(values.dims);
      expectClose(trained.data as Float32Array, values.data, trajectoryTolerance, name);
    }
    expect(adapter.config).toBe(adapted.config);
  });

  it("with all weights: losses and weights", async () => {
    const { tensors, history } = await trainAll(attachAll(fixtureModel()), fixtureBatches(steps), { learningRate });
    expectClose(history.losses, fixture.full.losses, trajectoryTolerance, "loss");
    for (const [name, values] of Object.entries(fixture.full.parameters)) {
      expectClose(tensors.get(name)!.data as Float32Array, values.data, trajectoryTolerance, name);
    }
  });
});

describe("learning", () => {
  /** Batches of y = x M^T + c, which two layers with a Tanh between can come near to. */
  function* linearTask(count: number): Generator<Batch> {
    const random = createRandom(11, "task");
    for (let step = 0; step < count; step++) {
      const x = Float32Array.from({ length: 32 * 3 }, () => random.uniform() - 0.5);
      const y = Float32Array.from({ length: 32 * 4 }, (_, at) => {
        const [example, output] = [Math.floor(at / 4), at % 4];
        return 0.5 * x[3 * example]! - x[3 * example + (output % 3)]! + 0.1 * output;
      });
      yield { inputs: { x: tensor("float32", [32, 3], x) }, labels: tensor("float32", [32, 4], y) };
    }
  }
  const options = { loss: meanSquaredError(), learningRate: 0.02 };
  const tail = (losses: Float32Array) => losses.slice(-20).reduce((sum, value) => sum + value) / 20;

  it("all weights reach a known function", async () => {
    const { history } = await trainAll(attachAll(twoLayers()), linearTask(400), options);
    expect(history.losses[0]).toBeGreaterThan(0.3);
    expect(tail(history.losses)).toBeLessThan(0.002);
  });

  it("so does LoRA of the layers' full rank, from the same frozen weights", async () => {
    const adapted = attachLora(twoLayers(), { r: 4, loraAlpha: 4 });
    const before = snapshot(adapted.base);
    const { adapter, history } = await train(adapted, linearTask(400), options);
    expect(tail(history.losses)).toBeLessThan(history.losses[0]! / 20);
    expect(snapshot(adapted.base)).toEqual(before);
    // What was learnt is in the adapter: without it, the model is as bad as before.
    const session = await createSession(adapted);
    const { inputs, labels } = linearTask(1).next().value!;
    const error = async (use: typeof adapter | null) => {
      const y = (await session.run(inputs, { adapter: use })).get("y")!;
      return (
        [...y.data].reduce<number>((sum, value, at) => sum + (Number(value) - Number(labels.data[at])) ** 2, 0) /
        y.data.length
      );
    };
    expect(await error(null)).toBeCloseTo(history.losses[0]!, 4);
    expect(await error(adapter)).toBeLessThan(history.losses[0]! / 20);
    await session.dispose();
  });
});

describe("the same seed gives the same bytes", () => {
  const run = async (seed: number) => {
    const { adapter, history } = await train(lora(), fixtureBatches(8), { seed });
    return [
      bits(tensor("float32", [8], history.losses)),
      ...[...adapter.tensors].map(([key, value]) => [key, bits(value)]),
    ];
  };

  it("of losses and adapter, and another seed others", async () => {
    const first = await run(4);
    expect(await run(4)).toEqual(first);
    expect(await run(5)).not.toEqual(first);
  });

  it("where no adapter is given, the one that initAdapter gives is trained", async () => {
    const adapted = lora();
    const { adapter } = initAdapter(adapted, { seed: 4 });
    const given = await train(adapted, fixtureBatches(3), { adapter });
    const own = await train(adapted, fixtureBatches(3), { seed: 4 });
    expect(given.adapter).toEqual(own.adapter);
    expect(adapter).toEqual(initAdapter(adapted, { seed: 4 }).adapter);
  });
});

describe("when it ends", () => {
  it("with the batches", async () => {
    const { history } = await train(lora(), fixtureBatches(7));
    expect(history).toMatchObject({ stopped: false });
    expect(history.losses.length).toBe(7);
    expect(history.seconds).toBeGreaterThan(0);
  });

  it("after the steps that were asked for, without asking for another batch", async () => {
    let asked = 0;
    async function* endless() {
      for (const batch of fixtureBatches(1000)) {
        asked++;
        yield batch;
      }
    }
    const { history } = await train(lora(), endless(), { steps: 3 });
    expect([history.losses.length, asked, history.stopped]).toEqual([3, 3, false]);
    expect((await train(lora(), endless(), { steps: 0 })).history.losses.length).toBe(0);
    expect(asked).toBe(3);
  });

  it("between two steps, when it is stopped; what was learnt is kept", async () => {
    const controller = new AbortController();
    const adapted = lora();
    const stopped = await train(adapted, fixtureBatches(100), {
      signal: controller.signal,
      onStep: ({ step }) => step === 4 && controller.abort(),
    });
    expect(stopped.history).toMatchObject({ stopped: true });
    expect(stopped.history.losses.length).toBe(4);
    expect(stopped.adapter).toEqual((await train(adapted, fixtureBatches(4))).adapter);
  });

  it("before the first step, when it is stopped already", async () => {
    const adapted = lora();
    const { adapter, history } = await train(adapted, fixtureBatches(5), { signal: AbortSignal.abort() });
    expect([history.losses.length, history.stopped]).toEqual([0, true]);
    expect(adapter).toEqual(initAdapter(adapted).adapter);
  });

  it("is not called stopped when it was through anyway", async () => {
    const controller = new AbortController();
    const { history } = await train(lora(), fixtureBatches(9), {
      steps: 2,
      signal: controller.signal,
      onStep: ({ step }) => step === 2 && controller.abort(),
    });
    expect(history.stopped).toBe(false);
  });

  it("tells of each step", async () => {
    const told: StepProgress[] = [];
    const schedule = (step: number) => 0.01 / (step + 1);
    const { history } = await train(lora(), fixtureBatches(3), {
      learningRate: schedule,
      onStep: (progress) => told.push(progress),
    });
    expect(told.map(({ step, learningRate: rate }) => [step, rate])).toEqual([
      [1, 0.01],
      [2, 0.005],
      [3, 0.01 / 3],
    ]);
    expect(told.map(({ loss }) => loss)).toEqual([...history.losses]);
  });
});

describe("what cannot be trained", () => {
  it("a loss that is not finite", async () => {
    const batches = [...fixtureBatches(3)];
    (batches[2]!.inputs.x!.data as Float32Array)[0] = Number.NaN;
    await expect(train(lora(), batches)).rejects.toMatchObject({
      code: "data",
      message:
        "step 3, batch that ends at epoch 0, index 3: the loss is NaN; look for NaN in the batch, or lower the learning rate",
    });
    const ignored = { ...batches[0]!, labels: classes([-100, -100, -100, -100, -100, -100]) };
    await expect(train(lora(), [ignored])).rejects.toMatchObject({
      code: "data",
      message: expect.stringMatching(/step 1, .*: the loss is NaN/),
    });
  });

  it("batches that lack an input, or whose labels are no classes", async () => {
    const [batch] = fixtureBatches(1);
    await expect(train(lora(), [{ inputs: {}, labels: batch!.labels }])).rejects.toMatchObject({
      code: "data",
      message: "batch: input x: missing",
    });
    await expect(train(lora(), [{ ...batch!, labels: classes([0, 1, 2, 3, 4, 0]) }])).rejects.toMatchObject({
      code: "data",
      message: expect.stringMatching(/got 4 at \[4\]/),
    });
  });

  it.each([
    ["steps", { steps: -1 }, /steps: expected a whole number of 0 or more, got -1/],
    ["steps", { steps: 1.5 }, /got 1\.5/],
    ["steps", { steps: Number.NaN }, /got NaN/],
    ["a learning rate", { learningRate: 0 }, /learning rate: expected a number above 0, got 0/],
    ["a learning rate", { learningRate: Number.NaN }, /learning rate/],
    ["an output", { loss: crossEntropy({ output: "nothing" }) }, /no output "nothing"/],
  ])("%s out of range: %j", async (_, options, message) => {
    await expect(train(lora(), fixtureBatches(1), options)).rejects.toMatchObject({
      code: "config",
      message: expect.stringMatching(message),
    });
  });

  it("an adapter that does not fit: every tensor and every scale that differs", async () => {
    const adapted = lora();
    const adapter = fixtureAdapter({ ...adapted.config!, loraAlpha: 4 });
    const tensors = new Map<string, Tensor>([...adapter.tensors, ["other", drawn("other", 1)]]);
    tensors.delete(keyOf("fc1.lora_A"));
    await expect(train(adapted, fixtureBatches(1), { adapter: { ...adapter, tensors } })).rejects.toMatchObject({
      code: "adapter",
      faults: [
        `${keyOf("fc1.lora_A")}: missing`,
        "other: the model has no such parameter",
        "fc1: expected the scale 3, got 2; attach the adapter's own config",
        "fc2: expected the scale 3, got 2; attach the adapter's own config",
      ],
    });
  });

  it("a whole model as an adapter, or an adapter as a whole model", async () => {
    await expect(train(attachAll(fixtureModel()), fixtureBatches(1))).rejects.toMatchObject({
      code: "config",
      message: expect.stringMatching(/no LoRA branches/),
    });
    await expect(trainAll(lora(), fixtureBatches(1))).rejects.toMatchObject({
      code: "config",
      message: expect.stringMatching(/use attachAll, or train its adapter/),
    });
  });
});

describe("the whole way", () => {
  it("from weights to weights, which a plain model then has", async () => {
    const model = fixtureModel();
    const before = snapshot(model);
    const { tensors } = await trainAll(attachAll(model), fixtureBatches(steps), { learningRate });
    const trained = withWeights(model, tensors);
    expect(currentWeights(attachAll(trained))).toEqual(tensors);
    expect(snapshot(model)).toEqual(before);
    const session = await createSession(trained);
    const logits = (await session.run({ x: floats(fixture.batches[0]!.x) })).get("logits")!;
    expect(logits.dims).toEqual([6, 4]);
    await session.dispose();
  });
});
