import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { initAdapter } from "../lora/init.ts";
import { createModel, graphBuilder, makeNode } from "../onnx/builder.ts";
import { productsInFloat16 } from "../onnx/float16.ts";
import type { Model } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { createRandom } from "../random.ts";
import { openSession } from "../runtime/session.ts";
import { tensor } from "../tensor.ts";
import { type Checkpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { batchesOf } from "./data-source.ts";
import { nextScale, startScale, unscale } from "./loss-scale.ts";
import { crossEntropy, meanSquaredError } from "./losses.ts";
import { sgd } from "./optimizers.ts";
import type { Batch } from "./step.ts";
import { compileStep, loadParameters } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";
import { train } from "./train.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const [features, hidden, classes, rows] = [16, 32, 4, 32];

function network(deviation = 0.3): Model {
  const random = createRandom(0, "network");
  const g = graphBuilder({ opset: 18 });
  const drawn = (dims: readonly number[]) =>
    tensor(
      "float32",
      dims,
      Float32Array.from({ length: dims.reduce((a, b) => a * b) }, () => deviation * random.normal()),
    );
  const x = g.input("x", "float32", ["n", features]);
  const linear = (name: string, from: string, dims: readonly number[]): string =>
    g.op("Gemm", [from, g.initializer(`${name}.weight`, drawn(dims))], { transB: 1 }, { name: `/${name}/Gemm` });
  const first = g.op("Relu", [linear("first", x, [hidden, features])]);
  g.output(linear("second", first, [classes, hidden]), "float32", ["n", classes]);
  return createModel(g.build(), { opset: 18 });
}

function batchOf(size = 1): Batch {
  const random = createRandom(1, "batch");
  const x = Float32Array.from({ length: rows * features }, () => size * random.normal());
  const labels = Array.from(
    { length: rows },
    (_, row) => (x[row * features]! > 0 ? 1 : 0) + (x[row * features + 1]! > 0 ? 2 : 0),
  );
  return {
    inputs: { x: tensor("float32", [rows, features], x) },
    labels: tensor("int64", [rows], BigInt64Array.from(labels, BigInt)),
  };
}

const adapt = (model = network()) => attachLora(model, { r: 4, loraAlpha: 8 });

describe("nextScale", () => {
  it("halves on what is not finite, and doubles after 2000 batches that are", () => {
    expect(nextScale({ scale: 8, good: 7 }, false)).toEqual({ scale: 4, good: 0 });
    expect(nextScale({ scale: 8, good: 7 }, true)).toEqual({ scale: 8, good: 8 });
    expect(nextScale({ scale: 8, good: 1999 }, true)).toEqual({ scale: 16, good: 0 });
  });

  it("gives up where no scale is small enough", () => {
    expect(() => nextScale({ scale: 2 ** -10, good: 0 }, false)).toThrow(
      /float16: .* not finite at any scale; train in float32/,
    );
  });
});

describe("unscale", () => {
  it("divides in place, exactly", () => {
    const array = Float32Array.of(3, -1e-3);
    unscale([array], { scale: 4, good: 0 });
    expect([...array]).toEqual([0.75, Math.fround(-1e-3) / 4]);
  });
});

describe("training in float16", () => {
  it("gives the gradients of float32, to what float16 resolves", async () => {
    const adapted = adapt();
    const { adapter } = initAdapter(adapted, { seed: 3 });
    const random = createRandom(2, "b");
    for (const [key, { data }] of adapter.tensors) {
      const values = data as Float32Array;
      if (key.includes("lora_B")) values.set(values.map(() => 0.1 * random.normal()));
    }
    const exact = await valueAndGrad(adapted, adapter, batchOf(), crossEntropy(), { threads: 1 });
    const step = await compileStep(adapted, crossEntropy(), null, { threads: 1, precision: "float16" });
    loadParameters(step, adapted, adapter.tensors);
    const loss = await step.run(batchOf());
    expect([step.overflowed, step.scaling]).toEqual([false, { scale: startScale.scale, good: 1 }]);
    expect(Math.abs(loss - exact.loss)).toBeLessThan(2e-3);
    for (const [key, gradient] of step.gradients) {
      const wanted = exact.grads.get(key)!.data as Float32Array;
      const size = Math.max(...wanted.map(Math.abs));
      expect(size).toBeGreaterThan(1e-3);
      expect(Math.max(...gradient.map((value, at) => Math.abs(value - wanted[at]!)))).toBeLessThan(0.01 * size);
    }
    await step.dispose();
    await adapted.dispose();
  });

  it("keeps gradients that float16 alone would lose", async () => {
    // d loss / d output is 1e-9 here: zero in float16, but not when it is multiplied by 65536.
    const adapted = adapt();
    const { adapter } = initAdapter(adapted, { seed: 3 });
    const loss = { ...meanSquaredError(), build: tiny(meanSquaredError()) };
    const targets = {
      inputs: batchOf().inputs,
      labels: tensor("float32", [rows, classes], new Float32Array(rows * classes)),
    };
    const step = await compileStep(adapted, loss, null, { threads: 1, precision: "float16" });
    loadParameters(step, adapted, adapter.tensors);
    await step.run(targets);
    const exact = await valueAndGrad(adapted, adapter, targets, loss, { threads: 1 });
    const key = [...step.gradients.keys()].find((name) => name.includes("second.lora_B"))!;
    const wanted = exact.grads.get(key)!.data as Float32Array;
    const size = Math.max(...wanted.map(Math.abs));
    expect(size).toBeLessThan(6e-8);
    expect(size).toBeGreaterThan(0);
    expect(Math.max(...step.gradients.get(key)!.map((value, at) => Math.abs(value - wanted[at]!)))).toBeLessThan(
      0.02 * size,
    );
    await step.dispose();
    await adapted.dispose();
  });

  // The CPU's provider computes float16 products in float32 and takes the casts around them out. Where something stands behind
  // a cast, it rounds: here an axis that comes and goes.
  it.each([
    [1, (share: number) => expect(share).toBeGreaterThan(0.5)],
    [2 ** 16, (share: number) => expect(share).toBeLessThan(0.02)],
  ])("rounded for certain, small gradients need the scale: at %d", async (scale, check) => {
    const adapted = adapt();
    const loss = { ...meanSquaredError(), build: tiny(meanSquaredError()) };
    const { tensors } = initAdapter(adapted, { seed: 3 }).adapter;
    const targets = {
      inputs: batchOf().inputs,
      labels: tensor("float32", [rows, classes], new Float32Array(rows * classes)),
    };
    const exact = await valueAndGrad(adapted, { tensors }, targets, loss, { threads: 1 });
    const built = buildStepGraph(adapted, loss, { lossScale: true });
    const session = await openSession(roundedForCertain(productsInFloat16(built.model)), { threads: 1 });
    const feeds = new Map([...tensors, ...Object.entries(targets.inputs), ["labels", targets.labels] as const]);
    const results = await session.run(feeds.set(built.lossScale!, tensor("float32", [], Float32Array.of(scale))));
    const [key, wanted] = [...exact.grads].find(([name]) => name.includes("second.lora_B"))!;
    const got = results.get(built.gradients.get(key)!)!.data as Float32Array;
    const size = Math.max(...(wanted.data as Float32Array).map(Math.abs));
    check(Math.max(...got.map((value, at) => Math.abs(value / scale - Number(wanted.data[at])))) / size);
    await session.dispose();
    await adapted.dispose();
  });

  it("passes over a batch whose gradients overflow, with half the scale from then on", async () => {
    const adapted = adapt();
    const step = await compileStep(adapted, crossEntropy(), null, { threads: 1, precision: "float16" });
    loadParameters(step, adapted, initAdapter(adapted, { seed: 3 }).adapter.tensors);
    step.scaling = { scale: 2 ** 127, good: 5 };
    await step.run(batchOf(100));
    expect([step.overflowed, step.scaling]).toEqual([true, { scale: 2 ** 126, good: 0 }]);
    step.scaling = startScale;
    await step.run(batchOf());
    expect([step.overflowed, step.scaling]).toEqual([false, { scale: 2 ** 16, good: 1 }]);
    await step.dispose();
    const losses: number[] = [];
    const far = train(adapted, [batchOf(Number.POSITIVE_INFINITY), batchOf(), batchOf()], {
      precision: "float16",
      threads: 1,
      onStep: ({ loss }) => losses.push(loss),
    });
    const { history } = await far;
    // The first batch gives nothing that is finite: two steps are left of three.
    expect(history.losses).toHaveLength(2);
    expect(losses.every(Number.isFinite)).toBe(true);
    await adapted.dispose();
  });

  it("learns what float32 learns", async () => {
    const final = async (precision: "float32" | "float16"): Promise<number> => {
      const adapted = adapt();
      const { history } = await train(adapted, () => repeated(150), {
        precision,
        threads: 1,
        seed: 1,
        learningRate: 0.01,
      });
      await adapted.dispose();
      expect(history.losses).toHaveLength(150);
      expect(history.losses.at(-1)).toBeLessThan(history.losses[0]! / 4);
      return history.losses.at(-1)!;
    };
    const [single, half] = [await final("float32"), await final("float16")];
    expect(Math.abs(half - single)).toBeLessThan(0.02);
  });

  it("resumes to the same bytes, with the scale as it was", async () => {
    const adapted = adapt();
    const source = batchesOf(batchOf(), { batchSize: 8, seed: 2 });
    const saved = new Map<number, Uint8Array>();
    const run = (resume?: Checkpoint) =>
      train(adapted, source, {
        precision: "float16",
        optimizer: sgd(),
        threads: 1,
        steps: 12,
        checkpoint: {
          every: { steps: 4 },
          save: (checkpoint) => {
            saved.set(checkpoint.step, writeCheckpoint(checkpoint));
          },
        },
        ...(resume !== undefined && { resume }),
      });
    await run();
    const whole = saved.get(12)!;
    const middle = readCheckpoint(saved.get(4)!);
    expect(middle.scaling).toEqual({ scale: 2 ** 16, good: 4 });
    await run(middle);
    expect(saved.get(12)).toEqual(whole);
    await expect(train(adapted, source, { optimizer: sgd(), threads: 1, steps: 12, resume: middle })).rejects.toThrow(
      /float16: expected false, got true/,
    );
    await adapted.dispose();
  });
});

/** The model with an axis put on and taken off behind each cast to float16 and each product in it. */
function roundedForCertain(model: Model): Model {
  const g = graphBuilder({ opset: 18, from: model.graph });
  const axis = g.constant("int64", [0]);
  const infos = inferShapes(model.graph);
  const nodes = model.graph.nodes.flatMap((node) => {
    const [output = ""] = node.outputs;
    if (infos.get(output)?.type !== "float16" || node.op === "Transpose") return [node];
    const [narrow, longer] = [g.freshName(`${output}/narrow`), g.freshName(`${output}/longer`)];
    return [
      { ...node, outputs: [narrow] },
      makeNode({ op: "Unsqueeze", inputs: [narrow, axis], outputs: [longer] }),
      makeNode({ op: "Squeeze", inputs: [longer, axis], outputs: [output] }),
    ];
  });
  return { ...model, graph: { ...g.build(), nodes } };
}

function* repeated(count: number): Generator<Batch> {
  for (let step = 0; step < count; step++) yield batchOf();
}

/** A loss times 1e-8. */
function tiny({ build }: ReturnType<typeof meanSquaredError>): ReturnType<typeof meanSquaredError>["build"] {
  return (g, output, labels) => {
    const { loss, gradient } = build(g, output, labels);
    const factor = g.constant("float32", 1e-8);
    return {
      loss: g.op("Mul", [loss, factor]),
      ...(gradient !== undefined && { gradient: g.op("Mul", [gradient, factor]) }),
    };
  };
}
