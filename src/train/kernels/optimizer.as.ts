// Adam, SGD with momentum and Lion over contiguous float32 arrays, in WebAssembly SIMD (AssemblyScript). Method: Kingma & Ba 2015,
// arXiv:1412.6980, Algorithm 1; decoupled decay: Loshchilov & Hutter 2019, arXiv:1711.05101; as torch.optim has both.
// Its twin is adamTwin in ../adam.ts: the same operations in the same order, so that the two agree bit for bit
// (f32x4 rounds each operation on its own; nothing is fused). Change one, and change the other.
// The factors are loaded, not splatted from arguments: V8 repeats a splat of an argument inside the loop, on the units
// that multiply, and the step takes a third longer. Unrolling the loop gained nothing.

/** Where each factor lies in the block: 4 x its index in adamFactor, ../adam.ts. Bytes. */
const GRADIENT_SHARE: usize = 0;
const BETA2: usize = 4;
const SQUARE_SHARE: usize = 8;
const ROOT_SCALE: usize = 12;
const EPSILON: usize = 16;
const KEEP: usize = 20;
const GRADIENT_DECAY: usize = 24;
const GRADIENT_FLOOR: usize = 28;
const MOMENT_FLOOR: usize = 32;
const SIGN_BIT: usize = 36;

/**
 * One step over `count` floats at the byte offsets `p` (parameters), `g` (gradients, only read), `m` and `v` (first and
 * second moments). `factors` is the byte offset of the block that writeAdamFactors in ../adam.ts fills.
 */
export function adam(p: usize, g: usize, m: usize, v: usize, count: u32, factors: usize): void {
  if (load<f32>(factors, GRADIENT_DECAY) != 0) {
    step(true, p, g, m, v, count, factors);
  } else {
    step(false, p, g, m, v, count, factors);
  }
}

/**
 * The sum of the squares of `count` floats at `x`, in double, in four sums that take turns: as squaresTwin in ../gradients.ts.
 * Change one, and change the other.
 */
export function squares(x: usize, count: u32): f64 {
  let even = f64x2.splat(0);
  let odd = f64x2.splat(0);
  for (; count >= 4; count -= 4) {
    const values = v128.load(x);
    const low = f64x2.promote_low_f32x4(values);
    const high = f64x2.promote_low_f32x4(v128.shuffle<f32>(values, values, 2, 3, 2, 3));
    even = f64x2.add(even, f64x2.mul(low, low));
    odd = f64x2.add(odd, f64x2.mul(high, high));
    x += 16;
  }
  const both = f64x2.add(even, odd);
  let sum = f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1);
  for (; count > 0; count -= 1) {
    const value = f64(load<f32>(x));
    sum += value * value;
    x += 4;
  }
  return sum;
}

/** `coupled` is a constant wherever this is inlined, so that a step without L2 decay does not pay for it. */
@inline
function step(coupled: bool, p: usize, g: usize, m: usize, v: usize, count: u32, factors: usize): void {
  const gradientShare = v128.load_splat<f32>(factors, GRADIENT_SHARE);
  const beta2 = v128.load_splat<f32>(factors, BETA2);
  const squareShare = v128.load_splat<f32>(factors, SQUARE_SHARE);
  const rootScale = v128.load_splat<f32>(factors, ROOT_SCALE);
  const epsilon = v128.load_splat<f32>(factors, EPSILON);
  const keep = v128.load_splat<f32>(factors, KEEP);
  const gradientDecay = v128.load_splat<f32>(factors, GRADIENT_DECAY);
  const gradientFloor = v128.load_splat<f32>(factors, GRADIENT_FLOOR);
  const momentFloor = v128.load_splat<f32>(factors, MOMENT_FLOOR);
  const signBit = v128.load_splat<f32>(factors, SIGN_BIT);

  for (; count >= 4; count -= 4) {
    const weight = v128.load(p);
    const before = v128.load(m);
    let gradient = v128.load(g);
    if (coupled) gradient = f32x4.add(gradient, f32x4.mul(weight, gradientDecay));

    const lerped = f32x4.add(before, f32x4.mul(f32x4.sub(gradient, before), gradientShare));
    const first = v128.andnot(lerped, f32x4.lt(v128.andnot(lerped, signBit), momentFloor));
    const size = f32x4.pmax(v128.andnot(gradient, signBit), gradientFloor);
    const second = f32x4.add(f32x4.mul(v128.load(v), beta2), f32x4.mul(f32x4.mul(size, squareShare), size));
    const denominator = f32x4.add(f32x4.mul(f32x4.sqrt(second), rootScale), epsilon);

    v128.store(m, first);
    v128.store(v, second);
    v128.store(p, f32x4.sub(f32x4.mul(weight, keep), f32x4.div(first, denominator)));
    p += 16;
    g += 16;
    m += 16;
    v += 16;
  }

  for (; count > 0; count -= 1) {
    stepOne(coupled, p, g, m, v, factors);
    p += 4;
    g += 4;
    m += 4;
    v += 4;
  }
}

