// Shapes of ONNX Runtime's own operators (domain com.microsoft), as far as models carry them between an adapter and a loss.
import { elementType } from "../elements.ts";
import { type Dim, intAttribute, intsAttribute } from "../model.ts";
import { broadcast, normalizeAxis, type Shape, type ShapeRow, type ShapeRows, unknown } from "../shape-row.ts";
import { convRows } from "./conv.ts";

const same: ShapeRow = (_, [x]) => [x ?? unknown];
const gelu: ShapeRow = (_, [x, bias]) => [{ type: x?.type, shape: bias ? broadcast(x?.shape, bias.shape) : x?.shape }];

/** y; mean and 1 / deviation, [..., 1]; input + skip + bias */
const skipNormalization: ShapeRow = (_, [x, skip]) => {
  const shape = broadcast(x?.shape, skip?.shape);
  const statistic = { type: "float32" as const, shape: shape && [...shape.slice(0, -1), 1] };
  return [{ type: x?.type, shape }, statistic, statistic, { type: x?.type, shape }];
};

const fusedMatMul: ShapeRow = (node, [a, b]) => {
  const left = ordered(a?.shape, intAttribute(node, "transA", 0) !== 0, intAttribute(node, "transBatchA", 0) !== 0);
  const right = ordered(b?.shape, intAttribute(node, "transB", 0) !== 0, intAttribute(node, "transBatchB", 0) !== 0);
  if (left === undefined || right === undefined) return [{ type: a?.type, shape: undefined }];
  const batch = broadcast(left.slice(0, -2), right.slice(0, -2));
  const row = left.length > 1 ? [left.at(-2)!] : [];
  const column = right.length > 1 ? [right.at(-1)!] : [];
  return [{ type: a?.type, shape: batch && [...batch, ...row, ...column] }];
};

/** A factor's sizes in MatMul's order; see grad/lower/products.ts. */
function ordered(shape: Shape | undefined, transposed: boolean, batchInside: boolean): Shape | undefined {
  if (shape === undefined || shape.length < 2) return shape?.length === 0 ? undefined : shape;
  const batch = batchInside ? shape.slice(1, -1) : shape.slice(0, -2);
  const row = batchInside ? shape[0]! : shape.at(-2)!;
  const column = shape.at(-1)!;
  return [...batch, ...(transposed ? [column, row] : [row, column])];
}

const fusedGemm: ShapeRow = (node, [a, b]) => {
  const row = a?.shape?.length === 2 ? a.shape[intAttribute(node, "transA", 0) ? 1 : 0]! : null;
  const column = b?.shape?.length === 2 ? b.shape[intAttribute(node, "transB", 0) ? 0 : 1]! : null;
  return [{ type: a?.type, shape: [row, column] }];
};

const embedNormalization: ShapeRow = (_, [ids, , words]) => {
  const shape = ids?.shape && [...ids.shape, words?.shape?.[1] ?? null];
  const embedded = { type: words?.type, shape };
  return [embedded, { type: "int32", shape: ids?.shape?.slice(0, 1) }, embedded];
};

/** [B, T, the size of the values]; what follows are caches */
const multiHeadAttention: ShapeRow = (node, [query, key, value]) => {
  if (query?.shape === undefined || query.shape.length !== 3) return [{ type: query?.type, shape: [null, null, null] }];
  const [batch, time] = query.shape as [Dim, Dim, Dim];
  const heads = intAttribute(node, "num_heads", 1);
  const perHead = value?.shape?.length === 4 ? value.shape[3]! : null;
  const last = value?.shape?.length === 3 ? value.shape[2]! : typeof perHead === "number" ? heads * perHead : null;
  const cache = { type: key?.type, shape: [batch, heads, null, null] };
  return [{ type: query.type, shape: [batch, time, last] }, cache, cache];
};

const attention: ShapeRow = (node, [x, weights]) => {
  const sizes = intsAttribute(node, "qkv_hidden_sizes");
  const all = weights?.shape?.[1];
  const last = sizes?.[2] ?? (typeof all === "number" ? all / 3 : null);
  return [{ type: x?.type, shape: [x?.shape?.[0] ?? null, x?.shape?.[1] ?? null, last] }];
};

