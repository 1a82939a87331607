// The proof that the base was not touched and that the adapter is what it is said to be.
import { count, short } from "../../../runs/report/format.ts";
import { html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, text } from "../../../runs/report/table.ts";
import { accuracy, type HeadView, sum } from "../view.ts";

/** Largest difference that float32 sums in another order may leave; far under what moves an answer. */
const TOLERANCE = 1e-4;

export function proof(view: HeadView): Markup {
  const { base, disabled, enabled, disabledMatchesBase, frozenWeightsUnchanged } = view.summary;
  const effective = view.summary.effectiveWeightMatches.maxAbsDiff;
  const merged = view.summary.mergedMatchesEnabled.maxAbsDiff;
  const test = view.study.data.test;
  const off = `accuracy ${accuracy(view, disabled.accuracy)}, ${count(sum(disabled.wrong))} of ${count(test)} wrong`;
  const checks: [string, string, boolean][] = [
    [
      "No base weight moved while the adapter was tuned",
      frozenWeightsUnchanged
        ? "every frozen tensor has the SHA-256 it had before"
        : "a frozen tensor has another SHA-256",
      frozenWeightsUnchanged,
    ],
    [
      "With the adapter on, the weight is W + (alpha / rank) · B A",
      `largest difference ${short(effective)}`,
      effective <= TOLERANCE,
    ],
    [
      "With the adapter off, the network is the base again",
      disabledMatchesBase ? `the same to the last count: ${off}` : `${off}; the base: ${accuracy(view, base.accuracy)}`,
      disabledMatchesBase,
    ],
    [
      `Merged into one file, it answers as with the adapter on (accuracy ${accuracy(view, enabled.accuracy)})`,
      `largest difference of an output ${short(merged)}`,
      merged <= TOLERANCE,
    ],
  ];
  const failed = checks.filter(([, , held]) => !held).length;
  return html`<h3>The proof</h3>
<p>${failed === 0 ? "All four checks held." : `${failed} of four checks failed: read the numbers above with care.`} Numbers pass when they agree within ${short(TOLERANCE)}.</p>
${dataTable({
  caption: "What must hold, and what was found",
  columns: [text("What must hold"), text("What was found"), text("Result")],
  rows: checks.map(([claim, found, held]) => [claim, found, result(held)]),
})}`;
}

function result(held: boolean): Markup {
  return held ? html`<span class="held">✓ held</span>` : html`<span class="failed">✗ failed</span>`;
}
