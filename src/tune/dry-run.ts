// What a run would do, without doing it: everything is opened, matched and compiled, a few steps are run and timed, and
// nothing is written.
import { currentWeights } from "../lora/full.ts";
import { parameterCount } from "../lora/init.ts";
import type { Dim, ValueInfo } from "../onnx/model.ts";
import { summary } from "../onnx/summary.ts";
import { formatBytes, formatCount, formatDuration, formatTable } from "../runs/table.ts";
import { elementCount } from "../tensor.ts";
import { inputDefaults } from "../train/default-inputs.ts";
import { estimateMemory, type MemoryEstimate } from "../train/memory.ts";
import { compileStep, loadParameters } from "../train/step.ts";
import { buildStepGraph } from "../train/step-graph.ts";
import * as tell from "./narrate.ts";
import type { RunOptions } from "./option-table.ts";
import { type Prepared, prepare, startOf, type TrainVerb } from "./prepare.ts";
import type { RunContext } from "./run.ts";
import type { RunData } from "./run-data.ts";
import { silentVoice, type Voice } from "./voice.ts";

export interface DryRun {
  readonly verb: TrainVerb;
  readonly inputs: readonly ValueShape[];
  readonly outputs: readonly ValueShape[];
  readonly rows: RunData["rows"];
  readonly matches: RunData["matches"];
  /** Where adapters are, and how many values A and B have; of whole weights none. */
  readonly sites: readonly { readonly modulePath: string; readonly r: number; readonly parameters: number }[];
  readonly parameters: { readonly base: number; readonly trained: number };
  readonly loss: string;
  readonly learningRate: number;
  readonly steps: number;
  readonly stepsPerEpoch: number;
  /** Estimated from the graph, before the first step. */
  readonly memoryEstimate: MemoryEstimate;
  /** Measured: the largest resident memory of this process, with the runtime, the data and a few steps in it. */
  readonly memoryBytes: number;
  /** Measured: the median of a few steps after the first. */
  readonly secondsPerStep: number;
  /** All steps at that pace; evaluations come on top. */
  readonly seconds: number;
}

export interface ValueShape {
  readonly name: string;
  readonly shape: readonly Dim[] | null;
}

/**
 * Opens a run and times its first steps.
 *
 * @throws LowrankError as `runTune` does before it trains.
 * @example
 * const { steps, seconds, memoryBytes } = await dryRun("tune", resolveOptions("tune", { model: "model.onnx", data: ["a.csv"] }));
 */
export async function dryRun(
  verb: TrainVerb,
  options: RunOptions,
  { voice = silentVoice, signal = new AbortController().signal }: RunContext = {},
): Promise<DryRun> {
  const prepared = await prepare(verb, options, { voice, signal });
  try {
    const { model, adapted, data, learningRate, steps, stepsPerEpoch } = prepared;
    const shapeOf = ({ name, shape }: ValueInfo): ValueShape => ({ name, shape: shape ?? null });
    const memoryEstimate = await estimate(prepared);
    const secondsPerStep = await timeStep(prepared, signal);
    const result: DryRun = {
      verb,
      inputs: model.graph.inputs.map(shapeOf),
      outputs: model.graph.outputs.map(shapeOf),
      rows: data.rows,
      matches: data.matches,
      sites: sitesOf(prepared),
      parameters: { base: summary(model).parameters, trained: parameterCount(adapted) },
      loss: data.loss,
      learningRate,
      steps,
      stepsPerEpoch,
      memoryEstimate,
      memoryBytes: process.resourceUsage().maxRSS * 1024,
      secondsPerStep,
      seconds: secondsPerStep * steps,
    };
    describe(voice, prepared, result);
    return result;
  } finally {
    await prepared.data.close();
  }
}

function sitesOf({ adapted }: Prepared): DryRun["sites"] {
  const sizes = new Map(adapted.parameters.map(({ key, dims }) => [key, elementCount(dims)]));
  return adapted.sites.map(({ site: { modulePath }, r, a, b }) => ({
    modulePath,
    r,
    parameters: (sizes.get(a) ?? 0) + (sizes.get(b) ?? 0),
  }));
}

