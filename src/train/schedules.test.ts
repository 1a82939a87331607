import { describe, expect, it } from "vitest";
import { constant } from "./schedules.ts";

describe("constant", () => {
  it("is the same at every step", () => {
    expect([0, 1, 1e6].map(constant(3e-4))).toEqual([3e-4, 3e-4, 3e-4]);
  });

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("refuses %d", (learningRate) => {
    expect(() => constant(learningRate)).toThrow(`learning rate: expected a number above 0, got ${learningRate}`);
  });
});
