import { afterEach, describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { initAdapter } from "../lora/init.ts";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { meanSquaredError } from "./losses.ts";
import { adam } from "./optimizers.ts";
import { type Batch, compileStep, copyParameters, loadParameters, type TrainingStep } from "./step.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const loss = meanSquaredError();
const adapted = attachLora(twoLayers(), { r: 2 });
const { tensors } = initAdapter(adapted, { seed: 3 }).adapter;
const batchOf = (size: number, name = "x"): Batch => ({
  inputs: { x: drawn(name, size, 3) },
  labels: drawn(`${name} labels`, size, 4),
});

let opened: TrainingStep[] = [];
afterEach(async () => {
  await Promise.all([adapted.dispose(), ...opened.map((step) => step.dispose())]);
  opened = [];
});

async function loaded(): Promise<TrainingStep> {
  const step = await compileStep(adapted, loss, adam());
  opened.push(step);
  loadParameters(step, adapted, tensors);
  return step;
}

/** Loss and gradients of one batch, computed on their own. */
async function reference(batch: Batch, parameters: ReadonlyMap<string, Tensor> = tensors) {
  const { loss: value, grads } = await valueAndGrad(adapted, { tensors: parameters }, batch, loss);
  return { loss: value, gradients: Object.fromEntries([...grads].map(([key, { data }]) => [key, [...data]])) };
}

function gradientsOf(step: TrainingStep): Record<string, number[]> {
  return Object.fromEntries([...step.gradients].map(([key, values]) => [key, [...values]]));
}

describe("a compiled step", () => {
  it("gives the loss, and the gradients in place", async () => {
    const step = await loaded();
    const held = new Map(step.gradients);
    const batch = batchOf(6);
    const expected = await reference(batch);
    expect(await step.run(batch)).toBe(expected.loss);
    expect(gradientsOf(step)).toEqual(expected.gradients);
    for (const [key, values] of held) expect(step.gradients.get(key)).toBe(values);
  });

  it("runs with the parameters as they stand in its memory", async () => {
    const step = await loaded();
    const batch = batchOf(6);
    await step.run(batch);
    for (const values of step.parameters.values()) for (const index of values.keys()) values[index]! += 0.25;
    const moved = copyParameters(step, adapted);
    const expected = await reference(batch, moved);
    expect(await step.run(batch)).toBe(expected.loss);
    expect(gradientsOf(step)).toEqual(expected.gradients);
  });

  it("takes batches of another size from one run to the next", async () => {
    const step = await loaded();
    for (const size of [6, 1, 9, 6, 2]) {
      const batch = batchOf(size, `x${size}`);
      const expected = await reference(batch);
      expect(await step.run(batch)).toBe(expected.loss);
      expect(gradientsOf(step)).toEqual(expected.gradients);
    }
  });

  it("reads buffers that are filled again", async () => {
    const step = await loaded();
    const batch = batchOf(4);
    await step.run(batch);
    (batch.inputs.x!.data as Float32Array).set(drawn("other", 4, 3).data);
    (batch.labels.data as Float32Array).fill(0.5);
    const expected = await reference(batch);
    expect(await step.run(batch)).toBe(expected.loss);
  });

  it("has room in its arena for the optimizer's state, and no more", async () => {
    const step = await loaded();
    adam().init(step.parameters, step.arena);
    expect(step.arena.free).toBe(0);
    const bare = await compileStep(adapted, loss, null);
    opened.push(bare);
    expect(bare.arena.free).toBe(0);
  });

  it("copies parameters out of its memory", async () => {
    const step = await loaded();
    const copy = copyParameters(step, adapted);
    expect(copy).toEqual(new Map([...tensors]));
    step.parameters.values().next().value!.fill(9);
    expect(copy).toEqual(new Map([...tensors]));
  });
});

describe("batches that do not fit", () => {
  it("are refused at the first run, with every fault", async () => {
    const step = await loaded();
    await expect(step.run({ inputs: { z: drawn("z", 2, 3) }, labels: drawn("labels", 2, 3) })).rejects.toMatchObject({
      code: "data",
      faults: [
        "input x: missing",
        "input z: the model has no such input",
        "input labels: expected float32 [batch, 4], got float32 [2, 3]",
      ],
    });
  });

  it("are refused later too: nothing is taken from the batch before", async () => {
    const step = await loaded();
    const batch = batchOf(4);
    const first = await step.run(batch);
    await expect(step.run({ inputs: {}, labels: batch.labels })).rejects.toMatchObject({
      code: "data",
      message: "batch: input x: missing",
    });
    const extra = { ...batch, inputs: { ...batch.inputs, mask: drawn("mask", 4) } };
    await expect(step.run(extra)).rejects.toMatchObject({
      code: "data",
      message: "batch: input mask: the model has no such input",
    });
    const wrong = { ...batch, inputs: { x: drawn("x", 4, 2) } };
    await expect(step.run(wrong)).rejects.toMatchObject({
      message: "batch: input x: expected float32 [batch, 3], got float32 [4, 2]",
    });
    const mixed = { ...batch, labels: tensor("float64", [4, 4], new Float64Array(16)) };
    await expect(step.run(mixed)).rejects.toMatchObject({
      message: "batch: input labels: expected float32 [batch, 4], got float64 [4, 4]",
    });
    expect(await step.run(batch)).toBe(first);
  });

  it("that disagree in size fail in the runtime, and the step goes on", async () => {
    const step = await loaded();
    const batch = batchOf(4);
    const first = await step.run(batch);
    await expect(step.run({ inputs: batch.inputs, labels: drawn("labels", 3, 4) })).rejects.toMatchObject({
      code: "runtime",
    });
    expect(await step.run(batch)).toBe(first);
  });
});

describe("loadParameters", () => {
  it("lists all that does not fit, and changes nothing then", async () => {
    const step = await loaded();
    const before = copyParameters(step, adapted);
    const [first, second] = adapted.sites;
    const faulty = new Map<string, Tensor>([
      ...tensors,
      [first!.a, drawn("other", 2, 3)],
      [second!.b, drawn("b", 4, 3)],
      ["extra", drawn("e", 1)],
    ]);
    faulty.delete(second!.a);
    expect(() => loadParameters(step, adapted, faulty)).toThrow(
      expect.objectContaining({
        code: "adapter",
        faults: [
          `${second!.a}: missing`,
          `${second!.b}: expected float32 [4,2], got float32 [4,3]`,
          "extra: the model has no such parameter",
        ],
      }),
    );
    expect(copyParameters(step, adapted)).toEqual(before);
  });
});
