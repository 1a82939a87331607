// The proofs of STUDY's step 9: that no frozen weight moved, and that the adapted layers really compute with W + s B A.
import { createHash } from "node:crypto";
import { scaledProduct } from "../adapter/merge.ts";
import type { AdaptedModel, AdaptedSite } from "../lora/adapted.ts";
import { prune } from "../onnx/graph.ts";
import { floatValues, type Model } from "../onnx/model.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";

/** SHA-256 of each weight's bytes, by name. */
export function hashWeights(model: Model): ReadonlyMap<string, string> {
  return new Map(
    [...model.graph.initializers].map(([name, { bytes }]) => [name, createHash("sha256").update(bytes).digest("hex")]),
  );
}

/** Whether two models have the same weights, bit for bit. */
export function sameWeights(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): boolean {
  return before.size === after.size && [...before].every(([name, hash]) => after.get(name) === hash);
}

/**
 * The largest difference, over all adapted layers, between the matrix that a layer multiplies with (found by running it on
 * the identity) and W + s B A (computed in float64).
 */
export async function effectiveWeightError(
  adapted: AdaptedModel,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<number> {
  let largest = 0;
  for (const site of adapted.sites) largest = Math.max(largest, await layerError(adapted, site, tensors));
  return largest;
}

async function layerError(
  adapted: AdaptedModel,
  { site, scale, r, a, b }: AdaptedSite,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<number> {
  const { inFeatures, outFeatures } = site;
  const [input, output] = [site.node.inputs[0]!, site.node.outputs[0]!];
  const session = await openSession(layerAlone(adapted.model, input, output, [a, b], inFeatures, outFeatures));
  try {
    // One row of zeros gives the bias, the rows of the identity the columns of W^T.
    const probe = new Float32Array((inFeatures + 1) * inFeatures);
    for (let row = 0; row < inFeatures; row++) probe[(row + 1) * inFeatures + row] = 1;
    const feeds = new Map([
      [input, tensor("float32", [inFeatures + 1, inFeatures], probe)],
      [a, tensors.get(a)!],
      [b, tensors.get(b)!],
    ]);
    const seen = (await session.run(feeds)).get(output)!.data as Float32Array; // [in + 1, out]
    const weight = floatValues(site.weight, adapted.base.graph.initializers.get(site.weight)!);
    const delta = scaledProduct(
      tensors.get(b)!.data as Float32Array,
      tensors.get(a)!.data as Float32Array,
      r,
      site,
      scale,
    );
    const [rowStride, columnStride] = site.layout === "out,in" ? [inFeatures, 1] : [1, outFeatures];
    let largest = 0;
    for (let out = 0; out < outFeatures; out++) {
      for (let column = 0; column < inFeatures; column++) {
        const at = out * rowStride + column * columnStride;
        const effective = seen[(column + 1) * outFeatures + out]! - seen[out]!;
        largest = Math.max(largest, Math.abs(effective - (weight[at]! + delta[at]!)));
      }
    }
    return largest;
  } finally {
    await session.dispose();
  }
}

/** The part of a model between one layer's input and its output. */
function layerAlone(
  model: Model,
  input: string,
  output: string,
  parameters: readonly string[],
  inFeatures: number,
  outFeatures: number,
): Model {
  const { graph } = model;
  const info = (name: string, shape: readonly (number | string)[]) => ({
    name,
    type: "float32" as const,
    shape,
    doc: "",
  });
  const inputs = [info(input, ["rows", inFeatures]), ...graph.inputs.filter(({ name }) => parameters.includes(name))];
  const nodes = graph.nodes.filter((node) => !node.outputs.includes(input));
  return {
    ...model,
    graph: prune({ ...graph, inputs, outputs: [info(output, ["rows", outFeatures])], nodes, values: [] }),
  };
}
