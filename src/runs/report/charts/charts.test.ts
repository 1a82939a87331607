import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkMarkup } from "../testing/markup.ts";
import { groupedBars } from "./bars.ts";
import { legend } from "./frame.ts";
import { heatmap } from "./heatmap.ts";
import { lineChart } from "./lines.ts";
import { axisFromZero, linear, px } from "./scale.ts";
import { squares } from "./squares.ts";

const text = { id: "chart", title: "A chart", description: "What it shows." };

/** The named attribute of every element whose class is `style`, in order. */
function attributes(svg: string, element: string, style: string, name: string): number[] {
  const found = svg.matchAll(new RegExp(`<${element} class="${style}"[^>]* ${name}="([^"]*)"`, "g"));
  return [...found].map((match) => Number(match[1]));
}

describe("axisFromZero", () => {
  it.each([
    [1032, 5, [0, 500, 1000, 1500]],
    [1135, 6, [0, 200, 400, 600, 800, 1000, 1200]],
    [0.19, 5, [0, 0.05, 0.1, 0.15, 0.2]],
    [0.3, 3, [0, 0.1, 0.2, 0.3]],
    [2.3, 5, [0, 0.5, 1, 1.5, 2, 2.5]],
    [6000, 4, [0, 2000, 4000, 6000]],
  ])("puts ticks for %d in about %d steps at nice numbers", (largest, wanted, ticks) => {
    expect(axisFromZero(largest, wanted).ticks).toEqual(ticks);
  });

  it("keeps to whole numbers for counts", () => {
    expect(axisFromZero(2, 5, true).ticks).toEqual([0, 1, 2]);
  });

  it("has an end above zero where there is nothing to show", () => {
    for (const largest of [0, -3, Number.NaN, Number.POSITIVE_INFINITY]) expect(axisFromZero(largest, 5).end).toBe(1);
  });

  it("holds every value with evenly spaced ticks of 1, 2 or 5 times a power of ten", () => {
    fc.assert(
      fc.property(
        fc.double({ min: 1e-9, max: 1e12, noNaN: true }),
        fc.integer({ min: 2, max: 8 }),
        (largest, wanted) => {
          const { ticks, end } = axisFromZero(largest, wanted);
          expect(end).toBeGreaterThanOrEqual(largest * (1 - 1e-8));
          expect(ticks.length).toBeLessThanOrEqual(wanted + 1);
          const step = ticks[1]!;
          const leading = Number(step.toExponential(0).split("e")[0]);
          expect([1, 2, 5]).toContain(leading);
          ticks.forEach((tick, index) => {
            expect(tick / step).toBeCloseTo(index, 6);
          });
        },
      ),
    );
  });
});

describe("linear and px", () => {
  it("maps the ends onto the pixels given and rounds to a tenth", () => {
    const y = linear(4, 170, 30);
    expect([y(0), y(1), y(4)]).toEqual([170, 135, 30]);
    expect(px(12.3456)).toBe("12.3");
    expect(px(-0.01)).toBe("0");
  });
});

describe("legend", () => {
  it("wraps where the width ends", () => {
    const entries = ["one", "two", "three"].map((name) => ({ name, style: "series-on" }));
    expect(legend(entries, 0, 700).height).toBe(18);
    expect(legend(entries, 0, 100).height).toBeGreaterThan(18);
    expect(legend([], 0, 100).height).toBe(0);
  });
});

describe("groupedBars", () => {
  const draw = (values: (number | null)[], width = 720): string =>
    groupedBars(
      {
        text,
        groups: values.map((_, index) => ({
          label: `g${index}`,
          notes: index === 1 ? ["dead unit"] : [],
          highlighted: index === 1,
        })),
        series: [{ name: "one", style: "series-on", values }],
        axisTitle: "count",
        format: (value) => String(value),
        whole: true,
        legend: false,
      },
      width,
    ).toString();

  it("draws lengths in proportion, and zero as no length", () => {
    const [one, two, none] = attributes(draw([500, 1000, 0]), "rect", "series-on", "width");
    expect(two).toBeCloseTo(2 * one!, 0);
    expect(none).toBe(0);
  });

  it("writes each value, each label, the notes, and marks one group", () => {
    const svg = draw([500, 1135, 0]);
    for (const word of [">500<", ">1135<", ">0<", ">g0<", ">g2<", ">dead unit<"]) expect(svg).toContain(word);
    expect(svg.match(/class="mark"/g)).toHaveLength(1);
  });

  it("leaves out null and stands without any value", () => {
    expect(attributes(draw([3, null]), "rect", "series-on", "width")).toHaveLength(1);
    expect(draw([0, 0])).not.toContain("NaN");
    expect(checkMarkup(draw([null, null]))).toEqual([]);
  });

  it("keeps every bar and its value inside the width", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(60000), { minLength: 1, maxLength: 10 }),
        fc.constantFrom(340, 720),
        (values, width) => {
          const svg = draw(values, width);
          const starts = attributes(svg, "rect", "series-on", "x");
          const lengths = attributes(svg, "rect", "series-on", "width");
          lengths.forEach((length, index) => {
            expect(starts[index]! + length + 4 + 6 * String(values[index]).length).toBeLessThanOrEqual(width);
          });
        },
      ),
    );
  });
});

