// Grouped bars that lie: one band for each group, one bar for each series in it, its value written at its end. Lying
// bars leave room for that value and read the same on a phone as on a desk.
import { html, type Markup } from "../html.ts";
import { type ChartText, chart, FONT, type LegendEntry, legend, SMALL } from "./frame.ts";
import { axisFromZero, linear, px, textWidth } from "./scale.ts";

export interface BarGroup {
  label: string;
  /** Short remarks below the label, such as "dead". */
  notes: readonly string[];
  /** Draws a band behind the group. */
  highlighted: boolean;
}

export interface BarSeries extends LegendEntry {
  /** One for each group; null leaves the bar out. */
  values: readonly (number | null)[];
}

export interface BarChart {
  text: ChartText;
  groups: readonly BarGroup[];
  series: readonly BarSeries[];
  /** What the numbers are. */
  axisTitle: string;
  format: (value: number) => string;
  /** Counts: ticks at whole numbers only. */
  whole: boolean;
  /** A single meaning needs no legend. */
  legend: boolean;
}

const BAR = 10;
const STEP = 12; // from one bar to the next
const GAP = 14; // between groups
const LINE = 13; // from one note to the next

/** Draws `data` `width` pixels wide. */
export function groupedBars(data: BarChart, width: number): Markup {
  const values = data.series.flatMap((series) => series.values.filter((value) => value !== null));
  const axis = axisFromZero(Math.max(0, ...values), width < 500 ? 4 : 6, data.whole);
  const left = 10 + Math.max(...data.groups.map(labelWidth));
  const right = 8 + Math.max(0, ...values.map((value) => textWidth(data.format(value), SMALL)));
  const x = linear(axis.end, left, width - right);
  const key = data.legend ? legend(data.series, 0, width) : { body: [], height: 0 };
  const top = key.height + 40;
  const heights = data.groups.map((group) =>
    Math.max(data.series.length * STEP + GAP, 20 + group.notes.length * LINE + 6),
  );
  const bottom = top + heights.reduce((sum, height) => sum + height, 0);
  let y = top;
  const bands = data.groups.map((group, index) => {
    const height = heights[index]!;
    const band = drawGroup(data, group, index, { x, y, height, width });
    y += height;
    return band;
  });
  const ticks = axis.ticks.map(
    (
      tick,
    ) => html`<line class="grid" x1="${px(x(tick))}" x2="${px(x(tick))}" y1="${px(top - 4)}" y2="${px(bottom)}"/><text class="quiet" x="${px(x(tick))}" y="${px(top - 9)}" font-size="${SMALL}" text-anchor="middle">${data.format(tick)}</text>
`,
  );
  const title = html`<text class="quiet" x="${px(left)}" y="${px(top - 25)}" font-size="${SMALL}">${data.axisTitle}</text>
`;
  const highlights = bands.map((band) => band.back);
  const bars = bands.map((band) => band.front);
  return chart(data.text, width, bottom + 4, [...highlights, ...key.body, title, ...ticks, ...bars]);
}

interface Band {
  x: (value: number) => number;
  y: number;
  height: number;
  width: number;
}

function drawGroup(data: BarChart, group: BarGroup, index: number, band: Band): { back: Markup; front: Markup } {
  const { x, y, height, width } = band;
  const bars = data.series.map((series, row) => {
    const value = series.values[index];
    if (value === undefined || value === null || !Number.isFinite(value)) return null;
    const top = y + (height - data.series.length * STEP) / 2 + row * STEP + 1;
    const length = Math.max(0, x(value) - x(0));
    return html`<rect class="${series.style}" x="${px(x(0))}" y="${px(top)}" width="${px(length)}" height="${BAR}"/><text x="${px(x(value) + 4)}" y="${px(top + 9)}" font-size="${SMALL}">${data.format(value)}</text>
`;
  });
  const block = 12 + group.notes.length * LINE;
  const labelY = y + (height - block) / 2 + 12;
  const notes = group.notes.map(
    (note, line) =>
      html`<text class="quiet" x="8" y="${px(labelY + (line + 1) * LINE)}" font-size="${SMALL}">${note}</text>`,
  );
  const back = html`<rect class="${group.highlighted ? "mark" : "plain"}" x="0" y="${px(y)}" width="${px(width)}" height="${px(height)}"/>`;
  const rule = html`<line class="rule" x1="0" x2="${px(width)}" y1="${px(y)}" y2="${px(y)}"/>`;
  const label = html`<text class="strong" x="8" y="${px(labelY)}" font-size="${FONT + 1}">${group.label}</text>${notes}`;
  return {
    back: group.highlighted ? back : html``,
    front: html`${rule}${label}
${bars}`,
  };
}

function labelWidth(group: BarGroup): number {
  return 8 + Math.max(textWidth(group.label, FONT + 2), ...group.notes.map((note) => textWidth(note, SMALL)));
}
