// DoRA where PEFT's fixtures (train/variants.test.ts) do not reach: other kinds of layers, other adapters in one session, what
// must stay the base to the bit, and what is refused.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { createModel, type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import { meanSquaredError } from "../train/losses.ts";
import { valueAndGrad } from "../train/value-and-grad.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter } from "./config.ts";
import { initAdapter } from "./init.ts";
import { bits, drawn, linear, stack } from "./testing/models.ts";

const opset = 18;

function modelOf(build: (g: GraphBuilder) => Value): Model {
  const g = graphBuilder({ opset });
  g.output(build(g), "float32");
  return createModel(g.build(), { opset });
}

function conv(weight: readonly number[], attributes: PlainAttributes = {}): Model {
  return modelOf((g) => {
    const sizes = weight.slice(2).map((_, axis) => `size_${axis}`);
    const x = g.input("x", "float32", ["batch", weight[1]! * Number(attributes.group ?? 1), ...sizes]);
    const inputs = [
      x,
      g.initializer("conv.weight", drawn("w", ...weight)),
      g.initializer("conv.bias", drawn("b", weight[0]!)),
    ];
    return g.op("Conv", inputs, attributes, { name: "/conv/Conv" });
  });
}

async function run(model: Model | AdaptedModel, x: Tensor, adapter?: Adapter): Promise<Tensor> {
  const session = await createSession(model, { threads: 1 });
  try {
    return [...(await session.run({ x }, adapter === undefined ? {} : { adapter })).values()][0]!;
  } finally {
    await session.dispose();
  }
}

/** An adapter with A and B drawn and the magnitudes moved by up to a half. */
function drawnAdapter(adapted: AdaptedModel): Adapter {
  const { adapter } = initAdapter(adapted);
  const tensors = [...adapter.tensors].map(([key, { dims, data }]) => {
    const change = drawn(`change ${key}`, ...dims);
    if (!key.endsWith("magnitude_vector")) return [key, change] as const;
    const moved = (data as Float32Array).map((value, index) => value * (1 + change.data[index]! / 2));
    return [key, tensor("float32", dims, moved)] as const;
  });
  return { config: adapter.config, tensors: new Map(tensors) };
}

/** |a - b| / (1 + |b|) of float32 sums over some hundred values. */
const rounding = 2e-5;

function expectClose(actual: Tensor, expected: Tensor): void {
  expect(actual.dims).toEqual(expected.dims);
  const errors = [...(expected.data as Float32Array)].map(
    (value, index) => Math.abs(Number(actual.data[index]) - value) / (1 + Math.abs(value)),
  );
  expect(Math.max(...errors)).toBeLessThan(rounding);
}

const wide = modelOf((g) => linear(g, g.input("x", "float32", ["n", 300]), "fc", [300, 40], "Gemm out,in"));
const deep = modelOf((g) => linear(g, g.input("x", "float32", ["n", "t", 12]), "fc", [12, 7], "MatMul"));

