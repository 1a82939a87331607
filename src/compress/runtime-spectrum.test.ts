import { describe, expect, it } from "vitest";
import { drawn } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom } from "../random.ts";
import { tensor } from "../tensor.ts";
import { compress, compressWith } from "./compress.ts";
import { leastSide, runtimeNormOnData, runtimeSpectrum } from "./runtime-spectrum.ts";
import { normOnData, ridged, spectrumOf, type Weight, whitening } from "./spectrum.ts";

const threads = { threads: 1 };

/** W [out, in] with singular values that fall by `fall` each, in random directions. */
function falling(out: number, into: number, fall: number, count = 60): Weight {
  const random = createRandom(5, "falling");
  const values = new Float32Array(out * into);
  for (let k = 0; k < count; k++) {
    const u = Float64Array.from({ length: out }, () => random.normal() / Math.sqrt(out));
    const v = Float64Array.from({ length: into }, () => random.normal() / Math.sqrt(into));
    for (let i = 0; i < out; i++) for (let j = 0; j < into; j++) values[i * into + j]! += fall ** k * u[i]! * v[j]!;
  }
  return { out, into, values };
}

/** Second moments of inputs that vary more in some coordinates than in others. */
function unevenMoments(n: number): { rows: number; columns: number; data: Float64Array } {
  const data = new Float64Array(n * n);
  for (let i = 0; i < n; i++) data[i * n + i] = 1 + 10 * Math.cos(i) ** 2;
  return { rows: n, columns: n, data };
}

describe.each([
  ["wide", 90, 140],
  ["tall", 140, 90],
])("runtimeSpectrum, %s", (_, out, into) => {
  const weight = falling(out, into, 0.9);

  it("finds the values and the subspace of the exact one", async () => {
    const [found, exact] = [await runtimeSpectrum(weight, 12, undefined, threads), spectrumOf(weight, 45)];
    expect(found.whole).toBeCloseTo(exact.whole, 5);
    expect(found.isComplete).toBe(false);
    for (let k = 0; k < 12; k++) expect(found.s[k]! / exact.s[k]!).toBeCloseTo(1, k < 8 ? 3 : 2);
    // Orthonormal rows.
    for (let a = 0; a < 12; a++) {
      for (let b = 0; b <= a; b++) {
        let product = 0;
        for (let i = 0; i < out; i++) product += found.u.data[a * out + i]! * found.u.data[b * out + i]!;
        expect(product).toBeCloseTo(a === b ? 1 : 0, 5);
      }
    }
  });

  it("weighs with moments as whitening does", async () => {
    const moments = ridged(unevenMoments(into));
    const found = await runtimeSpectrum(weight, 10, moments, threads);
    const exact = spectrumOf(weight, 45, whitening(moments));
    expect(found.whole / exact.whole).toBeCloseTo(1, 5);
    for (let k = 0; k < 8; k++) expect(found.s[k]! / exact.s[k]!).toBeCloseTo(1, 2);
    const norm = normOnData(weight, moments);
    expect((await runtimeNormOnData(weight, moments, threads)) / norm).toBeCloseTo(1, 5);
  });

  it("knows when there is no more", async () => {
    const low = falling(out, into, 0.8, 5);
    const found = await runtimeSpectrum(low, 20, undefined, threads);
    expect(found.s.length).toBe(5);
    expect(found.isComplete).toBe(true);
  });
});

describe("a layer large enough for it", () => {
  const side = leastSide + 8;

  function network(): Model {
    const g = graphBuilder({ name: "large", opset: 17 });
    const { values } = falling(side, side, 0.93, 120);
    const w = g.initializer("fc.weight", tensor("float32", [side, side], values));
    const x = g.input("x", "float32", ["n", side]);
    const y = g.op("Gemm", [x, w, g.initializer("fc.bias", drawn("b", side))], { transB: 1 }, { name: "/fc/Gemm" });
    g.output(y, "float32", ["n", side]);
    return createModel(g.build(), { opset: 17 });
  }

  it("gets the rank that an energy or a size asks for, with errors near the least ones", async () => {
    const base = network();
    const ofRank = compress(base, { rank: 30 }).layers[0]!;
    const found = (await compressWith(base, null, { rank: 30, ...threads })).layers[0]!;
    expect(found.relativeError).toBeGreaterThanOrEqual(ofRank.relativeError - 1e-6);
    expect(found.relativeError).toBeLessThan(1.01 * ofRank.relativeError);
    // Beyond the triplets that it begins with (an eighth of the largest rank, 32): it has to look further.
    const energy = (await compressWith(base, null, { energy: 0.9999, ...threads })).layers[0]!;
    expect(1 - energy.relativeError ** 2).toBeGreaterThanOrEqual(0.9999 - 1e-6);
    expect(energy.rank).toBeGreaterThan(40);
    expect(1 - compress(base, { rank: energy.rank! - 2 }).layers[0]!.relativeError ** 2).toBeLessThan(0.9999);
    const { bytes, layers } = await compressWith(base, null, { size: 0.2, ...threads });
    expect(bytes.after).toBeLessThanOrEqual(0.2 * bytes.before);
    expect(layers[0]!.rank).toBeGreaterThan(45);
  }, 20_000);
});