describe("lineChart", () => {
  const draw = (...curves: { x: number; y: number }[][]): string =>
    lineChart(
      {
        text,
        series: curves.map((points, index) => ({ name: `curve ${index}`, style: "series-on", points })),
        xTitle: "step",
        yTitle: "loss",
        formatX: String,
        formatY: String,
      },
      340,
    ).toString();

  it("puts points where their values are", () => {
    const svg = draw([
      { x: 0, y: 0 },
      { x: 50, y: 1 },
      { x: 100, y: 2 },
    ]);
    const pairs = svg
      .match(/points="([^"]*)"/)![1]!
      .split(" ")
      .map((pair) => pair.split(",").map(Number));
    const [[x0, y0], [x1, y1], [x2, y2]] = pairs as [[number, number], [number, number], [number, number]];
    expect(x1 - x0).toBeCloseTo(x2 - x1, 0);
    expect(y0 - y1).toBeCloseTo(y1 - y2, 0);
    expect(y2).toBeLessThan(y0);
  });

  it("moves end labels apart that would lie on each other", () => {
    const svg = draw([{ x: 1, y: 0.5 }], [{ x: 1, y: 0.5 }], [{ x: 1, y: 0.01 }]);
    const at = attributes(svg, "text", "strong", "y").sort((one, other) => one - other);
    expect(at).toHaveLength(3);
    expect(at[1]! - at[0]!).toBeGreaterThanOrEqual(14);
    expect(at[2]! - at[1]!).toBeGreaterThanOrEqual(14);
  });

  it("keeps end labels below the plot's top, and apart only from their neighbours", () => {
    const ends = attributes(draw([{ x: 9, y: 1 }], [{ x: 9, y: 1 }], [{ x: 1, y: 1 }]), "text", "strong", "y");
    const top = attributes(draw([{ x: 9, y: 1 }]), "text", "strong", "y")[0]!;
    expect(ends.sort((one, other) => one - other)).toEqual([top, top, top + 14]);
  });

  it("skips what is no number, and stands without points", () => {
    const svg = draw([
      { x: 1, y: Number.NaN },
      { x: 2, y: 1 },
    ]);
    expect(svg.match(/points="([^"]*)"/)![1]!.split(" ")).toHaveLength(1);
    for (const drawn of [svg, draw([])]) {
      expect(drawn).not.toContain("NaN");
      expect(checkMarkup(drawn)).toEqual([]);
    }
  });
});

describe("heatmap", () => {
  it("shades by the row, colours the diagonal apart and leaves zero cells empty", () => {
    const data = {
      text,
      cells: [
        [75, 25],
        [0, 4],
      ],
      rowTitle: "is",
      columnTitle: "read",
      highlighted: 1,
    };
    const svg = heatmap(data, 340).toString();
    expect(attributes(svg, "rect", "cell-right", "fill-opacity")).toEqual([0.87, 1]);
    expect(attributes(svg, "rect", "cell-wrong", "fill-opacity")).toEqual([0.5]);
    for (const value of [">75<", ">25<", ">4<"]) expect(svg).toContain(value);
    expect(svg.match(/class="cell"/g)).toHaveLength(4);
  });

  it("stands rows without any image", () => {
    const svg = heatmap(
      {
        text,
        cells: [
          [0, 0],
          [0, 0],
        ],
        rowTitle: "is",
        columnTitle: "read",
        highlighted: null,
      },
      340,
    );
    expect(svg.toString()).not.toContain("NaN");
  });
});

describe("squares", () => {
  it("draws areas in proportion", () => {
    const one = { name: "base", size: 40_000, label: "40,000 bytes", style: "series-base" };
    const other = { name: "adapter", size: 400, label: "400 bytes", style: "series-on" };
    const svg = squares(text, [one, other], 340).toString();
    const large = attributes(svg, "rect", "series-base", "width")[0]!;
    const small = attributes(svg, "rect", "series-on", "width")[0]!;
    expect((large / small) ** 2).toBeCloseTo(100, 0);
    expect(
      squares(
        text,
        [
          { ...one, size: 0 },
          { ...other, size: 0 },
        ],
        340,
      ).toString(),
    ).not.toContain("NaN");
  });
});
