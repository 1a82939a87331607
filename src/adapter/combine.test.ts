import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { collectModules } from "../lora/keys.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type CombineMethod, type CombineOptions, combine, combineMethods, subtract } from "./combine.ts";
import { readAdapter, writeAdapter } from "./peft.ts";
import { readSafetensors } from "./safetensors.ts";
import { deltas, difference, layers, randomAdapter, relativeDifference } from "./testing/adapters.ts";

/** What the issue asks of agreement with PEFT; values are float32 on both sides. */
const peftTolerance = 1e-5;

interface Case {
  name: string;
  adapters: number[];
  weights: number[];
  method: CombineMethod;
  density?: number;
  sign?: "total" | "frequency";
  r?: number;
}

const folder = new URL("../../test/fixtures/combine/", import.meta.url);
const load = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, folder)));
const { adapters: configs, cases } = JSON.parse(new TextDecoder().decode(load("cases.json"))) as {
  adapters: LoraConfig[];
  cases: Case[];
};
const inputs = readSafetensors(load("inputs.safetensors"), "inputs").tensors;
const outputs = readSafetensors(load("outputs.safetensors"), "outputs").tensors;

const given = configs.map((config, index): Adapter => {
  const own = [...inputs].filter(([key]) => key.startsWith(`${index}.`));
  return { config: resolveConfig(config), tensors: new Map(own.map(([key, value]) => [key.slice(2), value])) };
});

function optionsOf({ name, adapters, weights, method, density, sign, r }: Case): CombineOptions {
  return {
    weights,
    method,
    ...(density !== undefined && { density }),
    ...(sign !== undefined && { majoritySignMethod: sign }),
    ...(r !== undefined && { r }),
    mask: ({ adapter, path, part }) => {
      const mask = outputs.get(`${name}.${path}.mask.${adapters[adapter]}.${part}`);
      if (mask === undefined) throw new Error(`no mask for ${name} ${path} ${part}`);
      return mask.data as Uint8Array;
    },
  };
}

/** What the fixture has for a case, by path: factors, or updates where the method ends in svd. */
function expected({ name }: Case, part: "A" | "B" | "delta"): Map<string, ArrayLike<number>> {
  const found = [...outputs].flatMap(([key, value]): [string, ArrayLike<number>][] => {
    const match = /^([^.]+)\.([^.]+)\.(A|B|delta)$/.exec(key);
    return match?.[1] === name && match[3] === part ? [[match[2]!, value.data as Float32Array]] : [];
  });
  return new Map(found);
}

describe("as PEFT combines", () => {
  it.each(cases)("$name", (test) => {
    const combined = combine(
      test.adapters.map((index) => given[index]!),
      optionsOf(test),
    );
    const modules = collectModules(combined.tensors, []);
    expect(modules.length).toBeGreaterThanOrEqual(3);
    if (test.method.endsWith("svd")) {
      expect(relativeDifference(deltas(combined), expected(test, "delta"))).toBeLessThan(peftTolerance);
    } else if (test.method === "cat") {
      // PEFT writes the whole weight into A and pads with zeros where an adapter has no such module.
      const a = expected(test, "A");
      for (const { path, a: own } of modules) expect(a.get(path)!.length).toBeGreaterThanOrEqual(own.data.length);
      expect(relativeDifference(deltas(combined), products(test))).toBeLessThan(peftTolerance);
    } else {
      const factor = (key: "a" | "b") => new Map(modules.map((module) => [module.path, module[key].data]));
      expect(relativeDifference(factor("a"), expected(test, "A"))).toBeLessThan(peftTolerance);
      expect(relativeDifference(factor("b"), expected(test, "B"))).toBeLessThan(peftTolerance);
    }
    // What is written can be read, with these ranks.
    expect(difference(readAdapter(writeAdapter(combined)), combined)).toBe(0);
  });
});

