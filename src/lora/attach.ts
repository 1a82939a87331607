// LoRA attached to a model: y = x W^T becomes y + s (x A^T) B^T, with A and B as inputs of the graph
// (Hu et al. 2021, arXiv:2106.09685, eq. 3). Every site costs two thin products; the base's nodes stay as they are.
import { LowrankError, throwFaults } from "../errors.ts";
import { float, type GraphBuilder, graphBuilder } from "../onnx/builder.ts";
import { refuseMergedDecoder } from "../onnx/cache.ts";
import { computedInFloat32 } from "../onnx/float32.ts";
import type { Dim, Graph, Model, Node } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import { withoutZipMaps } from "../onnx/zip-map.ts";
import { AdaptedModel, type AdaptedSite, type Parameter } from "./adapted.ts";
import { type Branch, branchFor } from "./branches.ts";
import { type AdapterConfig, type LoraConfig, resolveConfig } from "./config.ts";
import { dilationFault, factorDims } from "./factors.ts";
import { adapterKeys, besideKey } from "./keys.ts";
import { inputsOf, isKeptWhole, savedParameters, storesFanInFirst } from "./saved.ts";
import { rankOf, scaleOf } from "./scale.ts";
import { type Rewriting, rewritingFor, type Stage } from "./stages.ts";
import { selectSites } from "./targets.ts";
import { addedStages, variantFaults, variantParameters } from "./variants.ts";
import { valuesOf } from "./weights.ts";

/**
 * The model with a LoRA branch at each targeted site: Linear, Conv and Embedding layers. Models of operator sets 7 to 17 are
 * written in 18 first, float16 and bfloat16 ones are computed in float32 (their weights stay stored as they are); `base` of the
 * result is the model as it was given.
 *
 * @throws LowrankError "config" for a faulty configuration, targets that match nothing, or a rank that a Conv's groups do
 * not divide; "model" when a layer's weights are not float32, a Conv is dilated, the operator set is outside 7 to 23, or the
 * model is adapted already.
 * @example
 * const adapted = attachLora(model, { r: 8, loraAlpha: 16, targetModules: ["query", "value"] });
 */
export function attachLora(base: Model, config: LoraConfig = {}): AdaptedModel {
  const wanted = resolveConfig(config);
  refuseMergedDecoder(base);
  const model = computedInFloat32(upgradeModel(withoutZipMaps(base)));
  const all = sites(model);
  if (all.length === 0) refuseIntegers(model.graph);
  const chosen = selectSites(wanted, all).filter((site) => !isKeptWhole(site.modulePath, wanted.modulesToSave));
  const fanInFanOut = config.fanInFanOut ?? storesFanInFirst(model.graph, chosen);
  const resolved = { ...wanted, fanInFanOut };
  const adaptedSites = chosen.map((site) => adaptedSite(resolved, site));
  checkSites(model, adaptedSites);
  const faults = variantFaults(model.graph, adaptedSites);
  const targets = new Set(chosen.map(({ modulePath }) => modulePath));
  const saved = savedParameters(resolved, model.graph, all, targets, faults);
  throwFaults("config", "attachLora", faults);
  const values = valuesOf(model.graph);
  const parameters = [
    ...adaptedSites.flatMap((adapted, index) => [
      ...parametersOf(adapted, index),
      ...variantParameters(adapted, values),
    ]),
    ...inputsOf(saved),
  ];
  return new AdaptedModel({
    base,
    model: { ...model, graph: withBranches(model, adaptedSites, parameters, rewritingFor(saved)) },
    parameters,
    sites: adaptedSites,
    config: resolved,
  });
}

function adaptedSite(config: AdapterConfig, site: Site): AdaptedSite {
  const { modulePath: path, kind } = site;
  return {
    site,
    r: rankOf(config, path),
    scale: scaleOf(config, path),
    ...adapterKeys(path, kind),
    ...(config.useDora && { magnitude: besideKey(path, "magnitude") }),
    ...(config.loraBias && { biasOfB: besideKey(path, "biasOfB") }),
  };
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
    return type === "float32"
      ? []
      : [`${modulePath}: expected float32, float16 or bfloat16 weights, got ${type}; convert the model`];
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
  { graph, opsets }: Model,
  adaptedSites: readonly AdaptedSite[],
  parameters: readonly Parameter[],
  rewriting: Rewriting,
): Graph {
  const shapes = inferShapes(graph);
  const calls = callsByOutput(adaptedSites);
  const g = graphBuilder({
    opset: opsets.get("") ?? 0,
    from: { ...graph, nodes: [] },
    reserved: graph.nodes.flatMap((node) => [node.name, ...node.outputs]),
  });
  for (const { key, type, graphDims } of parameters) {
    if (g.input(key, type, graphDims) !== key)
      throw new LowrankError("model", `the model has a value ${key}: it is adapted already`);
  }
  const values = valuesOf(graph);
  for (const node of graph.nodes) {
    const branches = (calls.get(node.outputs[0] ?? "") ?? []).map((adapted): PlacedBranch => {
      const { site } = adapted;
      return { adapted, branch: branchFor(site, shapes.get(site.input)?.shape?.length) };
    });
    const own = { ...node, inputs: rewriting.inputs.get(node) ?? node.inputs };
    if (branches.some(({ adapted }) => adapted.site.fused)) {
      g.node(withUpdatedWeight(g, own, branches));
      continue;
    }
    const added = branches.flatMap(({ adapted, branch }) => addedStages(adapted, ofWhole(branch), values));
    addStages(g, own, [...added, ...(rewriting.stages.get(node) ?? [])]);
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

/** A node under another output name, and what is written behind it, which ends in the output that the node had. */
function addStages(g: GraphBuilder, node: Node, stages: readonly Stage[]): void {
  if (stages.length === 0) {
    g.node(node);
    return;
  }
  const output = node.outputs[0]!;
  let before = g.freshName(`${output}/base`);
  g.node({ ...node, outputs: node.outputs.with(0, before) });
  for (const [index, stage] of stages.entries()) {
    const after = index === stages.length - 1 ? output : g.freshName(`${output}/base`);
    stage(g, before, after);
    before = after;
  }
}

/** A branch that adds to all rows of a packed layer. */
function ofWhole(branch: Branch): Branch {
  return (g, adapted, base, output) => branch(g, wholeRows(g, adapted), base, output);
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

/** A model whose layers all multiply integers has none that can be adapted, and says why. */
function refuseIntegers({ nodes }: Graph): void {
  const integer = [
    ...new Set(nodes.map(({ op }) => op).filter((op) => /^(QLinear(Conv|MatMul)|QGemm|ConvInteger)$/.test(op))),
  ];
  if (integer.length === 0) return;
  throw new LowrankError(
    "model",
    `attachLora: the model's layers compute in integers (${integer.join(", ")}), where no adapter can be added: quantize it with QuantizeLinear and DequantizeLinear pairs (onnxruntime: QuantFormat.QDQ), or its weights alone`,
  );
}
