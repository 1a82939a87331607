// Evaluations during training: the loss and named metrics on named sets (what is trained for, and what must not be forgotten),
// which of them is best by one metric, and when to stop since it gets no better.
import { LowrankError, throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { productsInFloat16 } from "../onnx/float16.ts";
import { prune } from "../onnx/graph.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type DataSource, startPosition } from "./data-source.ts";
import { type Batches, openFeed } from "./feed.ts";
import type { TrainingPrecision } from "./loss-scale.ts";
import { type Loss, weightOf } from "./losses.ts";
import type { Metric } from "./metrics.ts";
import type { NamedArrays } from "./optimizers.ts";
import type { PrefixedBatch } from "./prefix.ts";
import type { Batch } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";

/** Every so many steps or passes; with both, whenever either is due. */
export interface Every {
  readonly steps?: number;
  readonly epochs?: number;
}

/** Batches that can be gone over again at each evaluation; of a source, its first pass is taken. */
export type EvaluationData = readonly Batch[] | (() => Batches) | DataSource;

export interface EvaluationOptions {
  /** By name, `target` and `retained` for instance. The loss is measured on each: `target/loss`. */
  readonly sets: Readonly<Record<string, EvaluationData>>;
  /** Further metrics by name: { accuracy: accuracy() } gives `target/accuracy`. */
  readonly metrics?: Readonly<Record<string, Metric>>;
  /** Default: after each pass. There is always one at the end. */
  readonly every?: Every;
  /** Also before the first step: what the model can do without training. Default false. */
  readonly atStart?: boolean;
  /** By what the best is chosen; default: the first set's loss, "min". A metric that is no loss shall rise by default. */
  readonly best?: { readonly metric: string; readonly mode?: "min" | "max" };
}

/** What one evaluation found. */
export interface EvaluationRecord {
  /** Steps taken before it. */
  readonly step: number;
  /** Passes over the data completed before it. */
  readonly epoch: number;
  /** `set/metric` to its value. */
  readonly values: Readonly<Record<string, number>>;
}

/** By what evaluations are compared. */
export interface Watched {
  readonly metric: string;
  readonly mode: "min" | "max";
}

export interface EarlyStopping {
  /** So many evaluations in a row without an improvement end training, as in Lightning's and Hugging Face's trainers. */
  readonly patience: number;
  /** What counts as an improvement: better than the best by more than this; default 0. */
  readonly minDelta?: number;
}

export interface StoppingState {
  readonly best: number | null;
  readonly bad: number;
}

/** Runs evaluations with the parameters that it is given. */
export interface Evaluator {
  readonly watched: Watched;
  run(parameters: NamedArrays): Promise<Record<string, number>>;
  dispose(): Promise<void>;
}

/**
 * Compiles the adapted model with its loss and without a backward pass.
 *
 * @throws LowrankError "config" for a metric to watch that there will not be, or for no sets.
 */
export async function openEvaluator(
  adapted: AdaptedModel,
  loss: Loss,
  options: EvaluationOptions,
  { precision, ...session }: SessionOptions & { readonly precision?: TrainingPrecision },
): Promise<Evaluator> {
  const watched = watchedMetric(options);
  const graph = buildStepGraph(adapted, loss);
  const kept = new Set([graph.loss, ...graph.outputs]);
  const outputs = graph.model.graph.outputs.filter(({ name }) => kept.has(name));
  const forward = { ...graph.model, graph: prune({ ...graph.model.graph, outputs }) };
  const opened = await openSession(precision === "float16" ? productsInFloat16(forward) : forward, session);
  const runSet = async (
    parameters: NamedArrays,
    name: string,
    data: EvaluationData,
  ): Promise<Record<string, number>> => {
    const totals = new Map<string, { sum: number; count: number }>();
    const add = (metric: string, sum: number, count: number): void => {
      const before = totals.get(metric) ?? { sum: 0, count: 0 };
      totals.set(metric, { sum: before.sum + sum, count: before.count + count });
    };
    const values = adapted.parameters.map(
      ({ key, dims }) => [key, tensor("float32", dims, parameters.get(key)!)] as const,
    );
    const feed = openFeed(data as Exclude<EvaluationData, readonly unknown[]>, {
      from: startPosition,
      epochs: 1,
      prefetch: true,
    });
    for await (const { batch } of feed) {
      if (batch === null) continue;
      graph.checkLabels(batch.labels);
      const feeds = new Map<string, Tensor>([...values, ...Object.entries(batch.inputs), [graph.labels, batch.labels]]);
      const results = await opened.run(feeds);
      const weight = weightOf(loss, batch.labels);
      // A batch whose labels are all ignored has no mean.
      if (weight > 0) add("loss", Number(results.get(graph.loss)!.data[0]) * weight, weight);
      const modelOutputs = new Map(graph.outputs.map((output) => [output, results.get(output)!]));
      for (const [metric, count] of Object.entries(options.metrics ?? {})) {
        const counted = count(modelOutputs, "given" in batch ? (batch as PrefixedBatch).given : batch);
        add(metric, counted.sum, counted.count);
      }
    }
    if (!totals.has("loss"))
      throw new LowrankError("data", `evaluation: ${name}: expected labels that count, got none`);
    return Object.fromEntries([...totals].map(([metric, { sum, count }]) => [`${name}/${metric}`, sum / count]));
  };
  return {
    watched,
    async run(parameters) {
      let values: Record<string, number> = {};
      for (const [name, data] of Object.entries(options.sets)) {
        values = { ...values, ...(await runSet(parameters, name, data)) };
      }
      return values;
    },
    dispose: () => opened.dispose(),
  };
}

/** By what the best is chosen, checked against what will be measured. */
export function watchedMetric({ sets, metrics = {}, best }: EvaluationOptions): Watched {
  const names = Object.keys(sets);
  throwFaults("config", "evaluation", names.length > 0 ? [] : ["sets: expected one or more, got none"]);
  const known = names.flatMap((set) => ["loss", ...Object.keys(metrics)].map((metric) => `${set}/${metric}`));
  const metric = best?.metric ?? known[0]!;
  throwFaults(
    "config",
    "evaluation",
    known.includes(metric) ? [] : [`best: expected a metric of ${known.join(", ")}, got ${JSON.stringify(metric)}`],
  );
  return { metric, mode: best?.mode ?? (metric.endsWith("/loss") ? "min" : "max") };
}

/** Whether `value` is better than `best` by more than `margin`; anything but NaN is better than nothing. */
export function isBetter(value: number, best: number | null, mode: "min" | "max", margin = 0): boolean {
  if (best === null) return !Number.isNaN(value);
  return mode === "min" ? value < best - margin : value > best + margin;
}

/** The state of early stopping after one more evaluation. */
export function observeStopping(
  state: StoppingState,
  value: number,
  mode: "min" | "max",
  { minDelta = 0 }: EarlyStopping,
): StoppingState {
  if (isBetter(value, state.best, mode, minDelta)) return { best: value, bad: 0 };
  return { best: state.best, bad: state.bad + 1 };
}

/** Whether something is due after a step, or at the end of a pass. */
export function isDue(every: Every, step: number, stepped: boolean, epochsDone: number | null): boolean {
  const { steps, epochs } = every;
  if (steps !== undefined && stepped && step % steps === 0) return true;
  return epochs !== undefined && epochsDone !== null && epochsDone % epochs === 0;
}

/** Faults of an interval. */
export function everyFaults(name: string, every: Every): string[] {
  return (["steps", "epochs"] as const).flatMap((unit) => {
    const value = every[unit];
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1)) return [];
    return [`${name}: expected a whole number of ${unit} of 1 or more, got ${value}`];
  });
}
