// Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983 as Sutskever et al. 2013 write it), in the form of
// torch.optim.SGD: the momentum starts as the first gradient, undamped, and the learning rate stands outside of it.
import { throwFaults } from "../../errors.ts";
import { elementwiseOptimizer } from "./elementwise.ts";
import { decayFaults, defined, type Optimizer, sizeFaults } from "./optimizer.ts";

export interface SgdOptions {
  /** How much of the sum of past gradients is kept at each step, in [0, 1); default 0. */
  momentum?: number;
  /** Look ahead: the gradient is added to the momentum that follows from it. Needs momentum. Default false. */
  nesterov?: boolean;
  /** How much less the gradient counts for the momentum after the first step, 0 to 1; default 0. */
  dampening?: number;
  /** Times the parameter, added to its gradient (L2); default 0. */
  weightDecay?: number;
}

/** Momenta smaller than this become zero: dying ones would turn denormal, and those are many times slower. */
const MOMENTUM_FLOOR = 1e-30;

/** Places in the block of factors; the kernel reads the same block. */
const factor = {
  learningRate: 0,
  weightDecay: 1,
  momentum: 2,
  share: 3,
  floor: 4,
  nesterov: 5,
  /** -0, with which the kernel takes absolute values. */
  signBit: 6,
} as const;

/**
 * Stochastic gradient descent, as torch.optim.SGD computes it. Throws "config" with all faults of the options.
 *
 * @example
 * await train(adapted, data, { optimizer: sgd({ momentum: 0.9, nesterov: true }), learningRate: 0.1 });
 */
export function sgd(options: SgdOptions = {}): Optimizer {
  const { nesterov = false, ...given } = defined(options);
  const { momentum, dampening, weightDecay } = { momentum: 0, dampening: 0, weightDecay: 0, ...given };
  const faults = [...decayFaults({ momentum }), ...sizeFaults({ weightDecay })];
  if (!(dampening >= 0 && dampening <= 1)) faults.push(`dampening: expected 0 to 1, got ${dampening}`);
  if (nesterov && (momentum === 0 || dampening !== 0)) {
    faults.push(`nesterov: expected a momentum above 0 and no dampening, got ${momentum} and ${dampening}`);
  }
  throwFaults("config", "sgd", faults);
  return elementwiseOptimizer({
    name: "sgd",
    hyperparameters: { momentum, dampening, weightDecay, nesterov: nesterov ? 1 : 0 },
    slots: momentum === 0 ? [] : ["momentum"],
    writeFactors(block, step, learningRate) {
      block[factor.learningRate] = learningRate;
      block[factor.weightDecay] = weightDecay;
      block[factor.momentum] = momentum;
      block[factor.share] = step === 1 ? 1 : 1 - dampening;
      block[factor.floor] = MOMENTUM_FLOOR;
      block[factor.nesterov] = nesterov ? 1 : 0;
      block[factor.signBit] = -0;
    },
    apply([p, g, velocity], block, kernels) {
      if (velocity === undefined) plainStep(p!, g!, block);
      else if (kernels === undefined) momentumStep(p!, g!, velocity, block);
      else {
        kernels.factors.set(block);
        kernels.sgd(p!.byteOffset, g!.byteOffset, velocity.byteOffset, p!.length, kernels.factors.byteOffset);
      }
    },
  });
}

/** p = p - lr (g + decay p), each operation rounded to float32. */
function plainStep(p: Float32Array, g: Float32Array, block: Float32Array): void {
  const f = Math.fround;
  const learningRate = block[factor.learningRate]!;
  const decay = block[factor.weightDecay]!;
  for (let i = 0; i < p.length; i++) {
    const weight = p[i]!;
    const gradient = decay === 0 ? g[i]! : f(g[i]! + f(weight * decay));
    p[i] = f(weight - f(gradient * learningRate));
  }
}

/** The kernel's twin. g' = g + decay p; u = momentum u + share g'; p = p - lr u, or p - lr (g' + momentum u) with nesterov. */
function momentumStep(p: Float32Array, g: Float32Array, u: Float32Array, block: Float32Array): void {
  const f = Math.fround;
  const learningRate = block[factor.learningRate]!;
  const decay = block[factor.weightDecay]!;
  const momentum = block[factor.momentum]!;
  const share = block[factor.share]!;
  const floor = block[factor.floor]!;
  const nesterov = block[factor.nesterov]! !== 0;
  for (let i = 0; i < p.length; i++) {
    const weight = p[i]!;
    const gradient = decay === 0 ? g[i]! : f(g[i]! + f(weight * decay));
    const sum = f(f(u[i]! * momentum) + f(gradient * share));
    const velocity = Math.abs(sum) < floor ? 0 : sum;
    u[i] = velocity;
    const direction = nesterov ? f(gradient + f(velocity * momentum)) : velocity;
    p[i] = f(weight - f(direction * learningRate));
  }
}
