// The page of a run of `lowrank tune`, `pretrain` or `eval`, from what its folder holds, so that it can be made again at any time.
import { basename } from "node:path";
import type { RunRecord } from "../run-record.ts";
import { heatmap } from "./charts/heatmap.ts";
import { curveFigure, evaluated, metricsOf, trainingLoss } from "./curves.ts";
import { htmlDocument } from "./document.ts";
import { figure } from "./figure.ts";
import { count, duration, moment, short } from "./format.ts";
import { type Content, html, type Markup } from "./html.ts";
import { dataTable, numeric, text } from "./table.ts";

/**
 * The whole page as text, to be written to `report.html`. It is one file that asks the network for nothing.
 *
 * @example await run.write("report.html", renderRunReport(await readRun(run.path)));
 */
export function renderRunReport(run: RunRecord): string {
  const title = `lowrank ${run.verb}: ${modelName(run)}`;
  const body = html`<header>
<p class="kicker">lowrank ${run.verb}</p>
<h1>${modelName(run)}</h1>
${facts(run)}
${run.state !== "complete" && html`<div class="note"><p>${run.state === "stopped" ? "The run was stopped before its end." : "The run has not come to its end."} This page shows what there is.</p></div>`}
</header>
<main>
${run.verb === "eval" ? comparison(run) : outcome(run)}
${run.verb !== "eval" && curves(run)}
${confusions(run)}
${examples(run)}
${misread(run)}
${settings(run)}
</main>
<footer>Written by <code>lowrank ${run.verb}</code>. This page is one file and asks the network for nothing.</footer>
`;
  return htmlDocument(title, body);
}

export function modelName({ settings: { model, layers }, path }: RunRecord): string {
  if (typeof model === "string") return basename(model);
  return Array.isArray(layers) ? `layers ${layers.join(", ")}` : basename(path);
}

