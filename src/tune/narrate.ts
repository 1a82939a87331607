// What a run says, in the order of what happens. Words only: every number is somebody else's.
import { parameterCount } from "../lora/init.ts";
import { summary } from "../onnx/summary.ts";
import { formatBytes, formatCount, formatDuration, formatPercent, formatTable } from "../runs/table.ts";
import type { PrefixPlan } from "../train/prefix.ts";
import type { Prepared } from "./prepare.ts";
import type { RunSummary } from "./result.ts";
import type { OpenRun } from "./resume.ts";
import type { Voice } from "./voice.ts";

/** What will be trained, on what, and how. */
export function introduction(voice: Voice, prepared: Prepared, { folder, checkpoint }: OpenRun): void {
  plan(voice, prepared);
  voice.say(`Run folder: ${folder.path}`);
  if (checkpoint !== null) {
    voice.say(`Going on after step ${formatCount(checkpoint.step)} of ${formatCount(prepared.steps)}.`);
  }
  voice.say();
}

export function plan(voice: Voice, prepared: Prepared): void {
  const { verb, options, model, adapted, data, steps, stepsPerEpoch, learningRate } = prepared;
  const [base, trained] = [summary(model).parameters, parameterCount(adapted)];
  voice.say(`Model: ${options.model ?? `layers ${options.layers!.join("-")}`}, ${formatCount(base)} parameters.`);
  voice.say(
    verb === "pretrain"
      ? `Trained: all weights, ${formatCount(trained)} values.`
      : `Trained: an adapter at ${formatCount(adapted.sites.length)} layers, ${formatCount(trained)} values (${formatPercent(trained / base, 2)}).`,
  );
  const { rows } = data;
  voice.say(
    `Data: ${formatCount(rows.train)} rows to train on` +
      (rows.replay > 0 ? `, ${formatCount(rows.replay)} to replay` : "") +
      (rows.target > 0 ? `, ${formatCount(rows.target)} to evaluate on` : "") +
      (rows.retained > 0 ? `, ${formatCount(rows.retained)} that must not be forgotten` : "") +
      (options.transform === null ? "" : `; images go through ${options.transform}`) +
      ".",
  );
  const told = data.matches.map(({ input, shape }) => `${input} [${shape.join(", ")}]`);
  voice.say(`A batch: ${told.slice(0, -1).join(", ")}, labels ${told.at(-1)!.replace(/^labels /, "")}.`);
  voice.say(
    `Loss: ${data.loss}${lossNote(options)}. Optimizer: ${options.optimizer}, learning rate ${learningRate}${options.learningRate === null ? " (default)" : ""}, ${options.schedule}.`,
  );
  voice.say(
    `Steps: ${formatCount(steps)}, ${formatCount(stepsPerEpoch)} in a pass, batches of ${formatCount(options.batchSize)}${options.accumulate > 1 ? ` x ${options.accumulate}` : ""}. Seed ${options.seed}.`,
  );
}

/** Which layers run once for each row, or why they do not. */
export function prefix(voice: Voice, plan: PrefixPlan): void {
  if (!plan.on) {
    voice.say(`Frozen prefix: off: ${plan.reason}.`);
    return;
  }
  const { nodes, allNodes, bytesPerExample, bytes, place } = plan;
  voice.say(
    `Frozen prefix: ${formatCount(nodes)} of ${formatCount(allNodes)} nodes run once for each row; of each, ${formatBytes(bytesPerExample)} are kept (${formatBytes(bytes)} in all, ${place === "disk" ? "on the disk" : `in ${place}`}).`,
  );
}

function lossNote({ loss, teacher }: Prepared["options"]): string {
  if (teacher !== null) return ` (from the outputs of ${teacher})`;
  return loss === "auto" ? " (chosen by the labels)" : "";
}

export function evaluation(voice: Voice, step: number, values: Readonly<Record<string, number>>, best: boolean): void {
  const told = Object.entries(values).map(([name, value]) => `${name} ${formatMetric(name, value)}`);
  voice.say(
    `${step === 0 ? "before training" : `step ${formatCount(step)}`}: ${told.join(", ")}${best ? "  best" : ""}`,
  );
}

/** Before and after, and where everything is. */
export function conclusion(voice: Voice, result: RunSummary, folder: string): void {
  voice.heading("Done");
  const { before, after } = result;
  if (after !== null) {
    const right = "right" as const;
    voice.say(
      formatTable(
        [{ header: "" }, { header: "before", align: right }, { header: "after", align: right }],
        Object.entries(after).map(([name, value]) => [
          name,
          before === null ? "-" : formatMetric(name, before[name]!),
          formatMetric(name, value),
        ]),
      ),
    );
  }
  if (result.best !== null) {
    const { metric, value, step } = result.best;
    voice.say(`Best ${metric}: ${formatMetric(metric, value)} after step ${formatCount(step)}.`);
  }
  if (result.best?.step === 0 && result.steps > 0) {
    voice.warn("no evaluation was better than the one before training: best is the model as it was");
  }
  if (result.end === "patience") voice.say("Stopped early: no better evaluation came within --patience.");
  voice.say(
    `${formatCount(result.steps)} steps in ${formatDuration(result.seconds)} (${result.stepsPerSecond.toFixed(1)} steps/s). In ${folder}:`,
  );
  for (const [what, name] of Object.entries(result.files)) voice.say(`  ${what.padEnd(10)} ${name}`);
}

function formatMetric(name: string, value: number): string {
  return /\/(accuracy|agreement)$/.test(name) ? formatPercent(value, 2) : value.toPrecision(4);
}
