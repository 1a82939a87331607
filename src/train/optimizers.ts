// Optimizers as plain values: what state they keep, how it starts, and one step in place. Adam: Kingma & Ba 2015,
// arXiv:1412.6980; AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101; names and defaults are those of torch.optim.
// A step runs in the WebAssembly kernel where the arrays lie in one arena, and in its TypeScript twin elsewhere, with
// the same result to the last bit. Arrays that were allocated one after another are updated in one call.
import { throwFaults } from "../errors.ts";
import { type AdamHyperparameters, adamFactors, adamTwin, writeAdamFactors } from "./adam.ts";
import { type Arena, endWithPadding, type Kernels, kernelsOf } from "./arena.ts";

/** float32 arrays by name; an update is in place. */
export type NamedArrays = ReadonlyMap<string, Float32Array>;

export interface Optimizer {
  readonly name: string;
  readonly hyperparameters: Readonly<Record<string, number>>;
  /** Which state arrays each parameter has, each as long as the parameter: ["m", "v"]. */
  readonly slots: readonly string[];
  /** Fresh state in `arena`, which must have room for `slots.length` arrays of each parameter's length. */
  init(parameters: NamedArrays, arena: Arena): OptimizerState;
  /**
   * One step: counts `state.step` up and moves `parameters` in place. Gradients are matched by name; those without a
   * parameter are ignored.
   *
   * Pass the same maps at every step: what can be updated together is found out once for each set of maps.
   * Throws "config" when an array is missing or has another length, or when `learningRate` is negative or not finite;
   * nothing is changed then. A learning rate of zero updates the state and leaves the parameters alone.
   */
  update(parameters: NamedArrays, gradients: NamedArrays, state: OptimizerState, learningRate: number): void;
}

/** All that a step depends on besides parameters and gradients: saved and restored, training goes on bit for bit. */
export interface OptimizerState {
  /** Steps taken so far. */
  step: number;
  /** By slot, then by the parameter's name. */
  readonly slots: ReadonlyMap<string, NamedArrays>;
}

export interface AdamOptions {
  /** Decay of the mean of gradients, in [0, 1); default 0.9. */
  beta1?: number;
  /** Decay of the mean of their squares, in [0, 1); default 0.999. */
  beta2?: number;
  /** Added to the denominator, above zero; default 1e-8. */
  epsilon?: number;
  /** adam: times the parameter, added to its gradient (L2), default 0. adamw: shrinks the parameter itself, default 0.01. */
  weightDecay?: number;
}

/**
 * Adam, as torch.optim.Adam computes it; weightDecay is L2. Throws "config" with all faults of the options.
 *
 * @example
 * const optimizer = adam();
 * const state = optimizer.init(parameters, arena);
 * optimizer.update(parameters, gradients, state, 1e-3);
 */
export function adam(options: AdamOptions = {}): Optimizer {
  return adamOptimizer("adam", { weightDecay: 0, ...defined(options) });
}

/**
 * Adam with decoupled weight decay, as torch.optim.AdamW computes it: each step first multiplies the parameters by
 * 1 - learning rate * weightDecay. Throws "config" with all faults of the options.
 *
 * @example
 * const optimizer = adamw({ weightDecay: 0.05 });
 */
export function adamw(options: AdamOptions = {}): Optimizer {
  return adamOptimizer("adamw", { weightDecay: 0.01, ...defined(options) });
}

/**
 * A copy of `state` in ordinary memory, to be saved: later steps do not change it.
 *
 * @example
 * const saved = copyState(state);
 */
export function copyState(state: OptimizerState): OptimizerState {
  const copyArrays = (arrays: NamedArrays) => new Map([...arrays].map(([name, array]) => [name, array.slice()]));
  return { step: state.step, slots: new Map([...state.slots].map(([slot, arrays]) => [slot, copyArrays(arrays)])) };
}

/**
 * Copies `saved` into `state`, which init has made for the same parameters. Throws "config" with all faults (slots or
 * names that differ, lengths, a step that is no count) and changes nothing then.
 *
 * @example
 * const state = optimizer.init(parameters, arena);
 * restoreState(state, saved);
 */
export function restoreState(state: OptimizerState, saved: OptimizerState): void {
  const faults: string[] = [];
  if (!(Number.isSafeInteger(saved.step) && saved.step >= 0)) {
    faults.push(`step: expected a whole number, got ${saved.step}`);
  }
  for (const [slot, arrays] of state.slots) faults.push(...mismatches(slot, arrays, saved.slots.get(slot)));
  for (const [slot, arrays] of saved.slots) {
    const known = state.slots.get(slot);
    for (const name of arrays.keys()) {
      if (!known?.has(name)) faults.push(`${slot}.${name}: expected no such array, got one; is it another model's?`);
    }
  }
  throwFaults("config", "optimizer state", faults);

  state.step = saved.step;
  for (const [slot, arrays] of state.slots) {
    for (const [name, array] of arrays) array.set(saved.slots.get(slot)!.get(name)!);
  }
}

