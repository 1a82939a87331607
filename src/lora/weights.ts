// The values of a layer's weight as the base stores them, in PyTorch's layout: what a module that is trained whole starts
// from, and what DoRA's norms are taken of.
import { isHalf } from "../onnx/float32.ts";
import { behindIdentity, producers, storedValue } from "../onnx/graph.ts";
import { type Graph, intsAttribute, type Node } from "../onnx/model.ts";
import { storedWeight } from "../onnx/sites/dense.ts";
import type { Site } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

/** The float32 values behind a name; undefined where they are computed by other operators, or of another type. */
export type ValuesOf = (name: string) => Tensor<"float32"> | undefined;

/** Reads stored values, widened where they have 16 bits, also behind Identity, Cast and the transposition of a matrix. */
export function valuesOf(graph: Graph): ValuesOf {
  const made = producers(graph);
  return (name) => {
    let at = name;
    for (let node = made.get(at); node !== undefined && isWidening(node); node = made.get(at)) at = node.inputs[0]!;
    const stored = storedWeight(graph, made, at);
    return stored && tensor("float32", stored.dims, stored.data);
  };
}

/** Whether values can be read, without reading them. */
export function isStored(graph: Graph, made: ReadonlyMap<string, Node>, name: string): boolean {
  let at = behindIdentity(made, name);
  for (let node = made.get(at); node && (isWidening(node) || isTransposition(node)); node = made.get(at))
    at = behindIdentity(made, node.inputs[0]!);
  const stored = storedValue(graph, made, at);
  return stored !== undefined && (stored.type === "float32" || isHalf(stored.type));
}

function isWidening({ domain, op, attributes }: Node): boolean {
  const to = attributes.get("to");
  return domain === "" && op === "Cast" && to?.kind === "int" && to.value === 1n;
}

function isTransposition(node: Node): boolean {
  if (node.op !== "Transpose" || node.domain !== "") return false;
  return (intsAttribute(node, "perm") ?? [1, 0]).join() === "1,0";
}

/**
 * For each output the squares of its weights, summed in float64: a Linear's rows, a Conv's filters, an Embedding's
 * dimensions over the vocabulary.
 */
export function squaredNorms(
  { layout, outFeatures }: Pick<Site, "layout" | "outFeatures">,
  weight: Tensor<"float32">,
): Float64Array {
  const sums = new Float64Array(outFeatures);
  const perOutput = elementCount(weight.dims) / outFeatures;
  weight.data.forEach((value, index) => {
    const out = layout === "out,in" ? Math.floor(index / perOutput) : index % outFeatures;
    sums[out]! += value * value;
  });
  return sums;
}
