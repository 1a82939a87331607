// LoftQ for a base that is quantized already: A and B start as the best rank-r approximation of what quantization took from the
// weights, so that training starts near the float model (Li, Yu, Liang, He, Karampatziakis, Chen and Zhao 2023,
// arXiv:2310.08659, Algorithm 1 with its quantization given; PEFT 0.21, utils/loftq_utils.py, replace_lora_weights_loftq).
import { LowrankError, throwFaults } from "../errors.ts";
import { denseMap } from "../linalg/linear-map.ts";
import { truncatedSvd } from "../linalg/truncated-svd.ts";
import type { AdaptedModel, AdaptedSite } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { fillFactors } from "../lora/init/principal.ts";
import { initAdapter } from "../lora/init.ts";
import { type LinearWeight, readLinearWeight } from "../lora/linear-weights.ts";
import { prune, reads } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import { type Tensor, zeros } from "../tensor.ts";

export interface LoftqOptions extends SessionOptions {
  /** Seed of the layers that it does not know (Conv, Embedding), which start as with `true`; default 0. */
  readonly seed?: number;
}

/**
 * An adapter over a quantized base that makes up for the quantization: at each Linear layer s B A is the best approximation of
 * W - Q of its rank, W from `float`, Q what the base computes with. (PEFT leaves the scale s out, which is the same where
 * alpha = r.) The base stays as it is; the adapter is plain LoRA on it.
 *
 * @param float the model before quantization: layers are found by their module paths.
 * @throws LowrankError "model" that lists the layers that `float` lacks, has in other sizes, or not in float32.
 * @example
 * const { adapter } = await initLoftq(attachLora(quantized, { r: 16 }), original);
 */
export async function initLoftq(
  adapted: AdaptedModel,
  float: Model,
  options: LoftqOptions = {},
): Promise<{ adapted: AdaptedModel; adapter: Adapter }> {
  const { config } = adapted;
  if (config === null) throw new LowrankError("config", "initLoftq: the model has no LoRA branches; use attachLora");
  const { adapter } = initAdapter(adapted, { seed: options.seed ?? 0, method: true });
  const pairs = pairsOf(adapted, float);
  const tensors = new Map(adapter.tensors);
  for (const { place, weight, quantized } of pairs) {
    const lost = difference(weight, await computedWeight(adapted.base, quantized, options), quantized);
    const { inFeatures, outFeatures } = place.site;
    const [A, B] = [zeros([place.r, inFeatures]), zeros([outFeatures, place.r])];
    const map = denseMap(outFeatures, inFeatures, lost);
    fillFactors(truncatedSvd(map, place.r), place.scale, { A: A.data, B: B.data }, place.r);
    tensors.set(place.a, A).set(place.b, B);
  }
  return { adapted, adapter: { config: { ...adapter.config, initLoraWeights: true }, tensors } };
}

interface Pair {
  readonly place: AdaptedSite;
  /** Of the float model. */
  readonly weight: LinearWeight;
  /** Of the base. */
  readonly quantized: Site;
}

function pairsOf(adapted: AdaptedModel, float: Model): Pair[] {
  const own = new Map(sites(adapted.base).map((site) => [site.modulePath, site]));
  const others = new Map(sites(float).map((site) => [site.modulePath, site]));
  const faults: string[] = [];
  const pairs = adapted.sites.flatMap((place): Pair[] => {
    const { modulePath, kind, inFeatures, outFeatures } = place.site;
    if (kind !== "Linear") return [];
    const other = others.get(modulePath);
    const fault =
      other === undefined
        ? "the float model has no such layer"
        : other.kind !== kind || other.inFeatures !== inFeatures || other.outFeatures !== outFeatures
          ? `expected a ${kind} layer of ${inFeatures} -> ${outFeatures}, got ${other.kind} of ${other.inFeatures} -> ${other.outFeatures}`
          : undefined;
    const weight = fault === undefined ? readLinearWeight(float, other!) : `${modulePath}: ${fault}`;
    if (typeof weight !== "string") return [{ place, weight, quantized: own.get(modulePath) ?? place.site }];
    faults.push(weight);
    return [];
  });
  throwFaults("model", "initLoftq", faults);
  return pairs;
}

/** What a layer is multiplied with: the runtime computes it from the constants behind it. */
async function computedWeight({ graph, ...model }: Model, { weight }: Site, options: SessionOptions): Promise<Tensor> {
  const name = `${weight}/value`;
  const node = { op: "Identity", domain: "", name, inputs: [weight], outputs: [name], doc: "", overload: "" };
  const nodes = [...graph.nodes, { ...node, attributes: new Map(), metadata: new Map() }];
  const output = { name, type: "float32", shape: undefined, doc: "" } as const;
  const pruned = prune({ ...graph, nodes, outputs: [output] });
  const read = new Set(pruned.nodes.flatMap(reads));
  const own = { ...pruned, inputs: pruned.inputs.filter((input) => read.has(input.name)) };
  const session = await openSession({ ...model, graph: own }, options);
  try {
    return (await session.run(new Map())).get(name)!;
  } finally {
    await session.dispose();
  }
}

/** W - Q as [out, in]. */
function difference({ site, values }: LinearWeight, { data }: Tensor, quantized: Site): Float32Array {
  const { inFeatures, outFeatures } = site;
  const at = (layout: Site["layout"], out: number, into: number): number =>
    layout === "out,in" ? out * inFeatures + into : into * outFeatures + out;
  const lost = new Float32Array(values.length);
  for (let out = 0; out < outFeatures; out++) {
    for (let into = 0; into < inFeatures; into++) {
      const value = values[at(site.layout, out, into)]!;
      lost[out * inFeatures + into] = value - Number(data[at(quantized.layout, out, into)]);
    }
  }
  return lost;
}
