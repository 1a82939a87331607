// The study in words and tables, for someone who sees LoRA for the first time. Numbers come from the run; nothing is
// claimed that was not measured in it.

import type { DataSource } from "../data/mnist.ts";
import { summary } from "../onnx/summary.ts";
import { formatSummary } from "../runs/summary-table.ts";
import { formatCount, formatDuration, formatPercent, formatTable } from "../runs/table.ts";
import type { BaseRun } from "./head.ts";
import { studyNetwork } from "./network.ts";
import type { StudyOptions } from "./options.ts";
import type { CompressionPoint, DeadOutput, Evaluation, Head, HeadSummary, LayerRow, StudySummary } from "./result.ts";
import type { Voice } from "./voice.ts";

const headNames: Readonly<Record<Head, string>> = {
  relu: "The documented network: a ReLU on the logits",
  linear: "The same network with a linear head",
};

/** What is about to happen, and on which data. */
export function introduction(
  voice: Voice,
  options: StudyOptions,
  source: DataSource,
  train: number,
  test: number,
): void {
  voice.heading("Low-rank adaptation (LoRA) on handwritten digits");
  voice.say(
    "A network learns to read digits. Then its weights are frozen, and a small adapter (two thin matrices A and B beside",
  );
  voice.say("each weight matrix W, used as W + (alpha / rank) B A) learns the one digit that the network reads worst.");
  voice.say();
  voice.say(`Data: ${source.description}: ${formatCount(train)} training and ${formatCount(test)} test images used.`);
  voice.say(
    `Seed ${options.seed}, ${options.threads} thread${options.threads === 1 ? "" : "s"}, device ${options.device}.`,
  );
}

export function headIntroduction(voice: Voice, head: Head): void {
  voice.heading(headNames[head]);
  voice.say(formatSummary(summary(studyNetwork(head, 0))));
  voice.say();
}

/** Accuracy and wrong counts of the base, the outputs that died, and which digit is tuned. */
export function baseResult(voice: Voice, base: BaseRun, digit: number, byOption: boolean, head: Head): void {
  const { losses, seconds } = base.history;
  const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  voice.say(
    `Trained ${formatCount(losses.length)} steps in ${formatDuration(seconds)} (${(losses.length / seconds).toFixed(0)} steps/s), average loss ${mean.toFixed(3)}.`,
  );
  voice.say(`Test accuracy ${base.evaluation.accuracy.toFixed(4)}. Wrongly read test images of each digit:`);
  voice.say(wrongTable([["base", base.evaluation]], digit));
  voice.say();
  for (const line of [...deadExplanation(base.dead, head), ...silentExplanation(base)]) voice.say(line);
  const chosen = byOption
    ? "as asked for"
    : `read wrong most often (${formatCount(base.evaluation.wrong[digit]!)} times)`;
  voice.say(`To tune: digit ${digit}, ${chosen}.`);
  for (const line of deadWarning(base.dead, digit)) voice.say(line);
  voice.say();
}

/** Why digits are lost behind a ReLU, and what that costs here. */
function deadExplanation(dead: readonly DeadOutput[], head: Head): string[] {
  if (head === "linear") return [];
  if (dead.length === 0) return ["No output died: each digit's logit is above zero for some image.", ""];
  const digits = dead.map(({ digit }) => digit).join(", ");
  const lost = dead.reduce((sum, { wrong }) => sum + wrong, 0);
  return [
    `Dead outputs: ${digits} (${dead.length} of 10). Their logits are negative for every image, and the ReLU makes them zero.`,
    "A zero behind a ReLU gets no gradient, so such an output cannot come back by itself; its digit is predicted only when all",
    `logits tie at zero, and ties go to the lowest digit. It costs ${formatCount(lost)} test images here:`,
    ...dead.map(
      ({ digit, wrong, images }) => `  digit ${digit}: ${formatCount(wrong)} of ${formatCount(images)} wrong`,
    ),
    "",
  ];
}

