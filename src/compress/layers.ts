// Which layers can be made smaller, with their weights; the others with the reason why not.
import { resolveConfig } from "../lora/config.ts";
import { selectSites } from "../lora/targets.ts";
import { producers } from "../onnx/graph.ts";
import { floatAttribute, intAttribute, type Model } from "../onnx/model.ts";
import { storedWeight, transposed } from "../onnx/sites/dense.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { tensor } from "../tensor.ts";
import type { CompressOptions, QuantizedForm } from "./options.ts";
import type { Weight } from "./spectrum.ts";

/** A chosen layer: its weight [out, in], or why it is left alone. */
export interface Layer {
  readonly site: Site;
  readonly storedType: "float32" | "float16" | "bfloat16";
  readonly weight: Weight | null;
  readonly reason: string | null;
}

/**
 * The Linear layers that the options mean, in graph order.
 *
 * @throws LowrankError "config" when they mean none.
 */
export function chosenLayers(
  model: Model,
  { targetModules = "all-linear", excludeModules, quantize }: CompressOptions,
): Layer[] {
  // The rows of a packed projection are compressed with it.
  const all = sites(model).filter(({ kind, part }) => kind === "Linear" && part === undefined);
  const made = producers(model.graph);
  return selectSites(resolveConfig({ targetModules, excludeModules: excludeModules ?? null }), all).map(
    (site): Layer => {
      const left = (reason: string): Layer => ({ site, storedType: "float32", weight: null, reason });
      const fault = reasonAgainst(site, quantize);
      if (fault !== undefined) return left(fault);
      const stored = storedWeight(model.graph, made, site.weight);
      if (stored === undefined) return left("its weight is computed by the graph, not stored in floats");
      if (quantize !== undefined && stored.storedType !== "float32")
        return left(`its weight is ${stored.storedType}; quantization starts from float32`);
      const { outFeatures: out, inFeatures: into, layout } = site;
      const { data } = layout === "out,in" ? stored : transposed(tensor("float32", stored.dims, stored.data));
      if (!data.every(Number.isFinite)) return left("its weight has NaN or infinity");
      return { site, storedType: stored.storedType, weight: { out, into, values: data }, reason: null };
    },
  );
}

/** The paths but one's own; some of them where thousands share a weight. */
function fewOf(paths: readonly string[], own: string): string {
  const others = paths.toSpliced(paths.indexOf(own), 1);
  const more = others.length > 5 ? ` and ${others.length - 5} more` : "";
  return others.slice(0, 5).join(", ") + more;
}

function reasonAgainst(site: Site, quantize: QuantizedForm | undefined): string | undefined {
  const { fused, sharedWith, calls } = site;
  if (site.quantized !== undefined) return "it is quantized already";
  if (fused) return `its product is inside ${site.node.op}`;
  if (sharedWith.length > 0)
    return `its weight is that of ${fewOf(sharedWith, site.modulePath)} too, and would be stored beside it`;
  const gemms = calls.map(({ node }) => node).filter(({ op }) => op === "Gemm");
  if (gemms.some((node) => intAttribute(node, "transA", 0) !== 0)) return "its Gemm reads its input transposed";
  if (quantize === "int4" && gemms.some((node) => node.inputs[2] && floatAttribute(node, "beta", 1) !== 1))
    return "its Gemm scales its bias, which MatMulNBits cannot";
  return undefined;
}
