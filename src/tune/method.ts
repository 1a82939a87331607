// From a run's options to what the trainer takes: the loss, the optimizer, the schedule, the number of steps. What "auto" and
// null mean is decided here, once, and kept as words, so that a run says what it does.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Dim, Model } from "../onnx/model.ts";
import { loraPlus } from "../train/lora-plus.ts";
import {
  binaryCrossEntropy,
  causalLm,
  crossEntropy,
  distillation,
  huber,
  type Loss,
  meanAbsoluteError,
  meanSquaredError,
} from "../train/losses.ts";
import { accuracy, agreement, type Metric } from "../train/metrics.ts";
import { adafactor, adam, adamw, lion, type Optimizer, sgd } from "../train/optimizers.ts";
import {
  constant,
  cosine,
  linear,
  type MetricSchedule,
  oneCycle,
  plateau,
  type Schedule,
  warmup,
} from "../train/schedules.ts";
import type { RunOptions, Verb } from "./option-table.ts";

export type LossName = Exclude<RunOptions["loss"], "auto"> | "distillation";

/** What the labels of the data are, as far as a loss depends on it. */
export type LabelKind = "tokens" | "classes" | "numbers";

/** The loss that "auto" stands for. */
export function chooseLoss(options: RunOptions, labels: LabelKind | "none"): LossName {
  if (options.teacher !== null) return "distillation";
  if (options.loss !== "auto") return options.loss;
  if (labels === "tokens") return "causal_lm";
  // Where there are none, the data room says what is missing.
  return labels === "numbers" ? "mse" : "cross_entropy";
}

/** Whether a loss has classes, and so an accuracy. */
export function hasClasses(loss: LossName): boolean {
  return loss === "cross_entropy" || loss === "causal_lm";
}

/** The loss with its options. Throws LowrankError "config" for options that it has no use for. */
export function makeLoss(name: LossName, options: RunOptions): Loss {
  const { labelSmoothing, classWeights } = options;
  const output = options.output === null ? {} : { output: options.output };
  if (!hasClasses(name)) {
    throwFaults("config", `loss ${name}`, [
      ...(labelSmoothing === 0 ? [] : ["labelSmoothing: expected 0, since it has no classes"]),
      ...(classWeights === null ? [] : ["classWeights: expected none, since it has no classes"]),
    ]);
  }
  const classes = { ...output, labelSmoothing, ...(classWeights !== null && { classWeights }) };
  switch (name) {
    case "cross_entropy":
      return crossEntropy(classes);
    case "causal_lm":
      return causalLm(classes);
    case "bce":
      return binaryCrossEntropy(output);
    case "mse":
      return meanSquaredError(output);
    case "mae":
      return meanAbsoluteError(output);
    case "huber":
      return huber(output);
    case "distillation":
      return distillation({ ...output, temperature: options.teacherTemperature });
  }
}

/** What is measured beside the loss. */
export function makeMetrics(name: LossName, { output }: RunOptions): Record<string, Metric> {
  if (name === "distillation") return { agreement: agreement(output === null ? {} : { output }) };
  if (!hasClasses(name)) return {};
  return { accuracy: accuracy({ shifted: name === "causal_lm", ...(output !== null && { output }) }) };
}

/** By which metric the best is chosen. Throws LowrankError "config" for one that there is not. */
export function bestMetric(name: LossName, options: RunOptions): { metric: string; mode: "min" | "max" } {
  // Of tokens, the share that is the likeliest moves late; a better model shows in the loss first.
  const chosen = options.metric ?? (hasClasses(name) && name !== "causal_lm" ? "accuracy" : "loss");
  const measure = chosen.replace("retained/", "");
  const measures = ["loss", ...Object.keys(makeMetrics(name, options))];
  if (!measures.includes(measure)) {
    throw new LowrankError("config", `metric: expected ${measures.join(" or ")} with the loss ${name}, got ${chosen}`);
  }
  const isRetained = measure !== chosen;
  if (isRetained && options.retainedData === null) {
    throw new LowrankError("config", `metric: expected --retained-data beside ${chosen}, got none`);
  }
  return { metric: isRetained ? chosen : `target/${chosen}`, mode: measure === "loss" ? "min" : "max" };
}

export function makeOptimizer(options: RunOptions): Optimizer {
  const { weightDecay, momentum, loraPlusRatio } = options;
  const make = (own: { weightDecay: number }): Optimizer => {
    switch (options.optimizer) {
      case "adamw":
        return adamw(own);
      case "adam":
        return adam(own);
      case "sgd":
        return sgd({ ...own, momentum });
      case "lion":
        return lion(own);
      case "adafactor":
        return adafactor(own);
    }
  };
  if (loraPlusRatio === null) return make({ weightDecay });
  return loraPlus({ ratio: loraPlusRatio, weightDecay, optimizer: make });
}

/** The learning rate that a run takes when it is given none; the option's own words say where it comes from. */
export function learningRateOf(verb: Verb, { learningRate, optimizer }: RunOptions): number {
  if (learningRate !== null) return learningRate;
  const forAdapters = optimizer === "lion" ? 1e-4 : 1e-3;
  return verb === "pretrain" ? forAdapters / 10 : forAdapters;
}

/** Steps of a pass: the last one may be of fewer batches. */
export function stepsPerEpoch(batches: number, { accumulate }: RunOptions): number {
  return Math.ceil(batches / accumulate);
}

/** Steps in all. */
export function totalSteps(batches: number, options: RunOptions): number {
  return options.steps ?? Math.max(1, Math.ceil(options.epochs * stepsPerEpoch(batches, options)));
}

/** Steps of the warm-up among `total`. */
export function warmupSteps(total: number, { warmup: steps, schedule }: RunOptions): number {
  if (schedule === "one-cycle") return 0; // it has a rise of its own
  return Math.min(total - 1, steps < 1 ? Math.round(steps * total) : Math.round(steps));
}

export function makeSchedule(
  rate: number,
  total: number,
  options: RunOptions,
  mode: "min" | "max",
): Schedule | MetricSchedule {
  const rise = warmupSteps(total, options);
  const after = total - rise;
  const warmed = (schedule: Schedule): Schedule => (rise === 0 ? schedule : warmup(schedule, { steps: rise }));
  switch (options.schedule) {
    case "constant":
      return warmed(constant(rate));
    case "linear":
      return warmed(linear(rate, { steps: after }));
    case "cosine":
      return warmed(cosine(rate, { steps: after }));
    case "one-cycle":
      return oneCycle(rate, { steps: Math.max(2, total) });
    case "plateau":
      return plateau(warmed(constant(rate)), {
        mode,
        patience: options.plateauPatience,
        factor: options.plateauFactor,
      });
  }
}

/** The shape of the output that a loss is measured on. Throws LowrankError "config" for a name that there is not. */
export function outputShape({ graph }: Model, { output }: RunOptions): readonly Dim[] | undefined {
  const found = output === null ? graph.outputs[0] : graph.outputs.find(({ name }) => name === output);
  if (found !== undefined) return found.shape;
  const names = graph.outputs.map(({ name }) => name).join(", ");
  throw new LowrankError("config", `output: expected one of ${names}, got ${JSON.stringify(output)}`);
}
