// merge, unmerge and extract on every kind of layer: the golden case `mixed` (an Embedding, Convs with and without groups, a
// Linear) and two Linear layers in each form.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Adapter, resolveConfig } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { drawn, layerForms, snapshot, twoLayers } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { floatValues, fromTensor, type Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import { tensor } from "../tensor.ts";
import { extract } from "./extract.ts";
import { merge } from "./merge.ts";
import { readAdapter, writeAdapter } from "./peft.ts";
import { rescale } from "./resize.ts";
import { difference, type Layer, randomAdapter } from "./testing/adapters.ts";
import { unmerge } from "./unmerge.ts";

const folder = new URL("../../test/fixtures/golden/mixed/", import.meta.url);
const load = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, folder)));
const mixed = readModel(load("base.onnx"));
const mixedAdapter = readAdapter({
  "adapter_config.json": load("adapter/adapter_config.json"),
  "adapter_model.safetensors": load("adapter/adapter_model.safetensors"),
});

/** What the issue asks: relative to the largest weight. */
const unmergeTolerance = 1e-6;
const extractTolerance = 1e-5;

/** A random adapter for every layer of a model. */
function adapterFor(model: Model, seed: number, scale = 1): Adapter {
  const layers = sites(model).map(({ modulePath, kind, inFeatures, outFeatures, kernel, groups }): Layer => {
    const shape = kind === "Linear" || kind === "Embedding" ? kind : "Conv2d";
    return { path: modulePath, kind: shape, inFeatures, outFeatures, kernel, groups, r: 2 };
  });
  return rescale(randomAdapter(seed, {}, layers), { factor: scale });
}

/** The largest difference of two models' float weights, relative to the largest weight of the first. */
function weightDifference(a: Model, b: Model): number {
  let [worst, largest] = [0, 0];
  for (const [name, stored] of a.graph.initializers) {
    if (stored.type !== "float32") continue;
    const [x, y] = [floatValues(name, stored), floatValues(name, b.graph.initializers.get(name)!)];
    expect(y.length).toBe(x.length);
    for (const [i, value] of x.entries()) {
      worst = Math.max(worst, Math.abs(value - y[i]!));
      largest = Math.max(largest, Math.abs(value));
    }
  }
  return worst / largest;
}

const models: [string, Model][] = [
  ["mixed", mixed],
  ["mixed, TorchScript's export", readModel(load("base.legacy.onnx"))],
  ...layerForms.map((form): [string, Model] => [`two layers, ${form}`, twoLayers(form)]),
];

describe.each(models)("%s", (_, model) => {
  const adapters = fc.record({ seed: fc.integer({ min: 1, max: 1e6 }), scale: fc.constantFrom(0.01, 0.3, 1) });

  it("unmerge(merge(m, a), a) is m: values to rounding, and the graph itself", () => {
    fc.assert(
      fc.property(adapters, ({ seed, scale }) => {
        const adapter = adapterFor(model, seed, scale);
        const before = snapshot(model);
        const back = unmerge(merge(model, adapter), adapter, { safe: true });
        expect(weightDifference(model, back)).toBeLessThan(unmergeTolerance);
        expect(snapshot(model)).toEqual(before);
        const shapes = (m: Model) => sites(m).map(({ node: _node, ...site }) => site);
        expect(shapes(back)).toEqual(shapes(model));
        expect(readModel(writeModel(back)).graph.nodes).toEqual(back.graph.nodes);
      }),
      { numRuns: 8 },
    );
  });

  it("extract(m, merge(m, a), r) has a's updates", () => {
    fc.assert(
      fc.property(adapters, ({ seed, scale }) => {
        const adapter = adapterFor(model, seed, scale);
        const merged = merge(model, adapter);
        const { adapter: found, relativeError, unchanged, unread, others, modules } = extract(model, merged, { r: 2 });
        expect([unchanged, unread, others]).toEqual([[], [], []]);
        expect(modules).toHaveLength(sites(model).length);
        // W of these models is about 1; updates of 0.01 of it are known to float32's digits of W.
        expect(difference(found, adapter)).toBeLessThan(Math.max(extractTolerance, 1e-6 / scale));
        expect(weightDifference(merged, merge(model, found))).toBeLessThan(extractTolerance);
        expect(relativeError).toBeLessThan(Math.max(extractTolerance, 1e-6 / scale));
        expect(difference(readAdapter(writeAdapter(found)), found)).toBe(0);
      }),
      { numRuns: 8 },
    );
  });
});

