import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { renderComparison } from "./report/compare-report.ts";
import { thinned } from "./report/curves.ts";
import { renderRunReport } from "./report/run-report.ts";
import { checkMarkup } from "./report/testing/markup.ts";
import { findRuns, readRun } from "./run-record.ts";
import { differingSettings, formatComparison, formatRuns } from "./run-table.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-runs-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const base = { model: "models/net.onnx", data: ["a/train.csv"], r: 8, out: "runs/x", rankPattern: {} };

const evaluation = {
  results: [
    {
      name: "base",
      confusion: [
        [3, 1],
        [2, 2],
      ],
    },
    {
      name: "adapter",
      confusion: [
        [4, 0],
        [1, 3],
      ],
      wrong: [{ index: 6, label: 0, read: 1 }, { index: "x" }],
    },
  ],
  changes: [
    {
      name: "adapter",
      examples: [
        { index: 4, label: 1, base: 0, adapter: 1 },
        { index: 6, label: 0, base: 0, adapter: 1 },
      ],
    },
  ],
};

function writeRun(name: string, settings: object, files: Record<string, unknown> = {}): string {
  const path = join(folder, name);
  mkdirSync(path);
  const metrics = [
    { kind: "evaluation", phase: "tune", step: 0, epoch: 0, "target/loss": 1.5, "target/accuracy": 0.25, best: true },
    { kind: "step", phase: "tune", step: 1, loss: 1.4, lr: 0.001, stepsPerSecond: 10 },
    { kind: "step", phase: "tune", step: 2, loss: null, lr: 0.0005, stepsPerSecond: 10 },
    { kind: "evaluation", phase: "tune", step: 2, epoch: 1, "target/loss": 0.5, "target/accuracy": 0.75, best: true },
  ];
  writeFileSync(join(path, ".lowrank-run"), "lowrank run 1\n");
  writeFileSync(join(path, "config.json"), JSON.stringify(settings));
  writeFileSync(join(path, "env.json"), JSON.stringify({ verb: "tune" }));
  writeFileSync(join(path, "metrics.jsonl"), `${metrics.map((line) => JSON.stringify(line)).join("\n")}\n{"kind":"st`);
  for (const [file, value] of Object.entries(files)) writeFileSync(join(path, file), JSON.stringify(value));
  return path;
}

const summary = (settings: object): object => ({
  version: 1,
  verb: "tune",
  complete: true,
  started: "2026-11-24T01:00:00.000Z",
  data: { labels: ["<ham>", "spam"] },
  steps: 2,
  best: { metric: "target/accuracy", value: 0.75, step: 2 },
  settings,
  seconds: 12.34,
});

describe("readRun", () => {
  it("reads a complete run, and one that has no summary yet", async () => {
    const one = await readRun(writeRun("one", base, { "summary.json": summary(base), "evaluation.json": evaluation }));
    expect([one.verb, one.state, one.steps, one.seconds]).toEqual(["tune", "complete", 2, 12.34]);
    expect(one.best).toEqual({ metric: "target/accuracy", value: 0.75 });
    expect(one.labels).toEqual(["<ham>", "spam"]);
    expect(one.points.map(({ step, loss, lr }) => [step, loss, lr])).toEqual([
      [1, 1.4, 0.001],
      [2, Number.NaN, 0.0005],
    ]);
    expect(one.evaluations.map(({ step, values }) => [step, values["target/loss"]])).toEqual([
      [0, 1.5],
      [2, 0.5],
    ]);
    expect(one.results[1]!.confusion).toEqual([
      [4, 0],
      [1, 3],
    ]);
    const two = await readRun(writeRun("two", base));
    expect([two.verb, two.state, two.steps, two.best]).toEqual(["tune", "unfinished", 2, null]);
    expect(two.settings.r).toBe(8);
  });

  it("takes the summary of an evaluation for what it found", async () => {
    const path = writeRun("measured", base, { "summary.json": { verb: "eval", seconds: 1, ...evaluation } });
    const { verb, results, changed } = await readRun(path);
    expect([verb, results.map(({ name }) => name), changed.length]).toEqual(["eval", ["base", "adapter"], 2]);
    const measured = { ...results[0]!, values: { accuracy: 0.625 } };
    const page = renderRunReport({ ...(await readRun(path)), results: [measured] });
    expect(checkMarkup(page)).toEqual([]);
    expect(page).toContain('<th scope="row">base</th><td class="number">0.625</td>');
    expect(page).not.toContain("How it learnt");
  });

  it("takes nothing hostile for a number, and refuses folders of other kinds", async () => {
    const bad = {
      verb: 7,
      seconds: "x",
      best: { metric: [], value: 1 },
      data: { labels: [1] },
      steps: {},
      settings: [],
    };
    const confusion = {
      results: [{ name: "base", confusion: [[1, 2], [3]] }, 4],
      changes: [{ examples: [{ index: 1 }] }],
    };
    const run = await readRun(writeRun("bad", base, { "summary.json": bad, "evaluation.json": confusion }));
    expect([run.verb, run.seconds, run.best, run.labels, run.steps]).toEqual(["tune", null, null, null, 2]);
    expect([run.results, run.changed]).toEqual([[{ name: "base", values: {}, confusion: null, wrong: [] }], []]);
    expect(checkMarkup(renderRunReport(run))).toEqual([]);
    await expect(readRun(folder)).rejects.toThrow(/expected the folder of a run/);
    writeFileSync(join(folder, "bad", "summary.json"), "{");
    await expect(readRun(join(folder, "bad"))).rejects.toThrow(/summary\.json: expected JSON/);
  });

  it("finds runs in a folder, or the folder itself", async () => {
    const path = writeRun("b", base);
    writeRun("a", base);
    mkdirSync(join(folder, "other"));
    expect(await findRuns(folder)).toEqual([join(folder, "a"), path]);
    expect(await findRuns(path)).toEqual([path]);
    await expect(findRuns(join(folder, "none"))).rejects.toThrow(/none/);
  });
});

