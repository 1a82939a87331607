// The numbers of a constant weight, where it is stored in another form: behind Identity and Transpose, dequantized by the
// graph, or in the blocks of MatMulNBits. Meanings: ONNX's DequantizeLinear, and ONNX Runtime's docs/ContribOperators.md.
import { LowrankError } from "../../errors.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { ElementType } from "../elements.ts";
import { isHalf } from "../float32.ts";
import { behindIdentity, producers, storedValue } from "../graph.ts";
import { floatsOf } from "../half.ts";
import { describeNode, type Graph, intAttribute, intsAttribute, type Node, type StoredTensor } from "../model.ts";
import type { Site } from "../sites.ts";

/** A weight's values, widened where it is stored in 16 bits, and the type that it is stored in. */
export interface StoredWeight extends Tensor<"float32"> {
  readonly storedType: "float32" | "float16" | "bfloat16";
}

/**
 * A weight that is stored as floats, also behind Identity and Transpose, as the site reads it; undefined for one that the
 * graph computes in another way.
 */
export function storedWeight(graph: Graph, made: ReadonlyMap<string, Node>, name: string): StoredWeight | undefined {
  let at = behindIdentity(made, name);
  let isPassed = false;
  let isTurned = false;
  for (let node = made.get(at); node?.op === "Transpose" && node.domain === ""; node = made.get(at)) {
    const [first] = intsAttribute(node, "perm") ?? [1, 0];
    isPassed = true;
    isTurned = isTurned !== (first !== 0);
    at = behindIdentity(made, node.inputs[0] ?? "");
  }
  const stored = storedValue(graph, made, at);
  if (stored === undefined || !isFloat(stored.type) || (isPassed && stored.dims.length !== 2)) return undefined;
  const values = floats(stored);
  return { ...(isTurned ? transposed(values) : values), storedType: stored.type };
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
 * The float32 weight of a quantized site, in its layout: [out, in] for blocks, [in, out] beside dynamic activations; the
 * numbers that the runtime's own kernels multiply with.
 *
 * @throws LowrankError "model" for forms that are not known.
 */
export function dequantizedWeight(graph: Graph, site: Site): Tensor<"float32"> {
  const made = producers(graph);
  const read = (name: string): StoredTensor => {
    const stored = storedValue(graph, made, name);
    if (stored !== undefined) return stored;
    throw new LowrankError("model", `${site.modulePath}: expected ${name} to be stored, got a computed value`);
  };
  const { quantized, weight, node, inFeatures, outFeatures } = site;
  if (quantized === undefined) throw new Error(`internal: ${site.modulePath} is not quantized`);
  const scale = floats(read(quantized.scale)).data;
  const zero = quantized.zero === "" ? undefined : read(quantized.zero);
  if (quantized.form === "blocks") return fromBlocks(node, read(weight), scale, zero);
  const [values, zeros] = [integers(read(weight)), zero && integers(zero)];
  const data = Float32Array.from(values, (value, index) => {
    const column = index % outFeatures;
    const z = zeros?.[zeros.length === 1 ? 0 : column] ?? 0;
    return (value - z) * scale[scale.length === 1 ? 0 : column]!;
  });
  return tensor("float32", [inFeatures, outFeatures], data);
}

/** MatMulNBits: [N, blocks, bytes], each block with a scale, and a zero point that is 2^(bits - 1) by default. */
function fromBlocks(
  node: Node,
  { bytes }: StoredTensor,
  scale: Float32Array,
  zero: StoredTensor | undefined,
): Tensor<"float32"> {
  const [rows, columns] = [intAttribute(node, "N", 0), intAttribute(node, "K", 0)];
  const [bits, size] = [intAttribute(node, "bits", 4), intAttribute(node, "block_size", 0)];
  const reordered = node.inputs[4] || intAttribute(node, "weight_prepacked", 0) !== 0;
  if ((bits !== 4 && bits !== 8) || reordered) {
    throw new LowrankError("model", `${describeNode(node)}: expected blocks of 4 or 8 bits in their order`);
  }
  const perRow = Math.ceil(columns / size);
  const blockBytes = (size * bits) / 8;
  const valueAt = (from: Uint8Array, start: number, index: number): number =>
    bits === 8 ? from[start + index]! : (from[start + (index >> 1)]! >> (4 * (index & 1))) & 15;
  const shifts = zero?.type === "float32" ? floats(zero).data : undefined;
  const zeroStride = Math.ceil((perRow * bits) / 8);
  const zeroAt = (row: number, block: number): number => {
    if (zero === undefined) return 2 ** (bits - 1);
    return shifts?.[row * perRow + block] ?? valueAt(zero.bytes, row * zeroStride, block);
  };
  const data = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const block = Math.floor(column / size);
      const at = row * perRow + block;
      const q = valueAt(bytes, at * blockBytes, column % size);
      data[row * columns + column] = (q - zeroAt(row, block)) * scale[at]!;
    }
  }
  return tensor("float32", [rows, columns], data);
}

function isFloat(type: ElementType): type is StoredWeight["storedType"] {
  return type === "float32" || isHalf(type);
}

function floats(stored: StoredTensor): Tensor<"float32"> {
  return tensor("float32", stored.dims, floatsOf(stored));
}

function integers({ type, bytes }: StoredTensor): Uint8Array | Int8Array {
  if (type === "uint8") return bytes;
  if (type === "int8") return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  throw new LowrankError("model", `expected weights of 8 bits, got ${type}`);
}
