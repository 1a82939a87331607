// The large products that compression needs, asked for in generators so that the same work is done at once (in plain code and
// WebAssembly) or with the runtime's products, which are promised.
import type { Matrix } from "../linalg/matrix.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { leastSide, runtimeNormOnData, runtimeProduct, runtimeSpectrum } from "./runtime-spectrum.ts";
import { normOnData, product, ridged, type Spectrum, spectrumOf, type Weight, whitening } from "./spectrum.ts";

/** What is asked for on the way: it is computed at once, or by the runtime, which promises it. */
export type Question =
  | {
      readonly what: "spectrum";
      readonly weight: Weight;
      /** Triplets that are wanted, and how many may be of use in the end: what is computed whole gives these. */
      readonly count: number;
      readonly most: number;
      readonly moments: Matrix | undefined;
    }
  | { readonly what: "norm on data"; readonly weight: Weight; readonly moments: Matrix }
  | { readonly what: "product"; readonly left: Weight; readonly weight: Weight };
export type Answer = Spectrum | number | Float32Array;
export type Steps<T> = Generator<Question, T, Answer>;

/** At once. */
export function answered(question: Question): Answer {
  const { weight } = question;
  switch (question.what) {
    case "norm on data":
      return normOnData(weight, question.moments);
    case "product":
      return product(question.left, weight);
    case "spectrum":
      return spectrumOf(weight, question.most, question.moments && whitening(ridged(question.moments)));
  }
}

/** By the runtime, where it is large enough. */
export async function answeredByRuntime(question: Question, session: SessionOptions): Promise<Answer> {
  const { weight } = question;
  if (question.what === "product") {
    const isLarge = Math.min(question.left.out, weight.into) >= leastSide || weight.out >= leastSide;
    return isLarge ? runtimeProduct(question.left, weight, session) : answered(question);
  }
  if (Math.min(weight.out, weight.into) < leastSide) return answered(question);
  if (question.what === "norm on data") return runtimeNormOnData(weight, question.moments, session);
  return runtimeSpectrum(weight, question.count, question.moments && ridged(question.moments), session);
}