/** PEFT's B A by path. */
function products({ name }: Case): Map<string, Float64Array> {
  const found = [...outputs.keys()].flatMap((key): [string, Float64Array][] => {
    const path = new RegExp(`^${name}\\.([^.]+)\\.A$`).exec(key)?.[1];
    if (path === undefined) return [];
    const [a, b] = [outputs.get(key)!, outputs.get(`${name}.${path}.B`)!] as [Tensor<"float32">, Tensor<"float32">];
    const r = a.dims[0]!;
    const [rows, columns] = [b.data.length / r, a.data.length / r];
    const product = new Float64Array(rows * columns);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++)
        for (let k = 0; k < r; k++) product[i * columns + j]! += b.data[i * r + k]! * a.data[k * columns + j]!;
    return [[path, product]];
  });
  return new Map(found);
}

describe("combine", () => {
  const [one, two] = [randomAdapter(1), randomAdapter(2)];
  const sum = (weights: readonly number[], adapters: readonly Adapter[]): Map<string, Float64Array> => {
    const all = adapters.map(deltas);
    return new Map(
      [...all[0]!.keys()].map((path) => [
        path,
        all[0]!
          .get(path)!
          .map((_, i) => weights.reduce((total, weight, n) => total + weight * all[n]!.get(path)![i]!, 0)),
      ]),
    );
  };

  it("with weight 1 is the identity, whatever the method", () => {
    for (const method of combineMethods) expect(combine([one], { method, density: 0.5 })).toBe(one);
  });

  it("has the weighted update of one adapter", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.double({ min: -3, max: -0.01, noNaN: true }), fc.double({ min: 0.01, max: 3, noNaN: true })),
        fc.boolean(),
        (weight, useRslora) => {
          const adapter = randomAdapter(3, { useRslora });
          const combined = combine([adapter], { weights: [weight] });
          expect(relativeDifference(deltas(combined), sum([weight], [adapter]))).toBeLessThan(1e-6);
        },
      ),
      { numRuns: 50 },
    );
  });

  it("cat, and svd of enough rank, are the exact sum, for every kind of layer and ranks that differ", () => {
    const wide = randomAdapter(4, { useRslora: true });
    for (const options of [{ method: "cat" }, { method: "svd", r: 12 }] as const) {
      const combined = combine([one, two, wide], { weights: [0.5, -2, 1], ...options });
      expect(relativeDifference(deltas(combined), sum([0.5, -2, 1], [one, two, wide]))).toBeLessThan(1e-6);
      expect(combined.config.useRslora).toBe(false);
      expect(difference(readAdapter(writeAdapter(combined)), combined)).toBe(0);
    }
    expect(combine([one, two], { method: "cat" }).config).toMatchObject({
      r: 8,
      loraAlpha: 8,
      rankPattern: { "^fc": 4 },
    });
  });

  it("svd keeps the best rank: no cat that is cut does better", () => {
    const combined = combine([one, two], { method: "svd" });
    expect(combined.config).toMatchObject({ r: 4, loraAlpha: 4, rankPattern: {} });
    const wanted = sum([1, 1], [one, two]);
    const energy = (values: Float64Array): number => values.reduce((total, value) => total + value * value, 0);
    for (const [path, delta] of deltas(combined)) {
      const whole = wanted.get(path)!;
      const left = energy(whole.map((value, i) => value - delta[i]!));
      // The rest is orthogonal to what is kept.
      expect(left + energy(delta)).toBeCloseTo(energy(whole), 4);
    }
  });

  it("subtract turns an adapter into nothing", () => {
    const zero = subtract(one, one);
    for (const delta of deltas(zero).values()) expect(Math.max(...delta.map(Math.abs))).toBeLessThan(1e-6);
    expect(relativeDifference(deltas(subtract(one, two)), sum([1, -1], [one, two]))).toBeLessThan(1e-6);
  });

  it("draws DARE's masks from a seed: kept at the density, the same again, others for another seed", () => {
    const big = randomAdapter(5, {}, [{ path: "fc", inFeatures: 500, outFeatures: 300, r: 4 }]);
    const other = randomAdapter(6, {}, [{ path: "fc", inFeatures: 500, outFeatures: 300, r: 4 }]);
    const draw = (seed: number) =>
      combine([big, other], { method: "dare_linear", weights: [1, 0], density: 0.3, seed });
    const [kept] = collectModules(draw(1).tensors, []);
    const nonzero = kept!.a.data.filter((value) => value !== 0).length / kept!.a.data.length;
    expect(Math.abs(nonzero - 0.3)).toBeLessThan(0.04);
    expect(draw(1)).toEqual(draw(1));
    expect(draw(2)).not.toEqual(draw(1));
  });

  it("joins target modules as PEFT does", () => {
    const with_ = (adapter: Adapter, config: Partial<Adapter["config"]>): Adapter => ({
      ...adapter,
      config: { ...adapter.config, ...config },
    });
    const targets = (a: LoraConfig["targetModules"], b: LoraConfig["targetModules"]) =>
      combine([with_(one, { targetModules: a! }), with_(two, { targetModules: b! })]).config.targetModules;
    expect(targets(["fc", "emb"], ["emb", "conv"])).toEqual(["fc", "emb", "conv"]);
    expect(targets(".*fc", "emb")).toBe("(.*fc)|(emb)");
    expect(targets("all-linear", "all-linear")).toBe("all-linear");
    expect(targets("all-linear", ["fc"])).toEqual(layers.map(({ path }) => path));
    expect(() => targets(".*fc", ["emb"])).toThrow("all lists or all expressions");
    const excluding = combine([with_(one, { excludeModules: ["x"] }), two]).config;
    expect([excluding.excludeModules, excluding.targetModules]).toEqual([null, layers.map(({ path }) => path)]);
  });

  const small = randomAdapter(1, {}, [{ path: "fc", inFeatures: 7, outFeatures: 5, r: 4 }]);
  const dora = {
    ...small,
    tensors: new Map(small.tensors).set(
      "base_model.model.fc.lora_magnitude_vector",
      tensor("float32", [5], new Float32Array(5)),
    ),
  };
  const refused: [adapters: Adapter[], options: CombineOptions, message: RegExp][] = [
    [[], {}, /expected one or more, got none/],
    [[one, two], { weights: [1] }, /weights: expected 2, one for each adapter, got 1/],
    [[one, two], { weights: [1, Number.NaN] }, /weights: expected numbers, got NaN/],
    [[one, two], { method: "mean" as CombineMethod }, /method: expected one of linear, cat/],
    [[one, two], { method: "ties" }, /density: .* for ties, got undefined/],
    [[one, two], { method: "dare_ties", density: 0 }, /density: expected a fraction above 0/],
    [[one, two], { method: "ties", density: 1.5 }, /density: .* got 1.5/],
    [[one, two], { method: "cat", r: 3 }, /only the svd methods/],
    [[one, two], { method: "svd", r: 3 }, /enc\.grouped: expected a rank that its 2 groups divide, got 3/],
    [[small, randomAdapter(2)], {}, /fc: expected equal ranks for linear, got 4, 2; use cat/],
    [
      [small, randomAdapter(2, {}, [{ path: "fc", inFeatures: 8, outFeatures: 5, r: 4 }])],
      {},
      /expected \[5, 7\], got \[5, 8\] in adapter 2/,
    ],
    [[small, dora], {}, /adapter 2 to combine: base_model\.model\.fc\.lora_magnitude_vector: /],
    [[one, two], { method: "dare_linear", density: 0.5, mask: () => [1] }, /mask of emb: expected 36 values, got 1/],
  ];
  it.each(refused)("refuses %#", (adapters, options, message) => {
    expect(() => combine(adapters, options)).toThrow(message);
  });
});
