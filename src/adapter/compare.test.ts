import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matrix } from "../linalg/matrix.ts";
import { svd } from "../linalg/svd.ts";
import { resolveConfig } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { tensor } from "../tensor.ts";
import { combine, subtract } from "./combine.ts";
import { besideUpdates, compare, spectrum, subspaceAngles } from "./compare.ts";
import { rescale, resize } from "./resize.ts";
import { deltas, layers, randomAdapter } from "./testing/adapters.ts";

const outOf = (path: string): number => layers.find((layer) => layer.path === path)!.outFeatures;

describe("spectrum", () => {
  it("leaves what is no A and no B aside, and says what that is", () => {
    const adapter = diagonal([4, 2]);
    const key = "base_model.model.head.weight";
    const more = {
      ...adapter,
      tensors: new Map(adapter.tensors).set(key, tensor("float32", [1, 1], Float32Array.of(1))),
    };
    expect(spectrum(more)).toEqual(spectrum(adapter));
    expect(besideUpdates(more)).toEqual([key]);
    expect(besideUpdates(adapter)).toEqual([]);
  });

  it("has the singular values of the whole updates, grouped ones too", () => {
    const adapter = randomAdapter(1, { useRslora: true });
    const whole = deltas(adapter);
    const modules = spectrum(adapter);
    expect(modules.map(({ path }) => path)).toEqual(layers.map(({ path }) => path));
    for (const { path, r, singularValues, norm, inFeatures, outFeatures } of modules) {
      const delta = whole.get(path)!;
      expect(outFeatures * inFeatures).toBe(delta.length);
      const { s } = svd(matrix(outOf(path), delta.length / outOf(path), delta));
      expect(singularValues).toHaveLength(r);
      for (const [i, value] of singularValues.entries()) expect(value).toBeCloseTo(s[i]!, 10);
      expect(norm).toBeCloseTo(Math.hypot(...delta), 10);
    }
  });

  /** B A = diag(values): 4 x 4, scale 1. */
  const diagonal = (values: readonly number[]) => {
    const { a, b } = adapterKeys("fc");
    const r = values.length;
    const grid = (value: (i: number) => number) =>
      tensor(
        "float32",
        [r, r],
        Float32Array.from({ length: r * r }, (_, at) => (at % (r + 1) === 0 ? value(at / (r + 1)) : 0)),
      );
    return {
      config: resolveConfig({ r, loraAlpha: r, targetModules: ["fc"] }),
      tensors: new Map([
        [a, grid(() => 1)],
        [b, grid((i) => values[i]!)],
      ]),
    };
  };

  it("says how much of the rank is used", () => {
    expect(spectrum(diagonal([2, 2, 2, 2]))[0]).toMatchObject({ norm: 4, rank90: 4, rank99: 4 });
    expect(spectrum(diagonal([2, 2, 2, 2]))[0]!.effectiveRank).toBeCloseTo(4, 12);
    expect(spectrum(diagonal([0, 3, 0, 0]))[0]).toMatchObject({ norm: 3, rank90: 1, rank99: 1, effectiveRank: 1 });
    // Squares 16, 4, 1, 0: the first two hold 95 %; shares 4/7, 2/7, 1/7 have the entropy 0.9557 nats.
    const [one] = spectrum(diagonal([4, 2, 1, 0]));
    expect([one!.rank90, one!.rank99]).toEqual([2, 3]);
    expect(one!.effectiveRank).toBeCloseTo(Math.exp(0.955_699_891_112_534), 9);
    expect(spectrum(diagonal([0, 0]))[0]).toMatchObject({ norm: 0, effectiveRank: 0, rank90: 0, rank99: 0 });
  });
});

