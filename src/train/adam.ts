// The arithmetic of Adam: the factors of a step, and the step itself in TypeScript. Method: Kingma & Ba 2015,
// arXiv:1412.6980, Algorithm 1; decoupled decay: Loshchilov & Hutter 2019, arXiv:1711.05101; as torch.optim.Adam and
// AdamW compute them, but for two things that keep denormal numbers, which are many times slower, out of the state:
// a first moment under 1e-30 becomes zero, and a gradient under gradientFloor enters the second moment as gradientFloor
// (2.7e-17 for beta2 = 0.999, where epsilon is 1e-8). Both lie far below what float32 weights resolve.
// adamTwin and kernels/optimizer.as.ts do the same operations in the same order, and agree bit for bit.

export interface AdamHyperparameters {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/**
 * Places in the block of factors. The kernel reads the same block: its byte offsets are four times these.
 *
 *   g' = g + gradientDecay p
 *   m  = m + gradientShare (g' - m)                                   zero where |m| < momentFloor
 *   v  = beta2 v + squareShare max(|g'|, gradientFloor)^2
 *   p  = keep p - m / (rootScale sqrt(v) + epsilon)
 */
export const adamFactor = {
  /** 1 - beta1. */
  gradientShare: 0,
  beta2: 1,
  /** 1 - beta2. */
  squareShare: 2,
  /** 1 / (sqrt(1 - beta2^step) stepSize), with stepSize = learning rate / (1 - beta1^step). */
  rootScale: 3,
  /** epsilon / stepSize: dividing both terms below by the step size saves a multiplication above. */
  epsilon: 4,
  /** 1 - learning rate * weight decay (AdamW), or 1. */
  keep: 5,
  /** Weight decay (L2), or 0. */
  gradientDecay: 6,
  gradientFloor: 7,
  momentFloor: 8,
  /** -0, with which the kernel takes absolute values. */
  signBit: 9,
} as const;

/** Floats in a block of factors: those above, and padding up to 64 bytes. */
export const adamFactors = 16;

const MOMENT_FLOOR = 1e-30;
/** The least that a gradient adds to v: far enough above the smallest normal float32, 2^-126, for v * beta2 too. */
const LEAST_SQUARE = 2 ** -120;
const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/**
 * Fills `block` (float32, [16]) for the step-th step (1-based). Everything is computed in double and rounded once, on
 * its way into the block: 1 - 0.999 taken in float32 would be 5e-5 off, and the loss would drift visibly.
 */
export function writeAdamFactors(
  block: Float32Array,
  hyper: AdamHyperparameters,
  decoupled: boolean,
  step: number,
  learningRate: number,
): void {
  const stepSize = learningRate / (1 - hyper.beta1 ** step);
  const rootScale = 1 / (Math.sqrt(1 - hyper.beta2 ** step) * stepSize);
  block[adamFactor.gradientShare] = 1 - hyper.beta1;
  block[adamFactor.beta2] = hyper.beta2;
  block[adamFactor.squareShare] = 1 - hyper.beta2;
  // At a learning rate of zero the denominator is epsilon / 0 = infinity, and nothing moves; infinity here would make
  // infinity times zero of it.
  block[adamFactor.rootScale] = Math.min(rootScale, MAX_FLOAT32);
  block[adamFactor.epsilon] = hyper.epsilon / stepSize;
  block[adamFactor.keep] = decoupled ? 1 - learningRate * hyper.weightDecay : 1;
  block[adamFactor.gradientDecay] = decoupled ? 0 : hyper.weightDecay;
  block[adamFactor.gradientFloor] = Math.sqrt(LEAST_SQUARE / (1 - hyper.beta2));
  block[adamFactor.momentFloor] = MOMENT_FLOOR;
  block[adamFactor.signBit] = -0;
}

/**
 * One step in place, for arrays of one length: parameters `p`, gradients `g` (only read), first and second moments `m`
 * and `v`. Math.fround after each operation makes it single precision: of +, -, *, / and sqrt on float32 values the
 * double result, rounded, is the correctly rounded float32 result (Figueroa 1995).
 */
export function adamTwin(
  p: Float32Array,
  g: Float32Array,
  m: Float32Array,
  v: Float32Array,
  block: Float32Array,
): void {
  const f = Math.fround;
  const gradientShare = block[adamFactor.gradientShare]!;
  const beta2 = block[adamFactor.beta2]!;
  const squareShare = block[adamFactor.squareShare]!;
  const rootScale = block[adamFactor.rootScale]!;
  const epsilon = block[adamFactor.epsilon]!;
  const keep = block[adamFactor.keep]!;
  const gradientDecay = block[adamFactor.gradientDecay]!;
  const gradientFloor = block[adamFactor.gradientFloor]!;
  const momentFloor = block[adamFactor.momentFloor]!;
  for (let i = 0; i < p.length; i++) {
    const weight = p[i]!;
    const before = m[i]!;
    let gradient = g[i]!;
    if (gradientDecay !== 0) gradient = f(gradient + f(weight * gradientDecay));

    const lerped = f(before + f(f(gradient - before) * gradientShare));
    const first = Math.abs(lerped) < momentFloor ? 0 : lerped;
    const size = Math.max(Math.abs(gradient), gradientFloor);
    const second = f(f(v[i]! * beta2) + f(f(size * squareShare) * size));
    const denominator = f(f(f(Math.sqrt(second)) * rootScale) + epsilon);

    m[i] = first;
    v[i] = second;
    p[i] = f(f(weight * keep) - f(first / denominator));
  }
}
