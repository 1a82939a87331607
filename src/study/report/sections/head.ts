// One head's chapter: how it learnt, what it got wrong, what tuning changed, and the proof.
import { count, fixed, short } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { accuracy, type HeadView, headName, sum, wrongOfDigit } from "../view.ts";
import { adapterSize } from "./adapter.ts";
import { compression } from "./compression.ts";
import { confusion } from "./confusion.ts";
import { wrongCounts } from "./counts.ts";
import { deadOutputs } from "./dead.ts";
import { learning } from "./learning.ts";
import { misreadDigits } from "./misread.ts";
import { proof } from "./proof.ts";

export function headChapter(view: HeadView): Markup {
  return html`<section id="${view.head}">
<h2>${chapterTitle(view)}</h2>
${lead(view)}
${learning(view)}
${deadOutputs(view)}
${wrongCounts(view)}
${confusion(view)}
${misreadDigits(view)}
${adapterSize(view)}
${compression(view)}
${proof(view)}
</section>
`;
}

export function chapterTitle(view: HeadView): string {
  if (view.head === "relu") return "The documented network: a ReLU on the outputs";
  const both = view.study.heads.relu !== undefined;
  return both ? "The same network with a linear head" : "The network with a linear head";
}

function lead(view: HeadView): Markup {
  const { base, digit, digitChosen } = view.summary;
  const { test } = view.study.data;
  const chosen =
    digitChosen === "most wrong"
      ? `Its worst digit is ${digit}: it reads ${wrongOfDigit(view, digit)} wrongly. That digit was tuned.`
      : `Digit ${digit} was tuned, because it was asked for: the base reads ${wrongOfDigit(view, digit)} wrongly.`;
  return html`<p>The base with the ${headName(view.head)} reads ${count(test - sum(base.wrong))} of ${count(test)} test images rightly: an accuracy of ${accuracy(view, base.accuracy)}. Its mean training loss was ${fixed(base.meanLoss, 3)}, at ${short(base.stepsPerSecond)} steps a second. ${chosen}</p>`;
}
