// Dead output units: what they are, which digits they cost, and what they mean for the tuned digit.
import { count, listed, many, moved, share } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import { accuracy, DIGITS, deadDigits, type HeadView, imagesOf, isDead, sum } from "../view.ts";

export function deadOutputs(view: HeadView): Markup | null {
  const dead = deadDigits(view);
  if (view.head === "linear" && dead.length === 0) {
    return html`<h3>Dead output units</h3>
<p>None. The network’s ten outputs, its logits, go straight into the loss. With no ReLU on them there is nothing that could switch one off for good.</p>`;
  }
  if (dead.length === 0) {
    return html`<h3>Dead output units</h3>
<p>None in this run. The network ends in a ReLU, which turns each negative output into zero, so an output can go silent for every image and stay so. Whether that happens hangs on how the weights start; here all ten answer.</p>`;
  }
  return html`<h3>Dead output units</h3>
${explained(view, dead)}
${dataTable({
  caption: "What the dead units cost",
  columns: [text("Digit"), numeric("Wrong, base"), numeric("Test images"), numeric("Share")],
  rows: view.summary.base.deadOutputs.map((output) => [
    output.digit,
    count(output.wrong),
    count(output.images),
    output.images > 0 ? share(output.wrong / output.images) : "none",
  ]),
})}
${silent(view)}
${dead.length === 10 ? allDead(view) : tunedUnit(view)}`;
}

/** Digits that are always read wrongly although their unit is not dead: not the same thing, and easily taken for it. */
function silent(view: HeadView): Markup | null {
  const digits = DIGITS.filter((digit) => {
    const images = imagesOf(view, digit);
    return images !== null && images > 0 && view.summary.base.wrong[digit] === images && !isDead(view, digit);
  });
  if (digits.length === 0) return null;
  const one = digits.length === 1;
  return html`<p>The ${one ? "unit" : "units"} of ${listed(digits)} ${one ? "is" : "are"} not dead, yet the base reads none of ${one ? "its" : "their"} images rightly: ${one ? "that unit answers" : "those units answer"} for some image, but never win${one ? "s" : ""} where ${one ? "it" : "they"} should.</p>
`;
}

function explained(view: HeadView, dead: readonly number[]): Markup {
  const cost = sum(view.summary.base.deadOutputs.map((output) => output.wrong));
  const one = dead.length === 1;
  const units =
    dead.length === 10
      ? "All ten output units are dead"
      : `The output ${one ? "unit" : "units"} of ${one ? "digit" : "the digits"} ${listed(dead)} ${one ? "is" : "are"} dead`;
  return html`<p>The network gives each digit a score, its logit, and answers with the highest. This network ends in a ReLU, which turns every negative logit into zero. ${units}: ${one ? "its logit is" : "their logits are"} never above zero, for any training or test image.</p>
<p><strong>Why a dead unit stays dead.</strong> Where a ReLU gives zero, its gradient is zero too. So nothing that is learnt reaches the unit itself. It comes back only if the layers below happen to move it.</p>
<p><strong>What that costs.</strong> A dead unit can win only when all ten logits tie at zero, and a tie goes to the lowest digit, 0. So any other digit with a dead unit is never the answer. Digits with dead units account for ${count(cost)} of the base’s ${many(sum(view.summary.base.wrong), "wrong answer")}.</p>
`;
}

function tunedUnit(view: HeadView): Markup {
  const { base, enabled, digit } = view.summary;
  const before = base.wrong[digit] ?? 0;
  const after = enabled.wrong[digit] ?? 0;
  if (!isDead(view, digit)) {
    return html`<p>The tuned digit, ${digit}, has a unit that is alive. The adapter can reach it.</p>`;
  }
  const outcome =
    after >= before
      ? `It bought nothing here: the wrong count of ${digit} ${moved(before, after)}.`
      : `Here it did: the wrong count of ${digit} ${moved(before, after)}, because the layers below moved.`;
  return html`<div class="note"><p>The tuned digit, ${digit}, has a dead unit itself. Tuning gets no gradient through it and may change nothing. ${outcome}</p></div>`;
}

function allDead(view: HeadView): Markup {
  const { base, enabled } = view.summary;
  const same = base.wrong.every((wrong, digit) => wrong === enabled.wrong[digit]);
  return html`<div class="note"><p>With all ten units dead, every image ties at zero and is read as 0. The accuracy, ${accuracy(view, base.accuracy)}, is just the share of images that show a 0. No gradient reaches any layer, so nothing can be learnt through these outputs: not by the base, and not by an adapter. ${same ? "Tuning was tried all the same, and no count moved." : "Tuning was tried all the same; the counts are below."}</p></div>`;
}
