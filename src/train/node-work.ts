// What a node costs to run, roughly, in floating-point operations of a matrix product: what a product does is counted, and for
// an operator that goes through memory element by element the products that could be done in the same time.
import { intAttribute, type Node } from "../onnx/model.ts";
import type { TensorInfo } from "../onnx/shape-row.ts";

/** Elements of a value; undefined where its sizes are not all known. */
export function elementsOf(info: TensorInfo | undefined): number | undefined {
  let count = 1;
  if (info?.shape === undefined) return undefined;
  for (const dim of info.shape) {
    if (typeof dim !== "number") return undefined;
    count *= dim;
  }
  return count;
}

/** Operations of a product that one element of another operator stands for: 1 ns of one thread at 50 GFLOP/s. */
const perElement = 50;

const free = new Set("Reshape Flatten Squeeze Unsqueeze Identity Shape Size Constant".split(" "));

/** Operations of a node, where the sizes that it needs are known; else 0. */
export function nodeWork(node: Node, info: (value: string) => TensorInfo | undefined): number {
  const out = elementsOf(info(node.outputs[0] ?? "")) ?? 0;
  if (free.has(node.op)) return 0;
  const depth = productDepth(node, info);
  return depth === undefined ? perElement * out : 2 * out * depth;
}

/** Of a product: how many multiplications make one element of its output; undefined for other operators. */
function productDepth(node: Node, info: (value: string) => TensorInfo | undefined): number | undefined {
  const shape = (index: number): readonly (number | string | null)[] => info(node.inputs[index] ?? "")?.shape ?? [];
  const size = (dim: number | string | null | undefined): number => (typeof dim === "number" ? dim : 1);
  const a = shape(0);
  switch (node.op) {
    case "Gemm":
      return size(a[intAttribute(node, "transA", 0) === 1 ? 0 : 1]);
    case "MatMul":
    case "FusedMatMul":
    case "FusedGemm":
    case "MatMulNBits":
    case "MatMulInteger":
    case "DynamicQuantizeMatMul":
    case "MatMulIntegerToFloat":
    case "QLinearMatMul":
      return size(a.at(-1));
    case "Conv":
    case "FusedConv":
    case "ConvInteger":
      return shape(1)
        .slice(1)
        .reduce<number>((product, dim) => product * size(dim), 1);
    case "QLinearConv":
      return shape(3)
        .slice(1)
        .reduce<number>((product, dim) => product * size(dim), 1);
    case "ConvTranspose": {
      const kernel = shape(1)
        .slice(2)
        .reduce<number>((product, dim) => product * size(dim), 1);
      return (size(shape(1)[0]) * kernel) / Math.max(1, intAttribute(node, "group", 1));
    }
    case "LSTM":
    case "GRU":
    case "RNN":
      // Each step: W x and R h, for all gates.
      return (size(shape(1)[1]) / size(shape(2)[2])) * (size(shape(1)[2]) + size(shape(2)[2]));
    case "Attention":
      // com.microsoft: the projections of input [B, T, in] by weight [in, 3 out], which outweigh the scores at usual lengths.
      return shape(1).length === 2 ? 3 * size(shape(1)[0]) : 2 * size(a.at(-2));
    case "MultiHeadAttention":
    case "GroupQueryAttention":
      return 2 * size(a.at(-2));
    default:
      return undefined;
  }
}
