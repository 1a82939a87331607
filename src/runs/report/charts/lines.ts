// Lines over a number axis, from zero on both axes, with the last value written at each line's end.
import { html, type Markup } from "../html.ts";
import { type ChartText, chart, type LegendEntry, legend, SMALL } from "./frame.ts";
import { axisFromZero, linear, px, textWidth } from "./scale.ts";

export interface LineSeries extends LegendEntry {
  points: readonly { x: number; y: number }[];
}

export interface LineChart {
  text: ChartText;
  series: readonly LineSeries[];
  xTitle: string;
  yTitle: string;
  formatX: (value: number) => string;
  /** For the values at the lines' ends. */
  formatY: (value: number) => string;
}

const PLOT = 170; // height between the axes' ends
const LABEL = 14; // closest that two end labels may come

/** Draws `data` `width` pixels wide. Points that are no finite number are left out, and the line with them. */
export function lineChart(data: LineChart, width: number): Markup {
  const series = data.series.map((one) => ({ ...one, points: one.points.filter(isFinitePoint) }));
  const all = series.flatMap((one) => one.points);
  const xAxis = axisFromZero(largest(all.map((point) => point.x)), 4, true);
  const yAxis = axisFromZero(largest(all.map((point) => point.y)), 5);
  const key = legend(data.series, 0, width);
  const top = key.height + 30;
  const bottom = top + PLOT;
  const left = 8 + Math.max(...yAxis.ticks.map((tick) => textWidth(String(tick), SMALL)));
  const ends = series.flatMap((one) => one.points.slice(-1));
  const endWidth = Math.max(12, ...ends.map((end) => 8 + 1.1 * textWidth(data.formatY(end.y), SMALL)));
  const x = linear(xAxis.end, left, width - endWidth);
  const y = linear(yAxis.end, bottom, top);
  const rows = yAxis.ticks.map(
    (
      tick,
    ) => html`<line class="${tick === 0 ? "axis" : "grid"}" x1="${px(left)}" x2="${px(x(xAxis.end))}" y1="${px(y(tick))}" y2="${px(y(tick))}"/><text class="quiet" x="${px(left - 5)}" y="${px(y(tick) + 4)}" font-size="${SMALL}" text-anchor="end">${tick}</text>
`,
  );
  const columns = xAxis.ticks.map(
    (
      tick,
    ) => html`<line class="axis" x1="${px(x(tick))}" x2="${px(x(tick))}" y1="${px(bottom)}" y2="${px(bottom + 4)}"/><text class="quiet" x="${px(x(tick))}" y="${px(bottom + 17)}" font-size="${SMALL}" text-anchor="middle">${data.formatX(tick)}</text>
`,
  );
  const titles = html`<text class="quiet" x="0" y="${px(top - 12)}" font-size="${SMALL}">${data.yTitle}</text><text class="quiet" x="${px((left + x(xAxis.end)) / 2)}" y="${px(bottom + 34)}" font-size="${SMALL}" text-anchor="middle">${data.xTitle}</text>
`;
  const lines = series.map((one) => drawLine(one, x, y));
  const labels = endLabels(ends, x, y, { top, bottom, width: endWidth }, data.formatY);
  return chart(data.text, width, bottom + 40, [...key.body, titles, ...rows, ...columns, ...lines, ...labels]);
}

type Point = { x: number; y: number };
type Scale = (value: number) => number;

function isFinitePoint(point: Point): boolean {
  return Number.isFinite(point.x) && Number.isFinite(point.y);
}

function largest(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, value), 0);
}

function drawLine(series: LineSeries, x: Scale, y: Scale): Markup {
  const points = series.points.map((point) => `${px(x(point.x))},${px(y(point.y))}`);
  const end = series.points.at(-1);
  if (end === undefined) return html``;
  return html`<polyline class="line ${series.style}" points="${points.join(" ")}"/><circle class="${series.style}" cx="${px(x(end.x))}" cy="${px(y(end.y))}" r="3"/>
`;
}

/** The last values, moved apart where the lines end close together, and kept between the plot's edges. */
function endLabels(
  ends: readonly Point[],
  x: Scale,
  y: Scale,
  room: { top: number; bottom: number; width: number },
  format: (y: number) => string,
): Markup[] {
  const placed = ends.map((end) => ({ end, left: x(end.x) + 6, at: y(end.y) })).sort((one, other) => other.at - one.at);
  const isBeside = (one: { left: number }, other: { left: number }): boolean =>
    Math.abs(one.left - other.left) < room.width;
  // Upwards from the axis, which stays free, then down again from the top where there were too many.
  for (const [index, label] of placed.entries()) {
    const below = placed.slice(0, index).filter((other) => isBeside(label, other));
    label.at = Math.min(label.at, room.bottom - 4, ...below.map(({ at }) => at - LABEL));
  }
  for (const [index, label] of [...placed.entries()].reverse()) {
    const above = placed.slice(index + 1).filter((other) => isBeside(label, other));
    label.at = Math.max(label.at, room.top, ...above.map(({ at }) => at + LABEL));
  }
  return placed.map(
    ({
      end,
      left,
      at,
    }) => html`<text class="strong" x="${px(left)}" y="${px(at + 4)}" font-size="${SMALL}">${format(end.y)}</text>
`,
  );
}
