// Runs as text: a line for each, and what differs between several.
import { basename, dirname } from "node:path";
import type { RunRecord } from "./run-record.ts";
import { formatCount, formatDuration, formatTable } from "./table.ts";

/** A line for each run. */
export function formatRuns(runs: readonly RunRecord[]): string {
  const names = runNames(runs);
  const rows = runs.map((run, at) => [
    names[at]!,
    run.verb,
    dataText(run.settings.data),
    formatCount(run.steps),
    run.best === null ? "" : `${run.best.metric} ${shortNumber(run.best.value)}`,
    run.seconds === null ? "" : formatDuration(run.seconds),
    run.state,
  ]);
  return formatTable(
    [
      { header: "run" },
      { header: "verb" },
      { header: "data" },
      { header: "steps", align: "right" },
      { header: "best" },
      { header: "time", align: "right" },
      { header: "state" },
    ],
    rows,
  );
}

/** Differing options, one column for each run, then the last value of each metric. */
export function formatComparison(runs: readonly RunRecord[]): string {
  const differing = differingSettings(runs);
  const metrics = [
    ...new Set(runs.flatMap(({ evaluations }) => evaluations.flatMap(({ values }) => Object.keys(values)))),
  ];
  const cell = (value: unknown): string =>
    value === undefined || value === null ? "-" : typeof value === "string" ? value : JSON.stringify(value);
  const rows = [
    ...differing.map(({ name, values }) => [name, ...values.map(cell)]),
    ...(differing.length > 0 && metrics.length > 0 ? (["-"] as const) : []),
    ...metrics.map((metric) => [
      metric,
      ...runs.map(({ evaluations }) => {
        const last = evaluations.findLast(({ values }) => values[metric] !== undefined);
        return last === undefined ? "-" : shortNumber(last.values[metric]!);
      }),
    ]),
    ["steps", ...runs.map(({ steps }) => formatCount(steps))],
    ["time", ...runs.map(({ seconds }) => (seconds === null ? "-" : formatDuration(seconds)))],
    ["state", ...runs.map(({ state }) => state)],
  ];
  return formatTable([{ header: "" }, ...runNames(runs).map((header) => ({ header }))], rows);
}

/** Options that are not the same in all runs, each with its value in every run; undefined where a run has no such option. */
export function differingSettings(runs: readonly RunRecord[]): { name: string; values: readonly unknown[] }[] {
  const names = [...new Set(runs.flatMap(({ settings }) => Object.keys(settings)))].filter(
    (name) => !unimportant.has(name),
  );
  return names
    .map((name) => ({ name, values: runs.map(({ settings }) => settings[name]) }))
    .filter(({ values }) => new Set(values.map((value) => JSON.stringify(value ?? null))).size > 1);
}

/** Where a run writes, and whether it went on, say nothing of what it did. */
const unimportant: ReadonlySet<string> = new Set(["out", "resume", "tensorboard"]);

/** The folders' own names; with their parents' where several are called the same. */
export function runNames(runs: readonly RunRecord[]): string[] {
  const own = runs.map(({ path }) => basename(path));
  if (new Set(own).size === own.length) return own;
  return runs.map(({ path }, at) => `${basename(dirname(path))}/${own[at]!}`);
}

function dataText(data: unknown): string {
  const files = (Array.isArray(data) ? data : [data]).filter((file): file is string => typeof file === "string");
  return files.length <= 1 ? basename(files[0] ?? "") : `${basename(files[0]!)} + ${files.length - 1}`;
}

function shortNumber(value: number): string {
  return String(Number(value.toPrecision(4)));
}