describe("extract", () => {
  it("finds PEFT's own adapter again, by rank and by energy", () => {
    const merged = merge(mixed, mixedAdapter);
    for (const choice of [{ r: 4 }, { energy: 1 - 1e-9 }]) {
      const { adapter, modules } = extract(mixed, merged, choice);
      expect(difference(adapter, mixedAdapter)).toBeLessThan(extractTolerance);
      expect(modules.map(({ r }) => r)).toEqual([4, 4, 4, 4]);
      expect(adapter.config.targetModules).toEqual(["emb", "conv", "grouped", "fc"]);
    }
    const cut = extract(mixed, merged, { energy: 0.7 });
    for (const { relativeError } of cut.modules) expect(relativeError ** 2).toBeLessThanOrEqual(0.3);
    expect(cut.relativeError).toBeGreaterThan(0.1);
    // No rank beyond the weight's own.
    expect(extract(mixed, merged, { r: 100 }).modules.map(({ r }) => r)).toEqual([6, 8, 8, 5]);
  });

  it("takes only the targets, and says what else differs", () => {
    const model = twoLayers();
    const merged = merge(model, adapterFor(model, 1));
    const bias = fromTensor(tensor("float32", [5], Float32Array.of(1, 2, 3, 4, 5)));
    const tuned: Model = {
      ...merged,
      graph: { ...merged.graph, initializers: new Map(merged.graph.initializers).set("fc1.bias", bias) },
    };
    const { adapter, others, modules } = extract(model, tuned, {
      r: 1,
      targetModules: ["fc2"],
      config: { fanInFanOut: true, taskType: "SEQ_CLS" },
    });
    expect(modules.map(({ path }) => path)).toEqual(["fc2"]);
    expect(adapter.config).toMatchObject({ r: 1, targetModules: ["fc2"], fanInFanOut: true, taskType: "SEQ_CLS" });
    expect(others).toEqual([{ name: "fc1.bias", relativeDifference: expect.any(Number) }]);
    const before = floatValues("fc1.bias", model.graph.initializers.get("fc1.bias")!);
    const distance = Math.hypot(...before.map((value, i) => i + 1 - value)) / Math.hypot(...before);
    expect(others[0]!.relativeDifference).toBeCloseTo(distance, 6);
    expect(extract(model, tuned, { r: 1, excludeModules: ["fc2"] }).adapter.config.targetModules).toEqual(["fc1"]);
  });

  it("leaves out layers that are the same", () => {
    const model = twoLayers();
    const one = adapterFor(model, 1);
    const { a, b } = adapterKeys("fc2");
    const only: Adapter = {
      config: resolveConfig({ r: 2, rankPattern: {}, targetModules: ["fc2"] }),
      tensors: new Map([a, b].map((key) => [key, one.tensors.get(key)!])),
    };
    const { unchanged, modules } = extract(model, merge(model, only), { r: 2 });
    expect([unchanged, modules.map(({ path }) => path)]).toEqual([["fc1"], ["fc2"]]);
  });

  it("refuses models that do not match, with every layer", () => {
    const layer = (paths: readonly (readonly [string, number, number])[]): Model => {
      const g = graphBuilder({ opset: 17 });
      for (const [path, inputs, outputs] of paths) {
        const weight = g.initializer(`${path}.weight`, drawn(path, inputs, outputs));
        g.output(g.op("MatMul", [g.input(`x_${path}`, "float32", ["n", inputs]), weight]), "float32");
      }
      return createModel(g.build(), { opset: 17 });
    };
    const base = layer([
      ["a", 2, 3],
      ["b", 4, 5],
      ["c", 2, 2],
    ]);
    const tuned = layer([
      ["a", 2, 4],
      ["b", 5, 4],
      ["d", 2, 2],
    ]);
    expect(() => extract(base, tuned, { r: 1 })).toThrow(
      expect.objectContaining({
        code: "model",
        faults: [
          "a: expected Linear [3, 2] as in the base, got Linear [4, 2]",
          "b: expected Linear [5, 4] as in the base, got Linear [4, 5]",
          "c: the tuned model has no such layer",
          "d: the base has no such layer",
        ],
      }),
    );
    expect(() => extract(base, base, { r: 1 })).toThrow("expected a layer whose weights differ, got none");
    expect(() => extract(base, base, {})).toThrow("expected one of r and energy, got none");
  });
});

describe("safe", () => {
  it("refuses what is not finite, by layer, and only then", () => {
    const model = twoLayers();
    const huge = adapterFor(model, 1);
    const { b } = adapterKeys("fc2");
    const large = tensor("float32", [4, 2], new Float32Array(8).fill(3e38));
    const adapter = { config: { ...huge.config, loraAlpha: 1e9 }, tensors: new Map(huge.tensors).set(b, large) };
    expect(() => merge(model, adapter)).not.toThrow();
    expect(() => merge(model, adapter, { safe: true })).toThrow(
      /^merge: fc2: expected finite weights, got -?Infinity at/,
    );
    expect(merge(model, huge, { safe: true })).toEqual(merge(model, huge));
  });
});

describe("unmerge", () => {
  it("refuses a Conv that was not merged, and tensors beyond A and B", () => {
    expect(() => unmerge(mixed, mixedAdapter)).toThrow(
      "unmerge: grouped: expected the Conv without groups that merging makes, got 2 groups",
    );
    const key = "base_model.model.fc.lora_magnitude_vector";
    const dora = { ...mixedAdapter, tensors: new Map(mixedAdapter.tensors).set(key, drawn(key, 5)) };
    expect(() => unmerge(mixed, dora)).toThrow(`unmerge: ${key}: `);
  });
});
