// A chart with its caption and its numbers as a table. A chart that gains from room is drawn twice, for a desk and for a
// phone, at its natural size each time, so that its text never shrinks; the style sheet shows one of the two.
import { type Content, html, type Markup } from "./html.ts";

export const WIDE = 720;
export const NARROW = 340;

export interface Figure {
  caption: Content;
  /** Unique in the document. */
  id: string;
  /** Draws the chart; `id` is unique to the variant. */
  draw: (id: string, width: number) => Markup;
  /** Whether there is a variant for wide screens. */
  wide: boolean;
  /** The same numbers, for those who do not see the chart. */
  table: Markup;
}

export function figure(options: Figure): Markup {
  const { id, draw } = options;
  const charts = options.wide
    ? html`<div class="only-wide">${draw(`${id}-wide`, WIDE)}</div><div class="only-narrow">${draw(`${id}-narrow`, NARROW)}</div>`
    : draw(id, NARROW);
  return html`<figure>
<figcaption>${options.caption}</figcaption>
${charts}
<details><summary>The same as a table</summary>
${options.table}</details>
</figure>
`;
}
