// Some of the digits that the base misreads, drawn, with what each network said.

import { count, many } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import type { Misread } from "../../result.ts";
import { pngDataUri } from "../png.ts";
import type { HeadView } from "../view.ts";
import { sum } from "../view.ts";

const SIDE = 28; // pixels

export function misreadDigits(view: HeadView): Markup | null {
  const misread = view.detail?.misread ?? [];
  if (misread.length === 0) return null;
  const mended = misread.filter((one) => one.enabled === one.label).length;
  const all = sum(view.summary.base.wrong);
  return html`<h3>Some of the misread digits</h3>
<p>Here ${misread.length === 1 ? "is 1" : `are ${count(misread.length)}`} of the ${many(all, "test image")} that the base misreads. With the adapter on, ${mended === 0 ? "none" : count(mended)} of ${misread.length === 1 ? "it" : "these"} ${mended === 1 ? "is" : "are"} read rightly. A tick marks a right answer.</p>
<ul class="digits">
${misread.map(drawn)}</ul>`;
}

function drawn(misread: Misread): Markup {
  const answers: [string, number | null][] = [
    ["base", misread.base],
    ["adapter on", misread.enabled],
    ["replay", misread.replay],
  ];
  const lines = answers.map(([name, answer]) =>
    answer === null ? null : html`<dt>${name}</dt><dd>${verdict(answer, misread.label)}</dd>`,
  );
  const alt = `A handwritten ${misread.label}, test image ${count(misread.index)}`;
  return html`<li><img src="${pngDataUri(inkOnPaper(misread.pixels), SIDE, SIDE)}" width="${SIDE}" height="${SIDE}" alt="${alt}"><strong>a ${misread.label}</strong><dl>${lines}</dl></li>
`;
}

function verdict(answer: number, label: number): Markup {
  return answer === label ? html`<strong>${answer} ✓</strong>` : html`${answer}`;
}

/** MNIST draws in white on black; paper and light pages want it the other way round. */
function inkOnPaper(pixels: Uint8Array): Uint8Array {
  return pixels.map((value) => 255 - value);
}
