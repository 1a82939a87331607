// Optimizers that treat every number on its own (Adam, SGD, Lion): one loop over arrays of one length. Arrays that were
// allocated one after another in an arena are updated in one call, as long as they share their learning rate.
import { throwFaults } from "../../errors.ts";
import { endWithPadding, type Kernels, kernelsOf } from "../arena.ts";
import {
  allocateState,
  checkLearningRate,
  mismatches,
  type NamedArrays,
  type Optimizer,
  type OptimizerState,
} from "./optimizer.ts";

/** Floats in a block of factors: what a step needs to know, and padding up to 64 bytes. */
export const factorCount = 16;

/** One optimizer's arithmetic. */
export interface Elementwise {
  readonly name: string;
  readonly hyperparameters: Readonly<Record<string, number>>;
  readonly slots: readonly string[];
  /** Fills `block` (float32, [16]) for the step-th step (1-based). */
  writeFactors(block: Float32Array, step: number, learningRate: number): void;
  /**
   * One step in place. `arrays`: parameters, gradients (only read) and the slots in their order, all of one length.
   *
   * @param kernels those of the arena that all arrays lie in; undefined when they lie elsewhere.
   */
  apply(arrays: readonly Float32Array[], block: Float32Array, kernels: Kernels | undefined): void;
}

/** An optimizer of such arithmetic. */
export function elementwiseOptimizer(arithmetic: Elementwise): Optimizer {
  const { name, hyperparameters, slots } = arithmetic;
  const plans = new WeakMap<OptimizerState, Plan>();
  return {
    name,
    hyperparameters: { ...hyperparameters },
    slots,
    init: (parameters, arena, about) => allocateState({ slots }, parameters, arena, about),
    update(parameters, gradients, state, learningRate) {
      checkLearningRate(name, learningRate);
      let plan = plans.get(state);
      if (plan === undefined || plan.parameters !== parameters || plan.gradients !== gradients) {
        plan = planUpdate(arithmetic, parameters, gradients, state);
        plans.set(state, plan);
      }
      state.step += 1;
      for (const [factor, block] of plan.blocks) {
        arithmetic.writeFactors(block, state.step, learningRate * factor);
      }
      for (const { arrays, block, kernels } of plan.runs) arithmetic.apply(arrays, block, kernels);
    },
  };
}

/** Arrays of one length that a single call can update. */
interface Run {
  readonly arrays: readonly Float32Array[];
  readonly block: Float32Array;
  /** The kernels of the arena that all of them lie in; undefined when there is none. */
  readonly kernels: Kernels | undefined;
}

/** What an update does, worked out once for a state and the maps that come with it. */
interface Plan {
  readonly parameters: NamedArrays;
  readonly gradients: NamedArrays;
  /** A block of factors for each learning rate factor. */
  readonly blocks: ReadonlyMap<number, Float32Array>;
  readonly runs: readonly Run[];
}

/** Throws "config" unless every parameter has its gradient and its state. */
function planUpdate(
  { name: where, slots }: Elementwise,
  parameters: NamedArrays,
  gradients: NamedArrays,
  state: OptimizerState,
): Plan {
  throwFaults("config", where, [
    ...mismatches("gradients", parameters, gradients),
    ...slots.flatMap((slot) => mismatches(`state ${slot}`, parameters, state.slots.get(slot))),
  ]);
  const blocks = new Map<number, Float32Array>();
  const runs: Run[] = [];
  for (const [name, parameter] of parameters) {
    if (parameter.length === 0) continue;
    const factor = state.about?.get(name)?.learningRateFactor ?? 1;
    const block = blocks.get(factor) ?? new Float32Array(factorCount);
    blocks.set(factor, block);
    const arrays = [parameter, gradients.get(name)!, ...slots.map((slot) => state.slots.get(slot)!.get(name)!)];
    const kernels = commonKernels(arrays);
    const last = runs.at(-1);
    const joinable = kernels !== undefined && last?.kernels === kernels && last.block === block;
    const joined = joinable ? joinRuns(last.arrays, arrays) : undefined;
    if (joined !== undefined) runs[runs.length - 1] = { arrays: joined, block, kernels };
    else runs.push({ arrays, block, kernels });
  }
  return { parameters, gradients, blocks, runs };
}

/**
 * `before` and `after` as one, when in all arrays nothing but the arena's padding, and equally much of it, lies between
 * them. The padding is updated too: its parameters, gradients and state are zero, and what is added to them is never read.
 */
function joinRuns(before: readonly Float32Array[], after: readonly Float32Array[]): Float32Array[] | undefined {
  const distance = after[0]!.byteOffset - before[0]!.byteOffset;
  const isAdjacent = (array: Float32Array, at: number): boolean =>
    after[at]!.byteOffset - array.byteOffset === distance && endWithPadding(array) === after[at]!.byteOffset;
  if (!before.every(isAdjacent)) return undefined;
  const length = distance / Float32Array.BYTES_PER_ELEMENT + after[0]!.length;
  return before.map(({ buffer, byteOffset }) => new Float32Array(buffer, byteOffset, length));
}

function commonKernels(arrays: readonly Float32Array[]): Kernels | undefined {
  const [first, ...others] = arrays.map(kernelsOf);
  return others.every((kernels) => kernels === first) ? first : undefined;
}
