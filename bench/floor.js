// What a step cannot do without, over what the machine can do: the products of the study's network at the speed of the machine's
// best float32 product, and the numbers that Adam reads and writes at the speed of a plain copy.

/** Multiply-adds of the three layers' weights, 784-1000-2000-10, for one example. */
const WEIGHTS = 784 * 1000 + 1000 * 2000 + 2000 * 10;
/** Those of the layers that the gradient of the activations passes back through: not the first. */
const PASSED_BACK = 1000 * 2000 + 2000 * 10;
const [INPUTS, OUTPUTS, INPUTS_BACK] = [784 + 1000 + 2000, 1000 + 2000 + 10, 1000 + 2000];
/** For each rank: x A^T and h B^T, dB = dY^T h, dh = dY B, dA = dh^T x, and dh A where the gradient goes on. */
const PER_RANK = INPUTS + OUTPUTS + OUTPUTS + OUTPUTS + INPUTS + INPUTS_BACK;
const PARAMETERS = WEIGHTS + 1000 + 2000 + 10;
/** Adam reads parameter, gradient and two moments, and writes all but the gradient: float32. */
const ADAM_BYTES = 7 * 4;

/**
 * Operations of a step, a multiply-add being two. LoRA: forward, back through layers 3 and 2, and the gradients of A and B; none
 * of a frozen weight.
 * @param {import("./harness.js").BenchCase} benchCase
 */
export function operations({ kind, batch, r = 0 }) {
  if (kind === "forward") return 2 * batch * WEIGHTS;
  if (kind === "full") return 2 * batch * (2 * WEIGHTS + PASSED_BACK);
  return 2 * batch * (WEIGHTS + PASSED_BACK + r * PER_RANK);
}

/**
 * Operations of a LoRA step on GPT-2's shape (bench/models.js), r on c_attn in every layer or in the top one only: forward; back through
 * the head and what lies above the lowest adapter, whose own c_attn the gradient does not pass; the products with A and B. Causal
 * attention is counted whole, as it is computed.
 * @param {{ layers: number, vocabulary: number, batch: number, tokens: number, r?: number, top?: boolean }} shape
 */
export function gpt2Operations({ layers, vocabulary, batch, tokens, r = 8, top = false }) {
  const width = 768;
  const [qkv, others, head] = [3 * width ** 2, 9 * width ** 2, vocabulary * width];
  const attention = 2 * tokens * width;
  const walked = top ? 1 : layers;
  const forward = layers * (qkv + others + attention) + head;
  const back = walked * (others + 2 * attention) + (walked - 1) * qkv + head;
  // x A^T and h B^T, dB, dh, dA, and dh A where the gradient goes on.
  const thin = r * (walked * (2 * width + 9 * width) + (walked - 1) * width);
  return 2 * batch * tokens * (forward + back + thin);
}

/**
 * @param {import("./harness.js").BenchCase} benchCase
 * @param {{ gflops: number, copyGBs: number }} speed
 * @returns {number} milliseconds
 */
export function floorMs(benchCase, { gflops, copyGBs }) {
  const products = operations(benchCase) / (gflops * 1e6);
  return benchCase.kind === "full" ? products + (PARAMETERS * ADAM_BYTES) / (copyGBs * 1e6) : products;
}

/** Gigabytes a second, read and written together, of one thread that copies 64 MiB: the best of a few. */
export function copySpeed() {
  const [from, to] = [new Float32Array(2 ** 24).fill(1), new Float32Array(2 ** 24)];
  let best = 0;
  for (let round = 0; round < 8; round++) {
    const begun = performance.now();
    to.set(from);
    best = Math.max(best, (2 * from.byteLength) / (performance.now() - begun) / 1e6);
  }
  return best;
}
