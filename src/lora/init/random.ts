// Factors that are drawn: PEFT's true, false, "gaussian" and "orthogonal" (PEFT 0.21, tuners/lora/layer.py), and "normal", as
// the study has it. An Embedding starts with A zero and B drawn from N(0, 1), whatever the method is.
import { LowrankError } from "../../errors.ts";
import { matrix } from "../../linalg/matrix.ts";
import { qr } from "../../linalg/qr.ts";
import type { Random } from "../../random.ts";
import type { AdaptedSite } from "../adapted.ts";

/** Zeros, to be filled: A [r, in, ...kernel] and B [out, r / groups, 1, …]. */
export interface Factors {
  readonly A: Float32Array;
  readonly B: Float32Array;
}

/** Fills the factors of a site; a method that it does not have is a LowrankError "config". */
export function drawFactors(
  { site, r }: AdaptedSite,
  method: boolean | string,
  random: Random,
  { A, B }: Factors,
): void {
  if (site.kind === "Embedding") {
    if (method === false) fillNormal(A, random, 1);
    fillNormal(B, random, 1);
    return;
  }
  const bound = 1 / Math.sqrt(A.length / r); // 1 / sqrt(fan in)
  if (method === true || method === false) fillUniform(A, random, bound);
  // Both as PyTorch's layers start: the adapted model differs from its base.
  if (method === false) fillUniform(B, random, Math.sqrt(site.outFeatures / B.length));
  else if (method === "gaussian") fillNormal(A, random, 1 / r);
  else if (method === "normal") fillNormal(A, random, 1);
  else if (method === "orthogonal") fillOrthogonal(r, random, { A, B });
  else if (method !== true) {
    throw new LowrankError("config", `initLoraWeights: ${known}, got ${JSON.stringify(method)}`);
  }
}

const known =
  'expected true, false, "gaussian", "normal", "orthogonal", "pissa", "pissa_niter_<number>", "olora", "eva" or "loftq"';

/** Uniform in [-bound, bound). */
export function fillUniform(values: Float32Array, random: Random, bound: number): void {
  for (let index = 0; index < values.length; index++) values[index] = (2 * random.uniform() - 1) * bound;
}

export function fillNormal(values: Float32Array, random: Random, deviation: number): void {
  for (let index = 0; index < values.length; index++) values[index] = random.normal() * deviation;
}

/**
 * A and B both random, and B A = 0: the rows of A are combinations of half of an orthonormal basis of the r inner dimensions,
 * the columns of B of the other half (Datta Nimmaturi, "Rethink LoRA initialisations", as PEFT has it). r is even.
 */
function fillOrthogonal(r: number, random: Random, { A, B }: Factors): void {
  const normals = (rows: number, columns: number): Float64Array =>
    Float64Array.from({ length: rows * columns }, () => random.normal());
  const { data: basis } = qr(matrix(r, r, normals(r, r))).q;
  const half = r / 2;
  const [inFeatures, outFeatures] = [A.length / r, B.length / r];
  const [left, right] = [normals(inFeatures, half), normals(outFeatures, half)];
  for (let k = 0; k < r; k++) {
    const [evens, odds] = [
      (h: number): number => basis[2 * h * r + k]! / 10,
      (h: number): number => basis[(2 * h + 1) * r + k]! / 10,
    ];
    for (let i = 0; i < inFeatures; i++) A[k * inFeatures + i] = sumOver(half, (h) => left[i * half + h]! * evens(h));
    for (let o = 0; o < outFeatures; o++) B[o * r + k] = sumOver(half, (h) => right[o * half + h]! * odds(h));
  }
}

function sumOver(count: number, term: (index: number) => number): number {
  let sum = 0;
  for (let index = 0; index < count; index++) sum += term(index);
  return sum;
}
