// scikit-learn's classifiers hand out their probabilities as a list of maps (ai.onnx.ml.ZipMap), one for each row. The runtime's
// JavaScript bindings cannot read those, and no gradient leaves them: the probabilities themselves take their place.
import { makeNode } from "./builder.ts";
import type { Model } from "./model.ts";

/** The model whose ZipMap outputs are tensors [rows, classes] of the same names; the same model when it has none. */
export function withoutZipMaps(model: Model): Model {
  const { graph } = model;
  const zipped = new Set(
    graph.nodes
      .filter(({ op, domain }) => op === "ZipMap" && domain === "ai.onnx.ml")
      .flatMap(({ outputs }) => outputs),
  );
  if (!graph.outputs.some(({ name }) => zipped.has(name))) return model;
  const nodes = graph.nodes.map((node) =>
    node.outputs.some((output) => zipped.has(output))
      ? makeNode({ op: "Identity", name: node.name, inputs: node.inputs, outputs: node.outputs })
      : node,
  );
  const outputs = graph.outputs.map(({ proto, ...info }) =>
    zipped.has(info.name)
      ? { ...info, type: "float32" as const, shape: [null, null] }
      : { ...info, ...(proto !== undefined && { proto }) },
  );
  return { ...model, graph: { ...graph, nodes, outputs } };
}
