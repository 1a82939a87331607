// What is done to gradients between the backward pass and the update: accumulating those of several batches, their norm, and
// clipping by it. Clipping: Pascanu et al. 2013, arXiv:1211.5063, as torch.nn.utils.clip_grad_norm_ does it.
import { kernelsOf } from "./arena.ts";
import type { NamedArrays } from "./optimizers.ts";

/** PyTorch's: added to the norm before it divides. */
const CLIP_EPSILON = 1e-6;

/**
 * The norm of all gradients as one vector, and the first array in which something is not finite.
 *
 * The squares are summed in double, in four sums that take turns, so that the WebAssembly kernel gives the same bits.
 */
export function gradientNorm(gradients: NamedArrays): { readonly norm: number; readonly faulty: string | null } {
  let squares = 0;
  let faulty: string | null = null;
  for (const [name, array] of gradients) {
    const own = sumOfSquares(array);
    if (!Number.isFinite(own)) faulty ??= name;
    squares += own;
  }
  return { norm: Math.sqrt(squares), faulty };
}

/** Shortens the gradients, in place, to `clipNorm` where `norm`, theirs, is larger. */
export function clipGradients(gradients: NamedArrays, norm: number, clipNorm: number): void {
  const factor = Math.fround(clipNorm / (norm + CLIP_EPSILON));
  if (factor >= 1) return;
  for (const array of gradients.values()) {
    for (let i = 0; i < array.length; i++) array[i]! *= factor;
  }
}

/** The sum of the squares of all values, in double. */
export function sumOfSquares(array: Float32Array): number {
  const kernels = kernelsOf(array);
  return kernels === undefined ? squaresTwin(array) : kernels.squares(array.byteOffset, array.length);
}

/** What the kernel `squares` does: change one, and change the other. */
export function squaresTwin(array: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = array.length - (array.length % 4);
  for (let i = 0; i < whole; i += 4) {
    a += array[i]! * array[i]!;
    b += array[i + 1]! * array[i + 1]!;
    c += array[i + 2]! * array[i + 2]!;
    d += array[i + 3]! * array[i + 3]!;
  }
  let sum = a + c + (b + d);
  for (let i = whole; i < array.length; i++) sum += array[i]! * array[i]!;
  return sum;
}

/** Losses and gradients of several batches, as those of one batch that holds them all. */
export interface Accumulator {
  /** Batches since the last `take`. */
  readonly count: number;
  /** Adds the gradients as they stand, and their loss, for a batch that weighs so much in the mean. */
  add(gradients: NamedArrays, loss: number, weight: number): void;
  /** Writes the mean gradients into `gradients`, returns the mean loss, and begins anew. */
  take(gradients: NamedArrays): number;
}

/**
 * The weighted mean of losses and gradients: sum(w g) / sum(w), where w is what each batch's own mean has divided by. A batch
 * of weight 0 (all its labels are ignored) counts for nothing; when all are, the loss is NaN.
 */
export function createAccumulator(gradients: NamedArrays): Accumulator {
  const sums = new Map([...gradients].map(([name, { length }]) => [name, new Float32Array(length)]));
  let [count, total, lossSum] = [0, 0, 0];
  return {
    get count() {
      return count;
    },
    add(current, loss, weight) {
      count++;
      if (weight === 0) return;
      total += weight;
      lossSum += weight * loss;
      for (const [name, sum] of sums) {
        const values = current.get(name)!;
        for (let i = 0; i < sum.length; i++) sum[i]! += weight * values[i]!;
      }
    },
    take(into) {
      const loss = lossSum / total;
      for (const [name, sum] of sums) {
        const values = into.get(name)!;
        for (let i = 0; i < sum.length; i++) values[i] = sum[i]! / total;
        sum.fill(0);
      }
      [count, total, lossSum] = [0, 0, 0];
      return loss;
    },
  };
}
