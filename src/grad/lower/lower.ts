// Lowering: compound operators are rewritten as standard ones before a graph is differentiated. Those that do not lie
// between a parameter and a loss stay as they are: the fused kernels are faster.
import { LowrankError, throwFaults } from "../../errors.ts";
import { graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Graph, Model, Node } from "../../onnx/model.ts";
import { inferShapes } from "../../onnx/shapes.ts";
import { withLateWeights } from "../late-weights.ts";
import { findPath, pathFaults } from "../path.ts";
import { joinDynamicQuantization } from "./dynamic-quantization.ts";
import { joinGelus } from "./join-gelu.ts";
import { loweringOf } from "./table.ts";

/**
 * The model with every compound operator rewritten; the same model when there is none.
 *
 * @throws LowrankError "model" that lists every node of a form that is not supported.
 */
export function lower(model: Model): Model {
  const faults: string[] = [];
  const lowered = lowerNodes(model, model.graph.nodes, faults);
  throwFaults("model", "cannot lower", faults);
  return lowered;
}

/**
 * The model with the compound operators between `parameters` and `targets` rewritten, ready for `backward`.
 *
 * @throws LowrankError "model" that lists every node in the way with neither lowering nor gradient rule.
 */
export function lowerPath(given: Model, parameters: readonly Value[], targets: readonly Value[]): Model {
  const model = withLateWeights(joinGelus(joinDynamicQuantization(given)));
  const infos = inferShapes(model.graph);
  const typeOf = (value: Value) => infos.get(value)?.type;
  const path = findPath(model.graph, typeOf, new Set(parameters), new Set(targets));
  const faults = pathFaults(path, typeOf, (node) => loweringOf(node.domain, node.op) !== undefined);
  const lowered = lowerNodes(model, path.nodes, faults);
  throwFaults("model", "cannot differentiate", faults);
  return lowered;
}

function lowerNodes(model: Model, nodes: readonly Node[], faults: string[]): Model {
  const wanted = new Set(nodes.filter((node) => loweringOf(node.domain, node.op) !== undefined));
  if (wanted.size === 0) return model;
  const { graph } = model;
  // Empty of nodes, the builder leaves the names of their outputs free; its own start with a prefix that none has.
  const g = graphBuilder({
    opset: model.opsets.get("") ?? 0,
    from: { ...graph, nodes: [] },
    scope: freePrefix(graph),
  });
  for (const node of graph.nodes) {
    const lowering = wanted.has(node) ? loweringOf(node.domain, node.op) : undefined;
    if (lowering === undefined) {
      g.node(node);
      continue;
    }
    try {
      lowering(node, g);
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      faults.push(...error.faults);
      g.node(node);
    }
  }
  return { ...model, graph: { ...g.build(), outputs: graph.outputs } };
}

/** A prefix that no name in the graph starts with. */
function freePrefix(graph: Graph): string {
  const names = graph.nodes.flatMap((node) => [node.name, ...node.outputs, ...node.inputs]);
  const taken = new Set(names.map((name) => name.slice(0, name.indexOf("/") + 1)));
  for (let count = 1; ; count++) {
    const prefix = count === 1 ? "lower/" : `lower${count}/`;
    if (!taken.has(prefix)) return prefix;
  }
}
