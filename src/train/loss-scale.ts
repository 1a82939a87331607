// Dynamic loss scaling (Micikevicius et al. 2017, arXiv:1710.03740, section 3.2; factors and interval are those of PyTorch's
// GradScaler): gradients in float16 vanish below 6e-8, so that the loss is scaled up, and the gradients down again. Where the scale was too
// large something is not finite: that step is left out and the scale halved; after a while without, it is doubled.
import { LowrankError } from "../errors.ts";

/** What products are computed in. Parameters, gradients and the optimizer's state are float32 with either. */
export type TrainingPrecision = "float32" | "float16";

/** All of it is in a checkpoint. */
export interface LossScaleState {
  /** A power of two, so that scaling rounds nothing. */
  readonly scale: number;
  /** Batches since the last change, all finite. */
  readonly good: number;
}

export const startScale: LossScaleState = { scale: 2 ** 16, good: 0 };

const interval = 2000;
/** Gradients that are too large at this scale are too large for float16 whatever is done. */
const leastScale = 2 ** -10;

/**
 * The state after one more batch.
 *
 * @throws LowrankError "data" when no scale is small enough.
 */
export function nextScale({ scale, good }: LossScaleState, wasFinite: boolean): LossScaleState {
  if (wasFinite) return good + 1 < interval ? { scale, good: good + 1 } : { scale: scale * 2, good: 0 };
  if (scale > leastScale) return { scale: scale / 2, good: 0 };
  throw new LowrankError(
    "data",
    "float16: the loss or its gradients are not finite at any scale; train in float32, lower the learning rate, or look for " +
      "NaN and extreme values in the batches",
  );
}

/** Gradients of a scaled loss as those of the loss itself, in place. */
export function unscale(gradients: Iterable<Float32Array>, { scale }: LossScaleState): void {
  for (const array of gradients) for (let i = 0; i < array.length; i++) array[i]! /= scale;
}
