// Adam over contiguous float32 arrays, in WebAssembly SIMD (AssemblyScript). Method: Kingma & Ba 2015,
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
