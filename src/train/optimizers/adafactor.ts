// Adafactor: second moments of a matrix kept as one number a row and one a column. Method: Shazeer & Stern 2018, "Adafactor:
// Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, Algorithms 4 and 5, as torch.optim.Adafactor has
// them (no first moment; the learning rate bounds the relative step; decay is decoupled). Sums are taken in double.
import { throwFaults } from "../../errors.ts";
import { elementCount } from "../../tensor.ts";
import {
  allocateState,
  checkLearningRate,
  defined,
  mismatches,
  type NamedArrays,
  type Optimizer,
  type OptimizerState,
  shapeOf,
  sizeFaults,
} from "./optimizer.ts";

export interface AdafactorOptions {
  /** The second moment's decay at step t is 1 - t^beta2Decay; 0 or less, default -0.8. */
  beta2Decay?: number;
  /** The square root of the second moment is at least this; default 2^-23, the spacing of float32 at 1. */
  epsilon1?: number;
  /** The size of a parameter, for its relative step, is at least this; default 0.001. */
  epsilon2?: number;
  /** Steps whose root mean square is larger are shortened to it; 1 or more, default 1. PyTorch's d. */
  clippingThreshold?: number;
  /** Each step first multiplies the parameters by 1 - learning rate * weightDecay; default 0. */
  weightDecay?: number;
}

type Hyperparameters = Required<AdafactorOptions>;

/**
 * Adafactor, as torch.optim.Adafactor computes it: for matrices of [rows, columns] (the last two axes), its state is
 * rows + columns numbers. Its steps are relative to the size of the parameters: PyTorch's learning rate for it is 0.01.
 * Throws "config" with all faults of the options.
 *
 * @example
 * await trainAll(attachAll(model), data, { optimizer: adafactor(), learningRate: 0.01 });
 */
export function adafactor(options: AdafactorOptions = {}): Optimizer {
  const hyperparameters: Hyperparameters = {
    beta2Decay: -0.8,
    epsilon1: 2 ** -23,
    epsilon2: 1e-3,
    clippingThreshold: 1,
    weightDecay: 0,
    ...defined(options),
  };
  const { beta2Decay, epsilon1, epsilon2, clippingThreshold, weightDecay } = hyperparameters;
  const faults = sizeFaults({ epsilon2, weightDecay });
  if (!(beta2Decay <= 0 && Number.isFinite(beta2Decay)))
    faults.push(`beta2Decay: expected 0 or less, got ${beta2Decay}`);
  // Its square is what a second moment of zero is raised to: zero would make 0 / 0 of a parameter without gradients.
  if (!(epsilon1 ** 2 > 0 && Number.isFinite(epsilon1)))
    faults.push(`epsilon1: expected a number above 0, got ${epsilon1}`);
  if (!(clippingThreshold >= 1 && Number.isFinite(clippingThreshold))) {
    faults.push(`clippingThreshold: expected 1 or more, got ${clippingThreshold}`);
  }
  throwFaults("config", "adafactor", faults);
  const optimizer = { slots: ["row", "column", "variance"], slotLength };
  return {
    ...optimizer,
    name: "adafactor",
    hyperparameters: { ...hyperparameters },
    init: (parameters, arena, about) => allocateState(optimizer, parameters, arena, about),
    update(parameters, gradients, state, learningRate) {
      checkLearningRate("adafactor", learningRate);
      checkArrays(parameters, gradients, state);
      state.step += 1;
      for (const [name, p] of parameters) {
        if (p.length === 0) continue;
        const rate = learningRate * (state.about?.get(name)?.learningRateFactor ?? 1);
        const dims = shapeOf(name, p.length, state.about);
        updateOne(p, gradients.get(name)!, momentsOf(state, name, dims), hyperparameters, state.step, rate);
      }
    },
  };
}

/** Matrices have rows and columns, everything else has a variance. */
function slotLength(slot: string, dims: readonly number[]): number {
  const isMatrix = dims.length > 1;
  if (slot === "variance") return isMatrix ? 0 : elementCount(dims);
  if (!isMatrix) return 0;
  return slot === "row" ? elementCount(dims.slice(0, -1)) : elementCount([...dims.slice(0, -2), dims.at(-1)!]);
}

