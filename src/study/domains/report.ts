// The suite's one table, in text and HTML, and its one chart: what was learnt against what was forgotten.

import { chart, FONT, legend, SMALL } from "../../runs/report/charts/frame.ts";
import { axisFromZero, linear, px } from "../../runs/report/charts/scale.ts";
import { htmlDocument } from "../../runs/report/document.ts";
import { html, type Markup } from "../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../runs/report/table.ts";
import { formatBytes, formatCount, formatTable } from "../../runs/table.ts";
import { type DomainResult, type DomainsSummary, type MethodName, methodNames } from "./result.ts";

const titles: Readonly<Record<MethodName, string>> = {
  lora: "LoRA",
  replay: "LoRA with replay",
  full: "all weights",
  head: "head only",
};

const percent = (share: number): string => (100 * share).toFixed(2);

/** Points that all weights must win for a share of it to mean something. */
const leastGain = 0.05;

/** What LoRA wins of what full fine-tuning wins; null where that is under five points. */
export function shareWon({ before, methods }: DomainResult): number | null {
  const gain = methods.full.target - before;
  return gain < leastGain ? null : (methods.lora.target - before) / gain;
}

/** The middle one, or the mean of the middle two; null of none. */
export function median(values: readonly number[]): number | null {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.floor((sorted.length - 1) / 2)];
  return upper === undefined || lower === undefined ? null : (lower + upper) / 2;
}

const headers = ["domain", "before", ...methodNames.flatMap((name) => [titles[name], "kept"]), "won"];

function cellsOf(domain: DomainResult): string[] {
  const share = shareWon(domain);
  return [
    domain.name,
    percent(domain.before),
    ...methodNames.flatMap((name) => [percent(domain.methods[name].target), percent(domain.methods[name].plain)]),
    share === null ? "" : percent(share),
  ];
}

/** What the columns are, for under the table. */
const explanation =
  'Accuracy in percent: on the domain before and after each way of tuning, and "kept" on plain digits. "won": what LoRA wins of what training all weights wins, where that is 5 points or more.';

/** The table and what follows from it, as lines of text. */
export function tableText(summary: DomainsSummary): string {
  const table = formatTable(
    headers.map((header, index) => ({ header, align: index === 0 ? "left" : "right" })),
    summary.domains.map(cellsOf),
  );
  return [table, "", explanation, ...findings(summary)].join("\n");
}

/** What follows from the table, a sentence or two each. */
function findings({ domains, base, router }: DomainsSummary): string[] {
  const lines = [`The base reads ${percent(base)} % of plain digits.`];
  const first = domains[0];
  if (first) {
    const sizes = methodNames.map((name) => {
      const { parameters, bytes } = first.methods[name];
      return `${titles[name]} ${formatCount(parameters)} (${formatBytes(bytes)})`;
    });
    lines.push(`Parameters and bytes for each domain: ${sizes.join(", ")}.`);
  }
  const shares = domains.map(shareWon).filter((share) => share !== null);
  const middle = median(shares);
  if (middle !== null)
    lines.push(
      `Of what all weights win, LoRA wins ${percent(middle)} % on the median domain and ${percent(Math.min(...shares))} % on the worst (of ${shares.length} where they win 5 points or more).`,
    );
  if (domains.length > 0) {
    const lost = domains.map(({ methods }) => base - methods.replay.plain);
    lines.push(`With replay, plain digits lose at most ${percent(Math.max(...lost))} points (less than 0: they win).`);
  }
  if (router) {
    lines.push(
      `The router tells ${router.domains} domains apart (right for ${percent(router.accuracy)} %): with it the whole set reads ` +
        `${percent(router.routed)} %, and ${percent(router.known)} % when the domain is known.`,
    );
  }
  return lines;
}

/** The page with the chart and the table. */
export function domainsPage(summary: DomainsSummary): string {
  const { domains, data } = summary;
  const table = dataTable({
    caption: explanation,
    columns: headers.map((header, index) => (index === 0 ? text(header) : numeric(header))),
    rows: domains.map(cellsOf),
  });
  const body = html`<header><h1>Domains: learnt against forgotten</h1></header>
<main><section><p>${formatCount(data.train)} training and ${formatCount(data.test)} test images, ${data.source}.</p>
<ul>${findings(summary).map((line) => html`<li>${line}</li>`)}</ul>
<figure>${learntChart(summary)}</figure>
${table}</section></main>
`;
  return htmlDocument("lowrank domains", body);
}

