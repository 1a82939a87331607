// How small the base can be made: file sizes against wrongly read test images.
import { type LineSeries, lineChart } from "../../../runs/report/charts/lines.ts";
import { figure } from "../../../runs/report/figure.ts";
import { count } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import type { CompressionPoint } from "../../result.ts";
import { accuracy, type HeadView, headName } from "../view.ts";

export function compression(view: HeadView): Markup | null {
  const points = view.summary.compression ?? [];
  const base = view.detail?.bytes.base;
  if (points.length === 0 || base === undefined) return null;
  const best = points.filter(({ bytes }) => bytes <= base / 4).sort((a, b) => b.accuracy - a.accuracy)[0];
  const told =
    best === undefined
      ? ""
      : ` At a quarter of the bytes or less, the best of them is ${nameOf(best)}: ${accuracy(view, best.accuracy)}, where the base has ${accuracy(view, view.summary.base.accuracy)}.`;
  return html`<h3>How small the base can be</h3>
<p>Without any training, the base is made smaller in two ways: its largest layer becomes two thin ones of some rank, and weights are stored in 8 or 4 bits. Weighed with data means that of all layers of a rank the one is taken that is nearest on some training images.${told}</p>
${figure({
  id: `${view.head}-compression`,
  caption: html`<strong>Size against mistakes</strong>Wrongly read test images by the size of the file; the base at the right end of each line`,
  wide: false,
  draw: (id, width) =>
    lineChart(
      {
        text: { id, title: `Size against mistakes, ${headName(view.head)}`, description: describe(view, points) },
        series: seriesOf(view, base, points),
        xTitle: "size of the file, MB",
        yTitle: "wrongly read test images, %",
        formatX: (value) => String(value),
        formatY: (value) => `${value.toFixed(1)} %`,
      },
      width,
    ),
  table: tableOf(view, base, points),
})}`;
}

function nameOf({ rank, weighedWithData, quantized }: CompressionPoint): string {
  const layer = rank === null ? [] : [`rank ${rank}${weighedWithData ? " on data" : ""}`];
  return [...layer, ...(quantized === null ? [] : [quantized])].join(", ");
}

function seriesOf(view: HeadView, base: number, points: readonly CompressionPoint[]): LineSeries[] {
  const whole = { bytes: base, accuracy: view.summary.base.accuracy };
  const line = (name: string, style: string, own: readonly CompressionPoint[]): LineSeries[] => {
    const drawn = [...own, whole].sort((a, b) => a.bytes - b.bytes);
    const points = drawn.map(({ bytes, accuracy: right }) => ({ x: bytes / 1e6, y: 100 * (1 - right) }));
    return own.length === 0 ? [] : [{ name, style, points }];
  };
  const inFloats = points.filter(({ quantized }) => quantized === null);
  return [
    ...line(
      "rank",
      "series-base",
      inFloats.filter(({ weighedWithData }) => !weighedWithData),
    ),
    ...line(
      "rank, on data",
      "series-on",
      inFloats.filter(({ weighedWithData }) => weighedWithData),
    ),
    ...line(
      "fewer bits, rank too",
      "series-replay",
      points.filter(({ quantized }) => quantized !== null),
    ),
  ];
}

function describe(view: HeadView, points: readonly CompressionPoint[]): string {
  return points.map((one) => `${nameOf(one)}: ${count(one.bytes)} bytes, ${accuracy(view, one.accuracy)}.`).join(" ");
}

function tableOf(view: HeadView, base: number, points: readonly CompressionPoint[]): Markup {
  return dataTable({
    caption: "Size and accuracy of the base and of what it was made into",
    columns: [text("Model"), numeric("Bytes"), numeric("Of the base"), numeric("Accuracy")],
    rows: [
      ["base", count(base), "100.0 %", accuracy(view, view.summary.base.accuracy)],
      ...points.map((one) => [
        nameOf(one),
        count(one.bytes),
        `${((100 * one.bytes) / base).toFixed(1)} %`,
        accuracy(view, one.accuracy),
      ]),
    ],
  });
}
