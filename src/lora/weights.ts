// The values of a layer's weight as the base stores them, in PyTorch's layout: what a module that is trained whole starts
// from, and what DoRA's norms are taken of.
import { producers, storedValue } from "../onnx/graph.ts";
import { floatValues, type Graph, intsAttribute, type Node } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

/** The float32 values behind a name; undefined where they are computed by other operators, or of another type. */
export type ValuesOf = (name: string) => Tensor<"float32"> | undefined;

/** Reads stored values, also behind Identity and the transposition of a matrix. */
export function valuesOf(graph: Graph): ValuesOf {
  const made = producers(graph);
  const read: ValuesOf = (name) => {
    const stored = storedValue(graph, made, name);
    if (stored !== undefined)
      return stored.type === "float32" ? tensor("float32", stored.dims, floatValues(name, stored)) : undefined;
    const node = made.get(name);
    if (node === undefined || !isTransposition(node)) return undefined;
    const before = read(node.inputs[0]!);
    return before?.dims.length === 2 ? transposed(before) : undefined;
  };
  return read;
}

/** Whether values can be read, without reading them. */
export function isStored(graph: Graph, made: ReadonlyMap<string, Node>, name: string): boolean {
  const stored = storedValue(graph, made, name);
  if (stored !== undefined) return stored.type === "float32";
  const node = made.get(name);
  return node !== undefined && isTransposition(node) && isStored(graph, made, node.inputs[0]!);
}

function isTransposition(node: Node): boolean {
  if (node.op !== "Transpose" || node.domain !== "") return false;
  return (intsAttribute(node, "perm") ?? [1, 0]).join() === "1,0";
}

/** [rows, columns] as [columns, rows]. */
export function transposed({ dims, data }: Tensor<"float32">): Tensor<"float32"> {
  const [rows, columns] = dims as [number, number];
  const turned = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = data[row * columns + column]!;
  }
  return tensor("float32", [columns, rows], turned);
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