/** Digits that are never predicted although their outputs live. */
function silentExplanation({ dead, readings }: BaseRun): string[] {
  const predicted = new Set(readings.predictions);
  const silent = Array.from({ length: 10 }, (_, digit) => digit).filter(
    (digit) => !predicted.has(digit) && !dead.some((output) => output.digit === digit),
  );
  if (silent.length === 0) return [];
  const digits = silent.join(", ");
  return [`Not dead but never predicted: ${digits}. Above zero for some image, yet never the largest logit.`, ""];
}

function deadWarning(dead: readonly DeadOutput[], digit: number): string[] {
  if (dead.length === 10) {
    return [
      "All ten outputs are dead: every gradient is zero, so nothing can be learnt through them, by an adapter or otherwise.",
      "The fine-tune runs all the same, to show it.",
    ];
  }
  if (!dead.some((output) => output.digit === digit)) return [];
  return [
    `Its own output is dead, so tuning may change nothing: only the other outputs pass gradients on. The counts below show it.`,
  ];
}

export function parameters(voice: Voice, counts: HeadSummary["parameters"], layers: readonly LayerRow[]): void {
  const rows = layers
    .filter(({ lora }) => lora > 0)
    .map(({ name, parameters: own, lora }) => [
      name,
      formatCount(own),
      formatCount(lora),
      `${((100 * lora) / own).toFixed(3)} %`,
    ]);
  voice.say("The adapter: only A and B are trained, all else is frozen.");
  voice.say(
    formatTable(
      [
        { header: "Layer" },
        { header: "Frozen", align: "right" },
        { header: "A and B", align: "right" },
        { header: "Share", align: "right" },
      ],
      [...rows, "-", ["all", formatCount(counts.base), formatCount(counts.lora), `${counts.percent.toFixed(3)} %`]],
    ),
  );
  voice.say(
    `LoRA adds ${formatCount(counts.lora)} parameters (${counts.percent.toFixed(3)} %) for ${formatCount(counts.total)} in all.`,
  );
  voice.say();
}

/** STUDY's step 9. */
export function proofs(voice: Voice, head: HeadSummary): void {
  const mark = (holds: boolean): string => (holds ? "yes" : "NO");
  voice.say(
    `Tuned on digit ${head.digit}: ${formatCount(head.enabled.steps)} steps, ${head.enabled.stepsPerSecond.toFixed(0)} steps/s, average loss ${head.enabled.meanLoss.toFixed(3)}.`,
  );
  voice.say();
  voice.say("Checks");
  voice.say(`  every frozen weight is bit for bit what it was (SHA-256):   ${mark(head.frozenWeightsUnchanged)}`);
  voice.say(`  adapter off is the base again, logit for logit:             ${mark(head.disabledMatchesBase)}`);
  voice.say(
    `  layers compute with W + (alpha / rank) B A, at most off by: ${head.effectiveWeightMatches.maxAbsDiff.toExponential(1)}`,
  );
  voice.say(
    `  merged.onnx against adapter on, largest logit difference:   ${head.mergedMatchesEnabled.maxAbsDiff.toExponential(1)}`,
  );
  voice.say();
}

/** Wrong counts before, with the adapter on and off, and with replay; and what the chosen digit's gain cost the others. */
export function comparison(voice: Voice, head: HeadSummary, labels: Uint8Array): void {
  const rows: [string, Evaluation][] = [
    ["base", head.base],
    ["adapter on", head.enabled],
    ["adapter off", head.disabled],
    ...(head.replay ? [["with replay", head.replay] as [string, Evaluation]] : []),
  ];
  voice.say(`Wrongly read test images (of ${formatCount(labels.length)})`);
  voice.say(wrongTable(rows, head.digit));
  voice.say();
  for (const line of verdict(head)) voice.say(line);
}

