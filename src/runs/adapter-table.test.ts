import { describe, expect, it } from "vitest";
import { formatComparison, formatLosses, formatSpectrum, type SpectrumRow } from "./adapter-table.ts";

const row = (path: string, singularValues: readonly number[]): SpectrumRow => ({
  ...{ path, outFeatures: 48, inFeatures: 16, r: singularValues.length, scale: 2, singularValues },
  norm: Math.hypot(...singularValues),
  effectiveRank: singularValues.filter((value) => value > 0).length,
  ...{ rank90: 1, rank99: 2 },
});

describe("formatSpectrum", () => {
  it("draws each singular value in eighths of the largest", () => {
    const text = formatSpectrum([row("a.b", [8, 7, 4.5, 4, 0.1, 0]), row("c", [0, 0])]);
    expect(text).toBe(`Module   Update  r  Scale   Norm  Singular values  Largest  In use  90 / 99 %
-----------------------------------------------------------------------------
a.b     48 x 16  6      2  12.22  █▇▅▄▁                  8     5.0      1 / 2
c       48 x 16  2      2      0                         0     0.0      1 / 2

In use: 5.0 of 8 ranks (63 %), by the entropy of the singular values.
Rank 2 would keep 99 % of the energy of every update.`);
    expect(formatSpectrum([row("a", [8, 4, 1])], { unicode: false })).toMatch(/ #:\. /);
  });

  it("draws many values as fewer bars, each its run's largest", () => {
    const values = Array.from({ length: 64 }, (_, index) => 64 - index);
    const bars = /[▁-█]+/.exec(formatSpectrum([row("a", values)]))![0];
    expect(bars).toBe([..."█▇▆▅▄▃▂▁"].map((bar) => bar.repeat(4)).join(""));
  });
});

describe("formatLosses", () => {
  it("has a line for each module, and the whole", () => {
    expect(formatLosses([{ path: "fc", r: 2, relativeError: 0.123456 }], 3.2e-9)).toBe(
      `Module  r  Relative error
-------------------------
fc      2          0.1235

Relative error over all modules: 3.2e-9`,
    );
  });
});

describe("formatComparison", () => {
  it("says where a module is, and leaves out what is not defined", () => {
    const module = {
      path: "fc",
      in: "a" as const,
      distance: 2,
      relativeDistance: 1,
      cosine: 0,
      output: null,
      input: null,
    };
    const other = {
      ...module,
      path: "fd",
      in: "both" as const,
      cosine: -0.5,
      output: { similarity: 0.25 },
      input: { similarity: 1 },
    };
    const text = formatComparison({ distance: 2.5, relativeDistance: 0.75, cosine: 0.1, modules: [module, other] });
    expect(text).toBe(`Module  In     Distance  Relative  Cosine  Inputs shared  Outputs shared
------------------------------------------------------------------------
fc      first         2         1       0
fd      both          2         1    -0.5              1            0.25
------------------------------------------------------------------------
all                 2.5      0.75     0.1`);
  });
});
