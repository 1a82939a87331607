// Parallel coordinates (Inselberg 1985): an axis for each option and one for what came of it, a line for each run across them.
// Numbers over more than a factor of 50 lie on a logarithmic axis, texts each on a place of its own.
import { html, type Markup } from "../html.ts";
import { type ChartText, chart, type LegendEntry, legend, SMALL } from "./frame.ts";
import { px, textWidth } from "./scale.ts";

export interface ParallelAxis {
  readonly name: string;
  /** One for each line; null where it has none. */
  readonly values: readonly (number | string | null)[];
}

export interface ParallelChart {
  readonly text: ChartText;
  readonly axes: readonly ParallelAxis[];
  /** What lines of a style are; in this order they are drawn, the last on top. */
  readonly groups: readonly LegendEntry[];
  /** Of each line, which group it is in. */
  readonly groupOf: readonly number[];
  readonly format: (value: number) => string;
}

const PLOT = 200;

/** Draws `data` `width` pixels wide. A line leaves out the axes that it has no value for. */
export function parallelChart(data: ParallelChart, width: number): Markup {
  const key = legend(data.groups, 0, width);
  const top = key.height + 34;
  const bottom = top + PLOT;
  const margin = 34;
  const step = data.axes.length > 1 ? (width - 2 * margin) / (data.axes.length - 1) : 0;
  const scales = data.axes.map(({ values }) => placer(values, top, bottom));
  const x = (axis: number): number => margin + axis * step;
  const lines = data.groups.flatMap((group, at) =>
    data.groupOf.flatMap((own, line) => {
      if (own !== at) return [];
      const points = data.axes.flatMap(({ values }, axis) => {
        const y = scales[axis]!.at(values[line] ?? null);
        return y === null ? [] : [`${px(x(axis))},${px(y)}`];
      });
      return [
        html`<polyline class="line ${group.style}" stroke-opacity="0.75" points="${points.join(" ")}"/>
`,
      ];
    }),
  );
  const axes = data.axes.map(({ name }, axis) =>
    drawAxis(name, scales[axis]!, x(axis), { top, bottom, step, width }, data),
  );
  return chart(data.text, width, bottom + 24, [...key.body, ...lines, ...axes]);
}

interface Placer {
  at(value: number | string | null): number | null;
  readonly ticks: readonly (number | string)[];
}

/** Where values lie between bottom (the least, the first) and top. */
function placer(values: ParallelAxis["values"], top: number, bottom: number): Placer {
  const numbers = values.filter((value) => typeof value === "number");
  const texts = [...new Set(values.filter((value) => value !== null))].map(String);
  if (numbers.length < values.filter((value) => value !== null).length) {
    const place = (value: string): number => bottom - ((texts.indexOf(value) + 0.5) / texts.length) * (bottom - top);
    return { at: (value) => (value === null ? null : place(String(value))), ticks: texts.slice(0, mostTicks) };
  }
  const least = numbers.reduce((low, value) => Math.min(low, value), Number.POSITIVE_INFINITY);
  const most = numbers.reduce((high, value) => Math.max(high, value), Number.NEGATIVE_INFINITY);
  const isLog = least > 0 && most / least > 50;
  const of = isLog ? Math.log : (value: number): number => value;
  const span = of(most) - of(least);
  const place = (value: number): number => bottom - (span > 0 ? (of(value) - of(least)) / span : 0.5) * (bottom - top);
  return {
    at: (value) => (typeof value === "number" ? place(value) : null),
    ticks: least === most ? [least] : [least, most],
  };
}

const mostTicks = 12;

interface Frame {
  readonly top: number;
  readonly bottom: number;
  readonly step: number;
  readonly width: number;
}

function drawAxis(name: string, { ticks, at }: Placer, x: number, frame: Frame, { format }: ParallelChart): Markup {
  const { top, bottom, step, width } = frame;
  const anchor = x < 40 ? "start" : x > width - 40 ? "end" : "middle";
  const at0 = anchor === "start" ? x - 20 : anchor === "end" ? x + 20 : x;
  const room = Math.max(40, step || width) - 6;
  const shown =
    textWidth(name, SMALL) <= room ? name : `${name.slice(0, Math.max(3, Math.floor(room / SMALL / 0.62) - 1))}…`;
  const labels = ticks.map((tick) => {
    const text = typeof tick === "number" ? format(tick) : tick.length > 12 ? `${tick.slice(0, 11)}…` : tick;
    const y = at(tick)!;
    // The least stands below its axis and the most above, so that lines do not run through them.
    const offset = typeof tick === "string" ? -6 : y > (top + bottom) / 2 ? 14 : -5;
    // Words stand among the lines, on a ground of their own.
    return html`<text class="quiet over" x="${px(typeof tick === "string" ? x + 4 : at0)}" y="${px(y + offset)}" font-size="${SMALL}" text-anchor="${typeof tick === "string" ? "start" : anchor}">${text}</text>
`;
  });
  return html`<line class="axis" x1="${px(x)}" x2="${px(x)}" y1="${px(top)}" y2="${px(bottom)}"/><text class="strong" x="${px(at0)}" y="${px(top - 20)}" font-size="${SMALL}" text-anchor="${anchor}">${shown}</text>
${labels}`;
}
