import { describe, expect, it } from "vitest";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import { attachAll, currentWeights } from "../lora/full.ts";
import { disabledTensors } from "../lora/init.ts";
import { drawn, layerForms, snapshot, twoLayers } from "../lora/testing/models.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { crossEntropy, meanSquaredError } from "./losses.ts";
import { classes } from "./testing/fixture.ts";
import { valueAndGrad } from "./value-and-grad.ts";

/** Central differences of a float32 loss around 1, with steps of 2^-6. */
const differenceTolerance = 2e-4;
const step = 2 ** -6;

const mse = meanSquaredError();

function tensorsOf(adapted: AdaptedModel): Map<string, Tensor<"float32">> {
  return new Map(adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)]));
}

const forms = layerForms.flatMap((form) =>
  (form === "MatMul" ? (["2d", "3d"] as const) : (["2d"] as const)).map((shape) => ({ form, shape })),
);

describe.each(forms)("gradients of $form layers over $shape inputs", ({ form, shape }) => {
  const [inputDims, outputDims] =
    shape === "2d"
      ? [
          [6, 3],
          [6, 4],
        ]
      : [
          [2, 3, 3],
          [2, 3, 4],
        ];
  const batch = { inputs: { x: drawn("x", ...inputDims) }, labels: drawn("labels", ...outputDims) };

  it.each(["LoRA", "all weights"])("agree with central differences: %s", async (kind) => {
    const model = twoLayers(form, shape);
    const adapted = kind === "LoRA" ? attachLora(model, { r: 2, loraAlpha: 3 }) : attachAll(model);
    const tensors = tensorsOf(adapted);
    const { loss, grads, outputs } = await valueAndGrad(adapted, { tensors }, batch, mse);
    expect([...grads.keys()]).toEqual(adapted.parameters.map(({ key }) => key));
    const squares = [...outputs.get("y")!.data].map((value, index) => (Number(value) - batch.labels.data[index]!) ** 2);
    expect(loss).toBeCloseTo(squares.reduce((sum, value) => sum + value) / squares.length, 5);
    for (const [key, { data }] of tensors) {
      expect(grads.get(key)!.dims).toEqual(tensors.get(key)!.dims);
      const index = data.length - 2;
      const middle = data[index]!;
      const at = async (value: number) => {
        data[index] = value;
        return (await valueAndGrad(adapted, { tensors }, batch, mse)).loss;
      };
      const slope = ((await at(middle + step)) - (await at(middle - step))) / (2 * step);
      data[index] = middle;
      expect(Math.abs(slope - Number(grads.get(key)!.data[index])), key).toBeLessThan(differenceTolerance);
    }
    await adapted.dispose();
  });
});