function adamOptimizer(name: "adam" | "adamw", options: AdamOptions & { weightDecay: number }): Optimizer {
  const hyperparameters: AdamHyperparameters = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, ...options };
  throwFaults("config", name, adamFaults(hyperparameters));
  const plans = new WeakMap<OptimizerState, Plan>();
  return {
    name,
    hyperparameters: { ...hyperparameters },
    slots: ["m", "v"],
    init(parameters, arena) {
      return { step: 0, slots: new Map([allocateSlot("m", parameters, arena), allocateSlot("v", parameters, arena)]) };
    },
    update(parameters, gradients, state, learningRate) {
      if (!(learningRate >= 0 && learningRate < Number.POSITIVE_INFINITY)) {
        throwFaults("config", name, [`learningRate: expected a finite number, 0 or more, got ${learningRate}`]);
      }
      let plan = plans.get(state);
      if (plan === undefined || plan.parameters !== parameters || plan.gradients !== gradients) {
        plan = planUpdate(name, parameters, gradients, state);
        plans.set(state, plan);
      }
      state.step += 1;
      writeAdamFactors(plan.factors, hyperparameters, name === "adamw", state.step, learningRate);
      for (const run of plan.runs) updateRun(run, plan.factors);
    },
  };
}

function adamFaults(hyper: AdamHyperparameters): string[] {
  const faults: string[] = [];
  for (const key of ["beta1", "beta2"] as const) {
    if (!(hyper[key] >= 0 && hyper[key] < 1)) faults.push(`${key}: expected a number in [0, 1), got ${hyper[key]}`);
  }
  // Zero in float32 would make 0 / 0 of every parameter that has no gradient.
  if (!(Math.fround(hyper.epsilon) > 0 && Number.isFinite(hyper.epsilon))) {
    faults.push(`epsilon: expected a number above 0, got ${hyper.epsilon}; try 1e-8`);
  }
  if (!(hyper.weightDecay >= 0 && Number.isFinite(hyper.weightDecay))) {
    faults.push(`weightDecay: expected a finite number, 0 or more, got ${hyper.weightDecay}`);
  }
  return faults;
}

function allocateSlot(slot: string, parameters: NamedArrays, arena: Arena): [string, NamedArrays] {
  return [slot, new Map([...parameters].map(([name, parameter]) => [name, arena.allocate(parameter.length)]))];
}

/** Arrays of one length that a single call can update. */
interface Run {
  readonly p: Float32Array;
  readonly g: Float32Array;
  readonly m: Float32Array;
  readonly v: Float32Array;
  /** The kernels of the arena that all four lie in; undefined when the twin must do it. */
  readonly kernels: Kernels | undefined;
}

/** What an update does, worked out once for a state and the maps that come with it. */
interface Plan {
  readonly parameters: NamedArrays;
  readonly gradients: NamedArrays;
  readonly factors: Float32Array;
  readonly runs: readonly Run[];
}

function updateRun(run: Run, factors: Float32Array): void {
  const { p, g, m, v, kernels } = run;
  if (kernels === undefined) {
    adamTwin(p, g, m, v, factors);
  } else {
    kernels.factors.set(factors);
    kernels.adam(p.byteOffset, g.byteOffset, m.byteOffset, v.byteOffset, p.length, kernels.factors.byteOffset);
  }
}

/** Throws "config" unless every parameter has its gradient and its state. */
function planUpdate(where: string, parameters: NamedArrays, gradients: NamedArrays, state: OptimizerState): Plan {
  const m = state.slots.get("m");
  const v = state.slots.get("v");
  throwFaults("config", where, [
    ...mismatches("gradients", parameters, gradients),
    ...mismatches("state m", parameters, m),
    ...mismatches("state v", parameters, v),
  ]);
  const runs: Run[] = [];
  for (const [name, p] of parameters) {
    if (p.length === 0) continue;
    const arrays = { p, g: gradients.get(name)!, m: m!.get(name)!, v: v!.get(name)! };
    const kernels = commonKernels([arrays.p, arrays.g, arrays.m, arrays.v]);
    const last = runs.at(-1);
    const joined = last && kernels !== undefined && last.kernels === kernels ? joinRuns(last, arrays) : undefined;
    if (joined !== undefined) runs[runs.length - 1] = { ...joined, kernels };
    else runs.push({ ...arrays, kernels });
  }
  return { parameters, gradients, factors: new Float32Array(adamFactors), runs };
}

type RunArrays = Omit<Run, "kernels">;

/**
 * `before` and `after` as one, when in all four arrays nothing but the arena's padding, and equally much of it, lies
 * between them. The padding is updated too: its parameters, gradients and first moments are zero and stay zero.
 */
function joinRuns(before: RunArrays, after: RunArrays): RunArrays | undefined {
  const distance = after.p.byteOffset - before.p.byteOffset;
  const isAdjacent = (key: keyof RunArrays) =>
    after[key].byteOffset - before[key].byteOffset === distance &&
    endWithPadding(before[key]) === after[key].byteOffset;
  if (!(["p", "g", "m", "v"] as const).every(isAdjacent)) return undefined;
  const length = distance / Float32Array.BYTES_PER_ELEMENT + after.p.length;
  const join = (key: keyof RunArrays) => new Float32Array(before[key].buffer, before[key].byteOffset, length);
  return { p: join("p"), g: join("g"), m: join("m"), v: join("v") };
}

function commonKernels(arrays: readonly Float32Array[]): Kernels | undefined {
  const [first, ...others] = arrays.map(kernelsOf);
  return others.every((kernels) => kernels === first) ? first : undefined;
}

/** One line for each array of `expected` that `got` lacks or has in another length. */
function mismatches(where: string, expected: NamedArrays, got: NamedArrays | undefined): string[] {
  const faults: string[] = [];
  for (const [name, { length }] of expected) {
    const found = got?.get(name);
    if (found?.length === length) continue;
    faults.push(`${where}.${name}: expected ${length} values, got ${found === undefined ? "none" : found.length}`);
  }
  return faults;
}

/** The options that are there: one given as undefined means its default. */
function defined(options: AdamOptions): AdamOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
