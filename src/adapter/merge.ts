// An adapter folded into its base: W + s B A, which runs anywhere at the base's own speed (Hu et al. 2021, section 4.1).
import { throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { consumers } from "../onnx/graph.ts";
import { floatValues, fromTensor, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { type Tensor, tensor } from "../tensor.ts";

/**
 * The model with an adapter merged into its weights. Sums are taken in float64 and rounded once.
 *
 * @throws LowrankError "adapter" that lists every tensor that no layer takes, or whose shape does not fit.
 * @example await fs.writeFile("merged.onnx", writeModel(merge(model, adapter)));
 */
export function merge(model: Model, adapter: Adapter): Model {
  const initializers = new Map(model.graph.initializers);
  const readers = consumers(model.graph);
  const renamed = new Map<Node, Node>();
  const placed = new Set<string>();
  const faults: string[] = [];
  for (const site of sites(model)) {
    const { a, b } = adapterKeys(site.modulePath);
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined || B === undefined) continue;
    placed.add(a).add(b);
    const fault = shapeFault(site, A, B);
    if (fault !== undefined) {
      faults.push(fault);
      continue;
    }
    const stored = initializers.get(site.weight);
    if (stored === undefined) {
      faults.push(`${site.modulePath}: its weight is computed in the graph, so nothing can be merged into it`);
      continue;
    }
    const merged = mergedWeight(site, stored, A, B, scaleOf(adapter.config, site.modulePath));
    // Copy before write: other nodes may read the same initializer.
    const shared = (readers.get(site.weight)?.length ?? 0) > 1;
    const name = shared ? freshName(initializers, `${site.modulePath}.merged.weight`) : site.weight;
    initializers.set(name, merged);
    if (shared)
      renamed.set(site.node, {
        ...site.node,
        inputs: site.node.inputs.map((input, index) => (index === 1 ? name : input)),
      });
  }
  for (const key of adapter.tensors.keys()) if (!placed.has(key)) faults.push(`${key}: the model has no layer for it`);
  throwFaults("adapter", "merge", faults);
  return {
    ...model,
    graph: { ...model.graph, initializers, nodes: model.graph.nodes.map((node) => renamed.get(node) ?? node) },
  };
}

function shapeFault(site: Site, A: Tensor, B: Tensor): string | undefined {
  const r = A.dims[0];
  if (A.dims.join() === `${r},${site.inFeatures}` && B.dims.join() === `${site.outFeatures},${r}`) return undefined;
  return `${site.modulePath}: expected A [r,${site.inFeatures}] and B [${site.outFeatures},r], got [${A.dims}] and [${B.dims}]`;
}

function freshName(taken: ReadonlyMap<string, unknown>, wanted: string): string {
  let name = wanted;
  for (let count = 1; taken.has(name); count++) name = `${wanted}_${count}`;
  return name;
}

function mergedWeight(site: Site, stored: StoredTensor, A: Tensor, B: Tensor, scale: number): StoredTensor {
  const weight = floatValues(site.weight, stored);
  const merged = new Float32Array(weight.length);
  const delta = scaledProduct(B.data as Float32Array, A.data as Float32Array, A.dims[0]!, site, scale);
  for (let index = 0; index < merged.length; index++) merged[index] = weight[index]! + delta[index]!;
  return fromTensor(tensor("float32", stored.dims, merged));
}

/** s B A in float64, laid out as the site stores its weight. */
export function scaledProduct(
  B: Float32Array, // [out, r]
  A: Float32Array, // [r, in]
  r: number,
  { inFeatures, outFeatures, layout }: Pick<Site, "inFeatures" | "outFeatures" | "layout">,
  scale: number,
): Float64Array {
  const product = new Float64Array(outFeatures * inFeatures);
  const [rowStride, columnStride] = layout === "out,in" ? [inFeatures, 1] : [1, outFeatures];
  for (let out = 0; out < outFeatures; out++) {
    for (let k = 0; k < r; k++) {
      const factor = scale * B[out * r + k]!;
      if (factor === 0) continue;
      for (let column = 0; column < inFeatures; column++) {
        product[out * rowStride + column * columnStride]! += factor * A[k * inFeatures + column]!;
      }
    }
  }
  return product;
}
