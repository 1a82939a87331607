import { describe, expect, it } from "vitest";
import * as format from "./format.ts";

/** With plain spaces, as a reader sees it. */
const plain = (text: string): string => text.replaceAll("\u00a0", " ");

describe("format", () => {
  it("separates thousands and uses a true minus sign", () => {
    expect([0, 999, 2_807_010, -1032].map(format.count)).toEqual(["0", "999", "2,807,010", "\u22121,032"]);
    expect([12, 0, -3].map(format.signed)).toEqual(["+12", "0", "\u22123"]);
  });

  it("gets plurals right", () => {
    expect([0, 1, 2, 1032].map((n) => format.many(n, "image"))).toEqual([
      "0 images",
      "1 image",
      "2 images",
      "1,032 images",
    ]);
    expect(format.many(2, "loss", "losses")).toBe("2 losses");
  });

  it("writes the study's share of parameters", () => {
    expect(plain(format.percent((100 * 6794) / 2807010))).toBe("0.242 %");
    expect(plain(format.share(0.5))).toBe("50 %");
    expect(plain(format.share(0.125))).toBe("12.5 %");
  });

  it("keeps the decimals asked for, and no minus before a zero", () => {
    expect([format.fixed(0.487, 4), format.fixed(-0.00001, 2), format.fixed(-1.5, 1)]).toEqual([
      "0.4870",
      "0.00",
      "\u22121.5",
    ]);
  });

  it.each([
    [0, "0"],
    [0.001, "0.001"],
    [8.7812, "8.78"],
    [12.5, "12.5"],
    [961.2, "961"],
    [1032.4, "1,032"],
    [3.81e-6, "3.8 × 10⁻⁶"],
    [-2e-12, "\u22122 × 10⁻¹²"],
    [5e9, "5 × 10⁹"],
  ])("shortens %d", (value, written) => {
    expect(plain(format.short(value))).toBe(written);
  });

  it("lists, and says how a count moved", () => {
    expect([[], [2], [2, 3], [2, 3, 4]].map(format.listed)).toEqual(["", "2", "2 and 3", "2, 3 and 4"]);
    expect(format.moved(1032, 450)).toBe("fell from 1,032 to 450");
    expect(format.moved(3, 9)).toBe("rose from 3 to 9");
    expect(format.moved(107, 107)).toBe("stayed at 107");
  });

  it("writes times", () => {
    expect([9.94, 59.4, 59.6, 131.4].map((s) => plain(format.duration(s)))).toEqual([
      "9.9 s",
      "59 s",
      "1 min 0 s",
      "2 min 11 s",
    ]);
    expect(format.moment("2025-11-23T20:36:11.000Z")).toBe("23 November 2025, 20:36 UTC");
    expect(format.moment("no date")).toBe("no date");
  });

  it("says so where there is no number", () => {
    const none = [format.count, format.short, format.duration, (x: number) => format.fixed(x, 2)];
    for (const write of none) expect(write(Number.NaN)).toBe("not a number");
  });
});
