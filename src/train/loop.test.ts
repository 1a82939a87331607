// What training does around its steps: accumulating, clipping, averaging, evaluating, stopping, and what goes wrong.
import { describe, expect, it } from "vitest";
import { attachAll, currentWeights } from "../lora/full.ts";
import { initAdapter } from "../lora/init.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { DataSource } from "./data-source.ts";
import { causalLm, crossEntropy, type Loss, meanSquaredError } from "./losses.ts";
import { accuracy, agreement } from "./metrics.ts";
import { sgd } from "./optimizers.ts";
import { constant, plateau } from "./schedules.ts";
import type { Batch } from "./step.ts";
import { fixtureModel } from "./testing/fixture.ts";
import { evaluation, examples, lora, slice, source, task } from "./testing/task.ts";
import { type StepProgress, type TrainOptions, train, trainAll } from "./train.ts";

function largestDifference(a: ReadonlyMap<string, Tensor>, b: ReadonlyMap<string, Tensor>): number {
  expect([...a.keys()]).toEqual([...b.keys()]);
  const differences = [...a].flatMap(([key, { data }]) =>
    [...(data as Float32Array)].map((value, i) => Math.abs(value - Number(b.get(key)!.data[i]))),
  );
  return Math.max(...differences);
}

describe("accumulation", () => {
  /** Gradients as a step of plain gradient descent shows them. */
  async function stepOf(batches: readonly Batch[], loss: Loss) {
    const options = { loss, optimizer: sgd(), learningRate: 1, accumulate: batches.length };
    const { tensors, history } = await trainAll(attachAll(fixtureModel()), batches, options);
    expect(history.losses).toHaveLength(1);
    return { tensors, loss: history.losses[0]! };
  }
  const ignoring = (batch: Batch, rows: readonly number[]): Batch => {
    const labels = (batch.labels.data as BigInt64Array).map((label, row) => (rows.includes(row) ? -100n : label));
    return { ...batch, labels: tensor("int64", batch.labels.dims, labels) };
  };
  const cases: [string, Loss, Batch][] = [
    ["cross entropy", crossEntropy(), task(11)],
    ["cross entropy, labels ignored", crossEntropy(), ignoring(task(11), [0, 1, 2, 3, 8])],
    [
      "cross entropy, smoothed and weighted by class",
      crossEntropy({ labelSmoothing: 0.1, classWeights: [1, 5, 0.2, 2] }),
      ignoring(task(11), [5]),
    ],
    [
      "mean squared error",
      meanSquaredError(),
      {
        ...task(11),
        labels: tensor(
          "float32",
          [11, 4],
          Float32Array.from({ length: 44 }, (_, i) => Math.sin(i)),
        ),
      },
    ],
  ];
  it.each(cases)("%s: four batches of different sizes are one batch that holds them all", async (_, loss, whole) => {
    const parts = [slice(whole, 0, 4), slice(whole, 4, 5), slice(whole, 5, 9), slice(whole, 9, 11)];
    const [one, several] = [await stepOf([whole], loss), await stepOf(parts, loss)];
    expect(several.loss).toBeCloseTo(one.loss, 6);
    expect(largestDifference(several.tensors, one.tensors)).toBeLessThan(1e-6);
    expect(largestDifference(one.tensors, currentWeights(attachAll(fixtureModel())))).toBeGreaterThan(1e-2);
  });

  it("weighs a language model's batches by the labels that it predicts", () => {
    const labels = tensor("int64", [2, 3], BigInt64Array.of(7n, 8n, -100n, 9n, 1n, 2n));
    expect(causalLm().weigh!(labels)).toBe(3);
    expect(crossEntropy().weigh!(labels)).toBe(5);
  });

  it("takes a step with what is there when a pass ends", async () => {
    const steps: StepProgress[] = [];
    const batches = [0, 1, 2, 3, 4].map((at) => slice(examples, 6 * at, 6 * at + 6));
    const { history } = await train(lora(), batches, {
      accumulate: 2,
      epochs: 2,
      onStep: (progress) => steps.push(progress),
    });
    expect(history.losses).toHaveLength(6);
    const fromSource = await train(lora(), source(), { accumulate: 3, epochs: 2 });
    expect(fromSource.history.losses).toHaveLength(6); // 8 batches in each pass
  });

  it("counts a batch for nothing whose labels are all ignored, and refuses a step of such batches alone", async () => {
    const empty = ignoring(slice(examples, 0, 3), [0, 1, 2]);
    const full = slice(examples, 3, 9);
    const [with_, without] = [await stepOf([empty, full], crossEntropy()), await stepOf([full], crossEntropy())];
    expect(largestDifference(with_.tensors, without.tensors)).toBeLessThan(1e-7);
    await expect(stepOf([empty, empty], crossEntropy())).rejects.toMatchObject({ code: "data" });
  });
});

