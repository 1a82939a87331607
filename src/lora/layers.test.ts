// layersToTransform and layersPattern against PEFT's own choice (test/fixtures/lora/layers.json).
import { describe, expect, it } from "vitest";
import { sites } from "../onnx/sites.ts";
import { attachLora } from "./attach.ts";
import { type LoraConfig, resolveConfig } from "./config.ts";
import { chosenLayers, layerOf } from "./layers.ts";
import { selectSites } from "./targets.ts";
import { stack } from "./testing/models.ts";
import { peftFixture } from "./testing/peft.ts";

interface Case {
  readonly layersToTransform: number | number[] | null;
  readonly layersPattern: string | string[] | null;
  readonly matched: string[];
}

const { paths, cases } = peftFixture<{ paths: string[]; cases: Case[] }>("layers");
const targetModules = ["q_proj", "query", "c_attn"];
const all = sites(stack(paths));

function chosen(config: LoraConfig): string[] {
  return selectSites(resolveConfig({ targetModules, ...config }), all).map(({ modulePath }) => modulePath);
}

describe("layersToTransform", () => {
  it.each(cases.map((one) => [JSON.stringify([one.layersToTransform, one.layersPattern]), one] as const))(
    "chooses as PEFT does: %s",
    (_name, { layersToTransform, layersPattern, matched }) => {
      const layer = layerOf({ layersPattern });
      const there = new Set(all.map(({ modulePath }) => layer(modulePath)));
      const missing = [...(chosenLayers({ layersToTransform }) ?? [])].filter((number) => !there.has(number));
      const choose = (): string[] => chosen({ layersToTransform, layersPattern });
      if (missing.length > 0) expect(choose).toThrow(`layer ${missing[0]} has no target`);
      else expect(choose()).toEqual(matched);
    },
  );

  it("goes with all-linear", () => {
    expect(chosen({ targetModules: "all-linear", layersToTransform: 1, layersPattern: "h" })).toEqual([
      "h.1.attn.c_attn",
    ]);
  });

  it("says which layers there are when one has no target", () => {
    expect(() => chosen({ layersToTransform: [1, 7, 9], layersPattern: "h" })).toThrow(
      "layersToTransform: 2 faults\n  - layer 7 has no target; the targets lie in 0, 1, 2\n  - layer 9",
    );
    expect(() => attachLora(stack(["a", "b"]), { layersToTransform: 0 })).toThrow(
      "layersToTransform: layer 0 has no target; no target lies in one: a, b",
    );
  });

  it("refuses what PEFT refuses, all at once", () => {
    const config = { targetModules: ".*q_proj", layersToTransform: [1.5, -1], layersPattern: "((a+)+)" };
    expect(() => resolveConfig(config)).toThrow(
      /5 faults[\s\S]*numbers of layers, got 1.5[\s\S]*got -1[\s\S]*layersPattern "\(\(a\+\)\+\)"[\s\S]*a list of targetModules with it/,
    );
    expect(() => resolveConfig({ layersPattern: "h" })).toThrow(
      "layersPattern: expected layersToTransform with it, got none",
    );
    expect(() => resolveConfig({ loraDropout: 1 })).toThrow(
      "loraDropout: expected a number of at least 0 and below 1, got 1",
    );
  });
});
