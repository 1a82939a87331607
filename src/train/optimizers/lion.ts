// Lion: the sign of an interpolated momentum. Method: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms",
// arXiv:2302.06675, Algorithm 2; decay is decoupled. A learning rate 3 to 10 times below Adam's is what its authors advise.
import { throwFaults } from "../../errors.ts";
import { elementwiseOptimizer } from "./elementwise.ts";
import { decayFaults, defined, type Optimizer, sizeFaults } from "./optimizer.ts";

export interface LionOptions {
  /** Share of the momentum in what the sign is taken of, in [0, 1); default 0.9. */
  beta1?: number;
  /** Decay of the momentum, in [0, 1); default 0.99. */
  beta2?: number;
  /** Each step first multiplies the parameters by 1 - learning rate * weightDecay; default 0. */
  weightDecay?: number;
}

/** Momenta smaller than this become zero: dying ones would turn denormal, and those are many times slower. */
const MOMENTUM_FLOOR = 1e-30;

/** Places in the block of factors; the kernel reads the same block, and takes absolute values with the sign bit, -0. */
const factor = { learningRate: 0, keep: 1, beta1: 2, share1: 3, beta2: 4, share2: 5, floor: 6, signBit: 7 } as const;

/**
 * Lion: every parameter moves by the learning rate, in the direction of sign(beta1 m + (1 - beta1) g). Throws "config" with
 * all faults of the options.
 *
 * @example
 * await train(adapted, data, { optimizer: lion({ weightDecay: 0.1 }), learningRate: 1e-4 });
 */
export function lion(options: LionOptions = {}): Optimizer {
  const hyperparameters = { beta1: 0.9, beta2: 0.99, weightDecay: 0, ...defined(options) };
  const { beta1, beta2, weightDecay } = hyperparameters;
  throwFaults("config", "lion", [...decayFaults({ beta1, beta2 }), ...sizeFaults({ weightDecay })]);
  return elementwiseOptimizer({
    name: "lion",
    hyperparameters,
    slots: ["momentum"],
    writeFactors(block, _step, learningRate) {
      block[factor.learningRate] = learningRate;
      block[factor.keep] = 1 - learningRate * weightDecay;
      block[factor.beta1] = beta1;
      block[factor.share1] = 1 - beta1;
      block[factor.beta2] = beta2;
      block[factor.share2] = 1 - beta2;
      block[factor.floor] = MOMENTUM_FLOOR;
      block[factor.signBit] = -0;
    },
    apply([p, g, m], block, kernels) {
      if (kernels === undefined) lionStep(p!, g!, m!, block);
      else {
        kernels.factors.set(block);
        kernels.lion(p!.byteOffset, g!.byteOffset, m!.byteOffset, p!.length, kernels.factors.byteOffset);
      }
    },
  });
}

/** The kernel's twin. p = keep p - lr sign(beta1 m + share1 g); m = beta2 m + share2 g; each operation rounded to float32. */
function lionStep(p: Float32Array, g: Float32Array, m: Float32Array, block: Float32Array): void {
  const f = Math.fround;
  const learningRate = block[factor.learningRate]!;
  const keep = block[factor.keep]!;
  const beta1 = block[factor.beta1]!;
  const share1 = block[factor.share1]!;
  const beta2 = block[factor.beta2]!;
  const share2 = block[factor.share2]!;
  const floor = block[factor.floor]!;
  for (let i = 0; i < p.length; i++) {
    const gradient = g[i]!;
    const before = m[i]!;
    const c = f(f(before * beta1) + f(gradient * share1));
    // c - c is 0, or NaN where c is not finite: a broken gradient must not be taken for none.
    const step = f((c > 0 ? learningRate : 0) - (c < 0 ? learningRate : 0) + f(c - c));
    p[i] = f(f(p[i]! * keep) - step);
    const after = f(f(before * beta2) + f(gradient * share2));
    m[i] = Math.abs(after) < floor ? 0 : after;
  }
}
