// Shapes of ONNX's own attention operators (operator set 23).
import { type Dim, intAttribute } from "../model.ts";
import type { ShapeRow, ShapeRows, TensorInfo } from "../shape-row.ts";

/** Y is like Q, with V's width: [B, N, T, E] or [B, T, N E]. */
const attention: ShapeRow = (node, [q, k, v]) => {
  const shape = q?.shape;
  const heads = intAttribute(node, "q_num_heads", 0);
  const groups = intAttribute(node, "kv_num_heads", 0);
  const width = v?.shape?.at(-1) ?? null;
  const joined: Dim = typeof width === "number" && groups > 0 ? (width / groups) * heads : null;
  // Keys and values with the cache in front of them, by heads.
  const present = (x: TensorInfo | undefined): TensorInfo => {
    const dims = x?.shape;
    if (dims === undefined) return { type: q?.type, shape: undefined };
    const last = dims.at(-1) ?? null;
    const each: Dim = dims.length === 4 ? last : typeof last === "number" && groups > 0 ? last / groups : null;
    const count = dims.length === 4 ? dims[1]! : groups || null;
    return { type: q?.type, shape: [dims[0]!, count, node.inputs[4] ? null : dims.at(-2)!, each] };
  };
  const y = shape && [...shape.slice(0, -1), shape.length === 4 ? width : joined];
  return [{ type: q?.type, shape: y }, present(k), present(v)];
};

export const attentionRows: ShapeRows = {
  Attention: attention,
  RotaryEmbedding: (_, [x]) => (x === undefined ? [] : [x]),
  MeanVarianceNormalization: (_, [x]) => (x === undefined ? [] : [x]),
};
