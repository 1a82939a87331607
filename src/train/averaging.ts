// An exponential moving average of the parameters, which often does better than the last of them: Polyak & Juditsky 1992, as
// torch.optim.swa_utils keeps it (get_ema_avg_fn): it starts as the parameters after the first step.
import { throwFaults } from "../errors.ts";
import type { NamedArrays } from "./optimizers.ts";

export interface EmaOptions {
  /** How much of the average stays at each step, in [0, 1); PyTorch's default 0.999. */
  readonly decay?: number;
}

/** average = average + (1 - decay) (parameters - average), after each step. */
export interface MovingAverage {
  readonly decay: number;
  /** By the parameter's name. */
  readonly values: NamedArrays;
  update(parameters: NamedArrays, step: number): void;
}

/** Throws LowrankError "config" for a decay outside [0, 1). */
export function createAverage(parameters: NamedArrays, { decay = 0.999 }: EmaOptions): MovingAverage {
  if (!(decay >= 0 && decay < 1))
    throwFaults("config", "ema", [`decay: expected a number in [0, 1), got ${decay}; try 0.999`]);
  const values = new Map([...parameters].map(([name, array]) => [name, array.slice()]));
  return {
    decay,
    values,
    update(current, step) {
      for (const [name, average] of values) {
        const now = current.get(name)!;
        if (step === 1) average.set(now);
        else for (let i = 0; i < average.length; i++) average[i]! += (1 - decay) * (now[i]! - average[i]!);
      }
    },
  };
}