/** What this process will take, by the shapes of the first batch. */
async function estimate({ adapted, loss, training, options, data }: Prepared): Promise<MemoryEstimate> {
  const { checkpointActivations } = options;
  const { model, labels } = buildStepGraph(adapted, loss, { checkpointActivations });
  const inputs = model.graph.inputs.map(({ name }) => name);
  for await (const { batch } of data.train.batches({ epoch: 0, index: 0 })) {
    const feeds = { ...inputDefaults(adapted.model, inputs)(batch.inputs), [labels]: batch.labels };
    const resident = process.memoryUsage().rss;
    return estimateMemory(model, { feeds, parameters: adapted.parameters, optimizer: training.optimizer!, resident });
  }
  throw new Error("internal: data without a batch");
}

/** Besides the first, which allocates, and is not counted. */
const timedSteps = 5;

/** Enough of slow steps. */
const mostSeconds = 10;

/** Seconds of a step: `accumulate` batches and an update. */
async function timeStep(prepared: Prepared, signal: AbortSignal): Promise<number> {
  const { adapted, loss, training, options, data, session } = prepared;
  const optimizer = training.optimizer!;
  const step = await compileStep(adapted, loss, optimizer, {
    ...session,
    seed: options.seed,
    checkpointActivations: options.checkpointActivations,
    precision: options.precision,
  });
  try {
    loadParameters(step, adapted, startOf(prepared)?.tensors ?? currentWeights(adapted));
    const state = optimizer.init(step.parameters, step.arena);
    const times: number[] = [];
    const begun = performance.now();
    for await (const { batch } of data.train.batches({ epoch: 0, index: 0 })) {
      signal.throwIfAborted();
      const from = performance.now();
      await step.run(batch);
      const ran = performance.now();
      optimizer.update(step.parameters, step.gradients, state, 1e-12);
      times.push((options.accumulate * (ran - from) + (performance.now() - ran)) / 1000);
      if (times.length > timedSteps || performance.now() - begun > 1000 * mostSeconds) break;
    }
    const counted = (times.length > 1 ? times.slice(1) : times).sort((a, b) => a - b);
    return counted[counted.length >> 1]!;
  } finally {
    await step.dispose();
  }
}

function describe(voice: Voice, prepared: Prepared, result: DryRun): void {
  voice.heading("Dry run: nothing is trained or written");
  tell.plan(voice, prepared);
  const shape = ({ shape: dims }: ValueShape): string =>
    dims === null ? "?" : dims.map((dim) => dim ?? "?").join(", ");
  for (const input of result.inputs) voice.say(`  input  ${input.name} [${shape(input)}]`);
  for (const output of result.outputs) voice.say(`  output ${output.name} [${shape(output)}]`);
  if (result.sites.length > 0) {
    const right = "right" as const;
    voice.say();
    voice.say(
      formatTable(
        [{ header: "adapted layer" }, { header: "r", align: right }, { header: "values", align: right }],
        result.sites.map(({ modulePath, r, parameters }) => [modulePath, String(r), formatCount(parameters)]),
      ),
    );
  }
  voice.say();
  voice.say(
    `Time: about ${formatDuration(result.seconds)} for ${formatCount(result.steps)} steps of ${(1000 * result.secondsPerStep).toPrecision(3)} ms (the median of a few that were timed); evaluations come on top.`,
  );
  const { memoryEstimate: parts } = result;
  voice.say(
    `Memory: about ${formatBytes(parts.total)} (estimated: ${formatBytes(parts.process)} before the first step, ${formatBytes(parts.weights)} the runtime's copies of weights, ${formatBytes(parts.activations)} activations, ${formatBytes(parts.trained)} what is trained with its optimizer); ${formatBytes(result.memoryBytes)} at most so far (measured, after those steps).`,
  );
}
