// Learning rate schedules: plain functions from the step (0 for the first) to the learning rate of that step, and functions
// that compose them. Each follows its namesake of torch.optim.lr_scheduler, stepped after every optimizer step, and stays
// where it is when its steps are over. One, the plateau, listens to a metric too: its memory is plain JSON.
import { throwFaults } from "../errors.ts";

export type Schedule = (step: number) => number;

/** A schedule that also learns from evaluations. What it has learnt is `State`, plain JSON for a checkpoint. */
export interface MetricSchedule {
  readonly name: "plateau";
  /** Whether the metric shall fall or rise. */
  readonly mode: "min" | "max";
  init(): PlateauState;
  /** The learning rate of a step, given what was observed. */
  rate(step: number, state: PlateauState): number;
  /** The state after one more evaluation. */
  observe(metric: number, state: PlateauState): PlateauState;
}

export interface PlateauState {
  /** The best metric so far; null before the first. */
  readonly best: number | null;
  /** Evaluations in a row that were no better. */
  readonly bad: number;
  /** Evaluations that will not be counted as bad yet. */
  readonly cooldown: number;
  /** What the learning rate is multiplied by. */
  readonly scale: number;
}

/**
 * The same learning rate at every step. Throws "config" unless it is a finite number above zero.
 *
 * @example
 * const schedule = constant(1e-3);
 */
export function constant(learningRate: number): Schedule {
  throwFaults("config", "learning rate", rateFaults(learningRate));
  return () => learningRate;
}

/**
 * Evenly from `learningRate` to `to` (default 0) in so many steps. PyTorch's LinearLR from 1 to `to / learningRate`.
 *
 * @throws LowrankError "config" for numbers out of range.
 * @example
 * const schedule = linear(1e-3, { steps: 10_000 });
 */
export function linear(
  learningRate: number,
  { steps, to = 0 }: { readonly steps: number; readonly to?: number },
): Schedule {
  checkDecay("linear", learningRate, steps, to);
  return (step) => learningRate + (to - learningRate) * Math.min(step / steps, 1);
}

/**
 * Along half a cosine from `learningRate` to `to` (default 0) in so many steps: Loshchilov & Hutter 2017, arXiv:1608.03983,
 * equation 5, without restarts. PyTorch's CosineAnnealingLR.
 *
 * @throws LowrankError "config" for numbers out of range.
 * @example
 * const schedule = warmup(cosine(3e-4, { steps: 900 }), { steps: 100 });
 */
export function cosine(
  learningRate: number,
  { steps, to = 0 }: { readonly steps: number; readonly to?: number },
): Schedule {
  checkDecay("cosine", learningRate, steps, to);
  return (step) => to + ((learningRate - to) * (1 + Math.cos(Math.PI * Math.min(step / steps, 1)))) / 2;
}

/**
 * `first` for so many steps, then `next`, which begins at its own step 0. PyTorch's SequentialLR.
 *
 * @throws LowrankError "config" unless steps is a whole number.
 * @example
 * const schedule = sequence(constant(1e-3), 500, cosine(1e-3, { steps: 1000 }));
 */
export function sequence(first: Schedule, steps: number, next: Schedule): Schedule {
  throwFaults("config", "sequence", countFaults("steps", steps, 0));
  return (step) => (step < steps ? first(step) : next(step - steps));
}

/**
 * Rises evenly from `from` (default 0: as in Hugging Face's trainer) times the first learning rate of `schedule` to all of it
 * in so many steps, then follows `schedule`. PyTorch's LinearLR before another in SequentialLR.
 *
 * @throws LowrankError "config" for numbers out of range.
 * @example
 * const schedule = warmup(linear(2e-4, { steps: 970 }), { steps: 30 });
 */
export function warmup(
  schedule: Schedule | number,
  { steps, from = 0 }: { readonly steps: number; readonly from?: number },
): Schedule {
  const faults = countFaults("steps", steps, 0);
  if (!(from >= 0 && from <= 1)) faults.push(`from: expected a share of 0 to 1, got ${from}`);
  throwFaults("config", "warmup", faults);
  const after = typeof schedule === "number" ? constant(schedule) : schedule;
  return sequence((step) => after(0) * (from + (1 - from) * (step / steps)), steps, after);
}

export interface OneCycleOptions {
  /** Steps of the whole cycle. */
  readonly steps: number;
  /** The share of them in which the learning rate rises; default 0.3. */
  readonly pctStart?: number;
  /** It starts at `maximum / divFactor`; default 25. */
  readonly divFactor?: number;
  /** It ends at its start divided by this; default 10,000. */
  readonly finalDivFactor?: number;
  /** Along a cosine (default) or evenly. */
  readonly anneal?: "cos" | "linear";
  /** Down to the start as long as it rose, and in the rest to the end. Default false. */
  readonly threePhase?: boolean;
}

/**
 * Up to `maximum` and down again: Smith & Topin 2018, arXiv:1708.07120, "super-convergence". PyTorch's OneCycleLR, with its
 * defaults, for the learning rate alone.
 *
 * @throws LowrankError "config" with all faults of the options.
 * @example
 * const schedule = oneCycle(0.01, { steps: 2000 });
 */
