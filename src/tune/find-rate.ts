// `--find-lr`: the learning rate range test (src/train/find-learning-rate.ts) on a run's model and data, and its curve drawn in
// characters.
import { findLearningRate, type LearningRateCurve } from "../train/find-learning-rate.ts";
import * as tell from "./narrate.ts";
import type { RunOptions } from "./option-table.ts";
import { prepare, type TrainVerb } from "./prepare.ts";
import type { RunContext } from "./run.ts";
import { silentVoice } from "./voice.ts";

/**
 * Finds a learning rate for a run. Nothing is written.
 *
 * @throws LowrankError as `runTune` does before it trains; "data" for data that is too short.
 * @example
 * const { suggestion } = await findRate("tune", resolveOptions("tune", { model: "model.onnx", data: ["train.csv"] }));
 */
export async function findRate(
  verb: TrainVerb,
  options: RunOptions,
  { voice = silentVoice, signal = new AbortController().signal }: RunContext = {},
): Promise<LearningRateCurve> {
  const prepared = await prepare(verb, options, { voice, signal });
  try {
    const { adapted, start, data, loss, training, session } = prepared;
    tell.plan(voice, prepared);
    const curve = await findLearningRate(adapted, data.train, {
      ...session,
      loss,
      optimizer: training.optimizer!,
      seed: options.seed,
      signal,
      ...(start !== null && { adapter: start }),
      ...(options.steps !== null && { steps: options.steps }),
    });
    voice.say();
    voice.say(drawCurve(curve));
    voice.say();
    voice.say(verdict(curve));
    return curve;
  } finally {
    await prepared.data.close();
  }
}

function verdict({ suggestion, diverged, rates }: LearningRateCurve): string {
  const most = rates.at(-1)!;
  const bound = diverged
    ? `The loss ran away above ${most.toExponential(1)}.`
    : `The loss never ran away up to ${most.toExponential(1)}.`;
  if (suggestion === null) return `No rate made the loss fall. ${bound} Look at the data and the labels.`;
  return `The loss falls most steeply at ${suggestion.toExponential(1)}: try --learning-rate ${suggestion.toExponential(1)}. ${bound}`;
}

const chartWidth = 64;
const chartHeight = 10;

/** The running loss (down) over the logarithm of the rate (right); the suggestion's column is marked below. */
export function drawCurve({ rates, smoothed, suggestion }: LearningRateCurve): string {
  if (rates.length === 0) return "no step was taken";
  const columns = Math.min(chartWidth, rates.length);
  const stepOf = (column: number): number =>
    columns === 1 ? 0 : Math.round((column * (rates.length - 1)) / (columns - 1));
  const values = Array.from({ length: columns }, (_, column) => smoothed[stepOf(column)]!);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const rowOf = (value: number): number =>
    most === least ? 0 : Math.round(((most - value) / (most - least)) * (chartHeight - 1));
  const rows = Array.from({ length: chartHeight }, (_, row) =>
    values.map((value) => (rowOf(value) === row ? "*" : " ")).join(""),
  );
  const label = (row: number): string =>
    (row === 0 ? most : row === chartHeight - 1 ? least : null)?.toPrecision(4) ?? "";
  const marked = suggestion === null ? -1 : values.findIndex((_, column) => rates[stepOf(column)]! >= suggestion);
  const [first, last] = [rates[0]!.toExponential(0), rates.at(-1)!.toExponential(0)];
  return [
    ...rows.map((row, index) => `${label(index).padStart(8)} |${row}`.trimEnd()),
    `${" ".repeat(8)} +${Array.from({ length: columns }, (_, column) => (column === marked ? "^" : "-")).join("")}`,
    `${" ".repeat(10)}${first}${last.padStart(Math.max(1, columns - first.length))}  learning rate`,
  ].join("\n");
}
