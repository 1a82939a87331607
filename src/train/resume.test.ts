// Going on after a stop, from any step, with every optimizer and every kind of data: the end is the same, bit for bit.
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { createRandom } from "../random.ts";
import { tensor } from "../tensor.ts";
import { type Checkpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import type { DataSource } from "./data-source.ts";
import { adafactor, adamw, lion, type Optimizer, sgd } from "./optimizers.ts";
import { plateau } from "./schedules.ts";
import type { Batch } from "./step.ts";
import { fixtureModel } from "./testing/fixture.ts";
import { evaluation, examples, lora, slice, source } from "./testing/task.ts";
import { type TrainOptions, train, trainAll } from "./train.ts";

/** The bytes of every checkpoint, by step. */
async function checkpoints(options: TrainOptions, data = source(), adapted = lora()) {
  const saved = new Map<number, Uint8Array>();
  const result = await train(adapted, data, {
    ...options,
    checkpoint: {
      every: { steps: 1 },
      save: (checkpoint) => void saved.set(checkpoint.step, writeCheckpoint(checkpoint)),
    },
  });
  return { saved, result };
}

describe("resuming", () => {
  const optimizers: (() => Optimizer)[] = [adamw, () => sgd({ momentum: 0.9 }), lion, adafactor];
  it.each(optimizers.map((make) => [make().name, make] as const))(
    "from any step ends in the same bytes: %s",
    async (_, make) => {
      const options = {
        steps: 13,
        learningRate: plateau(0.02, { patience: 0, threshold: 0.05 }),
        optimizer: make(),
        accumulate: 2,
        clipNorm: 1,
        ema: { decay: 0.9 },
        seed: 5,
        evaluation: { ...evaluation, every: { steps: 2, epochs: 1 } },
        earlyStopping: { patience: 30 },
      };
      const whole = await checkpoints(options);
      expect([...whole.saved.keys()]).toEqual(Array.from({ length: 13 }, (_, i) => i + 1));
      for (const from of [1, 4, 6, 12, 13]) {
        const resumed = await checkpoints({ ...options, resume: readCheckpoint(whole.saved.get(from)!) });
        expect(resumed.saved.get(13)).toEqual(whole.saved.get(13));
        expect({ ...resumed.result, history: { ...resumed.result.history, seconds: 0 } }).toEqual({
          ...whole.result,
          history: { ...whole.result.history, seconds: 0 },
        });
      }
    },
  );

  it("goes over what came before again where data cannot be entered", async () => {
    const batches = [0, 1, 2, 3, 4].map((at) => slice(examples, 6 * at, 6 * at + 6));
    function* once(): Generator<Batch> {
      for (let pass = 0; pass < 3; pass++) yield* batches;
    }
    const kinds = [() => batches, () => once(), () => (epoch: number) => (epoch % 2 === 0 ? batches : once())];
    for (const data of kinds) {
      const saved = new Map<number, Checkpoint>();
      const run = (resume?: Checkpoint) =>
        train(lora(), data(), {
          steps: 9,
          ...(Array.isArray(data()) && { epochs: 2 }),
          ...(resume && { resume }),
          checkpoint: { every: { steps: 1 }, save: (checkpoint) => void saved.set(checkpoint.step, checkpoint) },
        });
      const whole = await run();
      expect(whole.history.losses).toHaveLength(9);
      const resumed = await run(saved.get(4));
      expect(resumed.adapter).toEqual(whole.adapter);
      expect(resumed.history.losses).toEqual(whole.history.losses);
    }
  });

  it("goes on after being stopped: what a stop leaves is a checkpoint too", async () => {
    const whole = await train(lora(), source(), { steps: 10 });
    const controller = new AbortController();
    const saved: Checkpoint[] = [];
    const stopped = await train(lora(), source(), {
      steps: 10,
      signal: controller.signal,
      onStep: ({ step }) => step === 3 && controller.abort(),
      checkpoint: { every: { steps: 100 }, save: (checkpoint) => void saved.push(checkpoint) },
    });
    expect(stopped.history).toMatchObject({ end: "signal", stopped: true });
    expect(saved.map(({ step }) => step)).toEqual([3]);
    const resumed = await train(lora(), source(), { steps: 10, resume: saved[0]! });
    expect(resumed.adapter).toEqual(whole.adapter);
  });

  it("restores the generators that a source draws from", async () => {
    const noisy = (seed: number) => {
      const random = createRandom(seed, "noise");
      const inner = source();
      const data: DataSource = {
        async *batches(position) {
          for await (const item of inner.batches(position)) {
            const x = item.batch.inputs.x!;
            const values = (x.data as Float32Array).map((value) => value + 0.1 * random.normal());
            yield { ...item, batch: { ...item.batch, inputs: { x: tensor("float32", x.dims, values) } } };
          }
        },
      };
      return { data, random: { noise: random } };
    };
    const first = noisy(1);
    const whole = await checkpoints({ steps: 7, random: first.random }, first.data);
    const other = noisy(999);
    const resume = readCheckpoint(whole.saved.get(3)!);
    const resumed = await checkpoints({ steps: 7, random: other.random, resume }, other.data);
    expect(resumed.saved.get(7)).toEqual(whole.saved.get(7));
    await expect(train(lora(), [examples], { random: first.random })).rejects.toThrow(/random: expected a source/);
  });

  it("of all weights too", async () => {
    const saved: Checkpoint[] = [];
    const run = (resume?: Checkpoint) =>
      trainAll(attachAll(fixtureModel()), source(), {
        steps: 6,
        ...(resume && { resume }),
        checkpoint: { every: { steps: 2 }, save: (checkpoint) => void saved.push(checkpoint) },
      });
    const whole = await run();
    const resumed = await run(saved[1]);
    expect(resumed.tensors).toEqual(whole.tensors);
  });

  it("is refused for another run's checkpoint, with all that differs", async () => {
    const { saved } = await checkpoints({ steps: 2, seed: 1, evaluation });
    const resume = readCheckpoint(saved.get(2)!);
    const other = train(attachLora(fixtureModel(), { r: 3, loraAlpha: 4, targetModules: ["fc1"] }), source(), {
      resume,
      optimizer: lion(),
      ema: {},
    });
    await expect(other).rejects.toMatchObject({
      code: "config",
      faults: [
        expect.stringMatching(/^scales: expected \{"fc1":1\.33.*\}, got \{"fc1":2,"fc2":2\}$/),
        "seed: expected 0, got 1",
        'optimizer: expected "lion", got "adam"',
        expect.stringMatching(/fc1\.lora_A\.weight: expected float32 \[3,8\], got float32 \[2,8\]/),
        expect.stringMatching(/fc1\.lora_B\.weight: expected/),
        expect.stringMatching(/fc2\.lora_A\.weight: the model has no such parameter/),
        expect.stringMatching(/fc2\.lora_B\.weight: the model has no such parameter/),
        'ema: expected {"decay":0.999}, got null',
        'best: expected null, got "target/loss"',
        'best: expected null, got "min"',
        ...Array(4).fill(expect.stringMatching(/lora_/)),
      ],
    });
  });
});
