import { describe, expect, it } from "vitest";
import { Sums } from "./sums.ts";

const bytesOf = (key: string): number => ({ small: 10, large: 100 })[key] ?? 0;
const both = (weight: number): { key: string; weight: number }[] => [
  { key: "small", weight },
  { key: "large", weight: 1 - weight },
];

describe("sums", () => {
  it("are the same list while they are kept, and go with their parts", () => {
    const sums = new Sums({ maxCount: 2, maxBytes: 1000 }, bytesOf);
    const first = sums.listOf(both(0.5));
    expect(first).toEqual([
      { adapter: "small", weight: 0.5 },
      { adapter: "large", weight: 0.5 },
    ]);
    expect(sums.listOf(both(0.5))).toBe(first);
    expect(sums.bytes).toBe(110);
    sums.listOf([{ key: "small", weight: 2 }]);
    sums.forget("large");
    expect(sums.bytes).toBe(10);
    expect(sums.listOf(both(0.5))).not.toBe(first);
  });

  it("are dropped beyond their number or their bytes, those that were not used for longest first", () => {
    const few = new Sums({ maxCount: 2, maxBytes: 1000 }, bytesOf);
    const [a, b] = [few.listOf(both(0.1)), few.listOf(both(0.2))];
    expect(few.listOf(both(0.1))).toBe(a);
    few.listOf(both(0.3));
    expect(few.listOf(both(0.1))).toBe(a);
    expect(few.listOf(both(0.2))).not.toBe(b);
    const tight = new Sums({ maxCount: 9, maxBytes: 250 }, bytesOf);
    for (const weight of [0.1, 0.2, 0.3, 0.4]) tight.listOf(both(weight));
    expect(tight.bytes).toBe(220);
  });

  it("of one run are refused when they take too much together", () => {
    const sums = new Sums({ maxCount: 9, maxBytes: 250 }, bytesOf);
    expect(() => sums.assertFit([null, "large", both(0.1), both(0.1), both(0.2)])).not.toThrow();
    expect(() => sums.assertFit([both(0.1), both(0.2), both(0.3)])).toThrow(
      expect.objectContaining({ status: 400, message: expect.stringContaining("got 3 of 330 bytes") }),
    );
  });
});