describe("clipping", () => {
  it("shortens gradients to the norm, and leaves shorter ones alone", async () => {
    const optimizer = sgd();
    const start = currentWeights(attachAll(fixtureModel()));
    const run = async (clipNorm?: number) => {
      const told: StepProgress[] = [];
      const { tensors } = await trainAll(attachAll(fixtureModel()), [examples], {
        optimizer,
        learningRate: 1,
        onStep: (progress) => told.push(progress),
        ...(clipNorm !== undefined && { clipNorm }),
      });
      const squares = [...tensors].flatMap(([key, { data }]) =>
        [...(data as Float32Array)].map((value, i) => (value - Number(start.get(key)!.data[i])) ** 2),
      );
      return { moved: Math.sqrt(squares.reduce((sum, value) => sum + value)), norm: told[0]!.gradientNorm };
    };
    const free = await run();
    expect(free.norm).toBeUndefined();
    const clipped = await run(0.01);
    expect(clipped.norm).toBeCloseTo(free.moved, 5);
    // As PyTorch has it: times 0.01 / (norm + 1e-6).
    expect(clipped.moved).toBeCloseTo(0.01, 6);
    expect((await run(100)).moved).toBe(free.moved);
  });

  it("tells the norm of an adapter's gradients, which are checked at each step", async () => {
    const norms: (number | undefined)[] = [];
    await train(lora(), [examples], { onStep: ({ gradientNorm }) => norms.push(gradientNorm) });
    expect(norms[0]).toBeGreaterThan(0);
    await train(lora(), [examples], {
      checkGradients: false,
      onStep: ({ gradientNorm }) => norms.push(gradientNorm),
    });
    expect(norms[1]).toBeUndefined();
  });
});

describe("averaging", () => {
  it("follows the parameters, from those after the first step on", async () => {
    const seen: Float32Array[] = [];
    const decay = 0.8;
    const { averaged, adapter } = await train(lora(), source(), {
      steps: 5,
      ema: { decay },
      checkpoint: {
        every: { steps: 1 },
        save: ({ parameters }) => void seen.push([...parameters.values()][0]!.data as Float32Array),
      },
    });
    const expected = [...seen[0]!];
    for (const values of seen.slice(1)) {
      values.forEach((value, i) => {
        expected[i] = decay * expected[i]! + (1 - decay) * value;
      });
    }
    const actual = [...averaged!.tensors.values()][0]!.data as Float32Array;
    expected.forEach((value, i) => {
      expect(actual[i]).toBeCloseTo(value, 6);
    });
    expect(averaged!.config).toBe(adapter.config);
    expect([...actual]).not.toEqual([...seen.at(-1)!]);
  });
});

