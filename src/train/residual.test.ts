// PiSSA and OLoRA through their whole life: training over the residual, files, sessions and merging, against PEFT's outputs.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, LoraConfig } from "../lora/config.ts";
import { initAdapter } from "../lora/init.ts";
import { floats, gap, type Named, peftFixture, peftNetwork, tensors, type Values } from "../lora/testing/peft.ts";
import type { Tensor } from "../tensor.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { train } from "./train.ts";

interface Case {
  readonly method: "pissa" | "olora";
  readonly options: { readonly r: number; readonly lora_alpha: number; readonly use_rslora?: boolean };
  readonly trained: Named;
  readonly x: Values;
  readonly output: Values;
}

const { weights, cases } = peftFixture<{ cases: readonly Case[] }>("initialisations");
const base = peftNetwork(weights);
const tolerance = 5e-6;

function configOf({ method, options: { r, lora_alpha, use_rslora = false } }: Case): LoraConfig {
  const rest = { loraAlpha: lora_alpha, useRslora: use_rslora, targetModules: ["fc1", "fc2"] };
  return { r, initLoraWeights: method, ...rest };
}

async function outputOf(session: Awaited<ReturnType<typeof createSession>>, x: Tensor, adapter: Adapter | null = null) {
  try {
    return (await session.run({ x }, { adapter })).get("y")!;
  } finally {
    await session.dispose();
  }
}

describe.each(cases.map((one) => [`${one.method} ${JSON.stringify(one.options)}`, one] as const))(
  "%s",
  (_name, one) => {
    const x = floats(one.x);
    const adapted = attachLora(base, configOf(one));
    /** As PEFT saves it: without what was taken out. */
    const saved: Adapter = { config: adapted.config!, tensors: tensors(one.trained) };

    it("gives PEFT's outputs over the base, over the residual, merged, and from written files", async () => {
      const start = initAdapter(adapted);
      expect(gap(await outputOf(await createSession(adapted), x, saved), one.output)).toBeLessThan(tolerance);
      expect(gap(await outputOf(await createSession(start.adapted), x, saved), one.output)).toBeLessThan(tolerance);
      expect(gap(await outputOf(await createSession(merge(base, saved)), x), one.output)).toBeLessThan(tolerance);
      const read = readAdapter(writeAdapter(saved));
      expect(read.config).toMatchObject({ r: one.options.r, initLoraWeights: one.method });
      expect(gap(await outputOf(await createSession(merge(base, read)), x), one.output)).toBeLessThan(tolerance);
      // Its signs are not PEFT's, but one set of both is.
      const own: Adapter = { ...saved, initial: start.adapter.initial! };
      expect(readAdapter(writeAdapter(own)).config).toMatchObject({ r: 2 * one.options.r, initLoraWeights: true });
    });

    it("starts as the base, trains, and keeps what it learnt when it is written", async () => {
      const plain = await outputOf(await createSession(base), x);
      const { adapted: ready, adapter: first } = initAdapter(adapted);
      expect(gap(await outputOf(await createSession(ready), x, first), plain as unknown as Values)).toBeLessThan(
        tolerance,
      );
      expect(gap(await outputOf(await createSession(ready), x), plain as unknown as Values)).toBeLessThan(tolerance);
      const labels = tensor("int64", [2], BigInt64Array.of(0n, 2n));
      const batches = Array.from({ length: 30 }, () => ({ inputs: { x }, labels }));
      const { adapter, history } = await train(adapted, batches, { learningRate: 0.01 });
      expect(history.losses.at(-1)!).toBeLessThan(0.5 * history.losses[0]!);
      const trained = await outputOf(await createSession(ready), x, { ...adapter, initial: first.initial! });
      const written = readAdapter(writeAdapter(adapter));
      expect(
        gap(await outputOf(await createSession(merge(base, written)), x), trained as unknown as Values),
      ).toBeLessThan(2e-5);
      const again = await train(adapted, batches, { learningRate: 0.01, steps: 1, adapter });
      expect(again.history.losses[0]).toBeLessThan(history.losses.at(-1)!);
    });
  },
);
