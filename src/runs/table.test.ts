import { describe, expect, it } from "vitest";
import {
  displayWidth,
  formatBytes,
  formatClock,
  formatCount,
  formatDuration,
  formatPercent,
  formatTable,
} from "./table.ts";

describe("formatTable", () => {
  const columns = [{ header: "layer" }, { header: "parameters", align: "right" }] as const;

  it("aligns columns, draws rules, and leaves no spaces at line ends", () => {
    const rows = [["Linear-1", "785,000"], ["ReLU-2", "0"], "-", ["all", "2,807,010"], ["note"]] as const;
    expect(formatTable(columns, rows)).toBe(
      [
        "layer     parameters",
        "--------------------",
        "Linear-1     785,000",
        "ReLU-2             0",
        "--------------------",
        "all        2,807,010",
        "note",
      ].join("\n"),
    );
  });

  it("takes an indent, a gap, a least width and another rule", () => {
    const table = formatTable([{ header: "a", minWidth: 3 }, { header: "b" }], [["1", "2"], "="], {
      indent: "  ",
      gap: 1,
      headerRule: "=",
    });
    expect(table).toBe(["  a   b", "  =====", "  1   2", "  ====="].join("\n"));
    expect(formatTable([{ header: "a" }], [["1"]], { headerRule: null })).toBe("a\n1");
  });

  it("leaves out headers that are all empty", () => {
    expect(formatTable([{ header: "" }, { header: "" }], [["device", "cpu"]])).toBe("device  cpu");
  });

  it("measures what is seen: colour takes no room, wide letters two columns", () => {
    const table = formatTable(
      [{ header: "x" }, { header: "y" }],
      [
        ["\u001b[1mab\u001b[22m", "1"],
        ["数字", "2"],
        ["e\u0301e", "3"],
      ],
      { headerRule: null },
    );
    expect(table).toBe(["x     y", "\u001b[1mab\u001b[22m    1", "数字  2", "e\u0301e    3"].join("\n"));
    expect(["", "abc", "é", "数字", "ｆ", "😀", "한", "\u001b[31mr\u001b[39m"].map(displayWidth)).toEqual([
      0, 3, 1, 4, 2, 2, 2, 1,
    ]);
  });

  it("keeps a cell on one line, and refuses more cells than columns", () => {
    expect(formatTable([{ header: "" }], [["two\r\n  lines"]])).toBe("two lines");
    expect(() => formatTable(columns, [["1", "2", "3"]])).toThrow("internal: 3 cells for 2 columns");
  });
});

describe("numbers", () => {
  it("counts with commas", () => {
    expect([0, 7, 999, 1000, 2807010, 1234567, -1234.4].map(formatCount)).toEqual([
      "0",
      "7",
      "999",
      "1,000",
      "2,807,010",
      "1,234,567",
      "-1,234",
    ]);
    expect(formatCount(12345678901234567890n)).toBe("12,345,678,901,234,567,890");
    expect(formatCount(Number.NaN)).toBe("NaN");
  });

  it("shows shares as percent", () => {
    expect(formatPercent(6794 / 2807010, 3)).toBe("0.242 %");
    expect(formatPercent(0.953)).toBe("95.3 %");
    expect(formatPercent(1, 0)).toBe("100 %");
    expect(formatPercent(Number.NaN)).toBe("n/a");
  });

  it("shows durations in words, with no 60 s and no 1000 ms", () => {
    const seconds = [0, 0.34, 0.9994, 0.9996, 12.34, 59.94, 59.96, 125, 3599.4, 3599.6, 3725, Number.NaN];
    expect(seconds.map(formatDuration)).toEqual([
      "0 ms",
      "340 ms",
      "999 ms",
      "1.0 s",
      "12.3 s",
      "59.9 s",
      "1 min 00 s",
      "2 min 05 s",
      "59 min 59 s",
      "1 h 00 min",
      "1 h 02 min",
      "n/a",
    ]);
  });

  it("shows durations as a clock", () => {
    expect([0, 12, 59.6, 725, 3723, 90000, Number.POSITIVE_INFINITY].map(formatClock)).toEqual([
      "0:00",
      "0:12",
      "1:00",
      "12:05",
      "1:02:03",
      "25:00:00",
      "-:--",
    ]);
  });

  it("shows bytes with three digits", () => {
    expect([0, 512, 999, 1000, 27136, 11228040, 104857600, 2 ** 30, 1023.9 * 1024, 2 ** 50].map(formatBytes)).toEqual([
      "0 B",
      "512 B",
      "999 B",
      "0.98 KiB",
      "26.5 KiB",
      "10.7 MiB",
      "100 MiB",
      "1.00 GiB",
      "1.00 MiB",
      "1024 TiB",
    ]);
  });
});