describe("DoRA", () => {
  it.each<[string, Model, number[]]>([
    ["Conv1d, strided", conv([6, 4, 3], { strides: [2], pads: [1, 1] }), [2, 4, 9]],
    ["Conv3d", conv([4, 2, 2, 1, 2]), [1, 2, 3, 3, 3]],
    ["a wide Gemm", wide, [5, 300]],
    ["a wide Gemm for one row", wide, [1, 300]],
    ["MatMul over three dimensions", deep, [2, 3, 12]],
  ])("%s: the base bit for bit off and fresh, and what merging gives otherwise", async (_, model, dims) => {
    const adapted = attachLora(model, { r: 2, loraAlpha: 3, useDora: true, targetModules: ".*" });
    const x = drawn("x", ...dims);
    const base = await run(model, x);
    expect(bits(await run(adapted, x))).toEqual(bits(base));
    expect(bits(await run(adapted, x, initAdapter(adapted).adapter))).toEqual(bits(base));
    const adapter = drawnAdapter(adapted);
    expectClose(await run(adapted, x, adapter), await run(merge(model, adapter), x));
  });

  it("takes adapters of other ranks and scales in one session", async () => {
    const x = drawn("x", 5, 300);
    const adapted = attachLora(wide, { r: 2, loraAlpha: 3, useDora: true });
    for (const r of [1, 5]) {
      const adapter = drawnAdapter(attachLora(wide, { r, loraAlpha: 8, useDora: true }));
      expectClose(await run(adapted, x, adapter), await run(merge(wide, adapter), x));
    }
  });

  it("is the base where a weight's row is zero", async () => {
    const weight = drawn("w", 3, 4);
    weight.data.fill(0, 4, 8);
    const model = modelOf((g) =>
      g.op("Gemm", [g.input("x", "float32", ["n", 4]), g.initializer("fc.weight", weight)], { transB: 1 }),
    );
    const adapted = attachLora(model, { r: 2, useDora: true });
    const x = drawn("x", 2, 4);
    expect(bits(await run(adapted, x))).toEqual(bits(await run(model, x)));
  });

  it("starts with the norms of the weights", () => {
    const { tensors } = initAdapter(attachLora(wide, { r: 1, useDora: true })).adapter;
    const magnitude = tensors.get("base_model.model.fc.lora_magnitude_vector")!;
    const row = drawn("fc.weight", 40, 300).data.subarray(7 * 300, 8 * 300);
    expect(magnitude.data[7]).toBe(Math.fround(Math.hypot(...row)));
  });

  it("takes the norm as a constant in the backward pass, in the direction that stretches it alone", async () => {
    // With W = e1 and B A along it, W + s B A stays along e1: the output does not change, but its gradient does not see that.
    const model = modelOf((g) =>
      g.op(
        "Gemm",
        [
          g.input("x", "float32", ["n", 2]),
          g.initializer("fc.weight", tensor("float32", [1, 2], Float32Array.of(1, 0))),
        ],
        { transB: 1 },
      ),
    );
    const adapted = attachLora(model, { r: 1, loraAlpha: 1, useDora: true });
    const key = (part: string): string => `base_model.model.fc.${part}`;
    const values = (...numbers: number[]): Float32Array => Float32Array.from(numbers);
    const tensors = new Map<string, Tensor>([
      [key("lora_A.weight"), tensor("float32", [1, 2], values(1, 0))],
      [key("lora_B.weight"), tensor("float32", [1, 1], values(1))],
      [key("lora_magnitude_vector"), tensor("float32", [1], values(3))],
    ]);
    const batch = {
      inputs: { x: tensor("float32", [1, 2], values(5, 7)) },
      labels: tensor("float32", [1, 1], values(14)),
    };
    const { outputs, grads } = await valueAndGrad(adapted, { tensors }, batch, meanSquaredError());
    // n = 2, y = m / n (1 + 1) 5 = 15, dL / dy = 2.
    expect([...outputs.values()][0]!.data[0]).toBeCloseTo(15, 5);
    expect(grads.get(key("lora_magnitude_vector"))!.data[0]).toBeCloseTo(2 * 5, 5);
    expect(grads.get(key("lora_B.weight"))!.data[0]).toBeCloseTo(2 * (3 / 2) * 5, 5);
    expect([...(grads.get(key("lora_A.weight"))!.data as Float32Array)]).toEqual([15, 21]);
    await adapted.dispose();
  });

  it("leaves W x under a name of its own, and never makes W + s B A", () => {
    const { graph } = attachLora(wide, { r: 2, useDora: true }).model;
    expect(graph.nodes.map(({ name }) => name)).toContain("fc/lora/W");
    expect(graph.initializers.get("fc.squares")?.dims).toEqual([40]);
    expect(graph.nodes.filter(({ inputs }) => inputs.includes("fc.weight"))).toHaveLength(2);
  });

  it("refuses what it is not defined for, and adapters without a magnitude", async () => {
    expect(() => attachLora(conv([6, 2, 3], { group: 2 }), { r: 2, useDora: true, targetModules: ["conv"] })).toThrow(
      "conv: DoRA is not defined for a Conv with groups, got 2; exclude it",
    );
    const computed = modelOf((g) => {
      const weight = g.op("Neg", [g.initializer("w", drawn("w", 4, 3))]);
      return g.op("MatMul", [g.input("x", "float32", ["n", 4]), weight], {}, { name: "/fc/MatMul" });
    });
    expect(() => attachLora(computed, { r: 2, useDora: true })).toThrow(
      /fc: DoRA needs weights that are stored as floats/,
    );
    const model = stack(["a"]);
    const plain = initAdapter(attachLora(model, { r: 2 })).adapter;
    await expect(run(attachLora(model, { r: 2, useDora: true }), drawn("x", 1, 4), plain)).rejects.toThrow(
      /a: expected a DoRA adapter, got one without a magnitude/,
    );
    const dora = initAdapter(attachLora(model, { r: 2, useDora: true })).adapter;
    await expect(run(attachLora(model, { r: 2 }), drawn("x", 1, 4), dora)).rejects.toThrow(
      /a\.lora_magnitude_vector: the model has no branch/,
    );
  });
});