describe("compare", () => {
  const seed = fc.integer({ min: 1, max: 1000 });

  it("measures what the whole updates differ by", () => {
    const [a, b] = [randomAdapter(1), randomAdapter(2, { useRslora: true })];
    const [x, y] = [deltas(a), deltas(b)];
    const { modules, distance, cosine } = compare(a, b);
    let [squares, inner, xx, yy] = [0, 0, 0, 0];
    for (const module of modules) {
      const [one, two] = [x.get(module.path)!, y.get(module.path)!];
      const expected = Math.hypot(...one.map((value, i) => value - two[i]!));
      expect(module.in).toBe("both");
      expect(module.distance).toBeCloseTo(expected, 10);
      expect(module.relativeDistance).toBeCloseTo(expected / Math.max(Math.hypot(...one), Math.hypot(...two)), 10);
      const own = one.reduce((sum, value, i) => sum + value * two[i]!, 0);
      expect(module.cosine).toBeCloseTo(own / Math.hypot(...one) / Math.hypot(...two), 10);
      squares += expected ** 2;
      inner += own;
      xx += Math.hypot(...one) ** 2;
      yy += Math.hypot(...two) ** 2;
    }
    expect(distance).toBeCloseTo(Math.sqrt(squares), 10);
    expect(cosine).toBeCloseTo(inner / Math.sqrt(xx * yy), 10);
  });

  it("is a metric: the triangle inequality, symmetry, zero for the same", () => {
    fc.assert(
      fc.property(seed, seed, seed, (i, j, k) => {
        const [a, b, c] = [randomAdapter(i), randomAdapter(j), randomAdapter(k)];
        const d = (x: typeof a, y: typeof a) => compare(x, y).distance;
        expect(d(a, c)).toBeLessThanOrEqual(d(a, b) + d(b, c) + 1e-9);
        expect(d(a, b)).toBeCloseTo(d(b, a), 9);
        expect(d(a, a)).toBeLessThan(1e-10);
        expect(d(a, b)).toBeCloseTo(compare(subtract(a, b), rescale(a, { factor: 0 })).distance, 4);
      }),
      { numRuns: 15 },
    );
  });

  it("knows the same subspaces, whatever the factors, and opposite directions", () => {
    const a = randomAdapter(7);
    const rotated = resize(combine([a, a], { method: "cat", weights: [0.5, 0.5] }), 4).adapter;
    const { modules, relativeDistance } = compare(a, rotated);
    expect(relativeDistance).toBeLessThan(1e-6);
    for (const { output, input } of modules) {
      for (const side of [output!, input!]) {
        expect(Math.max(...side.angles)).toBeLessThan(1e-4);
        expect(side.similarity).toBeCloseTo(1, 7);
      }
    }
    const turned = compare(a, rescale(a, { factor: -2 }));
    expect(turned.cosine).toBeCloseTo(-1, 12);
    expect(turned.relativeDistance).toBeCloseTo(1.5, 6);
    expect(turned.modules[0]!.input!.similarity).toBeCloseTo(1, 9);
  });

  it("counts a module that one lacks, or that is zero, as zero", () => {
    const [whole, part] = [randomAdapter(1), randomAdapter(1, {}, layers.slice(0, 2))];
    const { modules } = compare(whole, part);
    expect(modules.map((module) => module.in)).toEqual(["both", "both", "a", "a", "a"]);
    expect(modules[3]).toMatchObject({ relativeDistance: 1, cosine: 0, output: null, input: null });
    expect(compare(part, whole).modules[3]).toMatchObject({ in: "b", relativeDistance: 1 });
    const zero = rescale(whole, { factor: 0 });
    expect(compare(zero, zero)).toMatchObject({ distance: 0, relativeDistance: 0, cosine: 0 });
  });

  it("refuses modules of other shapes, all of them", () => {
    const other = layers.slice(3).map((layer) => ({ ...layer, inFeatures: 3 }));
    expect(() => compare(randomAdapter(1), randomAdapter(1, {}, other))).toThrow(
      /2 faults\n.*fc: expected \[5, 7\], got \[5, 3\]\n.*enc\.fc: expected \[8, 5\], got \[8, 3\]/,
    );
  });
});

describe("subspaceAngles", () => {
  it("is exact for small and for large angles", () => {
    for (const angle of [1e-9, 1e-4, 0.3, 1, Math.PI / 2 - 1e-9, Math.PI / 2]) {
      // Two planes of four dimensions that share e0, and whose other axes are at that angle.
      const a = matrix(4, 2, [1, 0, 0, 1, 0, 0, 0, 0]);
      const b = matrix(4, 2, [1, 0, 0, Math.cos(angle), 0, Math.sin(angle), 0, 0]);
      const [first, second] = subspaceAngles(a, b);
      expect(first).toBe(0);
      expect(Math.abs(second! - angle)).toBeLessThan(1e-15);
      expect(subspaceAngles(b, a)[1]).toBeCloseTo(angle, 15);
    }
  });

  it("compares a line with a plane", () => {
    const line = matrix(3, 1, [Math.SQRT1_2, 0, Math.SQRT1_2]);
    const plane = matrix(3, 2, [1, 0, 0, 1, 0, 0]);
    expect(subspaceAngles(line, plane)).toEqual([expect.closeTo(Math.PI / 4, 14)]);
  });
});
