// Two sizes as two squares whose areas are in proportion: shows a ratio of hundreds where bars would show a hair.
import { html, type Markup } from "../html.ts";
import { type ChartText, chart, FONT, SMALL } from "./frame.ts";
import { px } from "./scale.ts";

export interface Sized {
  name: string;
  size: number;
  /** The size in words, below the name. */
  label: string;
  style: string;
}

const SIDE = 150; // of the larger square

/** Draws both squares beside each other, on one baseline, names below. */
export function squares(text: ChartText, pair: readonly [Sized, Sized], width: number): Markup {
  const most = Math.max(pair[0].size, pair[1].size, 1);
  const body = pair.map((one, index) => {
    const side = SIDE * Math.sqrt(Math.max(0, one.size) / most);
    const x = index * (SIDE + 30);
    return html`<rect class="${one.style}" x="${px(x + 0.5)}" y="${px(SIDE - side + 0.5)}" width="${px(side)}" height="${px(side)}"/><text class="strong" x="${px(x)}" y="${SIDE + 20}" font-size="${FONT}">${one.name}</text><text class="quiet" x="${px(x)}" y="${SIDE + 37}" font-size="${SMALL}">${one.label}</text>
`;
  });
  return chart(text, width, SIDE + 44, body);
}
