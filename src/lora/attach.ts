// LoRA attached to a model: y = x W^T becomes y + s (x A^T) B^T, with A and B as inputs of the graph
// (Hu et al. 2021, arXiv:2106.09685, eq. 3). Every site costs two thin products; the base's nodes stay as they are.
import { LowrankError, throwFaults } from "../errors.ts";
import { float, type GraphBuilder, graphBuilder } from "../onnx/builder.ts";
import type { Dim, Graph, Model, Node } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { sites } from "../onnx/sites.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import { AdaptedModel, type AdaptedSite, type Parameter } from "./adapted.ts";
import { type Branch, branchFor } from "./branches.ts";
import { type LoraConfig, resolveConfig } from "./config.ts";
import { dilationFault, factorDims } from "./factors.ts";
import { adapterKeys } from "./keys.ts";
import { rankOf, scaleOf } from "./scale.ts";
import { selectSites } from "./targets.ts";

/**
 * The model with a LoRA branch at each targeted site: Linear, Conv and Embedding layers. Models of operator sets 7 to 17 are
 * written in 18 first; `base` of the result is the model as it was given.
 *
 * @throws LowrankError "config" for a faulty configuration, targets that match nothing, or a rank that a Conv's groups do
 * not divide; "model" when a layer's weights are not float32, a Conv is dilated, the operator set is outside 7 to 23, or the
 * model is adapted already.
 * @example
 * const adapted = attachLora(model, { r: 8, loraAlpha: 16, targetModules: ["query", "value"] });
 */
export function attachLora(base: Model, config: LoraConfig = {}): AdaptedModel {
  const resolved = resolveConfig(config);
  const model = upgradeModel(base);
  const chosen = selectSites(resolved, sites(model));
  const adaptedSites = chosen.map((site): AdaptedSite => {
    const { a, b } = adapterKeys(site.modulePath, site.kind);
    return { site, r: rankOf(resolved, site.modulePath), scale: scaleOf(resolved, site.modulePath), a, b };
  });
  checkSites(model, adaptedSites);
  const parameters = adaptedSites.flatMap(parametersOf);
  return new AdaptedModel({
    base,
    model: { ...model, graph: withBranches(model.graph, model.opsets.get("") ?? 0, adaptedSites, parameters) },
    parameters,
    sites: adaptedSites,
    config: resolved,
  });
}

function parametersOf({ site, r, a, b }: AdaptedSite, index: number): Parameter[] {
  const dims = factorDims(site, r);
  const rank = `rank_${index}`;
  const sizes = (list: readonly number[], axis: number, symbol: Dim): Dim[] =>
    list.with(axis, 0).map((size, at) => (at === axis ? symbol : size));
  return [
    { key: a, type: "float32", dims: dims.a, graphDims: sizes(dims.a, 0, rank) },
    {
      key: b,
      type: "float32",
      dims: dims.b,
      graphDims: sizes(dims.b, 1, site.groups === 1 ? rank : `${rank}_per_group`),
    },
  ];
}

/** A and B are float32, and so must be what they are added to; a Conv's geometry must be one that LoRA has. */
function checkSites({ graph }: Model, adaptedSites: readonly AdaptedSite[]): void {
  const shapes = inferShapes(graph);
  const types = adaptedSites.flatMap(({ site: { modulePath, weight, quantized } }) => {
    // A quantized product computes in the type of its scales.
    const type = shapes.get(quantized?.scale ?? weight)?.type ?? "an unknown type";
    return type === "float32" ? [] : [`${modulePath}: expected float32 weights, got ${type}; convert the model`];
  });
  throwFaults("model", "attachLora", [
    ...types,
    ...adaptedSites.flatMap(({ site }) => dilationFault(site, site.modulePath) ?? []),
  ]);
  const ranks = adaptedSites.flatMap(({ site: { modulePath, groups }, r }) =>
    r % groups === 0
      ? []
      : [`${modulePath}: expected a rank that its ${groups} groups divide, got ${r}; set rankPattern, or exclude it`],
  );
  throwFaults("config", "attachLora", ranks);
}

function withBranches(
  graph: Graph,
  opset: number,
  adaptedSites: readonly AdaptedSite[],
  parameters: readonly Parameter[],
): Graph {
  const shapes = inferShapes(graph);
  const calls = callsByOutput(adaptedSites);
  const g = graphBuilder({
    opset,
    from: { ...graph, nodes: [] },
    reserved: graph.nodes.flatMap((node) => [node.name, ...node.outputs]),
  });
  for (const { key, type, graphDims } of parameters) {
    if (g.input(key, type, graphDims) !== key)
      throw new LowrankError("model", `the model has a value ${key}: it is adapted already`);
  }
  for (const node of graph.nodes) {
    const branches = (calls.get(node.outputs[0] ?? "") ?? []).map((adapted): PlacedBranch => {
      const { site } = adapted;
      return { adapted, branch: branchFor(site, shapes.get(site.input)?.shape?.length) };
    });
    if (branches.length === 0) g.node(node);
    else addBranches(g, node, branches);
  }
  return g.build();
}

/** The branches that end in each value; a module that is called several times has one at each call. */
function callsByOutput(adaptedSites: readonly AdaptedSite[]): Map<string, AdaptedSite[]> {
  const calls = new Map<string, AdaptedSite[]>();
  for (const adapted of adaptedSites) {
    for (const call of adapted.site.calls) {
      const atCall: AdaptedSite = { ...adapted, site: { ...adapted.site, ...call } };
      calls.set(call.output, [...(calls.get(call.output) ?? []), atCall]);
    }
  }
  return calls;
}

interface PlacedBranch {
  readonly adapted: AdaptedSite;
  readonly branch: Branch;
}

/** The base's node under another output name, and one branch after the other, the last of which ends in that output. */
function addBranches(g: GraphBuilder, node: Node, branches: readonly PlacedBranch[]): void {
  const output = node.outputs[0]!;
  if (branches.some(({ adapted }) => adapted.site.fused)) {
    g.node(withUpdatedWeight(g, node, branches));
    return;
  }
  let base = g.freshName(`${output}/base`);
  g.node({ ...node, outputs: [base, ...node.outputs.slice(1)] });
  branches.forEach(({ adapted, branch }, index) => {
    const sum = index === branches.length - 1 ? output : g.freshName(`${output}/sum`);
    branch(g, wholeRows(g, adapted), base, sum);
    base = sum;
  });
}

/** The node with W + s A^T B^T [in, out] for W: what it computes with W is not in the graph. */
function withUpdatedWeight(g: GraphBuilder, node: Node, branches: readonly PlacedBranch[]): Node {
  let weight = node.inputs[1]!;
  for (const { adapted } of branches) {
    const { a, b, scale, site } = wholeRows(g, adapted);
    const attributes = { transA: 1, transB: 1, alpha: float(scale) };
    weight = g.op("Gemm", [a, b, weight], attributes, { name: `${site.modulePath}/lora/weight` });
  }
  return { ...node, inputs: node.inputs.with(1, weight) };
}

/** The rows of a packed layer as all of it: B with zeros for the others, so that what takes them apart need not be known. */
function wholeRows(g: GraphBuilder, adapted: AdaptedSite): AdaptedSite {
  const { part, outFeatures } = adapted.site;
  if (part === undefined) return adapted;
  const pads = g.constant("int64", [part.from, 0, part.total - part.from - outFeatures, 0]);
  const b = g.op("Pad", [adapted.b, pads], {}, { name: `${adapted.site.modulePath}/lora/rows` });
  return { ...adapted, b };
}
