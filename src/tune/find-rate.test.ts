import { expect, it } from "vitest";
import { drawCurve } from "./find-rate.ts";

it("draws the running loss, its range, and the suggested rate's column", () => {
  const rates = Float64Array.from([1e-4, 1e-3, 1e-2, 1e-1]);
  const curve = {
    rates,
    losses: rates,
    smoothed: Float64Array.from([2, 1.9, 1, 1.5]),
    suggestion: 1e-3,
    diverged: false,
  };
  const lines = drawCurve(curve).split("\n");
  expect(lines).toHaveLength(12);
  expect(lines[0]).toBe("   2.000 |*");
  expect(lines[1]).toBe("         | *");
  expect(lines[9]).toBe("   1.000 |  *");
  expect(lines[10]).toBe("         +-^--");
  expect(lines[11]).toContain("1e-4");
});

it("draws a flat curve, and none at all", () => {
  const flat = { losses: new Float64Array(1), suggestion: null, diverged: false };
  const one = { ...flat, rates: Float64Array.of(1e-7), smoothed: Float64Array.of(3) };
  expect(drawCurve(one)).toContain("   3.000 |*");
  expect(drawCurve(one)).not.toContain("^");
  expect(drawCurve({ ...flat, rates: new Float64Array(), smoothed: new Float64Array() })).toBe("no step was taken");
});
