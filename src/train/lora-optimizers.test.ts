// LoRA+ and LoRA-FA against PEFT's optimizers over 20 steps (test/fixtures/lora/optimizers.json).
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { floats, gap, type Named, peftFixture, peftNetwork, tensors, type Values } from "../lora/testing/peft.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createArena } from "./arena.ts";
import { loraFa } from "./lora-fa.ts";
import { loraPlus } from "./lora-plus.ts";
import { crossEntropy } from "./losses.ts";
import { adam, type Optimizer } from "./optimizers.ts";
import type { Batch } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";
import { type TrainOptions, train } from "./train.ts";

interface Trained {
  readonly name: string;
  readonly start: Named;
  readonly end: Named;
  readonly losses: number[];
}

const { weights, batches, cases } = peftFixture<{
  batches: readonly { readonly x: Values; readonly labels: number[] }[];
  cases: readonly Trained[];
}>("optimizers");

function* data(): Generator<Batch> {
  for (let step = 0; step < 20; step++) {
    const { x, labels } = batches[step % batches.length]!;
    yield { inputs: { x: floats(x) }, labels: tensor("int64", [labels.length], BigInt64Array.from(labels, BigInt)) };
  }
}

/** PEFT's cases, and how we say the same. */
const options: Readonly<Record<string, TrainOptions>> = {
  loraPlus: { optimizer: loraPlus({ ratio: 8 }) },
  "loraPlus, decayed": { optimizer: loraPlus({ ratio: 8, weightDecay: 0.1 }) },
  loraFa: { loraFa: {} },
  "loraFa, decayed": { loraFa: { weightDecay: 0.1 } },
};

describe.each(cases.map((one) => [one.name, one] as const))("%s", (name, { start, end, losses }) => {
  it("follows PEFT's training", async () => {
    const useRslora = name === "loraFa, decayed";
    const adapted = attachLora(peftNetwork(weights), { r: 2, loraAlpha: 4, useRslora, targetModules: ["fc1", "fc2"] });
    const adapter: Adapter = { config: adapted.config!, tensors: tensors(start) };
    const { adapter: trained, history } = await train(adapted, data(), {
      learningRate: 1e-2,
      adapter,
      ...options[name],
    });
    losses.forEach((loss, i) => {
      expect(Math.abs(history.losses[i]! - loss)).toBeLessThan(2e-5);
    });
    expect([...trained.tensors.keys()]).toEqual([...adapter.tensors.keys()]);
    for (const [key, values] of Object.entries(end)) expect(gap(trained.tensors.get(key), values)).toBeLessThan(1e-4);
  });
});

describe("loraPlus", () => {
  function moved(optimizer: Optimizer, learningRate: number): Record<string, number> {
    const keys = ["a.lora_A.weight", "a.lora_B.weight", "a.lora_B.bias", "e.lora_embedding_A", "e.lora_embedding_B"];
    keys.push("a.lora_magnitude_vector", "head.weight");
    const arena = createArena(keys.flatMap(() => [16, 16, 16]));
    const parameters = new Map(keys.map((key) => [key, arena.allocate(16).fill(1)]));
    const gradients = new Map(keys.map((key) => [key, new Float32Array(16).fill(0.5)]));
    const state = optimizer.init(parameters, arena);
    optimizer.update(parameters, gradients, state, learningRate);
    expect(state.step).toBe(1);
    return Object.fromEntries([...parameters].map(([key, values]) => [key, 1 - values[3]!]));
  }

  it("gives each group its rate, and biases no decay", () => {
    const steps = moved(loraPlus({ ratio: 4, weightDecay: 0.5, embeddingLearningRate: 1e-3 }), 0.01);
    const wanted = { "a.lora_A.weight": 0.015, "a.lora_B.weight": 0.06, "a.lora_B.bias": 0.04 };
    const rest = { "e.lora_embedding_A": 1.5e-3, "e.lora_embedding_B": 1.5e-3, "a.lora_magnitude_vector": 0.06 };
    for (const [key, value] of Object.entries({ ...wanted, ...rest, "head.weight": 0.015 })) {
      expect(steps[key]).toBeCloseTo(value, 6);
    }
  });

  it("works over another optimizer, and refuses bad options", () => {
    const steps = moved(loraPlus({ ratio: 2, optimizer: ({ weightDecay }) => adam({ weightDecay }) }), 0.01);
    expect(steps["a.lora_B.weight"]! / steps["a.lora_A.weight"]!).toBeCloseTo(2, 4);
    expect(() => loraPlus({ ratio: Number.NaN, embeddingLearningRate: -1 })).toThrow(
      /2 faults[\s\S]*ratio[\s\S]*embeddingLearningRate/,
    );
  });
});

describe("loraFa", () => {
  const adapted = attachLora(peftNetwork(weights), { r: 2, loraAlpha: 4, targetModules: ["fc1", "fc2"] });
  const given: ReadonlyMap<string, Tensor> = tensors(cases[2]!.start);

  it("computes no gradient of A", () => {
    const { model, gradients } = buildStepGraph(loraFa(adapted, given, {}).adapted, crossEntropy());
    expect([...gradients.keys()].filter((key) => key.includes("lora_A"))).toEqual([]);
    expect(gradients.size).toBe(2);
    const whole = buildStepGraph(adapted, crossEntropy()).model;
    expect(model.graph.nodes.length).toBeLessThan(whole.graph.nodes.length);
    expect(model.graph.inputs.map(({ name }) => name).filter((name) => name.includes("lora_A"))).toEqual([]);
  });

  it("refuses bad options", () => {
    expect(() => loraFa(adapted, given, { beta1: 1, weightDecay: -1 })).toThrow(
      /2 faults[\s\S]*beta1[\s\S]*weightDecay/,
    );
  });
});
