// Confusion matrices: which digit was taken for which, before and after.
import { heatmap } from "../../../runs/report/charts/heatmap.ts";
import { figure } from "../../../runs/report/figure.ts";
import { count, many } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import { DIGITS, type HeadView, headName, sum } from "../view.ts";

export function confusion(view: HeadView): Markup | null {
  if (!view.detail) return null;
  const { base, enabled, replay } = view.detail.confusion;
  return html`<h3>Which digit was taken for which</h3>
<p>Each row is a digit as it is, each column a digit as it was read. <span class="swatch right"></span>Grey on the diagonal: read rightly. <span class="swatch wrong"></span>Coloured: read wrongly. The stronger the shade, the larger the share of the row. Empty cells are zero.</p>
<div class="pair trio">
${matrix(view, "base", "The base", base)}
${matrix(view, "enabled", `Adapter on, tuned on ${view.summary.digit}`, enabled)}
${replay && matrix(view, "replay", "Adapter on, tuned with replay", replay)}
</div>`;
}

function matrix(view: HeadView, name: string, title: string, cells: readonly (readonly number[])[]): Markup {
  const worst = commonest(cells);
  return figure({
    id: `${view.head}-confusion-${name}`,
    caption: html`<strong>${title}</strong>${worst}`,
    wide: false,
    draw: (id, width) =>
      heatmap(
        {
          text: { id, title: `Confusion matrix: ${title}, ${headName(view.head)}`, description: worst },
          cells,
          rowTitle: "the digit as it is",
          columnTitle: "the digit as it was read",
          highlighted: view.summary.digit,
        },
        width,
      ),
    table: dataTable({
      caption: `${title}: rows are digits as they are, columns as they were read`,
      columns: [text("Is"), ...DIGITS.map((digit) => numeric(digit))],
      rows: cells.map((row, digit) => [digit, ...row.map(count)]),
      highlighted: view.summary.digit,
    }),
  });
}

/** The most frequent mistake, in words. */
function commonest(cells: readonly (readonly number[])[]): string {
  const mistakes = cells.flatMap((row, label) =>
    row.map((value, read) => ({ label, read, value: label === read ? 0 : value })),
  );
  const most = mistakes.reduce((worst, one) => (one.value > worst.value ? one : worst), {
    label: 0,
    read: 0,
    value: 0,
  });
  if (most.value === 0) return "No test image is read wrongly.";
  const all = sum(mistakes.map((mistake) => mistake.value));
  return `${many(all, "mistake")}; the commonest is a ${most.label} read as a ${most.read} (${many(most.value, "time")}).`;
}
