// What the variants of LoRA add to a site's branch: DoRA's magnitude (dora.ts) and the bias behind B (PEFT's lora_bias).

import { producers } from "../onnx/graph.ts";
import type { Graph } from "../onnx/model.ts";
import { zeros } from "../tensor.ts";
import type { AdaptedSite, Parameter } from "./adapted.ts";
import type { Branch } from "./branches.ts";
import { doraBranch, startingMagnitude } from "./dora.ts";
import { magnitudeDims } from "./keys.ts";
import { into, overChannels, type Stage } from "./stages.ts";
import { isStored, type ValuesOf } from "./weights.ts";

/** Why a site cannot have the variant that its configuration asks for. */
export function variantFaults(graph: Graph, adaptedSites: readonly AdaptedSite[]): string[] {
  const made = producers(graph);
  return adaptedSites.flatMap(({ site, magnitude, biasOfB }) => {
    const { modulePath, kind, groups, weight, part, fused, quantized, factor } = site;
    const isPart = part !== undefined || fused;
    if (isPart && (magnitude !== undefined || biasOfB !== undefined))
      return [`${modulePath}: DoRA and loraBias need a layer of its own, got rows of a packed one; target the whole`];
    if (magnitude !== undefined && (quantized !== undefined || factor !== 1))
      return [`${modulePath}: DoRA needs weights that are stored as floats, without a factor; exclude it`];
    if (magnitude !== undefined && groups > 1)
      return [`${modulePath}: DoRA is not defined for a Conv with groups, got ${groups}; exclude it`];
    if (magnitude !== undefined && !isStored(graph, made, weight))
      return [`${modulePath}: DoRA needs weights that are stored as floats, got computed ones; exclude it`];
    if (biasOfB !== undefined && kind === "Embedding")
      return [`${modulePath}: loraBias is not defined for an Embedding; exclude it`];
    return [];
  });
}

/** The parameters of a site beside A and B. */
export function variantParameters({ site, magnitude, biasOfB }: AdaptedSite, values: ValuesOf): Parameter[] {
  const { outFeatures, kernel, weight } = site;
  const found: Parameter[] = [];
  if (magnitude !== undefined) {
    const dims = magnitudeDims(outFeatures, kernel.length);
    const start = (): ReturnType<typeof startingMagnitude> => startingMagnitude(site, values(weight)!);
    found.push({ key: magnitude, type: "float32", dims, graphDims: dims, start });
  }
  if (biasOfB !== undefined) {
    const dims = [outFeatures];
    found.push({ key: biasOfB, type: "float32", dims, graphDims: dims, start: () => zeros(dims) });
  }
  return found;
}

/** What is written behind a site's node: its branch, and s times the bias of B. */
export function addedStages(adapted: AdaptedSite, plain: Branch, values: ValuesOf): Stage[] {
  const { site, scale, magnitude, biasOfB } = adapted;
  const branch = magnitude === undefined ? plain : doraBranch(plain, values(site.weight)!);
  const stages: Stage[] = [(g, base, output) => branch(g, adapted, base, output)];
  if (biasOfB !== undefined) {
    stages.push((g, base, output) => {
      const scaled = scale === 1 ? biasOfB : g.op("Mul", [biasOfB, g.constant("float32", scale)]);
      into(g, "Add", [base, overChannels(g, site, scaled)], output, `${site.modulePath}/lora/bias`);
    });
  }
  return stages;
}
