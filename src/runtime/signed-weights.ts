// Weights of 8 signed bits. Where a processor has no VNNI, the runtime adds their products by unsigned bytes in pairs of 16
// bits, which saturate; asked for precision (session-options.ts), it makes such weights unsigned, which is exact. It names the
// new weights after the old ones, once for each node that reads them, and refuses a model where two nodes read the same.
import type { Model } from "../onnx/model.ts";

/** The model with a name of its own, over the same bytes, for each node that reads an int8 weight. */
export function withOwnSignedWeights(model: Model): Model {
  const { graph } = model;
  const initializers = new Map(graph.initializers);
  const names = new Set([...initializers.keys(), ...graph.nodes.flatMap(({ outputs }) => outputs)]);
  const read = new Set<string>();
  const own = (name: string): string => {
    const weight = graph.initializers.get(name);
    if (weight?.type !== "int8") return name;
    const given = read.has(name) ? unused(names, name) : name;
    read.add(name);
    names.add(given);
    initializers.set(given, weight);
    return given;
  };
  const nodes = graph.nodes.map((node) => ({ ...node, inputs: node.inputs.map(own) }));
  return initializers.size === graph.initializers.size ? model : { ...model, graph: { ...graph, initializers, nodes } };
}

function unused(names: ReadonlySet<string>, name: string): string {
  let count = 2;
  while (names.has(`${name}/${count}`)) count++;
  return `${name}/${count}`;
}
