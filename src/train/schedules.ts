// Learning rate schedules: plain functions from the step (0 for the first) to the learning rate of that step.
import { LowrankError } from "../errors.ts";

export type Schedule = (step: number) => number;

/**
 * The same learning rate at every step. Throws "config" unless it is a finite number above zero.
 *
 * @example
 * const schedule = constant(1e-3);
 */
export function constant(learningRate: number): Schedule {
  if (!(Number.isFinite(learningRate) && learningRate > 0)) {
    throw new LowrankError("config", `learning rate: expected a number above 0, got ${learningRate}; try 0.001`);
  }
  return () => learningRate;
}
