import { describe, expect, it } from "vitest";
import { type Tensor, tensor } from "../tensor.ts";
import { stackedFrom, stackRanks } from "./stack.ts";

const floats = (dims: number[], ...values: number[]): Tensor<"float32"> =>
  tensor("float32", dims, Float32Array.from(values));

describe("stackRanks", () => {
  it("puts ranks side by side, with weights in B", () => {
    const site = { inFeatures: 2, outFeatures: 2, kernel: [], groups: 1 };
    const one = { a: floats([1, 2], 1, 2), b: floats([2, 1], 3, 4), weight: 2 };
    const two = { a: floats([2, 2], 5, 6, 7, 8), b: floats([2, 2], 9, 10, 11, 12), weight: -1 };
    const { a, b } = stackRanks(site, [one, two]);
    expect(a).toEqual(floats([3, 2], 1, 2, 5, 6, 7, 8));
    expect(b).toEqual(floats([2, 3], 6, -9, -10, 8, -11, -12));
    expect(stackedFrom(site, [one, two])).toEqual([0, 1, 1]);
  });

  it("keeps each of a Conv's groups together", () => {
    const site = { inFeatures: 1, outFeatures: 2, kernel: [1], groups: 2 };
    const one = { a: floats([2, 1, 1], 1, 2), b: floats([2, 1, 1], 10, 20), weight: 1 };
    const two = { a: floats([4, 1, 1], 3, 4, 5, 6), b: floats([2, 2, 1], 30, 40, 50, 60), weight: 1 };
    const { a, b } = stackRanks(site, [one, two]);
    expect(a).toEqual(floats([6, 1, 1], 1, 3, 4, 2, 5, 6));
    expect(b).toEqual(floats([2, 3, 1], 10, 30, 40, 20, 50, 60));
    expect(stackedFrom(site, [one, two])).toEqual([0, 1, 1, 0, 1, 1]);
  });
});
