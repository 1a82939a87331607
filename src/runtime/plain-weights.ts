// Weights stored in 8 bits, dequantized once. In the graph they are dequantized in each run, so that no model is in memory as a
// whole in float32 (grad/late-weights.ts). For a small model that saves next to nothing and takes as long as the products of
// some rows: what is little in float32 too is given to the runtime that way, to be packed once like any other weight.
import { producers, prune, storedValue } from "../onnx/graph.ts";
import {
  floatValues,
  fromTensor,
  type Graph,
  intAttribute,
  type Model,
  type Node,
  type StoredTensor,
  toTensor,
} from "../onnx/model.ts";
import { elementCount, tensor } from "../tensor.ts";

/** Values of all such weights together, at most: 16 MiB in float32. */
const mostValues = 4 * 2 ** 20;

/** A stored weight as DequantizeLinear reads it: (q - zero) scale. */
interface Quantized {
  /** Two nodes that read the same in the same way, forward and backward, have the same key. */
  readonly key: string;
  readonly weight: StoredTensor;
  readonly scale: Float32Array;
  readonly zero: StoredTensor | undefined;
  /** The axis that scales differ along, where there are several. */
  readonly axis: number;
}

/** The model with weights of 8 bits as float32, where all of them are few enough; else the model itself. */
export function withPlainWeights(model: Model): Model {
  const { graph } = model;
  const found = quantizedWeights(graph);
  const distinct = new Map([...found.values()].map((quantized) => [quantized.key, quantized]));
  const count = [...distinct.values()].reduce((sum, { weight }) => sum + elementCount(weight.dims), 0);
  if (count === 0 || count > mostValues) return model;
  const plain = new Map([...distinct].map(([key, quantized]) => [key, dequantized(quantized)]));
  const weights = [...found].map(([output, { key }]) => [output, plain.get(key)!] as const);
  const initializers = new Map([...graph.initializers, ...weights]);
  const nodes = graph.nodes.filter(({ outputs }) => !found.has(outputs[0]!));
  return { ...model, graph: prune({ ...graph, initializers, nodes }) };
}

/** What can be dequantized beforehand, by the output of the node that does it. */
function quantizedWeights(graph: Graph): ReadonlyMap<string, Quantized> {
  const made = producers(graph);
  const asked = new Set(graph.outputs.map(({ name }) => name));
  const found = new Map<string, Quantized>();
  for (const node of graph.nodes) {
    const [output = ""] = node.outputs;
    if (node.op !== "DequantizeLinear" || asked.has(output)) continue;
    const quantized = readBy(graph, made, node);
    if (quantized !== null) found.set(output, quantized);
  }
  return found;
}

function readBy(graph: Graph, made: ReadonlyMap<string, Node>, node: Node): Quantized | null {
  const [weightName, givenScale, zeroName = ""] = node.inputs as [string, string, string?];
  // A scale that waits for something is a Where between itself and itself.
  const late = made.get(givenScale);
  const scaleName = late?.op === "Where" && late.inputs[1] === late.inputs[2] ? late.inputs[1]! : givenScale;
  const [weight, scale] = [graph.initializers.get(weightName), storedValue(graph, made, scaleName)];
  const zero = zeroName === "" ? undefined : storedValue(graph, made, zeroName);
  if (!is8Bit(weight) || scale?.type !== "float32" || (zeroName !== "" && !is8Bit(zero))) return null;
  const { length: rank } = weight.dims;
  const given = intAttribute(node, "axis", 1);
  const axis = given < 0 ? given + rank : given;
  const factors = floatValues(scaleName, scale);
  const isKnown = factors.length === 1 || (scale.dims.length === 1 && factors.length === weight.dims[axis]);
  if (!isKnown || intAttribute(node, "block_size", 0) !== 0) return null;
  return { key: JSON.stringify([weightName, scaleName, zeroName, axis]), weight, scale: factors, zero, axis };
}

function is8Bit(stored: StoredTensor | undefined): stored is StoredTensor {
  return stored?.type === "int8" || stored?.type === "uint8";
}

function dequantized({ weight, scale, zero, axis }: Quantized): StoredTensor {
  const codes = toTensor(weight).data as Int8Array | Uint8Array;
  const zeros = zero && (toTensor(zero).data as Int8Array | Uint8Array);
  const values = new Float32Array(codes.length);
  // So many values in a row have the same scale.
  const length = scale.length === 1 ? codes.length : elementCount(weight.dims.slice(axis + 1));
  for (let start = 0, row = 0; start < codes.length; start += length, row = (row + 1) % scale.length) {
    const shift = zeros?.[zeros.length === 1 ? 0 : row] ?? 0;
    scaleRow(codes, { start, end: start + length, shift, factor: scale[row]! }, values);
  }
  return fromTensor(tensor("float32", weight.dims, values));
}

interface Row {
  readonly start: number;
  readonly end: number;
  readonly shift: number;
  readonly factor: number;
}

/** A function of its own, which JavaScript engines compile after some rows. */
function scaleRow(codes: Int8Array | Uint8Array, { start, end, shift, factor }: Row, into: Float32Array): void {
  for (let at = start; at < end; at++) into[at] = (codes[at]! - shift) * factor;
}
