// PiSSA, OLoRA and orthogonal starts against PEFT's, which are told up to the signs of singular vectors.
import { describe, expect, it } from "vitest";
import { floatValues, type Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import type { Tensor } from "../tensor.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter, LoraConfig } from "./config.ts";
import { initAdapter } from "./init.ts";
import { adapterKeys } from "./keys.ts";
import { readLinearWeight } from "./linear-weights.ts";
import { onResidual, plainAdapter, resumeFrom } from "./residual.ts";
import { scaleOf } from "./scale.ts";
import { stack } from "./testing/models.ts";
import { type Form, floats, gap, type Named, peftFixture, peftNetwork, tensors, type Values } from "./testing/peft.ts";

interface Case {
  readonly method: "pissa" | "olora";
  readonly options: { readonly r: number; readonly lora_alpha: number; readonly use_rslora?: boolean };
  readonly residual: Named;
  readonly start: Named;
  readonly trained: Named;
}

const { weights, cases } = peftFixture<{ cases: readonly Case[] }>("initialisations");
const forms: readonly Form[] = ["Gemm", "MatMul", "Transpose"];
/** Between LAPACK in float32 and ours in float64. */
const tolerance = 2e-6;

function configOf({ method, options: { r, lora_alpha, use_rslora = false } }: Case): LoraConfig {
  const rest = { loraAlpha: lora_alpha, useRslora: use_rslora, targetModules: ["fc1", "fc2"] };
  return { r, initLoraWeights: method, ...rest };
}

function absolute({ dims, data }: Values): Values {
  return { dims, data: data.map(Math.abs) };
}

/** scale * B A [out, in], by the keys of a module. */
function delta({ config, tensors: all }: Adapter, path: string): Values {
  const { a, b } = adapterKeys(path);
  return product(all.get(a)!, all.get(b)!, scaleOf(config, path));
}

function product(A: Tensor, B: Tensor, scale: number): Values {
  const [r, width] = A.dims as [number, number];
  const [out] = B.dims as [number];
  const data = Array.from({ length: out * width }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < r; k++) {
      sum += Number(B.data[Math.floor(i / width) * r + k]) * Number(A.data[k * width + (i % width)]);
    }
    return scale * sum;
  });
  return { dims: [out, width], data };
}

/** W [out, in] of each layer in an adapted model's graph. */
function weightOf(adapted: AdaptedModel, path: string): Values {
  const site = sites(adapted.model).find(({ modulePath }) => modulePath === path)!;
  const weight = readLinearWeight(adapted.model, site);
  if (typeof weight === "string") throw new Error(weight);
  const { values } = weight;
  const { outFeatures: out, inFeatures: width, layout } = site;
  const data = Array.from(values, (_, i) =>
    layout === "out,in" ? values[i]! : values[(i % width) * out + Math.floor(i / width)]!,
  );
  return { dims: [out, width], data };
}

describe.each(cases.map((one) => [`${one.method} ${JSON.stringify(one.options)}`, one] as const))(
  "%s",
  (_name, one) => {
    it.each(forms)("starts and leaves the residual as PEFT does, over %s", (form) => {
      const base = peftNetwork(weights, form);
      const { adapted, adapter } = initAdapter(attachLora(base, configOf(one)));
      for (const [key, values] of Object.entries(one.start)) {
        const own = adapter.tensors.get(key)!;
        expect(
          gap({ ...own, data: Float32Array.from(own.data as Float32Array, Math.abs) } as Tensor, absolute(values)),
        ).toBeLessThan(tolerance);
      }
      for (const [path, values] of Object.entries(one.residual)) {
        expect(gap(floats(weightOf(adapted, path)), values)).toBeLessThan(tolerance);
      }
      expect(adapted.base).toBe(base);
      expect(gap(floats(weightOf(adapted, "fc3")), weights["fc3.weight"]!)).toBeLessThan(1e-7);
    });

    it("becomes plain LoRA of twice the rank", () => {
      const config = configOf(one);
      const adapted = attachLora(peftNetwork(weights), config);
      const trained: Adapter = { config: adapted.config!, tensors: tensors(one.trained) };
      const withStart = { ...trained, initial: tensors(one.start) };
      for (const plain of [plainAdapter(withStart), plainAdapter(trained, adapted.base)]) {
        expect(plain.config).toMatchObject({ r: 2 * one.options.r, initLoraWeights: true });
        expect(plain.initial).toBeUndefined();
        for (const path of ["fc1", "fc2"]) {
          expect(scaleOf(plain.config, path)).toBeCloseTo(scaleOf(trained.config, path), 12);
          const [now, before] = [delta(trained, path), delta({ ...trained, tensors: withStart.initial }, path)];
          const wanted = { ...now, data: now.data.map((value, i) => value - before.data[i]!) };
          expect(gap(floats(delta(plain, path)), wanted)).toBeLessThan(tolerance);
        }
      }
      expect(plainAdapter(plainAdapter(withStart))).toEqual(plainAdapter(withStart));
    });

    it("goes on from a saved adapter over the same residual", () => {
      const adapted = attachLora(peftNetwork(weights), configOf(one));
      const trained: Adapter = { config: adapted.config!, tensors: tensors(one.trained) };
      const ready = resumeFrom(adapted, trained);
      for (const [path, values] of Object.entries(one.residual)) {
        expect(gap(floats(weightOf(ready.adapted, path)), values)).toBeLessThan(tolerance);
      }
      expect(resumeFrom(ready.adapted, ready.adapter)).toEqual(ready);
      expect(() =>
        resumeFrom(ready.adapted, { config: { ...trained.config, initLoraWeights: true }, tensors: new Map() }),
      ).toThrow(/over the residual of another adapter/);
    });
  },
);

