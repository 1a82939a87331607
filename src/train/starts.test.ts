// Training from PiSSA's, OLoRA's and EVA's starts against PEFT's over twelve steps of Adam (test/fixtures/lora/starts.json): each finds
// its own start here. Singular vectors have no sign, and Adam follows either alike, so that losses and effective weights agree.
import { describe, expect, it } from "vitest";
import { deltaOf, thinModules } from "../adapter/thin.ts";
import { attachLora } from "../lora/attach.ts";
import { initAdapter } from "../lora/init.ts";
import { plainAdapter } from "../lora/residual.ts";
import { floats, peftFixture, peftNetwork, type Values } from "../lora/testing/peft.ts";
import { tensor } from "../tensor.ts";
import { initEva } from "./eva.ts";
import { adam } from "./optimizers.ts";
import type { Batch } from "./step.ts";
import { train } from "./train.ts";

interface Started {
  readonly method: "pissa" | "olora" | "eva";
  readonly losses: readonly number[];
  /** By module path, what its weight has come to differ by. */
  readonly moved: Readonly<Record<string, Values>>;
}

const { weights, batches, samples, cases } = peftFixture<{
  batches: readonly { readonly x: Values; readonly labels: number[] }[];
  samples: readonly Values[];
  cases: readonly Started[];
}>("starts");

function* data(): Generator<Batch> {
  for (let step = 0; step < 12; step++) {
    const { x, labels } = batches[step % batches.length]!;
    yield { inputs: { x: floats(x) }, labels: tensor("int64", [labels.length], BigInt64Array.from(labels, BigInt)) };
  }
}

describe("training from a start", () => {
  it.each(cases.map((one) => [one.method, one] as const))("%s: is PEFT's", async (method, { losses, moved }) => {
    const config = { r: 2, loraAlpha: 3, targetModules: ["fc1", "fc2"] };
    const attached = attachLora(peftNetwork(weights), config);
    const inputs = samples.map((values) => ({ inputs: { x: floats(values) } }));
    const { adapted, adapter } =
      method === "eva" ? await initEva(attached, inputs, { rho: 1 }) : initAdapter(attached, { method });
    const optimizer = adam();
    const { adapter: trained, history } = await train(adapted, data(), { adapter, optimizer, learningRate: 1e-2 });
    for (const [index, loss] of losses.entries())
      expect(Math.abs(history.losses[index]! - loss), `loss ${index}`).toBeLessThan(1e-5);
    const modules = thinModules(plainAdapter(trained), "test");
    expect(modules.map(({ path }) => path)).toEqual(Object.keys(moved));
    for (const module of modules) {
      const expected = moved[module.path]!.data;
      for (const [index, value] of deltaOf(module).data.entries())
        expect(Math.abs(value - expected[index]!), `${module.path} ${index}`).toBeLessThan(1e-4);
    }
    await adapted.dispose();
  });
});