describe("tables and pages", () => {
  it("lists runs and what differs between them", async () => {
    const other = { ...base, r: 16, out: "runs/y", seed: 3 };
    const runs = [
      await readRun(writeRun("one", base, { "summary.json": summary(base) })),
      await readRun(writeRun("two", other)),
    ];
    expect(formatRuns(runs).split("\n")).toEqual([
      "run  verb  data       steps  best                    time  state",
      "---------------------------------------------------------------------",
      "one  tune  train.csv      2  target/accuracy 0.75  12.3 s  complete",
      "two  tune  train.csv      2                                unfinished",
    ]);
    expect(differingSettings(runs)).toEqual([
      { name: "r", values: [8, 16] },
      { name: "seed", values: [undefined, 3] },
    ]);
    const table = formatComparison(runs);
    expect(table).toMatch(/^r +8 +16$/m);
    expect(table).toMatch(/^target\/accuracy +0\.75 +0\.75$/m);
    const page = renderComparison(runs);
    expect(checkMarkup(page)).toEqual([]);
    for (const word of ["<code>16</code>", "2 runs compared", "Training loss", "target/accuracy"])
      expect(page).toContain(word);
    expect(page.match(/<polyline class="line series-b"/g)!.length).toBeGreaterThanOrEqual(3);
  });

  it("tells a run on a page that is well formed, whole and escapes names", async () => {
    const run = await readRun(writeRun("one", base, { "summary.json": summary(base), "evaluation.json": evaluation }));
    const page = renderRunReport(run);
    expect(checkMarkup(page)).toEqual([]);
    for (const word of [
      "Learning rate",
      "Accuracy",
      "7 of 8 read rightly",
      "Examples that are read wrongly",
      "now right",
      "now wrong",
      "&lt;ham&gt;",
    ]) {
      expect(page).toContain(word);
    }
    expect(page).not.toMatch(/<ham>|https?:\/\/|<script|NaN/);
    const unfinished = renderRunReport(await readRun(writeRun("two", base)));
    expect(checkMarkup(unfinished)).toEqual([]);
    expect(unfinished).toContain("has not come to its end");
    expect(unfinished).not.toContain("taken for which");
  });

  it("thins curves to means of equal parts", () => {
    const points = Array.from({ length: 10 }, (_, at) => ({ x: at + 1, y: at }));
    expect(thinned(points, 5)).toEqual([0.5, 2.5, 4.5, 6.5, 8.5].map((y, at) => ({ x: 2 * at + 2, y })));
    expect(
      thinned([
        { x: 1, y: Number.NaN },
        { x: 2, y: 1 },
      ]),
    ).toEqual([{ x: 2, y: 1 }]);
  });
});
