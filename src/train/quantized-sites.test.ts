// Adapters on quantized layers, as ONNX Runtime's quantizers write them, held against PyTorch on the dequantized weights
// (test/fixtures/quantized, made by scripts/fixtures/quantized.py).
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { bits } from "../lora/testing/models.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import type { Tensor } from "../tensor.ts";
import { gradcheck } from "./gradcheck.ts";
import { createSession } from "./infer.ts";
import { meanSquaredError } from "./losses.ts";
import { adam } from "./optimizers.ts";
import { support } from "./support.ts";
import { train } from "./train.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const folder = new URL("../../test/fixtures/quantized/", import.meta.url);
const config = { r: 4, loraAlpha: 6 };

/** |a - b| as a share of 1 + |b|: float32 sums of up to 48 values around 1 in another order. */
const rounding = 2e-5;

interface Case {
  readonly name: string;
  /** The module paths that the file still tells, in order. */
  readonly paths: readonly string[];
  readonly operator: string;
}

const torchscript = ["fc1", "block.0", "fc3"];
const cases: readonly Case[] = [
  { name: "q4", paths: torchscript, operator: "MatMulNBits" },
  { name: "q8", paths: torchscript, operator: "MatMulNBits" },
  { name: "dynamic", paths: torchscript, operator: "MatMulInteger" },
  { name: "qdq", paths: torchscript, operator: "MatMul" },
  { name: "qdq-channels", paths: torchscript, operator: "MatMul" },
  // torch.export's scopes are lost with the product's node; a bias tells them again, where there is one.
  { name: "exported-q4", paths: ["fc1", "val_2", "fc3"], operator: "MatMulNBits" },
  { name: "exported-dynamic", paths: ["fc1", "val_2", "fc3"], operator: "MatMulInteger" },
];
const stored = cases.filter(({ operator }) => operator !== "MatMul");

/** As `support` has it, with its domain. */
function operatorOf({ operator }: Case): string {
  return operator === "MatMulNBits" ? `com.microsoft.${operator}` : operator;
}

function load({ name, paths }: Case) {
  const model = readModel(readFileSync(new URL(`${name}.onnx`, folder)), name);
  const { tensors } = readSafetensors(readFileSync(new URL(`${name}.safetensors`, folder)), name);
  /** PyTorch's values by our keys: those of `block.0` under the path that this file has. */
  const values = (prefix: string): Map<string, Tensor> =>
    new Map(
      torchscript.flatMap((path, index) => {
        const { a, b } = adapterKeys(paths[index]!);
        return [
          [a, tensors.get(`${prefix}.${path}.lora_A`)!] as const,
          [b, tensors.get(`${prefix}.${path}.lora_B`)!] as const,
        ];
      }),
    );
  const batch = { inputs: { x: tensors.get("input.x")! }, labels: tensors.get("labels")! };
  return { model, tensors, values, batch };
}

async function outputOf(model: Model | AdaptedModel, x: Tensor, adapter: Adapter | null = null): Promise<Tensor> {
  const session = await createSession(model, { threads: 1 });
  try {
    return (await session.run({ x }, { adapter })).get("y")!;
  } finally {
    await session.dispose();
  }
}

function expectClose(actual: Tensor, expected: Tensor, what: string, tolerance = rounding): void {
  expect(actual.dims, what).toEqual(expected.dims);
  const gaps = [...expected.data].map((value, index) => {
    return Math.abs(Number(actual.data[index]) - Number(value)) / (1 + Math.abs(Number(value)));
  });
  expect(Math.max(...gaps), what).toBeLessThan(tolerance);
}

