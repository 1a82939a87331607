// The study's report: one self-contained HTML page that tells it to someone who was not there. The sections are in
// sections/, in the order of the page; the drawing is in charts/.

import { htmlDocument } from "../../runs/report/document.ts";
import { html } from "../../runs/report/html.ts";
import type { StudyResult } from "../result.ts";
import { appendix } from "./sections/appendix.ts";
import { headChapter } from "./sections/head.ts";
import { method, network } from "./sections/method.ts";
import { inShort, opening, TITLE } from "./sections/opening.ts";
import { headName, headViews } from "./view.ts";

/**
 * The whole page as text, to be written to `report.html`.
 *
 * It needs no network and no script, and every text that comes from `result` is escaped. A head that was not run is
 * left out; without any head, the page says so.
 *
 * @example
 * await writeFile("runs/study/report.html", renderReport(result));
 */
export function renderReport(result: StudyResult): string {
  const views = headViews(result);
  const any = views.length > 0;
  const chapters = views.map((view): [string, string] => [view.head, `The ${headName(view.head)}`]);
  const links: [string, string][] = [
    ["in-short", "In short"],
    ["method", "What was done"],
    ["network", "The network"],
    ...chapters,
    ["repeat", "To check or repeat it"],
  ];
  const body = html`${opening(views, result.summary, any ? links : [])}
<main>
${any && [inShort(views), method(views), network(views), views.map(headChapter), appendix(views)]}</main>
<footer>Written by <code>lowrank study</code>. This page is one file and asks the network for nothing.</footer>
`;
  return htmlDocument(TITLE, body);
}
