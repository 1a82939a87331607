// Lines across axes: where values lie, on plain, logarithmic and worded axes, and what is left out.
import { describe, expect, it } from "vitest";
import { checkMarkup } from "../testing/markup.ts";
import { type ParallelAxis, parallelChart } from "./parallel.ts";

const groups = [
  { name: "others", style: "series-e" },
  { name: "best", style: "series-b" },
];

function draw(axes: readonly ParallelAxis[], groupOf: readonly number[]): string {
  const text = { id: "chart", title: "A chart", description: "What it shows." };
  return parallelChart({ text, axes, groups, groupOf, format: String }, 500).toString();
}

/** The points of each line, in the order in which they are drawn. */
function lines(svg: string): number[][][] {
  const found = svg.matchAll(/<polyline class="line [^"]*"[^>]* points="([^"]*)"/g);
  return [...found].map(([, points]) =>
    points === "" ? [] : points!.split(" ").map((point) => point.split(",").map(Number)),
  );
}

describe("parallel coordinates", () => {
  it("lays the least at the bottom and the most at the top, over wide ranges by their logarithms", () => {
    const svg = draw(
      [
        { name: "learningRate", values: [1e-4, 1e-2, 1e-3] },
        { name: "r", values: [2, 6, 4] },
      ],
      [0, 0, 1],
    );
    expect(checkMarkup(svg)).toEqual([]);
    const [low, high, middle] = lines(svg) as [number[][], number[][], number[][]];
    for (const axis of [0, 1]) {
      expect(low[axis]![1]).toBeGreaterThan(high[axis]![1]!);
      expect(middle[axis]![1]).toBeCloseTo((low[axis]![1]! + high[axis]![1]!) / 2, 0);
    }
    expect(low.map(([x]) => x)).toEqual([34, 466]);
  });

  it("draws the last group on top, gives words places of their own, and leaves out what has no value", () => {
    const svg = draw(
      [
        { name: "optimizer", values: ["adamw", "lion", "<b>"] },
        { name: "value", values: [1, null, 3] },
      ],
      [1, 0, 0],
    );
    expect(checkMarkup(svg)).toEqual([]);
    expect([...svg.matchAll(/line (series-\w)/g)].map(([, style]) => style)).toEqual([
      "series-e",
      "series-e",
      "series-b",
    ]);
    const drawn = lines(svg);
    expect(drawn.map((points) => points.length)).toEqual([1, 2, 2]);
    expect(new Set(drawn.map(([first]) => first![1])).size).toBe(3);
    expect(svg).toContain("&lt;b&gt;");
  });
});