describe("valueAndGrad", () => {
  const batch = { inputs: { x: drawn("x", 6, 3) }, labels: drawn("labels", 6, 4) };

  it("gives the outputs that the session for inference gives", async () => {
    const adapted = attachLora(twoLayers(), { r: 2 });
    const adapter = { config: adapted.config!, tensors: tensorsOf(adapted) };
    const { outputs } = await valueAndGrad(adapted, adapter, batch, mse);
    const session = await createSession(adapted);
    const expected = (await session.run(batch.inputs, { adapter })).get("y")!;
    expect(outputs.get("y")).toEqual({ type: expected.type, dims: expected.dims, data: expected.data });
    await Promise.all([session.dispose(), adapted.dispose()]);
  });

  it("has zero gradients for a fresh A, since B is zero, and real ones for B", async () => {
    const adapted = attachLora(twoLayers(), { r: 2, targetModules: ["fc2"] });
    const tensors = tensorsOf(adapted);
    const { a, b } = adapted.sites[0]!;
    tensors.get(b)!.data.fill(0);
    const { grads } = await valueAndGrad(adapted, { tensors }, batch, mse);
    expect([...grads.get(a)!.data].every((value) => value === 0)).toBe(true);
    expect([...grads.get(b)!.data].every((value) => value !== 0)).toBe(true);
    await adapted.dispose();
  });

  it("opens one session for each loss object, and none after a failure", async () => {
    const adapted = attachLora(twoLayers(), { r: 2 });
    const held: string[] = [];
    const hold = adapted.hold.bind(adapted);
    adapted.hold = (key, make) =>
      hold(key, () => {
        held.push(key);
        return make();
      });
    const tensors = tensorsOf(adapted);
    await valueAndGrad(adapted, { tensors }, batch, mse);
    await valueAndGrad(adapted, { tensors }, batch, mse);
    expect(held.length).toBe(1);
    await valueAndGrad(adapted, { tensors }, batch, meanSquaredError());
    expect(held.length).toBe(2);
    await adapted.dispose();
    await valueAndGrad(adapted, { tensors }, batch, mse);
    expect(held.length).toBe(3);
    await adapted.dispose();
  });

  it("takes batches of any size in one session", async () => {
    const adapted = attachAll(twoLayers());
    const tensors = currentWeights(adapted);
    const whole = await valueAndGrad(adapted, { tensors }, batch, mse);
    const parts = await Promise.all(
      [0, 1].map((half) =>
        valueAndGrad(
          adapted,
          { tensors },
          {
            inputs: { x: tensor("float32", [3, 3], batch.inputs.x.data.slice(9 * half, 9 * half + 9)) },
            labels: tensor("float32", [3, 4], batch.labels.data.slice(12 * half, 12 * half + 12)),
          },
          mse,
        ),
      ),
    );
    expect((parts[0]!.loss + parts[1]!.loss) / 2).toBeCloseTo(whole.loss, 5);
    for (const [key, { data }] of whole.grads) {
      const mean = Number(parts[0]!.grads.get(key)!.data[0]) / 2 + Number(parts[1]!.grads.get(key)!.data[0]) / 2;
      expect(mean).toBeCloseTo(Number(data[0]), 5);
    }
    await adapted.dispose();
  });

  it("changes neither the model nor what it is given", async () => {
    const adapted = attachLora(twoLayers(), { r: 2 });
    const tensors = tensorsOf(adapted);
    const before = [snapshot(adapted.base), snapshot(adapted.model), structuredClone(tensors), structuredClone(batch)];
    await valueAndGrad(adapted, { tensors }, batch, mse);
    expect([snapshot(adapted.base), snapshot(adapted.model), tensors, batch]).toEqual(before);
    await adapted.dispose();
  });
});

describe("what does not fit", () => {
  const adapted = attachLora(twoLayers(), { r: 2 });
  const tensors = tensorsOf(adapted);
  const x = drawn("x", 2, 3);
  const labels = drawn("labels", 2, 4);
  const refused = (
    parts: { tensors?: ReadonlyMap<string, Tensor>; inputs?: Record<string, Tensor>; labels?: Tensor },
    loss = mse,
  ) =>
    expect(
      valueAndGrad(
        adapted,
        { tensors: parts.tensors ?? tensors },
        { inputs: parts.inputs ?? { x }, labels: parts.labels ?? labels },
        loss,
      ),
    ).rejects;

  it("an adapter: all that is wrong with it", async () => {
    const [first, second] = adapted.sites;
    const faulty = new Map<string, Tensor>([...tensors, ["extra", drawn("extra", 1)], [second!.a, drawn("a", 3, 5)]]);
    faulty.delete(first!.b);
    await refused({ tensors: faulty }).toMatchObject({
      code: "adapter",
      faults: [
        `${first!.b}: missing`,
        `${second!.a}: expected float32 [2,5], got float32 [3,5]`,
        "extra: the model has no such parameter",
      ],
    });
    await refused({ tensors: disabledTensors(adapted) }).toMatchObject({ code: "adapter" });
  });

  it("a batch: what is missing, what is extra, types and shapes", async () => {
    await refused({ inputs: { z: x, y: x } }).toMatchObject({
      code: "data",
      faults: ["input x: missing", "input z: the model has no such input", "input y: the model has no such input"],
    });
    await refused({ inputs: { x: drawn("x", 2, 4) } }).toMatchObject({
      code: "data",
      message: "batch: input x: expected float32 [batch, 3], got float32 [2, 4]",
    });
    await refused({ labels: classes([0, 1]) }).toMatchObject({
      code: "data",
      message: "batch: input labels: expected float32 [batch, 4], got int64 [2]",
    });
    await refused({ inputs: { x: { type: "float32", dims: [2, 3], data: new Float32Array(5) } } }).toMatchObject({
      code: "data",
      message: "batch: input x: expected 6 values for [2, 3], got 5",
    });
  });

  it("labels that are no classes", async () => {
    await refused({ labels: classes([0, 4]) }, crossEntropy()).toMatchObject({
      code: "data",
      message: "batch: labels: expected 0 to 3, or -100 to be ignored, got 4 at [1]",
    });
  });
});
