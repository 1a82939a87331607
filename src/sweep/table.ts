// A sweep as text: where it is, what is being trained, who is ahead.
import { formatCount, formatDuration, formatTable } from "../runs/table.ts";
import { metricOf, type Results, type Running, valueIn } from "./folder.ts";
import { readyJobs } from "./halving.ts";
import type { Outcome } from "./outcome.ts";
import { cellText, type Standing, standingName, standingsOf, varyingOptions } from "./standings.ts";
import { allJobs, halvingOf, type SweepPlan } from "./trials.ts";

export interface SweepState {
  readonly plan: SweepPlan;
  readonly results: Results;
  readonly running: readonly Running[];
}

/** One line: "13 of 60 trained, 1 failed, 2 in training". */
export function headline({ plan, results, running }: SweepState): string {
  const failed = [...results.values()].filter(({ state }) => state === "failed").length;
  const waiting = waitingJobs({ plan, results }) - running.length;
  const parts = [
    plan.rungs.length === 1
      ? `${formatCount(results.size)} of ${formatCount(plan.trials.length)} trained`
      : `${formatCount(results.size)} trainings done for ${formatCount(plan.trials.length)} trials`,
    failed === 0 ? "" : `${formatCount(failed)} failed`,
    running.length === 0 ? "" : `${formatCount(running.length)} in training`,
    waiting <= 0 ? "" : `${formatCount(waiting)} waiting`,
  ];
  return parts.filter((part) => part !== "").join(", ");
}

/** Jobs that could be trained now. */
export function waitingJobs({ plan, results }: Pick<SweepState, "plan" | "results">): number {
  return readyJobs(halvingOf(plan, metricOf(plan, results)), (job) => valueIn(results, plan, job)).length;
}

/** What is being trained, a line for each. */
export function runningLines({ plan, running }: SweepState): string[] {
  const jobs = allJobs(plan);
  return running.map(({ key, step, steps, by }) => {
    const job = jobs.get(key);
    const name = job === undefined ? key : standingName(plan.trials[job.trial]!);
    const end = job === undefined ? steps : (plan.rungs[job.rung] ?? steps);
    const share = end > 0 ? Math.min(1, step / end) : 0;
    const done = Math.round(share * barWidth);
    const bar = `${"#".repeat(done)}${".".repeat(barWidth - done)}`;
    return `${name}  ${bar}  ${formatCount(step)}/${formatCount(end)} steps  ${by}`;
  });
}

const barWidth = 20;

/** The best trials so far (of a fleet the rows that have a result), as a table. */
export function standingsTable(plan: SweepPlan, results: Results, most: number): string {
  const standings = standingsOf(plan, results).filter(({ state }) => state !== null);
  if (standings.length === 0) return "";
  const options = varyingOptions(plan).slice(0, 6);
  const metric = metricOf(plan, results) ?? "value";
  return formatTable(
    [
      { header: "trial" },
      ...options.map((header) => ({ header })),
      { header: metric, align: "right" },
      { header: "steps", align: "right" },
      { header: "time", align: "right" },
    ],
    standings.slice(0, most).map((one) => row(one, options)),
  );
}

function row(standing: Standing, options: readonly string[]): string[] {
  return [
    standingName(standing),
    ...options.map((name) => cellText(standing.values[name]).slice(0, 40)),
    standing.state === "failed" ? "failed" : valueText(standing.value),
    formatCount(standing.steps),
    formatDuration(standing.seconds),
  ];
}

/** A result as a line of a log. */
export function outcomeLine(plan: SweepPlan, results: Results, outcome: Outcome): string {
  const job = allJobs(plan).get(outcome.key);
  const name = job === undefined ? outcome.key : standingName(plan.trials[job.trial]!);
  const rung = plan.rungs.length > 1 ? ` to step ${formatCount(outcome.steps)}` : "";
  const what =
    outcome.state === "failed"
      ? `failed: ${outcome.error}`
      : outcome.value === null
        ? "trained"
        : `${outcome.metric} ${valueText(outcome.value)}`;
  return `${name}${rung}: ${what}, ${formatDuration(outcome.seconds)} (${headline({ plan, results, running: [] })})`;
}

function valueText(value: number | null): string {
  return value === null ? "" : String(Number(value.toPrecision(5)));
}
