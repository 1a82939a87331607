// Wrong answers digit by digit, as one chart, and what the nine digits that were not tuned paid.
import { type BarSeries, groupedBars } from "../../../runs/report/charts/bars.ts";
import { figure } from "../../../runs/report/figure.ts";
import { count, many, moved, share, signed } from "../../../runs/report/format.ts";
import { type Content, html, type Markup } from "../../../runs/report/html.ts";
import { type Column, dataTable, numeric, text } from "../../../runs/report/table.ts";
import { accuracy, DIGITS, type HeadView, headName, imagesOf, isDead, sum, wrongOnOthers } from "../view.ts";

export function wrongCounts(view: HeadView): Markup {
  return html`<h3>Wrong answers, digit by digit</h3>
${chart(view)}
<h3>What the nine other digits paid</h3>
<p>All images that the adapter was tuned on carry the same label. “Always say ${view.summary.digit}” fits such a set perfectly, and nothing in it asks the network to keep reading other digits. So a gain on ${view.summary.digit} counts only beside its cost.</p>
<p>${price(view)}</p>
${remedy(view)}
${costTable(view)}`;
}

function chart(view: HeadView): Markup {
  const { summary } = view;
  const series = barSeries(view);
  const description = `For each digit, ${series.map((one) => one.name).join(", ")}. The tuned digit is ${summary.digit}. ${series
    .map((one) => `${one.name}: ${one.values.map((value, digit) => `${digit}: ${count(value ?? 0)}`).join(", ")}.`)
    .join(" ")}`;
  const chartOf = (id: string, width: number): Markup =>
    groupedBars(
      {
        text: { id, title: `Wrongly read test images of each digit, ${headName(view.head)}`, description },
        groups: DIGITS.map((digit) => ({
          label: String(digit),
          notes: [digit === summary.digit && "tuned", isDead(view, digit) && "dead unit"].filter(
            (note) => note !== false,
          ),
          highlighted: digit === summary.digit,
        })),
        series,
        axisTitle: "wrongly read test images (fewer is better)",
        format: count,
        whole: true,
        legend: true,
      },
      width,
    );
  return figure({
    id: `${view.head}-wrong`,
    caption: html`<strong>Before, after, and with the adapter off again</strong>Test images of each digit that are read wrongly, ${headName(view.head)}. The shaded digit, ${summary.digit}, was tuned.`,
    wide: true,
    draw: chartOf,
    table: dataTable({
      caption: "Wrongly read test images of each digit",
      columns: [text("Digit"), ...series.map((one) => numeric(one.name))],
      rows: DIGITS.map((digit) => [digit, ...series.map((one) => count(one.values[digit] ?? 0))]),
      total: ["All", ...series.map((one) => count(sum(one.values.map((value) => value ?? 0))))],
      highlighted: summary.digit,
    }),
  });
}

function barSeries(view: HeadView): BarSeries[] {
  const { base, enabled, disabled, replay } = view.summary;
  const series: BarSeries[] = [
    { name: "base", style: "series-base", values: base.wrong },
    { name: "adapter on", style: "series-on", values: enabled.wrong },
    { name: "adapter off", style: "series-off", values: disabled.wrong },
  ];
  if (replay) series.push({ name: "adapter on, with replay", style: "series-replay", values: replay.wrong });
  return series;
}

function price(view: HeadView): string {
  const { base, enabled, digit } = view.summary;
  const before = wrongOnOthers(base.wrong, digit);
  const after = wrongOnOthers(enabled.wrong, digit);
  const own = (enabled.wrong[digit] ?? 0) - (base.wrong[digit] ?? 0);
  const gain = `On digit ${digit}, wrong answers ${moved(base.wrong[digit] ?? 0, enabled.wrong[digit] ?? 0)}${byHowMany(own)}.`;
  const cost = `On the nine others together, they ${moved(before, after)}${byHowMany(after - before)}.`;
  const whole = `Over all digits, accuracy went from ${accuracy(view, base.accuracy)} to ${accuracy(view, enabled.accuracy)}.`;
  return [gain, cost, hardestHit(view), whole].filter((sentence) => sentence !== null).join(" ");
}

function byHowMany(change: number): string {
  if (change === 0) return "";
  return change < 0 ? `, ${count(-change)} fewer` : `, ${count(change)} more`;
}

/** The digit that lost most, if any lost. */
function hardestHit(view: HeadView): string | null {
  const { base, enabled, digit } = view.summary;
  const losses = DIGITS.filter((other) => other !== digit).map((other) => ({
    other,
    loss: (enabled.wrong[other] ?? 0) - (base.wrong[other] ?? 0),
  }));
  const worst = losses.reduce((most, one) => (one.loss > most.loss ? one : most));
  if (worst.loss <= 0) return null;
  return `Digit ${worst.other} paid most: from ${count(base.wrong[worst.other] ?? 0)} to ${count(enabled.wrong[worst.other] ?? 0)}.`;
}

function remedy(view: HeadView): Markup {
  const { base, replay, digit } = view.summary;
  if (!replay)
    return html`<p>The remedy, mixing images of all digits back in (replay), was switched off in this run.</p>`;
  const own = moved(base.wrong[digit] ?? 0, replay.wrong[digit] ?? 0);
  const others = moved(wrongOnOthers(base.wrong, digit), wrongOnOthers(replay.wrong, digit));
  return html`<p><strong>The remedy is replay.</strong> When ${share(replay.fraction)} of each batch comes from all digits, the set asks for all of them again. With it, wrong answers on digit ${digit} ${own}, and on the nine others they ${others}. Accuracy came out at ${accuracy(view, replay.accuracy)}.</p>`;
}

function costTable(view: HeadView): Markup {
  const { base, enabled, replay, digit } = view.summary;
  const known = imagesOf(view, 0) !== null;
  const columns: Column[] = [text("Digit"), numeric("Base"), numeric("Adapter on"), numeric("Change")];
  if (known) columns.splice(1, 0, numeric("Images"));
  if (replay) columns.push(numeric("With replay"), numeric("Change"));
  const line = (name: Content, images: number | null, value: (wrong: readonly number[]) => number): Content[] => {
    const before = value(base.wrong);
    const cells: Content[] = [name];
    if (known) cells.push(count(images ?? 0));
    cells.push(count(before), count(value(enabled.wrong)), signed(value(enabled.wrong) - before));
    if (replay) cells.push(count(value(replay.wrong)), signed(value(replay.wrong) - before));
    return cells;
  };
  const allImages = sum(DIGITS.map((other) => imagesOf(view, other) ?? 0));
  const others = line("The nine others", allImages - (imagesOf(view, digit) ?? 0), (wrong) =>
    wrongOnOthers(wrong, digit),
  );
  return dataTable({
    caption: `Wrong answers before and after tuning on ${digit}, of ${many(view.study.data.test, "test image")}`,
    columns,
    rows: DIGITS.map((one) => line(one, imagesOf(view, one), (wrong) => wrong[one] ?? 0)),
    total: others,
    highlighted: digit,
  });
}
