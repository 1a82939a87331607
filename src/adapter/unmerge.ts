// An adapter taken out of a model that it was merged into: W - s B A, to the rounding of one float32 sum. What `merge` made of a
// grouped Conv, an ungrouped one with zeros between its groups, becomes the grouped one again.
import { throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { floatValues, fromTensor, type Model, type StoredTensor } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { elementCount, tensor } from "../tensor.ts";
import { type MergeOptions, merge } from "./merge.ts";
import { adapterOf, type ThinModule, thinModules, wholeOf } from "./thin.ts";

/**
 * The model without an adapter that `merge` had put into it.
 *
 * @throws LowrankError "adapter" for what `merge` refuses, tensors beyond A and B (what they replaced is not known), and
 * Convs that still have groups, as merging would have joined them; with `safe`, as `merge` does.
 * @example const base = unmerge(merged, adapter);
 */
export function unmerge(model: Model, adapter: Adapter, options: MergeOptions = {}): Model {
  const modules = thinModules(adapter, "unmerge");
  const groups = new Map(modules.map(({ path, blocks }) => [path, blocks.length]));
  const faults = sites(model)
    .filter((site) => site.groups > 1 && groups.has(site.modulePath))
    .map(
      (site) => `${site.modulePath}: expected the Conv without groups that merging makes, got ${site.groups} groups`,
    );
  throwFaults("adapter", "unmerge", [...new Set(faults)]);
  const { tensors } = adapterOf(adapter.config, modules.map(negated));
  const unmerged = merge(model, { config: adapter.config, tensors }, options);
  return regrouped(unmerged, groups);
}

/** The update's opposite, with one block for all groups. */
function negated(module: ThinModule): ThinModule {
  const { a, b } = wholeOf(module);
  return { ...module, blocks: [{ a, b: { ...b, data: b.data.map((value) => -value) } }] };
}

/** Convs with their groups again: of each row only its own group's channels are left. */
function regrouped(model: Model, groups: ReadonlyMap<string, number>): Model {
  const { graph } = model;
  const weights = new Map<string, StoredTensor>();
  const grouped = new Map<Site["node"], number>();
  for (const site of sites(model)) {
    const count = groups.get(site.modulePath) ?? 1;
    const stored = graph.initializers.get(site.weight);
    if (count === 1 || stored === undefined) continue;
    weights.set(site.weight, ownChannels(site, floatValues(site.weight, stored), count));
    for (const { node } of site.calls) grouped.set(node, count);
  }
  return {
    ...model,
    graph: {
      ...graph,
      initializers: new Map([...graph.initializers].map(([name, stored]) => [name, weights.get(name) ?? stored])),
      // Before IR version 4, initializers are listed as inputs.
      inputs: graph.inputs.map((info) => ({ ...info, shape: weights.get(info.name)?.dims ?? info.shape })),
      nodes: graph.nodes.map((node) => {
        const count = grouped.get(node);
        if (count === undefined) return node;
        return { ...node, attributes: new Map(node.attributes).set("group", { kind: "int", value: BigInt(count) }) };
      }),
    },
  };
}

/** [out, in, ...kernel] as [out, in / groups, ...kernel]. */
function ownChannels({ outFeatures, inFeatures, kernel }: Site, weight: Float32Array, groups: number): StoredTensor {
  const channels = inFeatures / groups;
  const row = channels * elementCount(kernel);
  const own = new Float32Array(outFeatures * row);
  for (let out = 0; out < outFeatures; out++) {
    const group = Math.floor((out * groups) / outFeatures);
    const from = (out * groups + group) * row;
    own.set(weight.subarray(from, from + row), out * row);
  }
  return fromTensor(tensor("float32", [outFeatures, channels, ...kernel], own));
}