export function oneCycle(maximum: number, options: OneCycleOptions): Schedule {
  const { steps, pctStart = 0.3, divFactor = 25, finalDivFactor = 1e4, anneal = "cos", threePhase = false } = options;
  const faults = [...rateFaults(maximum).map((fault) => `maximum: ${fault}`), ...countFaults("steps", steps, 2)];
  if (!(pctStart > 0 && pctStart < 1)) faults.push(`pctStart: expected a share between 0 and 1, got ${pctStart}`);
  if (!(divFactor > 0)) faults.push(`divFactor: expected a number above 0, got ${divFactor}`);
  if (!(finalDivFactor > 0)) faults.push(`finalDivFactor: expected a number above 0, got ${finalDivFactor}`);
  throwFaults("config", "oneCycle", faults);
  const start = maximum / divFactor;
  const end = start / finalDivFactor;
  const top = pctStart * steps - 1;
  const phases = threePhase
    ? [
        { until: top, from: start, to: maximum },
        { until: 2 * pctStart * steps - 2, from: maximum, to: start },
        { until: steps - 1, from: start, to: end },
      ]
    : [
        { until: top, from: start, to: maximum },
        { until: steps - 1, from: maximum, to: end },
      ];
  const between = anneal === "cos" ? halfCosine : straight;
  return (step) => {
    const at = Math.min(step, steps - 1);
    const index = Math.max(
      phases.findIndex(({ until }) => at <= until),
      0,
    );
    const { until, from, to } = phases[index]!;
    const before = index === 0 ? 0 : phases[index - 1]!.until;
    return until === before ? to : between(from, to, (at - before) / (until - before));
  };
}

export interface PlateauOptions {
  /** "min" (default): the metric shall fall; "max": it shall rise. */
  readonly mode?: "min" | "max";
  /** The learning rate is multiplied by this when nothing gets better; default 0.1. */
  readonly factor?: number;
  /** Evaluations without an improvement that are let pass; default 10. */
  readonly patience?: number;
  /** What counts as better: by this share of the best ("rel", default), or by this much ("abs"); default 0.0001. */
  readonly threshold?: number;
  readonly thresholdMode?: "rel" | "abs";
  /** Evaluations after a reduction in which none is counted as bad; default 0. */
  readonly cooldown?: number;
  /** The learning rate is not reduced below this; default 0. */
  readonly minLearningRate?: number;
}

/**
 * `schedule`, reduced each time that the metric of the evaluations has stopped getting better. PyTorch's ReduceLROnPlateau.
 *
 * @throws LowrankError "config" with all faults of the options.
 * @example
 * await train(adapted, data, { learningRate: plateau(1e-3, { patience: 2 }), evaluation: { every: { epochs: 1 }, sets } });
 */
export function plateau(schedule: Schedule | number, options: PlateauOptions = {}): MetricSchedule {
  const { mode = "min", factor = 0.1, patience = 10, threshold = 1e-4, thresholdMode = "rel" } = options;
  const { cooldown = 0, minLearningRate = 0 } = options;
  const faults = [...countFaults("patience", patience, 0), ...countFaults("cooldown", cooldown, 0)];
  if (!(factor > 0 && factor < 1)) faults.push(`factor: expected a number between 0 and 1, got ${factor}`);
  if (!(threshold >= 0)) faults.push(`threshold: expected 0 or more, got ${threshold}`);
  if (!(minLearningRate >= 0)) faults.push(`minLearningRate: expected 0 or more, got ${minLearningRate}`);
  throwFaults("config", "plateau", faults);
  const base = typeof schedule === "number" ? constant(schedule) : schedule;
  const isBetter = (metric: number, best: number | null): boolean => {
    if (best === null) return !Number.isNaN(metric);
    const margin = thresholdMode === "rel" ? best * threshold : threshold;
    return mode === "min" ? metric < best - margin : metric > best + margin;
  };
  return {
    name: "plateau",
    mode,
    init: () => ({ best: null, bad: 0, cooldown: 0, scale: 1 }),
    rate(step, { scale }) {
      const rate = base(step);
      return scale === 1 ? rate : Math.min(rate, Math.max(rate * scale, minLearningRate));
    },
    observe(metric, state) {
      const better = isBetter(metric, state.best);
      const best = better ? metric : state.best;
      const cooling = state.cooldown > 0;
      const bad = better || cooling ? 0 : state.bad + 1;
      if (bad > patience) return { best, bad: 0, cooldown, scale: state.scale * factor };
      return { best, bad, cooldown: cooling ? state.cooldown - 1 : 0, scale: state.scale };
    },
  };
}

/** Whether a learning rate is one that listens to a metric. */
export function isMetricSchedule(value: number | Schedule | MetricSchedule): value is MetricSchedule {
  return typeof value === "object";
}

function straight(from: number, to: number, share: number): number {
  return from + (to - from) * share;
}

function halfCosine(from: number, to: number, share: number): number {
  return to + ((from - to) / 2) * (1 + Math.cos(Math.PI * share));
}

function checkDecay(name: string, learningRate: number, steps: number, to: number): void {
  const faults = rateFaults(learningRate).map((fault) => `learning rate: ${fault}`);
  faults.push(...countFaults("steps", steps, 1));
  if (!(to >= 0 && Number.isFinite(to))) faults.push(`to: expected a learning rate of 0 or more, got ${to}`);
  throwFaults("config", name, faults);
}

function rateFaults(learningRate: number): string[] {
  if (Number.isFinite(learningRate) && learningRate > 0) return [];
  return [`expected a number above 0, got ${learningRate}; try 0.001`];
}

function countFaults(name: string, value: number, least: number): string[] {
  if (Number.isSafeInteger(value) && value >= least) return [];
  return [`${name}: expected a whole number of ${least} or more, got ${value}`];
}
