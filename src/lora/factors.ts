// The shapes of A and B at a site, as PEFT 0.21 stores them (tuners/lora/layer.py). Linear: A [r, in], B [out, r]. Conv: A is
// a convolution over all input channels, [r, in, ...kernel], and B a 1x1 one with the base's groups, [out, r / groups, 1, …].
// Embedding: A [r, vocabulary], B [width, r].
import { intsAttribute } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import type { Tensor } from "../tensor.ts";

type Factored = Pick<Site, "inFeatures" | "outFeatures" | "kernel" | "groups">;

/** Sizes of A and B for rank r, which a Conv's groups divide. */
export function factorDims(
  { inFeatures, outFeatures, kernel, groups }: Factored,
  r: number,
): { readonly a: readonly number[]; readonly b: readonly number[] } {
  return { a: [r, inFeatures, ...kernel], b: [outFeatures, r / groups, ...kernel.map(() => 1)] };
}

/** What is wrong with two tensors as A and B of a site, of whatever rank; undefined when they fit. */
export function factorFault(site: Factored, A: Tensor | undefined, B: Tensor | undefined): string | undefined {
  const r = A?.dims[0] ?? 0;
  const { a, b } = factorDims(site, r);
  const fits = (value: Tensor | undefined, dims: readonly number[]): boolean =>
    value?.type === "float32" && value.dims.join() === dims.join();
  if (fits(A, a) && fits(B, b)) return undefined;
  const { inFeatures, outFeatures, kernel, groups } = site;
  const wantedA = ["r", inFeatures, ...kernel].join();
  const wantedB = [outFeatures, groups === 1 ? "r" : `r/${groups}`, ...kernel.map(() => 1)].join();
  const [gotA, gotB] = [A, B].map((value) => (value === undefined ? "nothing" : `${value.type} [${value.dims}]`));
  return `expected float32 A [${wantedA}] and B [${wantedB}], got ${gotA} and ${gotB}`;
}

/**
 * Why a site cannot have a branch; undefined when it can. PEFT's branch has the kernel of a dilated Conv without its dilation,
 * so that its output has another size.
 */
export function dilationFault({ node, kernel }: Pick<Site, "node" | "kernel">, name: string): string | undefined {
  const dilations = kernel.length === 0 ? [] : (intsAttribute(node, "dilations") ?? []);
  if (!kernel.some((size, axis) => size > 1 && (dilations[axis] ?? 1) > 1)) return undefined;
  return `${name}: LoRA is not defined for a dilated Conv (dilations ${dilations.join(", ")}); exclude it`;
}