/** What one lane of the loop above does, for the last floats. */
@inline
function stepOne(coupled: bool, p: usize, g: usize, m: usize, v: usize, factors: usize): void {
  const weight = load<f32>(p);
  const before = load<f32>(m);
  let gradient = load<f32>(g);
  if (coupled) gradient = gradient + weight * load<f32>(factors, GRADIENT_DECAY);

  const lerped = before + (gradient - before) * load<f32>(factors, GRADIENT_SHARE);
  const first: f32 = abs(lerped) < load<f32>(factors, MOMENT_FLOOR) ? 0 : lerped;
  const gradientFloor = load<f32>(factors, GRADIENT_FLOOR);
  const size: f32 = abs(gradient) < gradientFloor ? gradientFloor : abs(gradient);
  const second = load<f32>(v) * load<f32>(factors, BETA2) + size * load<f32>(factors, SQUARE_SHARE) * size;
  const denominator = sqrt<f32>(second) * load<f32>(factors, ROOT_SCALE) + load<f32>(factors, EPSILON);

  store<f32>(m, first);
  store<f32>(v, second);
  store<f32>(p, weight * load<f32>(factors, KEEP) - first / denominator);
}

/**
 * One step of SGD with momentum: momentumStep in ../optimizers/sgd.ts says what it does, and where the factors lie: learning
 * rate, weight decay, momentum, share, floor, 1 for Nesterov's, sign bit.
 */
export function sgd(p: usize, g: usize, u: usize, count: u32, factors: usize): void {
  const learningRate = v128.load_splat<f32>(factors, 0);
  const decay = v128.load_splat<f32>(factors, 4);
  const momentum = v128.load_splat<f32>(factors, 8);
  const share = v128.load_splat<f32>(factors, 12);
  const floor = v128.load_splat<f32>(factors, 16);
  const nesterov = load<f32>(factors, 20) != 0;
  const signBit = v128.load_splat<f32>(factors, 24);
  const decays = load<f32>(factors, 4) != 0;
  for (; count > 0; ) {
    // The last floats are padded in the lanes, and only they are stored.
    const whole = count >= 4;
    const weight = whole ? v128.load(p) : v128.load32_splat(p);
    let gradient = whole ? v128.load(g) : v128.load32_splat(g);
    const before = whole ? v128.load(u) : v128.load32_splat(u);
    if (decays) gradient = f32x4.add(gradient, f32x4.mul(weight, decay));
    const sum = f32x4.add(f32x4.mul(before, momentum), f32x4.mul(gradient, share));
    const velocity = v128.andnot(sum, f32x4.lt(v128.andnot(sum, signBit), floor));
    const direction = nesterov ? f32x4.add(gradient, f32x4.mul(velocity, momentum)) : velocity;
    const moved = f32x4.sub(weight, f32x4.mul(direction, learningRate));
    if (whole) {
      v128.store(u, velocity);
      v128.store(p, moved);
    } else {
      store<f32>(u, f32x4.extract_lane(velocity, 0));
      store<f32>(p, f32x4.extract_lane(moved, 0));
    }
    const taken: u32 = whole ? 4 : 1;
    p += taken * 4;
    g += taken * 4;
    u += taken * 4;
    count -= taken;
  }
}

/**
 * One step of Lion: lionStep in ../optimizers/lion.ts says what it does, and where the factors lie: learning rate, keep, beta1,
 * share1, beta2, share2, floor, sign bit.
 */
export function lion(p: usize, g: usize, m: usize, count: u32, factors: usize): void {
  const learningRate = v128.load_splat<f32>(factors, 0);
  const keep = v128.load_splat<f32>(factors, 4);
  const beta1 = v128.load_splat<f32>(factors, 8);
  const share1 = v128.load_splat<f32>(factors, 12);
  const beta2 = v128.load_splat<f32>(factors, 16);
  const share2 = v128.load_splat<f32>(factors, 20);
  const floor = v128.load_splat<f32>(factors, 24);
  const signBit = v128.load_splat<f32>(factors, 28);
  const zero = f32x4.splat(0);
  for (; count > 0; ) {
    const whole = count >= 4;
    const gradient = whole ? v128.load(g) : v128.load32_splat(g);
    const before = whole ? v128.load(m) : v128.load32_splat(m);
    const weight = whole ? v128.load(p) : v128.load32_splat(p);
    const c = f32x4.add(f32x4.mul(before, beta1), f32x4.mul(gradient, share1));
    const up = v128.and(learningRate, f32x4.gt(c, zero));
    const down = v128.and(learningRate, f32x4.lt(c, zero));
    const step = f32x4.add(f32x4.sub(up, down), f32x4.sub(c, c));
    const after = f32x4.add(f32x4.mul(before, beta2), f32x4.mul(gradient, share2));
    const moment = v128.andnot(after, f32x4.lt(v128.andnot(after, signBit), floor));
    const moved = f32x4.sub(f32x4.mul(weight, keep), step);
    if (whole) {
      v128.store(m, moment);
      v128.store(p, moved);
    } else {
      store<f32>(m, f32x4.extract_lane(moment, 0));
      store<f32>(p, f32x4.extract_lane(moved, 0));
    }
    const taken: u32 = whole ? 4 : 1;
    p += taken * 4;
    g += taken * 4;
    m += taken * 4;
    count -= taken;
  }
}