function checkArrays(parameters: NamedArrays, gradients: NamedArrays, state: OptimizerState): void {
  const faults = mismatches("gradients", parameters, gradients);
  for (const slot of ["row", "column", "variance"]) {
    for (const [name, { length }] of parameters) {
      const expected = slotLength(slot, shapeOf(name, length, state.about));
      const found = state.slots.get(slot)?.get(name)?.length ?? "none";
      if (found !== expected) faults.push(`state ${slot}.${name}: expected ${expected} values, got ${found}`);
    }
  }
  throwFaults("config", "adafactor", faults);
}

/** The second moments of one parameter, its step in estimates of them. */
interface Moments {
  /** Moves them towards the squares of `g`, by `share` of the way. */
  follow(g: Float32Array, share: number): void;
  /** Calls `visit` for each element with the estimate of its second moment. */
  each(floor: number, visit: (index: number, estimate: number) => void): void;
}

function momentsOf(state: OptimizerState, name: string, dims: readonly number[]): Moments {
  const array = (slot: string): Float32Array => state.slots.get(slot)!.get(name)!;
  if (dims.length < 2) return vectorMoments(array("variance"));
  return matrixMoments(array("row"), array("column"), dims.at(-2)!, dims.at(-1)!);
}

function vectorMoments(variance: Float32Array): Moments {
  return {
    follow(g, share) {
      for (let i = 0; i < g.length; i++) variance[i]! += share * (g[i]! ** 2 - variance[i]!);
    },
    each(_floor, visit) {
      for (let i = 0; i < variance.length; i++) visit(i, variance[i]!);
    },
  };
}

/** Of each matrix [rows, columns]: the mean squares of its rows and of its columns; v[i, j] = row[i] column[j] / mean(row). */
function matrixMoments(row: Float32Array, column: Float32Array, rows: number, columns: number): Moments {
  const matrices = row.length / rows;
  return {
    follow(g, share) {
      for (let matrix = 0; matrix < matrices; matrix++) {
        const sums = new Float64Array(columns);
        for (let i = 0; i < rows; i++) {
          const start = (matrix * rows + i) * columns;
          let sum = 0;
          for (let j = 0; j < columns; j++) {
            const square = g[start + j]! ** 2;
            sum += square;
            sums[j]! += square;
          }
          row[matrix * rows + i]! += share * (sum / columns - row[matrix * rows + i]!);
        }
        for (let j = 0; j < columns; j++) {
          column[matrix * columns + j]! += share * (sums[j]! / rows - column[matrix * columns + j]!);
        }
      }
    },
    each(floor, visit) {
      for (let matrix = 0; matrix < matrices; matrix++) {
        const own = row.subarray(matrix * rows, (matrix + 1) * rows);
        const mean = Math.max(own.reduce((sum, value) => sum + value, 0) / rows, floor);
        for (let i = 0; i < rows; i++) {
          const scale = own[i]! / mean;
          const start = (matrix * rows + i) * columns;
          for (let j = 0; j < columns; j++) visit(start + j, scale * column[matrix * columns + j]!);
        }
      }
    },
  };
}

/**
 * One parameter's step: u = g / sqrt(max(v, epsilon1^2)), shortened to the threshold;
 * p = (1 - lr decay) p - max(epsilon2, rms(p)) min(lr, 1 / sqrt(t)) u.
 */
function updateOne(
  p: Float32Array,
  g: Float32Array,
  moments: Moments,
  hyper: Hyperparameters,
  step: number,
  learningRate: number,
): void {
  const size = Math.max(hyper.epsilon2, rootMeanSquare(p));
  const stepSize = size * Math.min(learningRate, 1 / Math.sqrt(step));
  moments.follow(g, step ** hyper.beta2Decay);
  const least = hyper.epsilon1 ** 2;
  let squares = 0;
  moments.each(hyper.epsilon1, (i, estimate) => {
    squares += g[i]! ** 2 / Math.max(estimate, least);
  });
  const shorten = Math.max(1, Math.sqrt(squares / p.length) / hyper.clippingThreshold);
  const keep = 1 - learningRate * hyper.weightDecay;
  moments.each(hyper.epsilon1, (i, estimate) => {
    p[i] = p[i]! * keep - ((stepSize / shorten) * g[i]!) / Math.sqrt(Math.max(estimate, least));
  });
}

function rootMeanSquare(values: Float32Array): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i]! ** 2;
  return Math.sqrt(squares / values.length);
}
