// All optimizers. Adam: Kingma & Ba 2015, arXiv:1412.6980; AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101; names and
// defaults are those of torch.optim. A step runs in the WebAssembly kernel where the arrays lie in one arena, and in its
// TypeScript twin elsewhere, with the same result to the last bit.
import { throwFaults } from "../errors.ts";
import { type AdamHyperparameters, adamTwin, writeAdamFactors } from "./adam.ts";
import { elementwiseOptimizer } from "./optimizers/elementwise.ts";
import { decayFaults, defined, type Optimizer, sizeFaults } from "./optimizers/optimizer.ts";

export { type AdafactorOptions, adafactor } from "./optimizers/adafactor.ts";
export { type LionOptions, lion } from "./optimizers/lion.ts";
export {
  type AboutParameter,
  copyState,
  type NamedArrays,
  type Optimizer,
  type OptimizerState,
  restoreState,
  stateFaults,
  stateLengths,
} from "./optimizers/optimizer.ts";
export { type SgdOptions, sgd } from "./optimizers/sgd.ts";

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

function adamOptimizer(name: "adam" | "adamw", options: AdamOptions & { weightDecay: number }): Optimizer {
  const hyperparameters: AdamHyperparameters = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, ...options };
  throwFaults("config", name, adamFaults(hyperparameters));
  return elementwiseOptimizer({
    name,
    hyperparameters: { ...hyperparameters },
    slots: ["m", "v"],
    writeFactors: (block, step, learningRate) =>
      writeAdamFactors(block, hyperparameters, name === "adamw", step, learningRate),
    apply([p, g, m, v], block, kernels) {
      if (kernels === undefined) {
        adamTwin(p!, g!, m!, v!, block);
      } else {
        kernels.factors.set(block);
        kernels.adam(p!.byteOffset, g!.byteOffset, m!.byteOffset, v!.byteOffset, p!.length, kernels.factors.byteOffset);
      }
    },
  });
}

function adamFaults({ beta1, beta2, epsilon, weightDecay }: AdamHyperparameters): string[] {
  const faults = decayFaults({ beta1, beta2 });
  // Zero in float32 would make 0 / 0 of every parameter that has no gradient.
  if (!(Math.fround(epsilon) > 0 && Number.isFinite(epsilon))) {
    faults.push(`epsilon: expected a number above 0, got ${epsilon}; try 1e-8`);
  }
  return [...faults, ...sizeFaults({ weightDecay })];
}
