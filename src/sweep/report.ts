// The page of a sweep: the best trials, how their options and what came of them go together, and their curves.
import { parallelChart } from "../runs/report/charts/parallel.ts";
import { curveFigure, evaluated, trainingLoss } from "../runs/report/curves.ts";
import { htmlDocument } from "../runs/report/document.ts";
import { figure } from "../runs/report/figure.ts";
import { count, duration, many, short } from "../runs/report/format.ts";
import { type Content, html, type Markup } from "../runs/report/html.ts";
import { dataTable, numeric, text } from "../runs/report/table.ts";
import type { RunRecord } from "../runs/run-record.ts";
import { cellText, type Standing, standingName, varyingOptions } from "./standings.ts";
import type { SweepPlan } from "./trials.ts";

export interface SweepReport {
  readonly plan: SweepPlan;
  /** Best first; of a fleet in the order of its rows. */
  readonly standings: readonly Standing[];
  readonly metric: string | null;
  readonly seconds: number;
  /** Of the first trials, for their curves. */
  readonly runs: readonly { readonly name: string; readonly run: RunRecord }[];
}

/** Rows and lines beyond these say nothing more to a reader; summary.json has all. */
const mostRows = 200;
const mostLines = 300;

/** The whole page as text; one file that asks the network for nothing. */
export function renderSweepReport(report: SweepReport): string {
  const { plan, standings } = report;
  const title =
    plan.kind === "fleet"
      ? `A fleet of ${many(standings.length, "training")}`
      : `${names[plan.kind]} of ${many(standings.length, "trial")}`;
  const body = html`<header><p class="kicker">lowrank sweep</p><h1>${title}</h1>
${facts(report)}
</header>
<main>
${bestRuns(report)}
${coordinates(report)}
${curves(report)}
</main>
<footer>Written by <code>lowrank sweep</code>. This page is one file and asks the network for nothing.</footer>
`;
  return htmlDocument(title, body);
}

const names: Readonly<Record<SweepPlan["kind"], string>> = {
  grid: "A grid",
  random: "A random search",
  asha: "Successive halving",
  fleet: "A fleet",
};

function facts({ plan, standings, metric, seconds }: SweepReport): Markup {
  const [best] = standings;
  const failed = standings.filter(({ state }) => state === "failed").length;
  const isSearch = plan.kind !== "fleet" && metric !== null && typeof best?.value === "number";
  const entries: [string, Content][] = [
    ["Trials", count(standings.length)],
    ...(failed > 0 ? [["Failed", count(failed)] as [string, Content]] : []),
    ...(isSearch ? [[`Best ${metric}`, short(best.value!, 4)] as [string, Content]] : []),
    ["Training", duration(seconds)],
  ];
  return html`<dl class="facts">${entries.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function bestRuns({ plan, standings, metric }: SweepReport): Markup {
  const options = varyingOptions(plan);
  const rows = standings
    .slice(0, mostRows)
    .map((standing, at) => [
      html`<span class="whole">${plan.kind === "fleet" ? "" : `${at + 1}. `}${standingName(standing)}</span>`,
      ...options.map((name) => cellText(standing.values[name])),
      standing.value === null ? (standing.state === "failed" ? "failed" : "") : short(standing.value, 4),
      count(standing.steps),
      duration(standing.seconds),
    ]);
  const more = standings.length - rows.length;
  const errors = standings.filter(({ error }) => error !== null).slice(0, 20);
  return html`<section id="trials"><h2>${plan.kind === "fleet" ? "What came of each" : "The best trials"}</h2>
${plan.rungs.length > 1 && html`<p>Trials that went further stand before those that were ended earlier: rungs end after ${plan.rungs.map((steps) => count(steps ?? 0)).join(", ")} steps.</p>`}
${dataTable({ caption: `${many(rows.length, "trial")}${more > 0 ? ` of ${count(standings.length)}; summary.json has all` : ""}`, columns: [text("Trial"), ...options.map((name) => text(name)), numeric(metric ?? "value"), numeric("Steps"), numeric("Time")], rows })}
${errors.length > 0 && html`<h3>Why trials failed</h3><ul>${errors.map((one) => html`<li><strong>${standingName(one)}</strong>: ${one.error}</li>`)}</ul>`}
</section>`;
}

function coordinates({ plan, standings, metric }: SweepReport): Markup | null {
  const drawn = standings.filter(({ value }) => value !== null).slice(0, mostLines);
  const options = varyingOptions(plan).slice(0, 7);
  if (drawn.length < 2 || options.length < 1 || metric === null) return null;
  const axes = [
    ...options.map((name) => ({ name, values: drawn.map(({ values }) => axisValue(values[name])) })),
    { name: metric, values: drawn.map(({ value }) => value) },
  ];
  const tenth = Math.max(1, Math.ceil(drawn.length / 10));
  const half = Math.ceil(drawn.length / 2);
  const groups = [
    { name: "the lower half", style: "series-e" },
    { name: "the upper half", style: "series-a" },
    { name: "the best tenth", style: "series-b" },
  ];
  const groupOf = drawn.map((_, at) => (at < tenth ? 2 : at < half ? 1 : 0));
  const table = dataTable({
    caption: "The values of each line, best first",
    columns: [text("Trial"), ...options.map((name) => text(name)), numeric(metric)],
    rows: drawn
      .slice(0, 40)
      .map((one) => [standingName(one), ...options.map((name) => cellText(one.values[name])), short(one.value!, 4)]),
  });
  return html`<section id="coordinates"><h2>Options and what came of them</h2>
${figure({
  id: "parallel",
  caption: html`<strong>Parallel coordinates</strong>Each line is a trial, across the values of its options to its ${metric}`,
  wide: true,
  draw: (id, width) =>
    parallelChart(
      {
        text: {
          id,
          title: "Parallel coordinates",
          description: `${many(drawn.length, "trial")} across ${axes.map(({ name }) => name).join(", ")}.`,
        },
        axes,
        groups,
        groupOf,
        format: (value) => short(value),
      },
      width,
    ),
  table,
})}
</section>`;
}

function axisValue(value: unknown): number | string | null {
  return typeof value === "number" ? value : value === undefined || value === null ? null : cellText(value);
}

function curves({ runs, metric }: SweepReport): Markup | null {
  if (runs.length === 0) return null;
  return html`<section id="curves"><h2>How they learnt</h2>
${curveFigure({ id: "loss", title: "Training loss", caption: `Of the batches, for the first ${runs.length} above`, yTitle: "loss (lower is better)", curves: runs.map(({ run, name }) => ({ name, points: trainingLoss(run) })) })}
${metric !== null && curveFigure({ id: "metric", title: metric, caption: "Of the evaluations", yTitle: metric, curves: runs.map(({ run, name }) => ({ name, points: evaluated(run, metric) })) })}
</section>`;
}
