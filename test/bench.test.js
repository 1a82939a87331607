// The bench's harness and report with made-up contenders: order of turns, what is counted, statistics, options, table.

import { describe, expect, it } from "vitest";
import { blockSize, CASES, caseName, measure, roundOrder, selectCases, statistics } from "../bench/harness.js";
import { formatTable, parseOptions, restWarnings, withRatios, withReference } from "../bench/report.js";

const PLAN = { rounds: 4, blockMs: 10, restMs: 0 };

/** A contender whose counted steps all take `ms`, and whose first ten steps of a turn take ten times that. */
function fake(name, ms, turns, supports = () => true) {
  return {
    name,
    version: "1",
    supports,
    prepare: async () => ({ threads: 2 }),
    run: async (_, steps) => {
      turns.push(name);
      const { lead } = blockSize(ms, PLAN.blockMs);
      return Array.from({ length: steps }, (_, index) => (index < lead ? ms * 10 : ms));
    },
    close: async () => {},
  };
}

/** A case's result with the given medians. */
function result(name, medians) {
  const timings = Object.entries(medians).map(([contender, median]) => ({
    contender,
    settings: {},
    median,
    q1: median,
    q3: median,
    min: median,
    samples: 1,
    ratio: null,
  }));
  return { name, case: { kind: "full", batch: 10 }, timings };
}

describe("statistics", () => {
  it("interpolates quartiles and leaves its input alone", () => {
    const samples = [4, 1, 3, 2];
    expect(statistics(samples)).toEqual({ median: 2.5, q1: 1.75, q3: 3.25, min: 1, samples: 4 });
    expect(samples).toEqual([4, 1, 3, 2]);
    expect(statistics([7])).toEqual({ median: 7, q1: 7, q3: 7, min: 7, samples: 1 });
  });
});

describe("roundOrder", () => {
  it("begins with each in turn and reverses every other round", () => {
    const orders = [0, 1, 2, 3, 4, 5, 6].map((round) => roundOrder(["a", "b", "c"], round).join(""));
    expect(orders).toEqual(["abc", "cba", "bca", "acb", "cab", "bac", "abc"]);
    expect(roundOrder([], 3)).toEqual([]);
  });
});

describe("blockSize", () => {
  it("fills the block, within limits", () => {
    expect(blockSize(2, 200)).toEqual({ lead: 20, steps: 100 });
    expect(blockSize(500, 200)).toEqual({ lead: 2, steps: 5 });
    expect(blockSize(0.001, 200)).toEqual({ lead: 50, steps: 2000 });
  });
});

describe("cases", () => {
  it("are the thirteen of the bench", () => {
    expect(CASES.map(caseName)).toEqual([
      "lora b10 r1",
      "lora b10 r8",
      "lora b64 r1",
      "lora b64 r8",
      "lora b256 r1",
      "lora b256 r8",
      "full b10",
      "full b64",
      "full b256",
      "forward b1",
      "forward b10",
      "forward b64",
      "forward b256",
    ]);
  });

  it("are selected by words, b1 not meaning b10", () => {
    expect(selectCases("b1").map(caseName)).toEqual(["forward b1"]);
    expect(selectCases("lora r8 b64").map(caseName)).toEqual(["lora b64 r8"]);
    expect(selectCases("fu").map(caseName)).toEqual(["full b10", "full b64", "full b256"]);
    expect(selectCases("")).toHaveLength(CASES.length);
    expect(selectCases("lora b1")).toEqual([]);
  });
});

describe("measure", () => {
  it("takes turns, drops lead steps and asks only who supports the case", async () => {
    const turns = [];
    const contenders = [fake("a", 1, turns), fake("b", 2, turns), fake("c", 1, turns, (one) => one.kind === "lora")];
    const { cases, restBusy } = await measure(contenders, [{ kind: "full", batch: 10 }], PLAN);
    expect(turns.slice(0, 6)).toEqual(["a", "a", "a", "b", "b", "b"]); // getting ready: three runs each, not counted
    expect(turns.slice(6).join("")).toBe("abbabaab");
    const same = (ms, samples) => ({ median: ms, q1: ms, q3: ms, min: ms, samples });
    expect(cases).toEqual([
      {
        name: "full b10",
        case: { kind: "full", batch: 10 },
        timings: [
          { contender: "a", settings: { threads: 2 }, ratio: null, ...same(1, 40) },
          { contender: "b", settings: { threads: 2 }, ratio: null, ...same(2, 20) },
        ],
      },
    ]);
    expect(Object.keys(restBusy).sort()).toEqual(["a", "b"]);
  });
});

describe("report", () => {
  it("sets ratios to the baseline, none where it did not run", () => {
    const [both, alone] = withRatios([result("x", { lowrank: 2, peft: 5 }), result("y", { peft: 5 })], "lowrank");
    expect(both.timings.map((timing) => timing.ratio)).toEqual([1, 2.5]);
    expect(alone.timings.map((timing) => timing.ratio)).toEqual([null]);
  });

  it("scales a reference by the machines' products", () => {
    const reference = { version: "v", gflops: 200, ms: { peft: { x: 3 }, adam: { y: 4 } } };
    const [scaled] = withReference([result("x", { lowrank: 2 })], reference, 100);
    expect(scaled.timings.map(({ contender, median }) => [contender, median])).toEqual([
      ["lowrank", 2],
      ["peft", 6],
    ]);
  });

  it("makes a Markdown table", () => {
    const results = [result("full b10", { lowrank: 2, adam: 5 }), result("forward b1", { lowrank: 0.12345 })];
    expect(formatTable(withRatios(results, "lowrank")).split("\n")).toEqual([
      "| ms per step | lowrank | adam         |",
      "| ----------- | ------- | ------------ |",
      "| full b10    | 2.00    | 5.00 (2.50x) |",
      "| forward b1  | 0.123   |              |",
    ]);
  });

  it("warns of a busy machine", () => {
    expect(restWarnings({ a: 0.02, b: 0.5 })).toEqual([expect.stringMatching(/^warning: 50 % .* of b, /)]);
  });

  it("reads options and refuses wrong ones", () => {
    expect(parseOptions([])).toEqual({ filter: "", rounds: 7, quick: false, json: "bench/results.json" });
    expect(parseOptions(["--quick", "--filter", "full"])).toMatchObject({ rounds: 3, quick: true, filter: "full" });
    expect(parseOptions(["--quick", "--rounds", "9"]).rounds).toBe(9);
    expect(() => parseOptions(["--rounds", "0"])).toThrow("--rounds: expected a whole number of at least 1, got 0");
    expect(() => parseOptions(["--filter", "lora b7"])).toThrow('got "lora b7"; the cases are lora b10 r1, ');
    expect(() => parseOptions(["--nope"])).toThrow("--nope");
  });
});
