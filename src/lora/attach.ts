// LoRA attached to a model: y = x W^T becomes y + s (x A^T) B^T, with A and B as inputs of the graph
// (Hu et al. 2021, arXiv:2106.09685, eq. 3). Every site costs two thin products; the base's nodes stay as they are.
import { LowrankError, throwFaults } from "../errors.ts";
import { float, type GraphBuilder, graphBuilder, makeNode, type Value } from "../onnx/builder.ts";
import { producers, storedValue } from "../onnx/graph.ts";
import type { Graph, Model, Node } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { AdaptedModel, type AdaptedSite, type Parameter } from "./adapted.ts";
import { type LoraConfig, resolveConfig } from "./config.ts";
import { adapterKeys } from "./keys.ts";
import { rankOf, scaleOf } from "./scale.ts";
import { selectSites } from "./targets.ts";

/**
 * The model with a LoRA branch at each targeted site.
 *
 * @throws LowrankError "config" for a faulty configuration or targets that match nothing; "model" when a layer's weights
 * are not float32, or the model is adapted already.
 * @example
 * const adapted = attachLora(model, { r: 8, loraAlpha: 16, targetModules: ["query", "value"] });
 */
export function attachLora(model: Model, config: LoraConfig = {}): AdaptedModel {
  const resolved = resolveConfig(config);
  const chosen = selectSites(resolved, sites(model));
  checkWeights(model, chosen);
  const adaptedSites = chosen.map((site): AdaptedSite => {
    const { a, b } = adapterKeys(site.modulePath);
    return { site, r: rankOf(resolved, site.modulePath), scale: scaleOf(resolved, site.modulePath), a, b };
  });
  const parameters = adaptedSites.flatMap(({ site, r, a, b }, index): Parameter[] => [
    { key: a, type: "float32", dims: [r, site.inFeatures], graphDims: [`rank_${index}`, site.inFeatures] },
    { key: b, type: "float32", dims: [site.outFeatures, r], graphDims: [site.outFeatures, `rank_${index}`] },
  ]);
  return new AdaptedModel({
    base: model,
    model: { ...model, graph: withBranches(model.graph, model.opsets.get("") ?? 0, adaptedSites, parameters) },
    parameters,
    sites: adaptedSites,
    config: resolved,
  });
}

/** A and B are float32, and so must be what they are added to. */
function checkWeights({ graph }: Model, chosen: readonly Site[]): void {
  const made = producers(graph);
  const faults = chosen.flatMap(({ modulePath, weight }) => {
    const type = storedValue(graph, made, weight)?.type;
    return type === "float32" ? [] : [`${modulePath}: expected float32 weights, got ${type}; convert the model`];
  });
  throwFaults("model", "attachLora", faults);
}

function withBranches(
  graph: Graph,
  opset: number,
  adaptedSites: readonly AdaptedSite[],
  parameters: readonly Parameter[],
): Graph {
  const shapes = inferShapes(graph);
  // Before operator set 11, Gemm could not do without its third input.
  const isMatrix = (node: Node): boolean =>
    opset >= 11 && (node.op === "Gemm" || shapes.get(node.inputs[0]!)?.shape?.length === 2);
  const bySite = new Map(adaptedSites.map((adapted) => [adapted.site.node, adapted]));
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
    const adapted = bySite.get(node);
    if (adapted === undefined) g.node(node);
    else addBranch(g, node, adapted, isMatrix(node) ? "Gemm" : "MatMul");
  }
  return g.build();
}

/** The base's node under another output name, and the branch, which ends in the output that the node had. */
function addBranch(g: GraphBuilder, node: Node, { scale, a, b, site }: AdaptedSite, product: "Gemm" | "MatMul"): void {
  const x = node.inputs[0]!;
  const output = node.outputs[0]!;
  const base = g.freshName(`${output}/base`);
  const name = (part: string): { name: string } => ({ name: `${site.modulePath}/lora/${part}` });
  g.node({ ...node, outputs: [base] });
  if (product === "Gemm") {
    const h = g.op("Gemm", [x, a], { transB: 1 }, name("A"));
    const attributes = new Map([
      ...(scale === 1 ? [] : [["alpha", float(scale)] as const]),
      ["transB", { kind: "int", value: 1n } as const] as const,
    ]);
    g.node(
      makeNode({ op: "Gemm", name: g.freshName(name("B").name), inputs: [h, b, base], outputs: [output], attributes }),
    );
    return;
  }
  const h = g.op("MatMul", [x, g.op("Transpose", [a], { perm: [1, 0] })], {}, name("A"));
  const scaled: Value = scale === 1 ? h : g.op("Mul", [h, g.constant("float32", scale)]);
  const delta = g.op("MatMul", [scaled, g.op("Transpose", [b], { perm: [1, 0] })], {}, name("B"));
  g.node(makeNode({ op: "Add", name: g.freshName(name("sum").name), inputs: [base, delta], outputs: [output] }));
}
