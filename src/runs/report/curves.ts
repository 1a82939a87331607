// The curves of runs: what was measured by step, of one run or of several laid over each other.
import type { RunRecord } from "../run-record.ts";
import { type LineSeries, lineChart } from "./charts/lines.ts";
import { figure } from "./figure.ts";
import { count, short } from "./format.ts";
import { html, type Markup } from "./html.ts";
import { dataTable, numeric } from "./table.ts";

export interface Curve {
  readonly name: string;
  readonly points: LineSeries["points"];
}

export interface CurveFigure {
  /** Unique in the document. */
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly yTitle: string;
  readonly curves: readonly Curve[];
}

const styles = ["series-a", "series-b", "series-c", "series-d", "series-e", "series-f"];

/** More points than a line has pixels say nothing more. */
const mostPoints = 240;

/** A chart of curves with the numbers as a table; null where there is no point to show. */
export function curveFigure({ id, title, caption, yTitle, curves }: CurveFigure): Markup | null {
  const series = curves
    .map(({ name, points }, at) => ({ name, style: styles[at % styles.length]!, points: thinned(points) }))
    .filter(({ points }) => points.length > 0);
  if (series.length === 0) return null;
  return figure({
    id,
    caption: html`<strong>${title}</strong>${caption}`,
    wide: true,
    draw: (own, width) =>
      lineChart(
        {
          text: { id: own, title, description: series.map(describe).join(" ") },
          series,
          xTitle: "training step",
          yTitle,
          formatX: count,
          formatY: short,
        },
        width,
      ),
    table: pointsTable(title, series),
  });
}

/** The loss of the batches of a run. */
export function trainingLoss({ points }: RunRecord): Curve["points"] {
  return points.map(({ step, loss }) => ({ x: step, y: loss }));
}

/** A metric of the evaluations: `target/accuracy`. */
export function evaluated({ evaluations }: RunRecord, metric: string): Curve["points"] {
  return evaluations.flatMap(({ step, values }) =>
    values[metric] === undefined ? [] : [{ x: step, y: values[metric] }],
  );
}

/** What a run's evaluations measured, by name. */
export function metricsOf({ evaluations }: RunRecord): string[] {
  return [...new Set(evaluations.flatMap(({ values }) => Object.keys(values)))];
}

/** Means over equal numbers of steps, where there are too many to draw. */
export function thinned(points: Curve["points"], most: number = mostPoints): Curve["points"] {
  const finite = points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  if (finite.length <= most) return finite;
  const size = Math.ceil(finite.length / most);
  return Array.from({ length: Math.ceil(finite.length / size) }, (_, at) => {
    const part = finite.slice(at * size, (at + 1) * size);
    return { x: part.at(-1)!.x, y: part.reduce((sum, { y }) => sum + y, 0) / part.length };
  });
}

function describe({ name, points }: LineSeries): string {
  const [first, last] = [points[0]!, points.at(-1)!];
  return `${name}: from ${short(first.y)} at step ${count(first.x)} to ${short(last.y)} at step ${count(last.x)}.`;
}

/** Twelve rows say how a curve goes. */
function pointsTable(title: string, series: readonly LineSeries[]): Markup {
  const steps = [...new Set(series.flatMap(({ points }) => points.map(({ x }) => x)))].sort((a, b) => a - b);
  const stride = Math.max(1, Math.ceil(steps.length / 12));
  const chosen = steps.filter((_, at) => at % stride === 0 || at === steps.length - 1);
  const values = series.map(({ points }) => new Map(points.map(({ x, y }) => [x, y])));
  return dataTable({
    caption: `${title}, by step`,
    columns: [numeric("Step"), ...series.map(({ name }) => numeric(name))],
    rows: chosen.map((step) => [count(step), ...values.map((of) => (of.has(step) ? short(of.get(step)!, 4) : ""))]),
  });
}
