// An adapter folded into its base: W + s B A, which runs anywhere at the base's own speed (Hu et al. 2021, section 4.1).
import { throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { graphBuilder } from "../onnx/builder.ts";
import { consumers, producers, storedValue } from "../onnx/graph.ts";
import { floatValues, fromTensor, type Graph, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { type Tensor, tensor } from "../tensor.ts";

/**
 * The model with an adapter merged into its weights. Sums are taken in float64 and rounded once.
 *
 * @throws LowrankError "adapter" that lists every tensor that no layer takes, or whose shape does not fit.
 * @example await fs.writeFile("merged.onnx", writeModel(merge(model, adapter)));
 */
export function merge(model: Model, adapter: Adapter): Model {
  const { graph } = model;
  const initializers = new Map(graph.initializers);
  const made = producers(graph);
  const names = graphBuilder({ opset: model.opsets.get("") ?? 0, from: graph });
  const isOwn = privateInitializers(graph);
  const changed = new Map<Node, Node>();
  const placed = new Set<string>();
  const faults: string[] = [];
  for (const site of sites(model)) {
    const { a, b } = adapterKeys(site.modulePath);
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined && B === undefined) continue;
    placed.add(a).add(b);
    const stored = storedValue(graph, made, site.weight)!;
    const fault = misfit(site, stored, A, B);
    if (fault !== undefined) {
      faults.push(`${site.modulePath}: ${fault}`);
      continue;
    }
    const merged = mergedWeight(
      site,
      stored,
      A as Tensor<"float32">,
      B as Tensor<"float32">,
      scaleOf(adapter.config, site.modulePath),
    );
    if (isOwn(site.weight)) {
      initializers.set(site.weight, merged);
      continue;
    }
    // Copy before write: others read the same value, or it is a Constant's or an Identity's.
    const name = names.freshName(`${site.modulePath}.merged.weight`);
    initializers.set(name, merged);
    changed.set(site.node, { ...site.node, inputs: site.node.inputs.with(1, name) });
  }
  for (const key of adapter.tensors.keys()) if (!placed.has(key)) faults.push(`${key}: the model has no layer for it`);
  throwFaults("adapter", "merge", faults);
  return {
    ...model,
    graph: { ...graph, initializers, nodes: graph.nodes.map((node) => changed.get(node) ?? node) },
  };
}

/** Whether a value is an initializer that one node reads, and that is no output itself. */
function privateInitializers(graph: Graph): (name: string) => boolean {
  const readers = consumers(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  return (name) => graph.initializers.has(name) && readers.get(name)?.length === 1 && !outputs.has(name);
}

function misfit(site: Site, stored: StoredTensor, A: Tensor | undefined, B: Tensor | undefined): string | undefined {
  if (stored.type !== "float32") return `expected float32 weights, got ${stored.type}; convert the model`;
  const r = A?.dims[0];
  const isA = A?.type === "float32" && A.dims.join() === `${r},${site.inFeatures}`;
  const isB = B?.type === "float32" && B.dims.join() === `${site.outFeatures},${r}`;
  if (isA && isB) return undefined;
  const [gotA, gotB] = [A, B].map((value) => (value === undefined ? "nothing" : `${value.type} [${value.dims}]`));
  return `expected float32 A [r,${site.inFeatures}] and B [${site.outFeatures},r], got ${gotA} and ${gotB}`;
}

function mergedWeight(
  site: Site,
  stored: StoredTensor,
  A: Tensor<"float32">, // [r, in]
  B: Tensor<"float32">, // [out, r]
  scale: number,
): StoredTensor {
  const weight = floatValues(site.weight, stored);
  const merged = new Float32Array(weight.length);
  const delta = scaledProduct(B.data, A.data, A.dims[0]!, site, scale);
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