function verdict({ digit, base, enabled, replay }: HeadSummary): string[] {
  const lines = [gain("On its own", digit, base, enabled)];
  if (enabled.wrong.join() === base.wrong.join())
    return ["Tuning changed no count at all.", ...(replay ? [gain("With replay", digit, base, replay)] : [])];
  lines.push(
    'A set of one digit has no other label: "always say ' +
      digit +
      '" fits it perfectly, and the other digits pay for it.',
  );
  if (replay) {
    lines.push(gain("With replay", digit, base, replay));
    lines.push(
      `Replay draws ${formatPercent(replay.fraction, 0)} of each batch from all digits, so that the others are not forgotten.`,
    );
  }
  return lines;
}

function gain(how: string, digit: number, before: Evaluation, after: Evaluation): string {
  const others = (evaluation: Evaluation): number =>
    evaluation.wrong.reduce((sum, count, index) => sum + (index === digit ? 0 : count), 0);
  return (
    `${how}: digit ${digit} from ${formatCount(before.wrong[digit]!)} wrong to ${formatCount(after.wrong[digit]!)}; ` +
    `the other nine from ${formatCount(others(before))} to ${formatCount(others(after))}; accuracy ${before.accuracy.toFixed(4)} to ${after.accuracy.toFixed(4)}.`
  );
}

function wrongTable(rows: readonly (readonly [string, Evaluation])[], digit: number): string {
  const digits = Array.from({ length: 10 }, (_, index) => index);
  return formatTable(
    [
      { header: "digit" },
      ...digits.map((index) => ({ header: index === digit ? `[${index}]` : String(index), align: "right" as const })),
      { header: "accuracy", align: "right" },
    ],
    rows.map(([name, { wrong, accuracy }]) => [name, ...wrong.map(formatCount), accuracy.toFixed(4)]),
  );
}

/** Size against accuracy of the base. */
export function compression(voice: Voice, base: BaseRun, points: readonly CompressionPoint[]): void {
  const row = (name: string, bytes: number, accuracy: number): string[] => [
    name,
    formatCount(bytes),
    formatPercent(bytes / base.bytes),
    accuracy.toFixed(4),
  ];
  const nameOf = ({ rank, weighedWithData, quantized }: CompressionPoint): string =>
    [rank === null ? null : `fc2 at rank ${rank}${weighedWithData ? ", on data" : ""}`, quantized]
      .filter((part) => part !== null)
      .join(", ");
  const right = "right" as const;
  voice.say();
  voice.say("The base made smaller, without any training: its largest layer as two thin ones, weights in fewer bits");
  voice.say(
    formatTable(
      [
        { header: "model" },
        { header: "bytes", align: right },
        { header: "of the base", align: right },
        { header: "accuracy", align: right },
      ],
      [
        row("base", base.bytes, base.evaluation.accuracy),
        ...points.map((point) => row(nameOf(point), point.bytes, point.accuracy)),
      ],
    ),
  );
}

/** Where everything is. */
export function conclusion(voice: Voice, result: StudySummary, folder: string): void {
  voice.heading("Done");
  const heads = Object.entries(result.heads).map(([head, { base, enabled, replay, digit }]) => [
    head,
    base.accuracy.toFixed(4),
    String(digit),
    `${formatCount(base.wrong[digit]!)} -> ${formatCount(enabled.wrong[digit]!)}`,
    enabled.accuracy.toFixed(4),
    replay ? `${formatCount(replay.wrong[digit]!)}, ${replay.accuracy.toFixed(4)}` : "-",
  ]);
  const right = "right" as const;
  voice.say(
    formatTable(
      [
        { header: "head" },
        { header: "base accuracy", align: right },
        { header: "digit", align: right },
        { header: "its wrong count", align: right },
        { header: "accuracy, adapter on", align: right },
        { header: "with replay", align: right },
      ],
      heads,
    ),
  );
  voice.say();
  voice.say(`All of it, with charts: ${folder}/report.html (${formatDuration(result.seconds)}).`);
}
