// The top of the page: what this is, the facts of the run, and the findings in short.

import { count, duration, listed, many, moment, moved, percent } from "../../../runs/report/format.ts";
import { type Content, html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import type { StudySummary } from "../../result.ts";
import { accuracy, deadDigits, type HeadView, headName, imagesOf, sum, wrongOnOthers } from "../view.ts";

export const TITLE = "What fine-tuning on one digit buys, and what it costs";

export function opening(views: readonly HeadView[], summary: StudySummary, links: readonly [string, string][]): Markup {
  const first = views[0];
  return html`<header>
<p class="kicker">lowrank study</p>
<h1>${TITLE}</h1>
${first ? introduction(first) : html`<p class="deck">No network was finished in this run, so there is nothing to tell yet.</p>`}
${first ? facts(first) : null}
${!summary.complete && html`<div class="note"><p>The run was stopped before its end. Only what was finished is on this page.</p></div>`}
${links.length > 0 && html`<nav aria-label="Sections"><ul>${links.map(([id, name]) => html`<li><a href="#${id}">${name}</a></li>`)}</ul></nav>`}
</header>
`;
}

function introduction(view: HeadView): Markup {
  const { base, lora, percent: ratio } = view.summary.parameters;
  return html`<p class="deck">A network of ${count(base)} numbers learns to read handwritten digits. Then ${count(lora)} new numbers, ${percent(ratio)} as many, are trained on images of one single digit, while the network itself stays frozen. This page shows what that bought on the one digit, what the nine others paid for it, and how we know that the network was not touched.</p>`;
}

function facts(view: HeadView): Markup {
  const { data, settings, seconds, started } = view.study;
  const entries: [string, Content][] = [
    ["Images", `${count(data.train)} to train, ${count(data.test)} to test`],
    ["Run", html`<time datetime="${started}">${moment(started)}</time>`],
    ["Device", settings.device],
    ["Took", duration(seconds)],
  ];
  return html`<dl class="facts">${entries.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** The findings: a sentence or two for each head, and the heads side by side. */
export function inShort(views: readonly HeadView[]): Markup {
  return html`<section id="in-short">
<h2>In short</h2>
<ul class="findings">
${views.map(finding)}</ul>
${glance(views)}</section>
`;
}

function finding(view: HeadView): Markup {
  const { base, enabled, replay, digit, disabledMatchesBase } = view.summary;
  const { test } = view.study.data;
  const dead = deadDigits(view).length;
  const others = moved(wrongOnOthers(base.wrong, digit), wrongOnOthers(enabled.wrong, digit));
  const sentences = [
    `The base reads ${count(test - sum(base.wrong))} of ${count(test)} test images rightly, an accuracy of ${accuracy(view, base.accuracy)}.`,
    dead > 0 && `Of its 10 output units, ${dead} ${dead === 1 ? "is" : "are"} dead.`,
    `After tuning on digit ${digit}, wrong answers on that digit ${moved(base.wrong[digit] ?? 0, enabled.wrong[digit] ?? 0)}; on the nine others they ${others}.`,
    replay &&
      `With replay, they ended at ${count(replay.wrong[digit] ?? 0)} and ${count(wrongOnOthers(replay.wrong, digit))}.`,
    disabledMatchesBase
      ? "Switched off, the adapter leaves the base exactly as it was."
      : "Switched off, the adapter did not give the base back: something is wrong.",
  ];
  return html`<li><strong>${capital(headName(view.head))}.</strong> ${sentences.filter((one) => one !== false && one !== null).join(" ")}</li>
`;
}

function glance(views: readonly HeadView[]): Markup {
  const rows: [string, (view: HeadView) => Content][] = [
    ["Accuracy of the base", (view) => accuracy(view, view.summary.base.accuracy)],
    ["Dead output units", (view) => html`<span class="loose">${listed(deadDigits(view)) || "none"}</span>`],
    ["Digit that was tuned", (view) => String(view.summary.digit)],
    ["Test images of that digit", (view) => images(view)],
    ["… read wrongly by the base", (view) => count(view.summary.base.wrong[view.summary.digit] ?? 0)],
    ["… with the adapter on", (view) => count(view.summary.enabled.wrong[view.summary.digit] ?? 0)],
    ["… with replay", (view) => replayed(view, (wrong, digit) => count(wrong[digit] ?? 0))],
    ["The nine others, wrong by the base", (view) => count(wrongOnOthers(view.summary.base.wrong, view.summary.digit))],
    ["… with the adapter on", (view) => count(wrongOnOthers(view.summary.enabled.wrong, view.summary.digit))],
    ["… with replay", (view) => replayed(view, (wrong, digit) => count(wrongOnOthers(wrong, digit)))],
    ["Accuracy with the adapter on", (view) => accuracy(view, view.summary.enabled.accuracy)],
    [
      "Accuracy with replay",
      (view) => (view.summary.replay ? accuracy(view, view.summary.replay.accuracy) : "not run"),
    ],
    ["Accuracy with the adapter off", (view) => accuracy(view, view.summary.disabled.accuracy)],
  ];
  return dataTable({
    caption: `What was found, over ${many(views[0]?.study.data.test ?? 0, "test image")}`,
    columns: [text(""), ...views.map((view) => numeric(capital(headName(view.head))))],
    rows: rows.map(([name, value]) => [name, ...views.map(value)]),
  });
}

function images(view: HeadView): string {
  const total = imagesOf(view, view.summary.digit);
  return total === null ? "not kept" : count(total);
}

function replayed(view: HeadView, value: (wrong: number[], digit: number) => string): string {
  const { replay, digit } = view.summary;
  return replay ? value(replay.wrong, digit) : "not run";
}

function capital(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
