// Several runs on one page: what differs between their settings, what came of each, and their curves over each other.
import type { RunRecord } from "../run-record.ts";
import { differingSettings, runNames } from "../run-table.ts";
import { type Curve, curveFigure, evaluated, metricsOf, trainingLoss } from "./curves.ts";
import { htmlDocument } from "./document.ts";
import { count, duration, short } from "./format.ts";
import { html, type Markup } from "./html.ts";
import { settingText } from "./run-report.ts";
import { dataTable, numeric, text } from "./table.ts";

/** The whole page as text; one file that asks the network for nothing. */
export function renderComparison(runs: readonly RunRecord[]): string {
  const names = runNames(runs);
  const title = `${runs.length} runs compared`;
  const metrics = [...new Set(runs.flatMap(metricsOf))];
  const over = (pick: (run: RunRecord) => Curve["points"]): Curve[] =>
    runs.map((run, at) => ({ name: names[at]!, points: pick(run) }));
  const body = html`<header><p class="kicker">lowrank runs compare</p><h1>${title}</h1></header>
<main>
<section id="outcome"><h2>What came of each</h2>
${outcome(runs, names, metrics)}
</section>
<section id="settings"><h2>What differs</h2>
${settings(runs, names)}
</section>
<section id="curves"><h2>Curves</h2>
${curveFigure({ id: "loss", title: "Training loss", caption: "Of the batches (means, where there are many)", yTitle: "loss (lower is better)", curves: over(trainingLoss) })}
${metrics.map((metric, at) => curveFigure({ id: `metric-${at}`, title: metric, caption: "Of the evaluations", yTitle: metric, curves: over((run) => evaluated(run, metric)) }))}
${curveFigure({ id: "rate", title: "Learning rate", caption: "By step", yTitle: "learning rate", curves: over(({ points }) => points.map(({ step, lr }) => ({ x: step, y: lr }))) })}
</section>
</main>
<footer>Written by <code>lowrank runs compare</code>. This page is one file and asks the network for nothing.</footer>
`;
  return htmlDocument(title, body);
}

function outcome(runs: readonly RunRecord[], names: readonly string[], metrics: readonly string[]): Markup {
  return dataTable({
    caption: "The last evaluation of each run",
    columns: [
      text("Run"),
      text("State"),
      numeric("Steps"),
      numeric("Time"),
      ...metrics.map((metric) => numeric(metric)),
    ],
    rows: runs.map((run, at) => [
      names[at]!,
      run.state,
      count(run.steps),
      run.seconds === null ? "" : duration(run.seconds),
      ...metrics.map((metric) => {
        const last = evaluated(run, metric).at(-1);
        return last === undefined ? "" : short(last.y, 4);
      }),
    ]),
  });
}

function settings(runs: readonly RunRecord[], names: readonly string[]): Markup {
  const differing = differingSettings(runs);
  if (differing.length === 0) return html`<p>Their settings are the same.</p>`;
  return dataTable({
    caption: "Settings that are not the same in all runs",
    columns: [text("Option"), ...names.map((name) => text(name))],
    rows: differing.map(({ name, values }) => [
      html`<code>${name}</code>`,
      ...values.map((value) => html`<code>${value === undefined || value === null ? "" : settingText(value)}</code>`),
    ]),
  });
}
