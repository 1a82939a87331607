// Where trials stand, and the page and the table that say so.
import { describe, expect, it } from "vitest";
import { checkMarkup } from "../runs/report/testing/markup.ts";
import { resolveOptions } from "../tune/settings.ts";
import type { Outcome } from "./outcome.ts";
import { renderSweepReport } from "./report.ts";
import { standingsOf } from "./standings.ts";
import { headline, outcomeLine, runningLines, standingsTable } from "./table.ts";
import type { SweepPlan } from "./trials.ts";

const options = resolveOptions("tune", { model: "base.onnx", data: ["train.csv"], steps: "90" });

const plan: SweepPlan = {
  version: 1,
  id: "s".repeat(20),
  kind: "asha",
  metric: null,
  mode: null,
  eta: 2,
  rungs: [10, 90],
  retries: 2,
  priority: 0,
  trials: [1, 2, 4, 8].map((r, at) => ({ id: `id${at}`, names: [`trial-${at + 1}`], values: { r }, options })),
  inputs: {},
};

function outcome(key: string, value: number | null, error: string | null = null): Outcome {
  return {
    key,
    state: error === null ? "complete" : "failed",
    metric: error === null ? "target/accuracy" : null,
    value,
    bestStep: 10,
    values: {},
    steps: Number(key.split("-")[1]),
    seconds: 1.5,
    attempts: 1,
    error,
  };
}

const results = new Map(
  [
    outcome("id0-10", 0.5),
    outcome("id1-10", 0.9),
    outcome("id2-10", null, "the loss is NaN <script>"),
    outcome("id3-10", 0.7),
    outcome("id1-90", 0.6),
  ].map((one) => [one.key, one]),
);

describe("standings", () => {
  it("put whoever went further first, then the better value, and failures last", () => {
    const standings = standingsOf(plan, results);
    expect(standings.map(({ names, value, steps, state }) => [names[0], value, steps, state])).toEqual([
      ["trial-2", 0.6, 90, "complete"],
      ["trial-4", 0.7, 10, "complete"],
      ["trial-1", 0.5, 10, "complete"],
      ["trial-3", null, 10, "failed"],
    ]);
    expect(standings[0]!.seconds).toBe(3);
  });

  it("make a page that is well formed, whatever errors hold", () => {
    const page = renderSweepReport({
      plan,
      standings: standingsOf(plan, results),
      metric: "target/accuracy",
      seconds: 7.5,
      runs: [],
    });
    expect(checkMarkup(page)).toEqual([]);
    expect(page).toContain("Successive halving of 4 trials");
    expect(page).toContain("the loss is NaN &lt;script&gt;");
    expect(page.match(/<polyline/g)).toHaveLength(2 * 3); // three trials with a value, for wide screens and narrow ones
  });

  it("make a table and lines", () => {
    const state = { plan, results, running: [{ key: "id3-90", step: 45, steps: 90, by: "a:1" }] };
    expect(headline(state)).toBe("5 trainings done for 4 trials, 1 failed, 1 in training");
    expect(runningLines(state)).toEqual(["trial-4  ##########..........  45/90 steps  a:1"]);
    expect(standingsTable(plan, results, 2).split("\n").slice(2)).toEqual([
      "trial-2  2              0.6     90  3.0 s",
      "trial-4  8              0.7     10  1.5 s",
    ]);
    expect(outcomeLine(plan, results, results.get("id1-90")!)).toBe(
      "trial-2 to step 90: target/accuracy 0.6, 1.5 s (5 trainings done for 4 trials, 1 failed, 1 waiting)",
    );
  });
});