describe.each(cases)("$name", (one) => {
  const { model, tensors, values, batch } = load(one);
  const adapted = attachLora(model, { ...config, targetModules: one.paths });
  const adapter: Adapter = { config: adapted.config!, tensors: values("lora") };

  it("has its layers as sites, with their modules' paths", () => {
    const found = sites(model).map((site) => [site.modulePath, site.node.op, site.inFeatures, site.outFeatures]);
    const [first, second, third] = one.paths;
    expect(found).toEqual([
      [first, one.operator, 32, 48],
      [second, one.operator, 48, 32],
      [third, one.operator, 32, 16],
    ]);
    const told = support(model, config);
    expect(told.verdict).toMatchObject({ trainable: true, targets: one.paths, faults: [] });
    const shape = one.operator === "MatMulNBits" ? [16, 32] : [32, 16];
    const bias = one.operator === "MatMul" ? 0 : 16; // quantized as well, it is added behind more than the product
    expect(told.sites.at(-1)).toMatchObject({ operator: operatorOf(one), shape, parameters: 32 * 16 + bias });
  });

  it("gives PyTorch's output, loss and gradients", async () => {
    const { loss, outputs, grads } = await valueAndGrad(adapted, adapter, batch, meanSquaredError());
    expect(loss).toBeCloseTo(Number(tensors.get("loss")!.data[0]), 5);
    expectClose(outputs.get("y")!, tensors.get("output")!, "output");
    for (const [key, expected] of values("grad")) expectClose(grads.get(key)!, expected, key);
  });

  it("trains to PyTorch's adapter", async () => {
    const result = await train(adapted, Array(4).fill(batch), {
      adapter,
      optimizer: adam(),
      learningRate: 1e-2,
      loss: meanSquaredError(),
    });
    for (const [key, expected] of values("trained")) expectClose(result.adapter.tensors.get(key)!, expected, key, 2e-4);
  });

  it("runs an adapter that went through PEFT's files, and the base bit for bit without one", async () => {
    const { x } = batch.inputs;
    const again = readAdapter(writeAdapter(adapter));
    expectClose(await outputOf(adapted, x, again), tensors.get("output")!, "output");
    expect(bits(await outputOf(adapted, x))).toEqual(bits(await outputOf(model, x)));
  });
});

describe.each(stored)("merging into $name", (one) => {
  const { model, tensors, values, batch } = load(one);
  const { config: resolved } = attachLora(model, { ...config, targetModules: one.paths });
  const adapter: Adapter = { config: resolved!, tensors: values("lora") };

  it("is refused by name, with what to do", () => {
    expect(() => merge(model, adapter)).toThrow(
      expect.objectContaining({
        code: "adapter",
        faults: one.paths.map(
          (path) =>
            `${path}: its weight is quantized (${one.operator}), so that W + s B A cannot be stored in it exactly; keep the adapter beside the model, or set dequantize for a float32 MatMul`,
        ),
      }),
    );
  });

  it("makes float32 MatMuls where that is asked for, of those layers alone", async () => {
    const merged = merge(model, adapter, { dequantize: true });
    expect(merged.graph.nodes.map(({ op }) => op)).toEqual([
      "MatMul",
      "Add",
      "Tanh",
      "MatMul",
      "Tanh",
      "MatMul",
      "Add",
    ]);
    expect(readModel(writeModel(merged)).graph).toEqual(merged.graph);
    // What is quantized no longer are the activations, where they were.
    const tolerance = one.operator === "MatMulNBits" ? rounding : 0.05;
    expectClose(await outputOf(merged, batch.inputs.x), tensors.get("output")!, "output", tolerance);
    const { a, b } = adapterKeys("fc3");
    const top = new Map([a, b].map((key) => [key, adapter.tensors.get(key)!]));
    const ops = merge(model, { ...adapter, tensors: top }, { dequantize: true }).graph.nodes.map(({ op }) => op);
    expect(ops.filter((op) => op === one.operator)).toHaveLength(2);
    expect(ops.filter((op) => op === "MatMul")).toHaveLength(1);
  });
});

describe("gradcheck", () => {
  it.each(cases)("passes on $name", async (one) => {
    const { model, batch } = load(one);
    const adapted = attachLora(model, { ...config, targetModules: one.paths });
    const { passed, rows, withoutRounding } = await gradcheck(adapted, batch.inputs);
    expect(rows).toHaveLength(6);
    expect(passed, JSON.stringify(rows)).toBe(true);
    // Blocks of 4 or 8 bits have no rounding in the way.
    expect(withoutRounding).toBe(one.operator !== "MatMulNBits");
    // Differences in float32 where DequantizeLinear is in the way; what is left is their own error.
    expect(Math.max(...rows.map(({ error }) => error)), JSON.stringify(rows)).toBeLessThan(1e-3);
  });
});
