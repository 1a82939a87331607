import { describe, expect, it } from "vitest";
import { denseMap } from "../linalg/linear-map.ts";
import { truncatedSvd, truncatedSvdAsync } from "../linalg/truncated-svd.ts";
import { createRandom } from "../random.ts";
import { openProducts } from "./products.ts";

const random = createRandom(1, "products");
const [rows, columns] = [40, 25];
const values = Float32Array.from({ length: rows * columns }, () => random.normal());

describe("openProducts", () => {
  it("multiplies as plain JavaScript does, to float32", async () => {
    const map = await openProducts(rows, columns, values);
    const plain = denseMap(rows, columns, values);
    for (const [length, name] of [
      [columns, "apply"],
      [rows, "applyTranspose"],
    ] as const) {
      const vectors = {
        rows: 3,
        columns: length,
        data: Float64Array.from({ length: 3 * length }, () => random.normal()),
      };
      const [got, wanted] = [await map[name](vectors), plain[name](vectors)];
      expect([got.rows, got.columns]).toEqual([wanted.rows, wanted.columns]);
      wanted.data.forEach((value, i) => {
        expect(Math.abs(got.data[i]! - value)).toBeLessThan(2e-5);
      });
    }
    for (const options of [{ iterations: 3 }, { tolerance: 1e-6 }]) {
      const [found, known] = [await truncatedSvdAsync(map, 4, options), truncatedSvd(plain, 4, options)];
      known.s.forEach((value, i) => {
        expect(Math.abs(found.s[i]! / value - 1)).toBeLessThan(1e-5);
      });
    }
    await map.dispose();
  });
});
