// The adapter: how small it is beside the base, and how strongly it pushes each layer.
import { groupedBars } from "../../../runs/report/charts/bars.ts";
import { squares } from "../../../runs/report/charts/squares.ts";
import { figure } from "../../../runs/report/figure.ts";
import { count, many, short } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import { type HeadView, headName } from "../view.ts";

export function adapterSize(view: HeadView): Markup | null {
  if (!view.detail) return null;
  return html`<h3>How small the adapter is, and how strong</h3>
<div class="pair">
${bytes(view)}
${strength(view)}
</div>`;
}

function bytes(view: HeadView): Markup {
  const { base, adapter } = view.detail!.bytes;
  const times = adapter > 0 && base >= adapter ? ` The base is ${short(base / adapter)} times as large.` : "";
  const caption = `As files, the base takes ${many(base, "byte")} and the adapter ${many(adapter, "byte")}.${times}`;
  return figure({
    id: `${view.head}-bytes`,
    caption: html`<strong>Bytes of the base and of the adapter</strong>${caption} The areas are in proportion.`,
    wide: false,
    draw: (id, width) =>
      squares(
        { id, title: `Size of base and adapter, ${headName(view.head)}`, description: caption },
        [
          { name: "base", size: base, label: many(base, "byte"), style: "series-base" },
          { name: "adapter", size: adapter, label: many(adapter, "byte"), style: "series-on" },
        ],
        width,
      ),
    table: dataTable({
      caption: "Size of the files",
      columns: [text("File"), numeric("Bytes")],
      rows: [
        ["base", count(base)],
        ["adapter", count(adapter)],
      ],
    }),
  });
}

/** Bars for each layer; the table has all values. */
const MOST_DRAWN = 12;

function strength(view: HeadView): Markup {
  const modules = view.detail!.singularValues;
  const ranks = Math.max(1, ...modules.map((module) => module.values.length));
  const caption = `A singular value says how far B A can stretch what comes into the layer. An update of rank ${ranks} has ${many(ranks, "such value")} for each matrix.${ranks > MOST_DRAWN ? ` The ${MOST_DRAWN} largest are drawn.` : ""}`;
  const listing = modules
    .map((one) => `${one.module}: ${one.values.map((value) => short(value)).join(", ")}.`)
    .join(" ");
  return figure({
    id: `${view.head}-singular`,
    caption: html`<strong>Singular values of (alpha / rank) · B A</strong>${caption}`,
    wide: false,
    draw: (id, width) =>
      groupedBars(
        {
          text: {
            id,
            title: `Singular values of the update of each layer, ${headName(view.head)}`,
            description: listing,
          },
          groups: modules.map((module) => ({ label: module.module, notes: [], highlighted: false })),
          series: Array.from({ length: Math.min(ranks, MOST_DRAWN) }, (_, index) => ({
            name: `value ${index + 1}`,
            style: "series-on",
            values: modules.map((module) => module.values[index] ?? null),
          })),
          axisTitle: "singular value",
          format: (value) => short(value),
          whole: false,
          legend: false,
        },
        width,
      ),
    table: dataTable({
      caption: "Singular values, largest first",
      columns: [text("Layer"), ...Array.from({ length: ranks }, (_, index) => numeric(index + 1))],
      rows: modules.map((module) => [module.module, ...module.values.map((value) => short(value))]),
    }),
  });
}