describe("evaluation", () => {
  it("measures every set after each pass and at the end, and keeps the best apart from the last", async () => {
    const told: [number, boolean][] = [];
    const { history, best, adapter } = await train(lora(), source(), {
      steps: 20,
      learningRate: 0.05,
      evaluation: { ...evaluation, atStart: true },
      onEvaluation: ({ step, best: isBest }) => void told.push([step, isBest]),
    });
    expect(history.evaluations.map(({ step, epoch }) => [step, epoch])).toEqual([
      [0, 0],
      [8, 1],
      [16, 2],
      [20, 2],
    ]);
    const values = history.evaluations.map((record) => record.values["target/loss"]!);
    expect(Object.keys(history.evaluations[0]!.values)).toEqual([
      "target/loss",
      "target/accuracy",
      "retained/loss",
      "retained/accuracy",
    ]);
    expect(values.at(-1)).toBeLessThan(values[0]! - 0.3);
    expect(best).toMatchObject({ metric: "target/loss", value: Math.min(...values) });
    expect(told.map(([step]) => step)).toEqual([0, 8, 16, 20]);
    expect(told[0]![1]).toBe(true);
    if (best!.step === 20) expect(best!.adapter).toEqual(adapter);
  });

  it("is of the parameters at that step: the same as a run that ended there", async () => {
    const options = { learningRate: 0.2, evaluation: { ...evaluation, every: { steps: 3 } } };
    const whole = await train(lora(), source(), { ...options, steps: 9 });
    const short = await train(lora(), source(), { ...options, steps: 6 });
    expect(whole.history.evaluations.slice(0, 2)).toEqual(short.history.evaluations);
    // The loss of a set is that of one batch which holds it all.
    const record = short.history.evaluations.at(-1)!;
    const { history } = await train(lora(), [task(20, "target")], { adapter: short.adapter, optimizer: sgd() });
    expect(history.losses[0]).toBeCloseTo(record.values["target/loss"]!, 5);
  });

  it("takes the best by a named metric and mode", async () => {
    const { best, history } = await train(lora(), source(), {
      steps: 12,
      learningRate: 0.05,
      evaluation: { ...evaluation, every: { steps: 2 }, best: { metric: "retained/accuracy" } },
    });
    const values = history.evaluations.map((record) => record.values["retained/accuracy"]!);
    expect(best!.value).toBe(Math.max(...values));
    expect(best!.step).toBe(history.evaluations[values.indexOf(best!.value)]!.step);
  });

  it("is of the moving average where there is one", async () => {
    const { averaged, best } = await train(lora(), source(), { steps: 8, ema: {}, evaluation });
    expect(best!.adapter.tensors).toEqual(averaged!.tensors);
  });

  it("counts accuracy by hand", () => {
    const scores = tensor("float32", [2, 2, 2], Float32Array.of(1, 2, 3, 2, 0, 5, 1, 0));
    const labels = tensor("int64", [2, 2], BigInt64Array.of(1n, 1n, -100n, 0n));
    const batch = { inputs: {}, labels };
    expect(accuracy()(new Map([["y", scores]]), batch)).toEqual({ sum: 2, count: 3 });
    const teacher = {
      inputs: {},
      labels: tensor(
        "float32",
        scores.dims,
        scores.data.map((score) => -score),
      ),
    };
    expect(agreement()(new Map([["y", scores]]), { ...teacher, labels: scores })).toEqual({ sum: 4, count: 4 });
    expect(agreement()(new Map([["y", scores]]), teacher).sum).toBeLessThan(4);
    expect(() => agreement({ output: "z" })(new Map([["y", scores]]), teacher)).toThrow("got no output z");
    // Shifted: score [0, 0] = 1 against label [0, 1] = 1, score [1, 0] = 1 against label [1, 1] = 0.
    expect(accuracy({ shifted: true })(new Map([["y", scores]]), batch)).toEqual({ sum: 1, count: 2 });
    expect(() => accuracy({ output: "z" })(new Map([["y", scores]]), batch)).toThrow("no output z");
  });
});

describe("stopping early, and schedules that listen", () => {
  const still = { ...evaluation, every: { steps: 1 } };
  it("ends when the metric has not got better by enough, so many times", async () => {
    const { history } = await train(lora(), source(), {
      steps: 50,
      learningRate: 1e-9,
      evaluation: still,
      earlyStopping: { patience: 3, minDelta: 0.01 },
    });
    expect(history).toMatchObject({ end: "patience", stopped: false });
    // The first evaluation is the best; the three after it are no better.
    expect(history.losses).toHaveLength(4);
  });

  it("reduces the learning rate on a plateau", async () => {
    const rates: number[] = [];
    await train(lora(), source(), {
      steps: 6,
      learningRate: plateau(1e-9, { patience: 1, factor: 0.5, threshold: 0.01 }),
      evaluation: still,
      onStep: ({ learningRate }) => rates.push(learningRate),
    });
    expect(rates).toEqual([1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 2.5e-10]);
  });

  it("gives parameters learning rates of their own", async () => {
    const { adapter } = await train(lora(), source(), {
      steps: 3,
      learningRateFactor: (key) => (key.includes("lora_A") ? 0 : 1),
    });
    const { adapter: start } = initAdapter(lora());
    for (const [key, { data }] of adapter.tensors) {
      if (key.includes("lora_A")) expect(data).toEqual(start.tensors.get(key)!.data);
      else expect(data).not.toEqual(start.tensors.get(key)!.data);
    }
  });
});

