// What all charts share: the SVG element with its title and description, and the legend.
import { html, type Markup } from "../html.ts";
import { px, textWidth } from "./scale.ts";

/** What a chart is called, for those who see it and those who hear it. */
export interface ChartText {
  /** Unique in the document; letters, digits and hyphens. */
  id: string;
  title: string;
  /** What the picture shows, in a sentence or two. */
  description: string;
}

/** One colour's meaning. `style` is a class of the style sheet: series-base, series-on, series-off, series-replay. */
export interface LegendEntry {
  name: string;
  style: string;
}

export const FONT = 12;
export const SMALL = 11;

/** The SVG element around `body`, at its natural size; the style sheet lets it shrink. */
export function chart(text: ChartText, width: number, height: number, body: readonly Markup[]): Markup {
  const size = `${px(width)} ${px(height)}`;
  return html`<svg viewBox="0 0 ${size}" width="${px(width)}" height="${px(height)}" role="img" aria-labelledby="${text.id}-title ${text.id}-desc"><title id="${text.id}-title">${text.title}</title><desc id="${text.id}-desc">${text.description}</desc>
${body}</svg>`;
}

/** A row of swatches with names that wraps at `width`; says how tall it came out. */
export function legend(
  entries: readonly LegendEntry[],
  left: number,
  width: number,
): { body: Markup[]; height: number } {
  const line = 18;
  let x = left;
  let y = 0;
  const body = entries.map((entry) => {
    const needed = 16 + textWidth(entry.name, FONT) + 14;
    if (x > left && x + needed - 14 > width) {
      x = left;
      y += line;
    }
    const item = html`<rect class="${entry.style}" x="${px(x + 0.5)}" y="${px(y + 2.5)}" width="10" height="10"/><text x="${px(x + 16)}" y="${px(y + 12)}" font-size="${FONT}">${entry.name}</text>
`;
    x += needed;
    return item;
  });
  return { body, height: entries.length === 0 ? 0 : y + line };
}
