// What was done, in order, and the network it was done to.

import { count, fixed, listed, many, percent, share, short } from "../../../runs/report/format.ts";
import { type Content, html, type Markup } from "../../../runs/report/html.ts";
import { dataTable, numeric, text } from "../../../runs/report/table.ts";
import type { LayerRow } from "../../result.ts";
import { type HeadView, headName, sum } from "../view.ts";

export function method(views: readonly HeadView[]): Markup {
  const view = views[0]!;
  return html`<section id="method">
<h2>What was done</h2>
<p>The images: ${view.study.data.source}. There are ${many(view.study.data.train, "training image")} and ${many(view.study.data.test, "test image")}, each 28 × 28 pixels with one handwritten digit, and with the digit that it shows as its label. No test image was ever trained on.</p>
<p><strong>LoRA</strong> (low-rank adaptation) leaves a weight matrix W as it is and adds the product of two thin matrices, B A, to it. With rank ${short(view.study.settings.rank)}, A has ${many(view.study.settings.rank, "row")} and B has ${many(view.study.settings.rank, "column")}: far fewer numbers than W itself. They are the whole adapter, and leaving them out gives the base network back.</p>
<ol class="steps">
${steps(views).map(
  (step) => html`<li>${step}</li>
`,
)}</ol>
</section>
`;
}

function steps(views: readonly HeadView[]): string[] {
  const { settings, data } = views[0]!.study;
  const { summary } = views[0]!;
  const replay = views.find((view) => view.summary.replay)?.summary.replay;
  const list = [
    "Each pixel was divided by 255, then 0.1307 was taken off and the rest divided by 0.3081, so that values lie around zero.",
    `The base network was trained on ${many(data.train, "image")} for ${many(settings.epochs, "epoch")}: ${many(summary.base.steps, "step")} of ${many(settings.batch, "image")} in shuffled order, by the Adam method at learning rate ${short(settings.learningRate)}, against the cross-entropy loss.`,
    "A fingerprint (SHA-256) of every base weight was kept.",
    `The base was tested: its accuracy on ${many(data.test, "test image")}, and how many of each digit it read wrongly.`,
    `LoRA of rank ${short(settings.rank)} and alpha ${short(settings.alpha)} was laid over the three weight matrices: W + (alpha / rank) · B A. A starts at random and B at zero, so the adapted network starts as the base.`,
    `All but A and B was frozen. They were trained for ${many(summary.enabled.steps, "step")} of ${many(settings.batch, "image")}, all of one digit, ${chosenDigit(views)}.`,
    "The fingerprints were compared, and the network was tested with the adapter on and off.",
  ];
  if (replay) {
    list.push(
      `The same tuning was done once more with replay: ${share(replay.fraction)} of each batch came from the images of all digits.`,
    );
  }
  return list;
}

function chosenDigit(views: readonly HeadView[]): string {
  const asked = views.some((view) => view.summary.digitChosen === "by option");
  const why = asked ? "the one that was asked for" : "the one that the base reads wrongly most often";
  const digits = views.map((view) =>
    views.length > 1 ? `${view.summary.digit} with the ${headName(view.head)}` : String(view.summary.digit),
  );
  return `${why}: ${listed(digits)}`;
}

/** The network as torchsummary tables it, and what LoRA adds to it. */
export function network(views: readonly HeadView[]): Markup {
  const view = views[0]!;
  const { layers } = view.summary;
  const { base, lora, total, percent: ratio } = view.summary.parameters;
  return html`<section id="network">
<h2>The network</h2>
<p>${sameNetwork(views)}</p>
${dataTable({
  caption: "The base network, layer by layer",
  columns: [text("Layer (type)"), text("Output shape"), numeric("Param #")],
  rows: layers.map((layer) => [whole(layer.name), `[${layer.outputShape.join(", ")}]`, count(layer.parameters)]),
})}
${sizes(layers, base)}
<p>LoRA adds ${count(lora)} parameters, ${percent(ratio)} of the base’s ${count(base)}, for ${count(total)} in all. Biases get none.</p>
${dataTable({
  caption: "What LoRA adds, layer by layer",
  columns: [text("Layer"), numeric("Base"), numeric("A"), numeric("B"), numeric("LoRA")],
  rows: layers.filter((layer) => layer.parameters > 0).map((layer) => loraRow(layer, view.study.settings.rank)),
  total: ["All", count(base), "", "", count(lora)],
})}</section>
`;
}

function sameNetwork(views: readonly HeadView[]): string {
  const [first, second] = views;
  const linear = first!.summary.layers.filter((layer) => layer.parameters > 0).length;
  const opening = `The network has ${many(linear, "linear layer")}. In a shape, −1 stands for the number of images in a batch.`;
  const gone = first!.summary.layers.filter(
    (layer) => !second?.summary.layers.some((other) => other.name === layer.name),
  );
  if (!second || gone.length === 0) return opening;
  return `${opening} The linear head is the same network without ${listed(gone.map((layer) => layer.name))}. A ReLU has no parameters, so the counts are the same.`;
}

/** torchsummary's size lines: float32, MiB, two decimals; forward/backward is twice the activations of one image. */
function sizes(layers: readonly LayerRow[], parameters: number): Markup {
  const mebibytes = (values: number): number => (4 * values) / 2 ** 20;
  const input = mebibytes(inFeatures(layers[0]));
  const activations = mebibytes(2 * sum(layers.map((layer) => features(layer))));
  const weights = mebibytes(parameters);
  const rows: [string, string][] = [
    ["Total params", count(parameters)],
    ["Trainable params", count(parameters)],
    ["Non-trainable params", "0"],
    ["Input size (MB)", fixed(input, 2)],
    ["Forward/backward pass size (MB)", fixed(activations, 2)],
    ["Params size (MB)", fixed(weights, 2)],
    ["Estimated total size (MB)", fixed(input + activations + weights, 2)],
  ];
  return dataTable({ caption: "Its size", columns: [text("What"), numeric("Size")], rows });
}

function loraRow(layer: LayerRow, rank: number): Content[] {
  const b = layer.lora > 0 ? rank * features(layer) : 0; // B is [out, rank]; the rest is A, [rank, in]
  return [whole(layer.name), count(layer.parameters), count(layer.lora - b), count(b), count(layer.lora)];
}

/** A name that must not break at its hyphen. */
function whole(name: string): Markup {
  return html`<span class="whole">${name}</span>`;
}

function features(layer: LayerRow): number {
  return layer.outputShape.filter((dim) => dim > 0).reduce((product, dim) => product * dim, 1);
}

/** A linear layer holds out x in weights and out biases. */
function inFeatures(layer: LayerRow | undefined): number {
  return layer ? layer.parameters / features(layer) - 1 : 0;
}