describe("what goes wrong", () => {
  const broken = (at: number): Batch[] =>
    [0, 1, 2, 3].map((index) => {
      const batch = slice(examples, 6 * index, 6 * index + 6);
      if (index === at) (batch.inputs.x!.data as Float32Array)[3] = Number.NaN;
      return batch;
    });

  it("a NaN in a batch: the step and the batch are named, the checkpoint before stays", async () => {
    const saved: Checkpoint[] = [];
    const options = {
      checkpoint: { every: { steps: 1 }, save: (checkpoint: Checkpoint) => void saved.push(checkpoint) },
    };
    await expect(train(lora(), broken(2), options)).rejects.toMatchObject({
      code: "data",
      message: expect.stringMatching(/^step 3, batch that ends at epoch 0, index 3: the loss is NaN/),
    });
    expect(saved.map(({ step }) => step)).toEqual([1, 2]);
    // And it is one to go on from.
    const whole = await train(lora(), broken(-1));
    expect((await train(lora(), broken(-1), { resume: saved[1]! })).adapter).toEqual(whole.adapter);
    await expect(train(lora(), broken(1), { accumulate: 4 })).rejects.toThrow(/step 1, .*index 2: the loss is NaN/);
  });

  it("gradients that are not finite though the loss is", async () => {
    const loss: Loss = {
      ...meanSquaredError(),
      build: (g, output, labels) => {
        const nodes = meanSquaredError().build(g, output, labels);
        const none = g.op("Mul", [nodes.gradient!, g.constant("float32", Number.POSITIVE_INFINITY)]);
        return { loss: nodes.loss, gradient: none };
      },
    };
    const labels = tensor("float32", [44, 4], new Float32Array(176).fill(0.5));
    await expect(train(lora(), [{ ...examples, labels }], { loss })).rejects.toMatchObject({
      code: "data",
      message: expect.stringMatching(/^step 1, .*: the gradient of .*lora_[AB].* is not finite/),
    });
  });

  it("weights that have grown past all bounds: no checkpoint is made of them", async () => {
    const saved: Checkpoint[] = [];
    const run = trainAll(attachAll(fixtureModel()), [examples], {
      optimizer: sgd(),
      learningRate: 1e39,
      checkpoint: { save: (checkpoint) => void saved.push(checkpoint) },
    });
    await expect(run).rejects.toMatchObject({ code: "data", message: expect.stringMatching(/not finite any more/) });
    expect(saved).toEqual([]);
  });

  it("a source that fails, or a file that cannot be written: the error comes through", async () => {
    const failing: DataSource = {
      async *batches(position) {
        for await (const item of source().batches(position)) {
          if (item.next.index > 12) throw new Error("the file has vanished");
          yield item;
        }
      },
    };
    const steps: number[] = [];
    const options = { onStep: ({ step }: StepProgress) => steps.push(step) };
    await expect(train(lora(), failing, options)).rejects.toThrow("the file has vanished");
    expect(steps).toEqual([1, 2]);
    const save = () => Promise.reject(new Error("disk full"));
    await expect(train(lora(), source(), { checkpoint: { save } })).rejects.toThrow("disk full");
  });

  it("options out of range, all at once", async () => {
    const options = {
      steps: -1,
      accumulate: 0,
      clipNorm: 0,
      checkpoint: { every: { steps: 0.5 }, save: () => {} },
      earlyStopping: { patience: -1 },
      learningRate: plateau(1),
    };
    await expect(train(lora(), source(), options)).rejects.toMatchObject({
      code: "config",
      faults: [
        "steps: expected a whole number of 0 or more, got -1",
        "accumulate: expected a whole number of 1 or more, got 0",
        "clipNorm: expected a number above 0, got 0",
        "checkpoint: expected a whole number of steps of 1 or more, got 0.5",
        "earlyStopping: patience: expected a whole number of 1 or more, got -1",
        "earlyStopping: expected an evaluation to watch, got none; give `evaluation`",
        "learningRate: expected an evaluation to watch, got none; give `evaluation`",
      ],
    });
    const cases: [TrainOptions, RegExp][] = [
      [{ evaluation: { sets: {} } }, /sets: expected one or more, got none/],
      [{ evaluation: { ...evaluation, best: { metric: "target/f1" } } }, /best: expected a metric of target\/loss/],
      [{ evaluation: { ...evaluation, best: { metric: "target/accuracy" } }, learningRate: plateau(1) }, /mode max/],
      [{ ema: { decay: 1 } }, /ema: decay: expected a number in \[0, 1\), got 1/],
    ];
    for (const [wrong, message] of cases) await expect(train(lora(), source(), wrong)).rejects.toThrow(message);
    function* once(): Generator<Batch> {
      yield examples;
    }
    await expect(train(lora(), once(), { epochs: 2 })).rejects.toThrow(/an iterable, which can be gone over once/);
  });
});

describe("prefetching", () => {
  it("asks for the next batch before the present one is run, and for the same ones", async () => {
    const events: string[] = [];
    const watched: DataSource = {
      async *batches(position) {
        for await (const item of source().batches(position)) {
          events.push(`asked ${item.next.index}`);
          yield item;
        }
      },
    };
    const options = {
      steps: 3,
      learningRate: constant(0.01),
      onStep: ({ step }: StepProgress) => events.push(`step ${step}`),
    };
    const ahead = await train(lora(), watched, options);
    expect(events.indexOf("asked 12")).toBeLessThan(events.indexOf("step 1"));
    const plain = await train(lora(), source(), { ...options, prefetch: false });
    expect(ahead.adapter).toEqual(plain.adapter);
  });
});