const groupQueryAttention: ShapeRow = (node, [query, key]) => {
  const heads = intAttribute(node, "num_heads", 1);
  const groups = intAttribute(node, "kv_num_heads", 1);
  const [batch = null, time = null, width = null] = query?.shape ?? [];
  // Without a key, the three are packed into the query.
  const packed = typeof width === "number" ? (width / (heads + 2 * groups)) * heads : null;
  const cache = { type: query?.type, shape: [batch, groups, null, null] };
  return [{ type: query?.type, shape: [batch, time, node.inputs[1] && key ? width : packed] }, cache, cache];
};

const matMulNBits: ShapeRow = (node, [x]) => [
  { type: x?.type, shape: x?.shape && [...x.shape.slice(0, -1), intAttribute(node, "N", 0)] },
];

const quantizedMatMul: ShapeRow = (_, [x, weight]) => [
  { type: "float32", shape: x?.shape && [...x.shape.slice(0, -1), weight?.shape?.at(-1) ?? null] },
];

/** Rows of a table quantized in blocks; two values of 4 bits lie in one byte. */
const gatherBlocks: ShapeRow = (node, [data, indices, scales]) => {
  if (data?.shape === undefined || indices?.shape === undefined) return [{ type: scales?.type, shape: undefined }];
  const axis = normalizeAxis(intAttribute(node, "gather_axis", 0), data.shape.length);
  const perByte = data.type === "uint8" ? 8 / intAttribute(node, "bits", 4) : 1;
  const sizes = data.shape.map((dim, at) =>
    at === data.shape!.length - 1 && typeof dim === "number" ? dim * perByte : dim,
  );
  return [{ type: scales?.type, shape: [...sizes.slice(0, axis), ...indices.shape, ...sizes.slice(axis + 1)] }];
};

const linearQuantization: ShapeRows = {
  QuantizeLinear: (node, [x, , zero]) => [
    { type: zero?.type ?? elementType(intAttribute(node, "output_dtype", 0)) ?? "uint8", shape: x?.shape },
  ],
  DequantizeLinear: (_, [x, scale]) => [{ type: scale?.type, shape: x?.shape }],
};

const simplifiedNormalization: ShapeRow = (_, [x]) => [
  x ?? unknown,
  { type: "float32", shape: x?.shape && [...x.shape.slice(0, -1), 1] },
];

export const contribRows: ShapeRows = {
  SimplifiedLayerNormalization: simplifiedNormalization,
  Gelu: same,
  QuickGelu: same,
  RotaryEmbedding: same,
  BiasGelu: gelu,
  FastGelu: gelu,
  SkipLayerNormalization: skipNormalization,
  SkipSimplifiedLayerNormalization: skipNormalization,
  EmbedLayerNormalization: embedNormalization,
  FusedMatMul: fusedMatMul,
  FusedGemm: fusedGemm,
  FusedConv: convRows.Conv!,
  MultiHeadAttention: multiHeadAttention,
  Attention: attention,
  GroupQueryAttention: groupQueryAttention,
  MatMulNBits: matMulNBits,
  GatherBlockQuantized: gatherBlocks,
  DynamicQuantizeMatMul: quantizedMatMul,
  ...linearQuantization,
};

/** Rows of ONNX's own domain: quantization, and a normalization that some exporters put there. */
export const quantizedRows: ShapeRows = {
  ...linearQuantization,
  DynamicQuantizeLinear: (_, [x]) => [
    { type: "uint8", shape: x?.shape },
    { type: "float32", shape: [] },
    { type: "uint8", shape: [] },
  ],
  MatMulInteger: (_, [a, b]) => {
    if (!a?.shape || !b?.shape || a.shape.length < 2 || b.shape.length < 2)
      return [{ type: "int32", shape: undefined }];
    const batch = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
    return [{ type: "int32", shape: batch && [...batch, a.shape.at(-2)!, b.shape.at(-1)!] }];
  },
  SimplifiedLayerNormalization: simplifiedNormalization,
};
