// What a reader needs to check or repeat the run: settings, fingerprints of the data, files.
import { count, duration, share, short } from "../../../runs/report/format.ts";
import { type Content, html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, text } from "../../../runs/report/table.ts";
import { type HeadView, headName } from "../view.ts";

export function appendix(views: readonly HeadView[]): Markup {
  const { settings, data } = views[0]!.study;
  const rows: [string, string][] = [
    ["Rank", short(settings.rank)],
    ["Alpha", short(settings.alpha)],
    ["Learning rate", short(settings.learningRate)],
    ["Images in a batch", count(settings.batch)],
    ["Epochs of base training", short(settings.epochs)],
    ["Steps of tuning", count(settings.steps)],
    ["Replay", settings.replay > 0 ? `${share(settings.replay)} of each batch` : "off"],
    ["Digit", settings.digit === null ? "the one that the base reads wrongly most often" : String(settings.digit)],
    ["Images", settings.limit === null ? "all" : `at most ${count(settings.limit)} to train and to test`],
    ["Seed", String(settings.seed)],
    ["Device", settings.device],
    ["Threads", count(settings.threads)],
    ...views.map((view): [string, string] => [`Time for the ${headName(view.head)}`, duration(view.summary.seconds)]),
  ];
  return html`<section id="repeat">
<h2>To check or repeat it</h2>
${dataTable({ caption: "Settings", columns: [text("Setting"), text("Value")], rows })}
${fingerprints(data.sha256)}
${dataTable({
  caption: "Files of this run, beside this page",
  columns: [text("What"), text("Where")],
  rows: views.flatMap(files),
})}
<p>The adapter’s folder holds the two files that Python’s PEFT library writes and reads. The models are ONNX files.</p>
</section>
`;
}

function fingerprints(sha256: Readonly<Record<string, string>>): Markup | null {
  const entries = Object.entries(sha256);
  if (entries.length === 0) return null;
  return dataTable({
    caption: "SHA-256 of the data",
    columns: [text("File"), text("SHA-256")],
    rows: entries.map(([file, hash]) => [file, html`<span class="fingerprint">${hash}</span>`]),
  });
}

function files(view: HeadView): Content[][] {
  const { base, adapter, replayAdapter, merged } = view.summary.files;
  const entries: [string, string | null][] = [
    ["base", base],
    ["adapter", adapter],
    ["adapter tuned with replay", replayAdapter],
    ["base and adapter merged", merged],
  ];
  return entries.flatMap(([name, path]) =>
    path === null ? [] : [[`${headName(view.head)}: ${name}`, html`<code>${path}</code>`]],
  );
}
