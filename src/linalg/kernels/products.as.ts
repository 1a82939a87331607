// Products of a float32 matrix W with vectors in float64, in WebAssembly SIMD (AssemblyScript): four rows and two vectors at
// a time, so that eight pairs of sums stay in registers. Its plain twin is in ../linear-map.ts; sums are taken in another
// order, so that the two agree to rounding only.
// W is [rows, stride] with `rows` and `stride` (columns) multiples of four, vectors are even in number; what fills up is zero.

/** out [count, rows] = x [count, stride] W^T. */
export function products(w: usize, x: usize, out: usize, rows: usize, stride: usize, count: usize): void {
  for (let i: usize = 0; i < rows; i += 4) {
    const w0 = w + ((i * stride) << 2);
    for (let c: usize = 0; c < count; c += 2) {
      dots(w0, stride << 2, x + ((c * stride) << 3), stride, out + ((c * rows + i) << 3), rows << 3);
    }
  }
}

/** out [count, stride] += x [count, rows] W; out begins as zeros. */
export function productsTransposed(w: usize, x: usize, out: usize, rows: usize, stride: usize, count: usize): void {
  for (let i: usize = 0; i < rows; i += 4) {
    const w0 = w + ((i * stride) << 2);
    for (let c: usize = 0; c < count; c += 2) {
      const x0 = x + ((c * rows + i) << 3);
      axpys(w0, stride << 2, x0, x0 + (rows << 3), out + ((c * stride) << 3), stride);
    }
  }
}

@inline
function pair(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}

@inline
function sum(pairs: v128): f64 {
  return f64x2.extract_lane(pairs, 0) + f64x2.extract_lane(pairs, 1);
}

/** Four rows, `row` bytes apart, with two vectors; results of the second are `next` bytes behind those of the first. */
@inline
function dots(w0: usize, row: usize, x0: usize, length: usize, out: usize, next: usize): void {
  let a0 = f64x2.splat(0);
  let a1 = f64x2.splat(0);
  let a2 = f64x2.splat(0);
  let a3 = f64x2.splat(0);
  let b0 = f64x2.splat(0);
  let b1 = f64x2.splat(0);
  let b2 = f64x2.splat(0);
  let b3 = f64x2.splat(0);
  const w1 = w0 + row;
  const w2 = w1 + row;
  const w3 = w2 + row;
  const x1 = x0 + (length << 3);
  for (let j: usize = 0; j < length; j += 2) {
    const u = v128.load(x0 + (j << 3));
    const v = v128.load(x1 + (j << 3));
    const at = j << 2;
    let p = pair(w0 + at);
    a0 = f64x2.add(a0, f64x2.mul(p, u));
    b0 = f64x2.add(b0, f64x2.mul(p, v));
    p = pair(w1 + at);
    a1 = f64x2.add(a1, f64x2.mul(p, u));
    b1 = f64x2.add(b1, f64x2.mul(p, v));
    p = pair(w2 + at);
    a2 = f64x2.add(a2, f64x2.mul(p, u));
    b2 = f64x2.add(b2, f64x2.mul(p, v));
    p = pair(w3 + at);
    a3 = f64x2.add(a3, f64x2.mul(p, u));
    b3 = f64x2.add(b3, f64x2.mul(p, v));
  }
  store<f64>(out, sum(a0));
  store<f64>(out, sum(a1), 8);
  store<f64>(out, sum(a2), 16);
  store<f64>(out, sum(a3), 24);
  store<f64>(out + next, sum(b0));
  store<f64>(out + next, sum(b1), 8);
  store<f64>(out + next, sum(b2), 16);
  store<f64>(out + next, sum(b3), 24);
}

/** Four rows, times four values of each of two vectors, added to two results of `length`. */
@inline
function axpys(w0: usize, row: usize, x0: usize, x1: usize, out: usize, length: usize): void {
  const u0 = v128.load_splat<f64>(x0);
  const u1 = v128.load_splat<f64>(x0, 8);
  const u2 = v128.load_splat<f64>(x0, 16);
  const u3 = v128.load_splat<f64>(x0, 24);
  const v0 = v128.load_splat<f64>(x1);
  const v1 = v128.load_splat<f64>(x1, 8);
  const v2 = v128.load_splat<f64>(x1, 16);
  const v3 = v128.load_splat<f64>(x1, 24);
  const w1 = w0 + row;
  const w2 = w1 + row;
  const w3 = w2 + row;
  const out1 = out + (length << 3);
  for (let j: usize = 0; j < length; j += 2) {
    const at = j << 2;
    const to = j << 3;
    const p0 = pair(w0 + at);
    const p1 = pair(w1 + at);
    const p2 = pair(w2 + at);
    const p3 = pair(w3 + at);
    const u = f64x2.add(
      f64x2.add(f64x2.mul(p0, u0), f64x2.mul(p1, u1)),
      f64x2.add(f64x2.mul(p2, u2), f64x2.mul(p3, u3)),
    );
    const v = f64x2.add(
      f64x2.add(f64x2.mul(p0, v0), f64x2.mul(p1, v1)),
      f64x2.add(f64x2.mul(p2, v2), f64x2.mul(p3, v3)),
    );
    v128.store(out + to, f64x2.add(v128.load(out + to), u));
    v128.store(out1 + to, f64x2.add(v128.load(out1 + to), v));
  }
}
