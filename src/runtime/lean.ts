// Large models in little memory. A training step reads each weight twice: W forward, its transpose backward. The runtime
// would compute the transpose of a constant beforehand and keep it, and pack both for its products: four copies of the
// weights where one serves. Products of hundreds of rows hardly notice (bench/LOG.md), so that models whose weights are
// large go without: the backward product reads W itself, and nothing is packed.
import { makeNode } from "../onnx/builder.ts";
import { producers, prune } from "../onnx/graph.ts";
import type { Graph, Model, Node } from "../onnx/model.ts";
import { weightBytes } from "../onnx/write.ts";

/** Weights from this many bytes on are worth more than the time that packing saves at small batches. */
const largeBytes = 64 * 2 ** 20;

/** Whether a model's weights are so large that copies of them count. */
export function isLarge(model: Model): boolean {
  return weightBytes(model) >= largeBytes;
}

/** The model with products by the transpose of a stored matrix as products that read the matrix as it is stored. */
export function withoutTransposes(model: Model): Model {
  const { graph } = model;
  const made = producers(graph);
  const nodes = graph.nodes.map((node) => {
    const stored = node.op === "MatMul" && node.domain === "" ? storedMatrix(graph, made, node.inputs[1]!) : null;
    if (stored === null) return node;
    const inputs = [node.inputs[0]!, stored.matrix];
    return stored.isTransposed ? productByTranspose(node, inputs) : { ...node, inputs };
  });
  return {
    ...model,
    opsets: new Map([["com.microsoft", 1], ...model.opsets]),
    graph: prune({ ...graph, nodes }),
  };
}

/** The stored matrix that a value is, behind any number of transpositions; null when it is none, or there are none. */
function storedMatrix(
  { initializers }: Graph,
  made: ReadonlyMap<string, Node>,
  value: string,
): { matrix: string; isTransposed: boolean } | null {
  let [matrix, isTransposed] = [value, false];
  for (let node = made.get(matrix); node?.op === "Transpose" && node.domain === ""; node = made.get(matrix)) {
    const perm = node.attributes.get("perm");
    if (perm?.kind !== "ints" || perm.value[0] !== 0n) isTransposed = !isTransposed;
    matrix = node.inputs[0]!;
  }
  return matrix !== value && initializers.get(matrix)?.dims.length === 2 ? { matrix, isTransposed } : null;
}

function productByTranspose(node: Node, inputs: readonly string[]): Node {
  return makeNode({
    ...node,
    op: "FusedMatMul",
    domain: "com.microsoft",
    inputs,
    attributes: new Map([["transB", { kind: "int", value: 1n }]]),
  });
}
