// Models of operator sets 7 to 17 written in operator set 18, so that gradients need to know one form of each operator.
// The table (table.ts) has a row for each operator that changed in between; every other node stays the object that it was.
import { LowrankError, throwFaults } from "../../errors.ts";
import { type GraphBuilder, graphBuilder } from "../builder.ts";
import { subgraphs } from "../check.ts";
import { constantValue, producers, reads } from "../graph.ts";
import { type Attribute, type Graph, type Model, type Node, toTensor } from "../model.ts";
import type { UpgradeContext } from "./row.ts";
import { upgradeRows } from "./table.ts";

/** The operator set that older models are written in. */
export const upgradedOpset = 18;

/** The operator sets that `upgradeModel` takes. */
export const upgradableOpsets = { from: 7, to: 23 } as const;

/** The first IR version that goes with operator set 18. */
const irVersion = 8;

/**
 * The same model in operator set 18; one of 18 to 23 comes back as it is. Other domains stay as they are. Initializers that
 * are listed as inputs too, as files before IR version 4 must, become plain constants.
 *
 * @throws LowrankError "model" for operator sets outside 7 to 23, and for nodes whose old form has no successor (all are
 * listed).
 * @example const { opsets } = upgradeModel(readModel(bytes)); // opsets.get("") is at least 18
 */
export function upgradeModel(model: Model): Model {
  const opset = model.opsets.get("") ?? upgradedOpset;
  const { from, to } = upgradableOpsets;
  if (opset < from || opset > to) {
    throw new LowrankError("model", `operator set ${opset}: expected ${from} to ${to}; export the model again`);
  }
  if (opset >= upgradedOpset) return model;
  if (model.functions.length > 0) {
    const names = model.functions.map(({ name }) => name).join(", ");
    throw new LowrankError(
      "model",
      `operator set ${opset}: a model with functions of its own (${names}) can be used from ${upgradedOpset} on; inline them, or export it again`,
    );
  }
  const { graph } = model;
  const upgrader = new Upgrader(graph, opset);
  const upgraded = upgrader.graph(graph);
  throwFaults("model", `operator set ${opset}`, upgrader.faults);
  return {
    ...model,
    irVersion: Math.max(model.irVersion, irVersion),
    opsets: new Map([...model.opsets, ["", upgradedOpset]]),
    graph: {
      ...upgraded,
      inputs: graph.inputs.filter(({ name }) => !graph.initializers.has(name)),
      initializers: upgrader.initializers(),
    },
  };
}

class Upgrader {
  readonly faults: string[] = [];
  readonly #context: UpgradeContext;
  readonly #names: GraphBuilder;

  constructor(graph: Graph, opset: number) {
    // Constants of inner graphs stand in the main one as well, which inner graphs can read.
    const names = graphBuilder({ opset: upgradedOpset, from: graph, scope: "upgrade/" });
    const made = producers(graph);
    const read = new Set<string>();
    collectReads(graph, read);
    this.#names = names;
    this.#context = {
      opset,
      constant: (type, values) => names.constant(type, values),
      freshName: (wanted) => names.freshName(wanted),
      info: (value) => names.info(value),
      isRead: (value) => value !== "" && read.has(value),
      numbers: (value) => {
        const node = made.get(value);
        const stored = graph.initializers.get(value) ?? (node && constantValue(node));
        return stored && Array.from(toTensor(stored).data as ArrayLike<number | bigint>, Number);
      },
    };
  }

  /** The main graph's initializers, with the constants that the rows wrote. */
  initializers(): Graph["initializers"] {
    return this.#names.build().initializers;
  }

  /** The graph with every node upgraded; the same node list where nothing changed. */
  graph(graph: Graph): Graph {
    const nodes = graph.nodes.flatMap((node) => this.#node(this.#inner(node)));
    const isSame = nodes.length === graph.nodes.length && nodes.every((node, index) => node === graph.nodes[index]);
    return isSame ? graph : { ...graph, nodes };
  }

  #node(node: Node): readonly Node[] {
    if (node.domain !== "" || !Object.hasOwn(upgradeRows, node.op)) return [node];
    const { since, rewrite } = upgradeRows[node.op]!;
    if (this.#context.opset >= since) return [node];
    try {
      return rewrite(node, this.#context);
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      this.faults.push(...error.faults);
      return [node];
    }
  }

  /** The node with the graphs in its attributes upgraded. */
  #inner(node: Node): Node {
    if (subgraphs(node).length === 0) return node;
    const upgraded = (attribute: Attribute): Attribute => {
      if (attribute.kind === "graph") return { kind: "graph", value: this.graph(attribute.value) };
      if (attribute.kind !== "graphs") return attribute;
      return { kind: "graphs", value: attribute.value.map((inner) => this.graph(inner)) };
    };
    return { ...node, attributes: new Map([...node.attributes].map(([name, value]) => [name, upgraded(value)])) };
  }
}

/** Every value that is read in a graph or in one inside it, outputs included. */
function collectReads(graph: Graph, read: Set<string>): void {
  for (const { name } of graph.outputs) read.add(name);
  for (const node of graph.nodes) {
    for (const name of reads(node)) read.add(name);
    for (const inner of subgraphs(node)) collectReads(inner, read);
  }
}