function facts(run: RunRecord): Markup {
  const entries: [string, Content][] = [
    ...(run.verb === "eval" ? [] : [["Steps", count(run.steps)] as [string, Content]]),
    ...(run.best === null ? [] : [[`Best ${run.best.metric}`, short(run.best.value, 4)] as [string, Content]]),
    ...(run.started === null
      ? []
      : [["Run", html`<time datetime="${run.started}">${moment(run.started)}</time>`] as [string, Content]]),
    ...(run.seconds === null ? [] : [["Took", duration(run.seconds)] as [string, Content]]),
  ];
  return html`<dl class="facts">${entries.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** What the evaluations found, first and last. */
function outcome(run: RunRecord): Markup | null {
  const metrics = metricsOf(run);
  if (metrics.length === 0) return null;
  const rows = metrics.map((metric) => {
    const points = evaluated(run, metric);
    const [first, last] = [points[0]!, points.at(-1)!];
    return [metric, `${short(first.y, 4)} (step ${count(first.x)})`, `${short(last.y, 4)} (step ${count(last.x)})`];
  });
  return html`<section id="outcome"><h2>What came of it</h2>
${metrics.some((metric) => metric.startsWith("retained/")) && html`<p><em>target</em> is what the run trained for, <em>retained</em> what the model should go on handling.</p>`}
${dataTable({ caption: "The first and the last evaluation", columns: [text("Metric"), numeric("First"), numeric("Last")], rows })}
</section>`;
}

/** Base and adapters of an evaluation, side by side. */
function comparison({ results }: RunRecord): Markup | null {
  if (results.length === 0) return null;
  const measures = [...new Set(results.flatMap(({ values }) => Object.keys(values)))];
  return html`<section id="outcome"><h2>What came of it</h2>
${dataTable({
  caption: "The base, and each adapter on it",
  columns: [text(""), ...measures.map((measure) => numeric(measure))],
  rows: results.map(({ name, values }) => [
    name,
    ...measures.map((measure) => (values[measure] === undefined ? "" : short(values[measure], 4))),
  ]),
})}</section>`;
}

function curves(run: RunRecord): Markup {
  const metrics = metricsOf(run);
  const sets = (metric: string): { name: string; points: ReturnType<typeof evaluated> }[] =>
    metrics
      .filter((name) => name.endsWith(`/${metric}`))
      .map((name) => ({ name: name.slice(0, -metric.length - 1), points: evaluated(run, name) }));
  return html`<section id="curves"><h2>How it learnt</h2>
${curveFigure({ id: "loss", title: "Loss", caption: "Of the batches (means, where there are many), and of the evaluations", yTitle: "loss (lower is better)", curves: [{ name: "training", points: trainingLoss(run) }, ...sets("loss")] })}
${curveFigure({ id: "accuracy", title: "Accuracy", caption: "Share of what is predicted right", yTitle: "accuracy (higher is better)", curves: sets("accuracy") })}
${curveFigure({ id: "rate", title: "Learning rate", caption: "By step", yTitle: "learning rate", curves: [{ name: "learning rate", points: run.points.map(({ step, lr }) => ({ x: step, y: lr })) }] })}
</section>`;
}

/** Matrices of more classes are drawn too small to read. */
const mostClasses = 30;

function confusions(run: RunRecord): Markup | null {
  const drawn = run.results.filter(({ confusion }) => confusion !== null && confusion.length <= mostClasses);
  if (drawn.length === 0) return null;
  const { labels } = run;
  const key = labels?.map((name, at) => `${at}: ${name}`).join(", ");
  return html`<section id="confusion"><h2>Which class was taken for which</h2>
<p>Each row is a class as it is, each column a class as it was read. <span class="swatch right"></span>Grey on the diagonal: read rightly. <span class="swatch wrong"></span>Coloured: read wrongly. The stronger the shade, the larger the share of the row. ${key !== undefined && html`Classes are ${key}.`}</p>
<div class="pair">
${drawn.map(({ name, confusion }, at) => matrix(`confusion-${at}`, name, confusion!, labels))}
</div></section>`;
}

function matrix(
  id: string,
  title: string,
  cells: readonly (readonly number[])[],
  labels: readonly string[] | null,
): Markup {
  const right = cells.reduce((sum, row, at) => sum + row[at]!, 0);
  const all = cells.reduce((sum, row) => sum + row.reduce((total, cell) => total + cell, 0), 0);
  const words = `${count(right)} of ${count(all)} read rightly.`;
  return figure({
    id,
    caption: html`<strong>${title}</strong>${words}`,
    wide: false,
    draw: (own, width) =>
      heatmap(
        {
          text: { id: own, title: `Confusion matrix: ${title}`, description: words },
          cells,
          rowTitle: "the class as it is",
          columnTitle: "the class as it was read",
          highlighted: null,
        },
        width,
      ),
    table: dataTable({
      caption: `${title}: rows are classes as they are, columns as they were read`,
      columns: [text("Is"), ...cells.map((_, at) => numeric(at))],
      rows: cells.map((row, at) => [className(labels, at), ...row.map(count)]),
    }),
  });
}

/** What the examples' columns say of: an evaluation's last adapter, or what was trained. */
function afterwards({ verb, results }: RunRecord): string {
  return (verb === "eval" && results.at(-1)?.name) || "After training";
}

function examples(run: RunRecord): Markup | null {
  const { changed, labels } = run;
  if (changed.length === 0) return null;
  const name = (at: number): string => className(labels, at);
  const verdict = ({ label, base, adapter }: RunRecord["changed"][number]): Markup =>
    adapter === label
      ? html`<span class="held">now right</span>`
      : base === label
        ? html`<span class="failed">now wrong</span>`
        : html`still wrong`;
  return html`<section id="examples"><h2>Examples that are read otherwise than before</h2>
${dataTable({
  caption: "The first of them, by their row in the data’s files, counted from 0",
  columns: [numeric("Example"), text("Is"), text("Base"), text(afterwards(run)), text("")],
  rows: changed.map((one) => [count(one.index), name(one.label), name(one.base), name(one.adapter), verdict(one)]),
})}</section>`;
}

/** What is still wrong at the end. */
function misread(run: RunRecord): Markup | null {
  const { results, labels } = run;
  const wrong = results.at(-1)?.wrong ?? [];
  if (wrong.length === 0) return null;
  return html`<section id="wrong"><h2>Examples that are read wrongly</h2>
${dataTable({
  caption: "The first of them, by their row in the data’s files, counted from 0",
  columns: [numeric("Example"), text("Is"), text(afterwards(run))],
  rows: wrong.map(({ index, label, read }) => [count(index), className(labels, label), className(labels, read)]),
})}</section>`;
}

function settings(run: RunRecord): Markup {
  const rows = Object.entries(run.settings)
    .filter(([, value]) => value !== null && JSON.stringify(value) !== "{}")
    .map(([name, value]) => [html`<code>${name}</code>`, html`<code>${settingText(value)}</code>`]);
  return html`<section id="settings"><h2>To check or repeat it</h2>
<p>The folder’s <code>config.json</code> holds all settings: <code>lowrank ${run.verb} --config config.json</code> takes it.</p>
${dataTable({ caption: "Settings", columns: [text("Option"), text("Value")], rows })}</section>`;
}

export function settingText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function className(labels: readonly string[] | null, at: number): string {
  return labels?.[at] ?? String(at);
}
