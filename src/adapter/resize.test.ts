import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matrix } from "../linalg/matrix.ts";
import { svd } from "../linalg/svd.ts";
import type { Adapter } from "../lora/config.ts";
import { rankOf, scaleOf } from "../lora/scale.ts";
import { readAdapter, writeAdapter } from "./peft.ts";
import { rescale, resize } from "./resize.ts";
import { deltas, difference, layers, randomAdapter, relativeDifference } from "./testing/adapters.ts";
import { withRanks } from "./thin.ts";

const plain = layers.filter(({ groups }) => groups === undefined);

describe("resize", () => {
  it("to a larger rank is exact, and back again loses nothing but rounding", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 8 }), fc.boolean(), (half, useRslora) => {
        const adapter = randomAdapter(half, { useRslora });
        const larger = resize(adapter, 2 * half);
        expect(difference(larger.adapter, adapter)).toBeLessThan(1e-14);
        expect(larger.relativeError).toBe(0);
        const back = resize(larger.adapter, 4);
        expect(difference(back.adapter, adapter)).toBeLessThan(1e-6);
        expect(difference(readAdapter(writeAdapter(larger.adapter)), adapter)).toBeLessThan(1e-14);
      }),
      { numRuns: 10 },
    );
  });

  it("keeps the best approximation: the error is that of the whole update's SVD, and is the one that is told", () => {
    const adapter = randomAdapter(3, {}, plain);
    const { adapter: small, modules, relativeError } = resize(adapter, 2);
    const [whole, left] = [deltas(adapter), deltas(small)];
    let [lost, all] = [0, 0];
    for (const { path, r, relativeError: told } of modules) {
      expect(r).toBe(2);
      const delta = whole.get(path)!;
      const out = plain.find((layer) => layer.path === path)!.outFeatures;
      const { s } = svd(matrix(out, delta.length / out, delta));
      const best = Math.hypot(...s.slice(2)) / Math.hypot(...s);
      expect(told).toBeCloseTo(best, 7);
      const got = Math.hypot(...delta.map((value, i) => value - left.get(path)![i]!));
      expect(got / Math.hypot(...delta)).toBeCloseTo(best, 6);
      lost += got ** 2;
      all += Math.hypot(...delta) ** 2;
    }
    expect(relativeError).toBeCloseTo(Math.sqrt(lost / all), 6);
    for (const { path } of plain) {
      expect(rankOf(small.config, path)).toBe(2);
      expect(scaleOf(small.config, path)).toBeCloseTo(scaleOf(adapter.config, path), 14);
    }
  });

  it("keeps a share of the energy in each module", () => {
    const adapter = randomAdapter(4);
    const { adapter: small, modules } = resize(adapter, { energy: 0.8 });
    expect(new Set(modules.map(({ r }) => r)).size).toBeGreaterThan(1);
    for (const { path, r, relativeError } of modules) {
      expect(relativeError ** 2).toBeLessThan(0.2 + 1e-9);
      expect(rankOf(small.config, path)).toBe(r);
    }
    expect(modules.some(({ relativeError }) => relativeError > 0.1)).toBe(true);
    expect(difference(resize(adapter, { energy: 1 }).adapter, adapter)).toBeLessThan(1e-6);
    expect(difference(readAdapter(writeAdapter(small)), small)).toBe(0);
  });

  it.each([
    [0, /r: expected a whole number of 1 or more, got 0/],
    [{ energy: 0 }, /energy: expected a share above 0/],
    [{ r: 2, energy: 0.5 }, /expected one of r and energy, got both/],
    [{}, /got none/],
    [3, /enc\.grouped: expected a rank that its 2 groups divide, got 3/],
  ])("refuses %j", (rank, message) => {
    expect(() => resize(randomAdapter(1), rank)).toThrow(message);
  });
});

describe("rescale", () => {
  const times = (adapter: Adapter, factor: number) =>
    new Map([...deltas(adapter)].map(([path, delta]) => [path, delta.map((value) => factor * value)]));

  it("multiplies every update, also by a negative number and by 0", () => {
    const adapter = randomAdapter(5, { useRslora: true });
    for (const factor of [0.5, -3, 0]) {
      const scaled = rescale(adapter, { factor });
      expect(relativeDifference(deltas(scaled), times(adapter, factor))).toBeLessThan(1e-6);
      expect(scaled.config).toBe(adapter.config);
    }
  });

  it("writes another alpha, everywhere the same", () => {
    const scaled = rescale(randomAdapter(5), { loraAlpha: 16 });
    expect(scaled.config).toMatchObject({ r: 4, loraAlpha: 16, alphaPattern: {}, rankPattern: { "^fc": 2 } });
    expect(difference(scaled, randomAdapter(5))).toBeLessThan(1e-6);
  });

  it("refuses numbers that are none", () => {
    expect(() => rescale(randomAdapter(1), { factor: Number.NaN })).toThrow(/factor: expected a number/);
    expect(() => rescale(randomAdapter(1), { loraAlpha: 0 })).toThrow(/loraAlpha: expected a number above 0/);
  });
});

describe("withRanks", () => {
  it("says every module's rank and scale, whatever paths end in", () => {
    const segment = fc.constantFrom("a", "b", "0", "x-y", "q[1]");
    const paths = fc.uniqueArray(
      fc.array(segment, { minLength: 1, maxLength: 3 }).map((parts) => parts.join(".")),
      {
        minLength: 1,
        maxLength: 6,
      },
    );
    const entry = fc.record({ r: fc.integer({ min: 1, max: 3 }), scale: fc.constantFrom(0.5, 1, 2) });
    fc.assert(
      fc.property(paths, fc.array(entry, { minLength: 6, maxLength: 6 }), fc.boolean(), (names, entries, useRslora) => {
        const modules = names.map((path, i) => ({ path, ...entries[i]! }));
        const config = withRanks(randomAdapter(1, { useRslora }).config, modules);
        for (const { path, r, scale } of modules) {
          expect(rankOf(config, path)).toBe(r);
          expect(scaleOf(config, path)).toBeCloseTo(scale, 12);
        }
      }),
      { numRuns: 200 },
    );
  });
});
