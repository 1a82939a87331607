import { describe, expect, it } from "vitest";
import { createRandom } from "../random.ts";
import { addBatch, type Components } from "./incremental-pca.ts";
import type { Matrix } from "./matrix.ts";
import { svd } from "./svd.ts";

const random = createRandom(2, "incremental pca");

function batch(rows: number): Matrix {
  return {
    rows,
    columns: 5,
    data: Float64Array.from({ length: rows * 5 }, (_, i) => (i % 5) + random.normal() / (1 + (i % 5))),
  };
}

describe("addBatch", () => {
  it("gives what all the data at once gives, while no component is dropped", () => {
    const batches = [batch(7), batch(5), batch(11)];
    const found = batches.reduce<Components | null>((before, rows) => addBatch(before, rows, 5), null)!;
    const all = { rows: 23, columns: 5, data: Float64Array.from(batches.flatMap(({ data }) => [...data])) };
    const mean = Array.from(
      { length: 5 },
      (_, j) => all.data.reduce((sum, value, i) => sum + (i % 5 === j ? value : 0), 0) / 23,
    );
    const whole = svd({ ...all, data: all.data.map((value, i) => value - mean[i % 5]!) });
    expect(found.count).toBe(23);
    const scatter = whole.s.reduce((sum, value) => sum + value * value, 0);
    expect(found.scatter).toBeCloseTo(scatter, 10);
    mean.forEach((value, j) => {
      expect(found.mean[j]).toBeCloseTo(value, 12);
    });
    whole.s.forEach((value, k) => {
      expect(found.singularValues[k]).toBeCloseTo(value, 9);
      expect(found.explained[k]).toBeCloseTo((value * value) / scatter, 10);
      const own = Array.from({ length: 5 }, (_, j) => found.components.data[k * 5 + j]!);
      const cosine = own.reduce((sum, entry, j) => sum + entry * whole.v.data[j * 5 + k]!, 0);
      expect(Math.abs(cosine)).toBeCloseTo(1, 9);
      const peak = own.reduce((most, entry) => (Math.abs(entry) > Math.abs(most) ? entry : most), 0);
      expect(peak).toBeGreaterThan(0);
    });
  });

  it("wants no more components than there are samples", () => {
    expect(() => addBatch(null, batch(3), 4)).toThrow("internal: 4 components of 3 x 5 values");
  });
});
