// A square table of counts as shades: each row is shaded by its own total, so that rare and common digits compare.
import { html, type Markup } from "../html.ts";
import { type ChartText, chart, FONT, SMALL } from "./frame.ts";
import { px } from "./scale.ts";

export interface Heatmap {
  text: ChartText;
  /** cells[row][column]; as many rows as columns. */
  cells: readonly (readonly number[])[];
  rowTitle: string;
  columnTitle: string;
  /** Row and column that get a bold label; null for none. */
  highlighted: number | null;
}

/** Draws `data` `width` pixels wide. The diagonal has a colour of its own: there a high count is good. */
export function heatmap(data: Heatmap, width: number): Markup {
  const left = 36;
  const top = 42;
  const size = (width - left - 1) / data.cells.length;
  const cells = data.cells.flatMap((row, r) => {
    const total = row.reduce((sum, value) => sum + value, 0);
    return row.map((value, c) => {
      const shade = total > 0 ? value / total : 0;
      return drawCell(value, shade, r === c, left + c * size, top + r * size, size);
    });
  });
  const middle = left + (width - left) / 2;
  const labels = data.cells.map((_, index) => {
    const style = index === data.highlighted ? "strong" : "quiet";
    const centre = (index + 0.5) * size;
    return html`<text class="${style}" x="${px(left - 7)}" y="${px(top + centre + 4)}" font-size="${FONT}" text-anchor="end">${index}</text><text class="${style}" x="${px(left + centre)}" y="${px(top - 7)}" font-size="${FONT}" text-anchor="middle">${index}</text>
`;
  });
  const down = top + (data.cells.length * size) / 2;
  const titles = html`<text class="quiet" x="${px(middle)}" y="14" font-size="${SMALL}" text-anchor="middle">${data.columnTitle}</text><text class="quiet" x="10" y="${px(down)}" font-size="${SMALL}" text-anchor="middle" transform="rotate(-90 10 ${px(down)})">${data.rowTitle}</text>
`;
  return chart(data.text, width, top + data.cells.length * size + 1, [titles, ...labels, ...cells]);
}

function drawCell(value: number, shade: number, right: boolean, x: number, y: number, size: number): Markup {
  const box = html`<rect class="cell" x="${px(x)}" y="${px(y)}" width="${px(size)}" height="${px(size)}"/>`;
  if (value === 0) return box;
  // The square root lifts small shares, which are most of the errors, out of the background.
  const opacity = Math.max(0.06, Math.sqrt(shade)).toFixed(2);
  const fill = html`<rect class="${right ? "cell-right" : "cell-wrong"}" fill-opacity="${opacity}" x="${px(x + 0.5)}" y="${px(y + 0.5)}" width="${px(size - 1)}" height="${px(size - 1)}"/>`;
  const strong = Number(opacity) > (right ? 0.9 : 0.7); // where white or black text reads better than the page's ink
  const ink = strong ? (right ? "ink-on-right" : "ink-on-wrong") : "ink";
  const font = value > 999 ? 10 : SMALL;
  return html`${box}${fill}<text class="${ink}" x="${px(x + size / 2)}" y="${px(y + size / 2 + 4)}" font-size="${font}" text-anchor="middle">${value}</text>
`;
}