/** The chart alone, as an SVG file with colours of its own. */
export function domainsSvg(summary: DomainsSummary): string {
  const style = [
    "svg{background:#fff;font-family:system-ui,sans-serif}.quiet{fill:#59636e}.grid{stroke:#e8ebee}.axis{stroke:#d5dae0}",
    ".series-base{fill:#6f7a86}.series-on{fill:#d55e00}.series-replay{fill:#0072b2}",
    ".series-off{fill:none;stroke:#6f7a86;stroke-width:1.5}",
  ].join("");
  return learntChart(summary)
    .toString()
    .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    .replace("</desc>", `</desc><style>${style}</style>`);
}

const styles: Readonly<Record<MethodName, string>> = {
  lora: "series-on",
  replay: "series-replay",
  full: "series-base",
  head: "series-off",
};

const width = 720;
const plot = { left: 46, right: 700, top: 44, bottom: 400 };

/** A mark for each domain and way of tuning: points won on the domain (up), points lost on plain digits (right). */
function learntChart({ domains, base }: DomainsSummary): Markup {
  const marks = domains.flatMap(({ name, before, methods }) =>
    methodNames.map((method) => ({
      method,
      name,
      learnt: 100 * (methods[method].target - before),
      forgotten: 100 * (base - methods[method].plain),
    })),
  );
  // Less than nothing (a little was won) stands at zero; the table has the numbers.
  const xAxis = axisFromZero(Math.max(0, ...marks.map(({ forgotten }) => forgotten)));
  const yAxis = axisFromZero(Math.max(0, ...marks.map(({ learnt }) => learnt)));
  const x = linear(xAxis.end, plot.left, plot.right);
  const y = linear(yAxis.end, plot.bottom, plot.top);
  const key = legend(
    methodNames.map((method) => ({ name: titles[method], style: styles[method] })),
    plot.left,
    plot.right,
  );
  const rows = yAxis.ticks.map(
    (
      tick,
    ) => html`<line class="grid" x1="${plot.left}" x2="${plot.right}" y1="${px(y(tick))}" y2="${px(y(tick))}"/><text class="quiet" x="${plot.left - 6}" y="${px(y(tick) + 4)}" font-size="${SMALL}" text-anchor="end">${tick}</text>
`,
  );
  const columns = xAxis.ticks.map(
    (
      tick,
    ) => html`<line class="axis" x1="${px(x(tick))}" x2="${px(x(tick))}" y1="${plot.bottom}" y2="${plot.bottom + 4}"/><text class="quiet" x="${px(x(tick))}" y="${plot.bottom + 17}" font-size="${SMALL}" text-anchor="middle">${tick}</text>
`,
  );
  const names = html`<text class="quiet" x="0" y="${plot.top - 12}" font-size="${FONT}">points won on the domain</text><text class="quiet" x="${(plot.left + plot.right) / 2}" y="${plot.bottom + 36}" font-size="${FONT}" text-anchor="middle">points lost on plain digits</text>
`;
  const drawn = marks.map((mark) => {
    const [cx, cy] = [x(Math.max(0, mark.forgotten)), y(Math.max(0, mark.learnt))];
    const label = `${mark.name}, ${titles[mark.method]}: won ${mark.learnt.toFixed(2)}, lost ${mark.forgotten.toFixed(2)}`;
    // Shapes say the same as colours.
    return mark.method === "lora" || mark.method === "head"
      ? html`<circle class="${styles[mark.method]}" cx="${px(cx)}" cy="${px(cy)}" r="4"><title>${label}</title></circle>
`
      : html`<rect class="${styles[mark.method]}" x="${px(cx - 3.5)}" y="${px(cy - 3.5)}" width="7" height="7"><title>${label}</title></rect>
`;
  });
  const description = {
    id: "domains",
    title: "Learnt against forgotten",
    description: `${domains.length} domains, tuned in four ways: points of accuracy won on each, and lost on plain digits.`,
  };
  return chart(description, width, plot.bottom + 46, [...key.body, names, ...rows, ...columns, ...drawn]);
}
