// Points of a search: every combination of a grid, and draws that stay within their ranges and keep to their seed.
import { describe, expect, it } from "vitest";
import type { OptionName } from "../tune/option-table.ts";
import { type Dimension, gridPoints, randomPoints } from "./space.ts";

const space = (dimensions: Record<string, Dimension>): Map<OptionName, Dimension> =>
  new Map(Object.entries(dimensions) as [OptionName, Dimension][]);

describe("points", () => {
  it("of a grid are all combinations, the last option changing fastest", () => {
    const dimensions = space({
      r: { kind: "choice", values: [2, 4] },
      bias: { kind: "choice", values: ["none", "all"] },
    });
    expect(gridPoints(dimensions)).toEqual([
      { r: 2, bias: "none" },
      { r: 2, bias: "all" },
      { r: 4, bias: "none" },
      { r: 4, bias: "all" },
    ]);
  });

  it("at random lie in their ranges, evenly by their kind", () => {
    const dimensions = space({
      learningRate: { kind: "loguniform", from: 1e-4, to: 1e-2 },
      loraDropout: { kind: "uniform", from: 0, to: 0.5 },
      r: { kind: "integer", from: 1, to: 4 },
    });
    const points = randomPoints(dimensions, 4000, 1) as { learningRate: number; loraDropout: number; r: number }[];
    const share = (holds: (point: (typeof points)[0]) => boolean): number =>
      points.filter(holds).length / points.length;
    expect(points.every(({ learningRate }) => learningRate >= 1e-4 && learningRate <= 1e-2)).toBe(true);
    expect(share(({ learningRate }) => learningRate < 1e-3)).toBeCloseTo(0.5, 1);
    expect(share(({ loraDropout }) => loraDropout < 0.25)).toBeCloseTo(0.5, 1);
    for (const r of [1, 2, 3, 4]) expect(share((point) => point.r === r)).toBeCloseTo(0.25, 1);
  });

  it("keep to their seed: more trials begin with the same ones, and another option moves none", () => {
    const r: Dimension = { kind: "integer", from: 1, to: 1000 };
    const few = randomPoints(space({ r }), 5, 7);
    expect(randomPoints(space({ r }), 50, 7).slice(0, 5)).toEqual(few);
    const more = randomPoints(space({ r, epochs: { kind: "uniform", from: 1, to: 3 } }), 5, 7);
    expect(more.map((point) => point.r)).toEqual(few.map((point) => point.r));
    expect(randomPoints(space({ r }), 5, 8)).not.toEqual(few);
  });
});