describe("initAdapter", () => {
  const base = peftNetwork(weights);

  it("splits a weight whatever its rank: ranks past its smaller side stay zero", () => {
    for (const method of ["pissa", "olora", "pissa_niter_3"] as const) {
      const { adapted, adapter } = initAdapter(attachLora(base, { r: 7, loraAlpha: 7, targetModules: ["fc2"] }), {
        method,
        seed: 4,
      });
      expect(adapter.config.initLoraWeights).toBe(method);
      const whole = { ...weights["fc2.weight"]! };
      expect(gap(floats(delta(adapter, "fc2")), whole)).toBeLessThan(tolerance);
      expect(Math.max(...weightOf(adapted, "fc2").data.map(Math.abs))).toBeLessThan(tolerance);
    }
  });

  it("takes as many iterations as pissa_niter says, and draws by the seed", () => {
    const start = (seed: number, count = 1) =>
      initAdapter(attachLora(base, { r: 2, targetModules: ["fc1"] }), { method: `pissa_niter_${count}`, seed });
    const exact = initAdapter(attachLora(base, { r: 2, targetModules: ["fc1"] }), { method: "pissa" });
    const rest = ({ adapted }: { adapted: AdaptedModel }): number => Math.hypot(...weightOf(adapted, "fc1").data);
    expect(start(1).adapter.tensors).toEqual(start(1).adapter.tensors);
    expect(start(1).adapter.tensors).not.toEqual(start(2).adapter.tensors);
    expect(rest(start(1)) / rest(exact)).toBeGreaterThan(1);
    expect(rest(start(1)) / rest(exact)).toBeLessThan(1.5);
    expect(rest(start(1, 100)) / rest(exact)).toBeCloseTo(1, 6);
    expect(() => plainAdapter({ config: start(1).adapter.config, tensors: start(1).adapter.tensors }, base)).toThrow(
      /"pissa_niter_1": the base that it was trained on cannot be computed again/,
    );
  });

  it("copies a weight that two layers share before it splits it", () => {
    const square = stack(["a", "b"]);
    const values = square.graph.initializers.get("a.weight")!;
    const tied: Model = {
      ...square,
      graph: {
        ...square.graph,
        initializers: new Map([...square.graph.initializers, ["onnx::shared", values]]),
        nodes: square.graph.nodes.map((node) => ({ ...node, inputs: node.inputs.with(1, "onnx::shared") })),
      },
    };
    const { adapted } = initAdapter(attachLora(tied, { r: 1, targetModules: ["a"] }), { method: "pissa" });
    const whole = Array.from(floatValues("a.weight", values));
    expect(weightOf(adapted, "b").data).toEqual(whole);
    expect(Math.hypot(...weightOf(adapted, "a").data)).toBeLessThan(0.99 * Math.hypot(...whole));
  });

  it("starts orthogonal factors random, with B A = 0", () => {
    const { adapted, adapter } = initAdapter(attachLora(base, { r: 4 }), { method: "orthogonal", seed: 1 });
    expect(adapted.initial).toBeNull();
    for (const path of ["fc1", "fc2", "fc3"]) {
      const { a, b } = adapterKeys(path);
      for (const key of [a, b]) {
        const { data } = adapter.tensors.get(key)!;
        const size = Math.hypot(...Array.from(data as Float32Array)) / Math.sqrt(data.length);
        expect(size).toBeGreaterThan(0.02); // normal values through half of an orthonormal basis, over 10: 0.1 sqrt(1/2)
        expect(size).toBeLessThan(0.2);
      }
      expect(Math.max(...delta(adapter, path).data.map(Math.abs))).toBeLessThan(1e-8);
    }
  });

  it("says what it cannot start, all at once", () => {
    const odd = attachLora(base, { r: 4, rankPattern: { fc1: 3, fc3: 5 }, initLoraWeights: "orthogonal" });
    expect(() => initAdapter(odd)).toThrow(/fc1: expected an even rank, got 3\n.*fc3: expected an even rank, got 5/);
    const ready = initAdapter(attachLora(base), { method: "olora" });
    expect(() => initAdapter(ready.adapted)).toThrow(/has an adapter taken out of it/);
    expect(() => plainAdapter({ config: ready.adapter.config, tensors: ready.adapter.tensors })).toThrow(
      /expected the base model/,
    );
    expect(() => onResidual(ready.adapted, new Map())).not.toThrow();
  });
});
