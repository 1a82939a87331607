// What an optimizer is: which state it keeps, how it starts, and one step in place. An optimizer is a plain value, its state
// is named arrays, so that a checkpoint can hold them. Names and defaults are those of torch.optim.
import { throwFaults } from "../../errors.ts";
import { elementCount } from "../../tensor.ts";
import type { Arena } from "../arena.ts";

/** float32 arrays by name; an update is in place. */
export type NamedArrays = ReadonlyMap<string, Float32Array>;

export interface Optimizer {
  readonly name: string;
  readonly hyperparameters: Readonly<Record<string, number>>;
  /** Which state arrays each parameter has: ["m", "v"]. */
  readonly slots: readonly string[];
  /** Floats in a slot's array for a parameter of shape `dims`; default: as many as the parameter has. */
  slotLength?(slot: string, dims: readonly number[]): number;
  /**
   * Fresh state in `arena`, which must have room for each slot's array of each parameter (`stateLengths`).
   *
   * @param about what is known of the parameters beyond their lengths, by name.
   */
  init(parameters: NamedArrays, arena: Arena, about?: ReadonlyMap<string, AboutParameter>): OptimizerState;
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

export interface AboutParameter {
  /** Its shape, for optimizers that treat matrices otherwise than vectors. Default: a vector. */
  readonly dims?: readonly number[];
  /** Its own learning rate is the step's times this; default 1. */
  readonly learningRateFactor?: number;
}

/** All that a step depends on besides parameters and gradients: saved and restored, training goes on bit for bit. */
export interface OptimizerState {
  /** Steps taken so far. */
  step: number;
  /** By slot, then by the parameter's name. */
  readonly slots: ReadonlyMap<string, NamedArrays>;
  /** As `init` was told. It is no part of what is saved: whoever goes on says it again. */
  readonly about?: ReadonlyMap<string, AboutParameter>;
}

/** Lengths of all state arrays of parameters of these shapes: what an arena must have room for. */
export function stateLengths(
  optimizer: Pick<Optimizer, "slots" | "slotLength">,
  shapes: readonly (readonly number[])[],
): number[] {
  return optimizer.slots.flatMap((slot) =>
    shapes.map((dims) => optimizer.slotLength?.(slot, dims) ?? elementCount(dims)),
  );
}

/** Fresh state of an optimizer: its slots, allocated one after the other. */
export function allocateState(
  optimizer: Pick<Optimizer, "slots" | "slotLength">,
  parameters: NamedArrays,
  arena: Arena,
  about?: ReadonlyMap<string, AboutParameter>,
): OptimizerState {
  const faults = [...(about ?? [])].flatMap(([name, { learningRateFactor = 1 }]) =>
    Number.isFinite(learningRateFactor) && learningRateFactor >= 0
      ? []
      : [`${name}: expected a learning rate factor of 0 or more, got ${learningRateFactor}`],
  );
  throwFaults("config", "optimizer", faults);
  const slots = optimizer.slots.map((slot) => {
    const lengthOf = (name: string, { length }: Float32Array): number =>
      optimizer.slotLength?.(slot, shapeOf(name, length, about)) ?? length;
    const arrays = [...parameters].map(([name, array]) => [name, arena.allocate(lengthOf(name, array))] as const);
    return [slot, new Map(arrays)] as const;
  });
  return { step: 0, slots: new Map(slots), ...(about !== undefined && { about }) };
}

/** A parameter's shape as `about` has it, or one axis of its length. */
export function shapeOf(
  name: string,
  length: number,
  about: ReadonlyMap<string, AboutParameter> | undefined,
): readonly number[] {
  return about?.get(name)?.dims ?? [length];
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
  throwFaults("config", "optimizer state", stateFaults(state, saved));
  state.step = saved.step;
  for (const [slot, arrays] of state.slots) {
    for (const [name, array] of arrays) array.set(saved.slots.get(slot)!.get(name)!);
  }
}

/** In what `saved` does not fit `state`. */
export function stateFaults(state: OptimizerState, saved: OptimizerState): string[] {
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
  return faults;
}

/** One line for each array of `expected` that `got` lacks or has in another length. */
export function mismatches(where: string, expected: NamedArrays, got: NamedArrays | undefined): string[] {
  const faults: string[] = [];
  for (const [name, { length }] of expected) {
    const found = got?.get(name);
    if (found?.length === length) continue;
    faults.push(`${where}.${name}: expected ${length} values, got ${found === undefined ? "none" : found.length}`);
  }
  return faults;
}

/** Throws "config" unless a step can be taken at this learning rate. */
export function checkLearningRate(where: string, learningRate: number): void {
  if (learningRate >= 0 && learningRate < Number.POSITIVE_INFINITY) return;
  throwFaults("config", where, [`learningRate: expected a finite number, 0 or more, got ${learningRate}`]);
}

/** The options that are there: one given as undefined means its default. */
export function defined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

/** Faults of hyperparameters that must lie in [0, 1). */
export function decayFaults(values: Readonly<Record<string, number>>): string[] {
  return Object.entries(values).flatMap(([key, value]) =>
    value >= 0 && value < 1 ? [] : [`${key}: expected a number in [0, 1), got ${value}`],
  );
}

/** Faults of hyperparameters that must be finite and not negative. */
export function sizeFaults(values: Readonly<Record<string, number>>): string[] {
  return Object.entries(values).flatMap(([key, value]) =>
    value >= 0 && Number.isFinite(value) ? [] : [`${key}: expected a finite number, 0 or more, got ${value}`],
  );
}
