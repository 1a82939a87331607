// The loss curves: base training, and beside it the fine-tune with and without replay.

import { type LineSeries, lineChart } from "../../../runs/report/charts/lines.ts";
import { figure } from "../../../runs/report/figure.ts";
import { count, fixed, short } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric } from "../../../runs/report/table.ts";
import type { LossPoint } from "../../result.ts";
import { type HeadView, headName } from "../view.ts";

export function learning(view: HeadView): Markup | null {
  if (!view.detail) return null;
  const { base, tuned, replay } = view.detail.lossCurves;
  const { digit } = view.summary;
  const tuning: LineSeries[] = [{ name: `digit ${digit} alone`, style: "series-on", points: points(tuned) }];
  if (replay) tuning.push({ name: "with replay", style: "series-replay", points: points(replay) });
  return html`<h3>How it learnt</h3>
<p>The loss says how far the network’s answers are from the labels; 0 would be perfect, and a network that knows nothing has about 2.303, the natural logarithm of 10. The curves are running means over the training images. ${lossCaveat(view)}</p>
<div class="pair">
${curve(view, "base", "Training the base", [{ name: "base", style: "series-base", points: points(base) }])}
${curve(view, "tune", "Tuning the adapter", tuning)}
</div>`;
}

function lossCaveat(view: HeadView): string {
  const { enabled, replay, digit } = view.summary;
  const means = replay
    ? `Its mean loss was ${fixed(enabled.meanLoss, 3)}, and ${fixed(replay.meanLoss, 3)} with replay.`
    : `Its mean loss was ${fixed(enabled.meanLoss, 3)}.`;
  return `The fine-tune ran at ${short(enabled.stepsPerSecond)} steps a second. ${means} ${replay ? "Without replay" : "There"}, the loss is measured on images of ${digit} alone, so a low value is no feat.`;
}

function curve(view: HeadView, name: string, title: string, series: readonly LineSeries[]): Markup {
  const description = series.map(describe).join(" ");
  return figure({
    id: `${view.head}-loss-${name}`,
    caption: html`<strong>${title}</strong>Running mean of the loss, ${headName(view.head)}`,
    wide: false,
    draw: (id, width) =>
      lineChart(
        {
          text: { id, title: `${title}: loss by step, ${headName(view.head)}`, description },
          series,
          xTitle: "training step",
          yTitle: "loss (lower is better)",
          formatX: count,
          formatY: lossEnd,
        },
        width,
      ),
    table: lossTable(series),
  });
}

function describe(series: LineSeries): string {
  const first = series.points[0];
  const last = series.points.at(-1);
  if (!first || !last) return `${series.name}: no points.`;
  return `${series.name}: from ${short(first.y)} at step ${count(first.x)} to ${short(last.y)} at step ${count(last.x)}.`;
}

/** Three significant digits, zeros kept: ends that are close stay comparable. */
function lossEnd(loss: number): string {
  return loss >= 0.001 && loss < 1000 ? loss.toPrecision(3) : short(loss);
}

const TABLE_ROWS = 20;

/** A thinned table: at most about TABLE_ROWS steps, evenly spread, the last among them. */
function lossTable(series: readonly LineSeries[]): Markup {
  const longest = series.reduce((most, one) => (one.points.length > most.points.length ? one : most));
  const stride = Math.max(1, Math.ceil(longest.points.length / TABLE_ROWS));
  const kept = longest.points.filter((_, index) => index % stride === 0 || index === longest.points.length - 1);
  const at = (one: LineSeries, step: number): string => {
    const point = one.points.find((candidate) => candidate.x === step);
    return point ? fixed(point.y, 4) : "";
  };
  return dataTable({
    caption:
      stride > 1 ? `Loss at some of the ${count(longest.points.length)} points drawn` : "Loss at each point drawn",
    columns: [numeric("Step"), ...series.map((one) => numeric(one.name))],
    rows: kept.map((point) => [count(point.x), ...series.map((one) => at(one, point.x))]),
  });
}

function points(curve: readonly LossPoint[]): { x: number; y: number }[] {
  return curve.map(({ step, loss }) => ({ x: step, y: loss }));
}
