// Several adapters as one of their summed rank: sum_k w_k B_k A_k = [w_1 B_1 | w_2 B_2 | …] [A_1; A_2; …], exactly what they
// add up to (PEFT 0.21's combination "cat", tuners/lora/model.py, without its square roots). A Conv's groups each keep their
// share of every rank, since B's group g reads the g-th part of A's channels only.
import type { Site } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { factorDims } from "./factors.ts";

/** A and B of one adapter at a site, and the factor that its update is multiplied by. */
export interface Stacked {
  readonly a: Tensor; // [r, in, ...kernel]
  readonly b: Tensor; // [out, r / groups, 1, …]
  readonly weight: number;
}

type Stackable = Pick<Site, "inFeatures" | "outFeatures" | "kernel" | "groups">;

/**
 * A and B of the summed rank.
 *
 * @example const { a, b } = stackRanks(site, [{ a: A1, b: B1, weight: 0.7 }, { a: A2, b: B2, weight: 0.3 }]);
 */
export function stackRanks(
  site: Stackable,
  parts: readonly Stacked[],
): { readonly a: Tensor<"float32">; readonly b: Tensor<"float32"> } {
  const { groups, outFeatures } = site;
  const r = parts.reduce((sum, { a }) => sum + a.dims[0]!, 0);
  const dims = factorDims(site, r);
  const [A, B] = [new Float32Array(elementCount(dims.a)), new Float32Array(elementCount(dims.b))];
  let at = 0;
  for (let group = 0; group < groups; group++) {
    for (const { a } of parts) {
      const share = a.data.length / groups;
      A.set((a.data as Float32Array).subarray(group * share, (group + 1) * share), at);
      at += share;
    }
  }
  const width = r / groups; // of B's rows
  let left = 0;
  for (const { a, b, weight } of parts) {
    const share = a.dims[0]! / groups;
    const values = b.data as Float32Array;
    for (let out = 0; out < outFeatures; out++) {
      for (let k = 0; k < share; k++) B[out * width + left + k] = values[out * share + k]! * weight;
    }
    left += share;
  }
  return { a: tensor("float32", dims.a, A), b: tensor("float32", dims.b, B) };
}

/** For each rank of what `stackRanks` gives, the part that it came from. [r] */
export function stackedFrom({ groups }: Pick<Site, "groups">, parts: readonly Pick<Stacked, "a">[]): number[] {
  return Array.from({ length: groups }, () =>
    parts.flatMap(({ a }, index) => new Array<number>(a.dims[0]! / groups).fill(index)),
  ).flat();
}
