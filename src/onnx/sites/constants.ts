// Which values of a graph are constants: initializers, Constant nodes, and whatever is computed from those alone
// (dequantized, transposed, cast or made by ConstantOfShape). Their shapes and types are known without running anything.
import { subgraphs } from "../check.ts";
import { follower, producers } from "../graph.ts";
import type { Graph, Node } from "../model.ts";
import type { TensorInfo } from "../shape-row.ts";
import { type ShapeTracker, shapeTracker } from "../shapes.ts";

export interface Constants {
  /** Type and shape of a constant; undefined for what depends on an input of the graph. */
  info(name: string | undefined): TensorInfo | undefined;
  /** Type and shape of any value. */
  anyInfo(name: string): TensorInfo | undefined;
  /** The integers that a constant scalar or vector holds, where all are known. */
  integers(name: string | undefined): number[] | undefined;
  /** The stored value that a constant holds in another form: behind Identity, Transpose, Cast and the like. */
  source(name: string): string;
  /** The value that a constant is a Cast of (weights of 16 bits), through any number of them; itself when it is none. */
  uncast(name: string): string;
}

/** Operators whose outputs differ from run to run. */
const random = new Set(
  "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial Dropout".split(" "),
);

/** Operators that give their first input's values in another form. */
const forms = new Set("Identity Transpose Cast CastLike Reshape Squeeze Unsqueeze Flatten DequantizeLinear".split(" "));

const casts = new Set(["Cast"]);

export function constantsOf(graph: Graph): Constants {
  const made = producers(graph);
  const constants = new Set<string>(graph.initializers.keys());
  for (const node of graph.nodes) {
    if (!isComputable(node) || !node.inputs.every((input) => input === "" || constants.has(input))) continue;
    for (const output of node.outputs) if (output !== "") constants.add(output);
  }
  const { infos, integers }: ShapeTracker = shapeTracker(graph);
  const through = (operators: ReadonlySet<string>) =>
    follower(made, ({ op, inputs: [input = ""] }) => operators.has(op) && constants.has(input));
  return {
    anyInfo: (name) => infos.get(name),
    integers: (name) => (name === undefined || name === "" ? undefined : integers(name)),
    info: (name) => (name !== undefined && constants.has(name) ? infos.get(name) : undefined),
    source: through(forms),
    uncast: through(casts),
  };
}

function isComputable(node: Node): boolean {
  if (node.domain === "" && random.has(node.op)) return false;
  if (node.inputs.length === 0 && (node.domain !== "" || node.op !== "Constant")) return false;
  return subgraphs(node).length === 0;
}
