// ONNX's own compound operators: Attention and RotaryEmbedding (operator set 23), MeanVarianceNormalization. Meanings are
// those of the operator specification (docs/Operators.md), and of ONNX Runtime's kernels where that is silent.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { floatAttribute, intAttribute, intsAttribute, type Node } from "../../onnx/model.ts";
import { sameDim } from "../../onnx/shape-row.ts";
import { rankOf } from "../rule.ts";
import { attend, joinHeads, splitHeads } from "./attend.ts";
import {
  integers,
  type Lowering,
  type LoweringTable,
  name,
  refuse,
  refuseOutputs,
  scalar,
  sizeOf,
} from "./lowering.ts";
import { positionsFrom, type Rotation, rotate } from "./rotary.ts";

/** The lowest float32: what masked scores are. */
const lowest = -3.4028234663852886e38;

/** y = softmax(scale q k^T + mask) v; queries, keys and values [B, N, T, D] or [B, T, N D], of keys perhaps fewer heads. */
const attention: Lowering = (node, g) => {
  const [query, key, value, mask, pastKey, pastValue] = node.inputs as [Value, Value, Value, Value?, Value?, Value?];
  refuseOutputs(node, { qk_matmul_output: 3 });
  const softCap = floatAttribute(node, "softcap", 0);
  const isCausal = intAttribute(node, "is_causal", 0) !== 0;
  if (softCap !== 0 && (mask || isCausal)) refuse(node, "softcap beside a mask is not supported");
  const rank = rankOf(g, node, query);
  const times = sharing(g, node, query, key, rank);
  const headed = (x: Value, attribute: string): Value =>
    rank === 4 ? x : splitHeads(g, x, intAttribute(node, attribute, 1));
  const extended = (past: Value | undefined, x: Value): Value => (past ? g.op("Concat", [past, x], { axis: 2 }) : x);
  const q = headed(query, "q_num_heads");
  const k = extended(pastKey, headed(key, "kv_num_heads"));
  const v = extended(pastValue, headed(value, "kv_num_heads"));
  name(g, k, node.outputs[1]);
  name(g, v, node.outputs[2]);
  const past = pastKey ? sizeOf(g, pastKey, 2) : integers(g, 0);
  const scale = node.attributes.has("scale") ? { scale: floatAttribute(node, "scale", 1) } : {};
  const y = attend(g, {
    q,
    k: repeated(g, k, times),
    v: repeated(g, v, times),
    rank: 4,
    biases: [...(mask ? [asBias(g, mask)] : []), ...(isCausal ? [causalBias(g, q, k, past)] : [])],
    causal: false,
    ...(softCap > 0 && { softCap }),
    ...scale,
  });
  name(g, rank === 4 ? y : joinHeads(g, y), node.outputs[0]);
};

/** How many heads share one of the keys'. */
function sharing(g: GraphBuilder, node: Node, query: Value, key: Value, rank: number): number {
  const sizes = [query, key].map((x) => g.info(x).shape?.[1]);
  const stated = ["q_num_heads", "kv_num_heads"].map((name) => intAttribute(node, name, 0));
  const [heads, groups] = rank === 4 ? sizes : stated;
  if (rank === 4 && sameDim(heads, groups)) return 1;
  if (typeof heads === "number" && typeof groups === "number" && heads > 0 && groups > 0) return heads / groups;
  return refuse(node, "the number of heads is unknown: expected it in q_num_heads and kv_num_heads, or in the shapes");
}

/** [B, G, S, D] with each group's keys for every head of it: [B, G times, S, D] */
function repeated(g: GraphBuilder, x: Value, times: number): Value {
  if (times === 1) return x;
  const apart = g.op("Unsqueeze", [x, integers(g, 2)]);
  const sizes = [sizeOf(g, x, 0), sizeOf(g, x, 1), integers(g, times), sizeOf(g, x, 2), sizeOf(g, x, 3)];
  const copies = g.op("Expand", [apart, g.op("Concat", sizes, { axis: 0 })]);
  const groups = g.info(x).shape?.[1];
  const heads = typeof groups === "number" ? integers(g, groups * times) : g.op("Mul", [sizes[1]!, integers(g, times)]);
  return g.op("Reshape", [copies, g.op("Concat", [sizes[0]!, heads, sizes[3]!, sizes[4]!], { axis: 0 })]);
}

/** A mask that says what may be seen, as what is added to the scores. */
function asBias(g: GraphBuilder, mask: Value): Value {
  if (g.info(mask).type !== "bool") return mask;
  return g.op("Where", [mask, scalar(g, 0), scalar(g, lowest)]);
}

/** [T, S]: query t sees the keys up to the place past + t. */
function causalBias(g: GraphBuilder, q: Value, k: Value, past: Value): Value {
  const rows = g.op("Unsqueeze", [positionsFrom(g, past, sizeOf(g, q, 2)), integers(g, 1)]);
  const columns = positionsFrom(g, integers(g, 0), sizeOf(g, k, 2));
  return g.op("Where", [g.op("LessOrEqual", [columns, rows]), scalar(g, 0), scalar(g, lowest)]);
}

/** x [B, N, T, D] or [B, T, N D]; tables by position, or [B, T, pairs] without positions. */
const rotaryEmbedding: Lowering = (node, g) => {
  const [x, cos, sin, positions = ""] = node.inputs as [Value, Value, Value, Value?];
  const rank = rankOf(g, node, x);
  const turned = intAttribute(node, "rotary_embedding_dim", 0);
  const rotation: Rotation = {
    cos,
    sin,
    positions: positions === "" ? undefined : positions,
    interleaved: intAttribute(node, "interleaved", 0) !== 0,
    headAxis: rank === 3 ? 2 : 1,
    ...(turned > 0 && { turned }),
  };
  if (rank === 4) return name(g, rotate(g, x, rotation), node.outputs[0]);
  const heads = intAttribute(node, "num_heads", 0);
  if (heads === 0) refuse(node, "the number of heads is unknown: expected it in num_heads");
  const apart = g.op("Reshape", [x, integers(g, 0, 0, heads, -1)]);
  name(g, g.op("Reshape", [rotate(g, apart, rotation), integers(g, 0, 0, -1)]), node.outputs[0]);
};

/** y = (x - mean) / (deviation + 1e-9) over the axes */
const meanVarianceNormalization: Lowering = (node, g) => {
  const x = node.inputs[0]!;
  const axes = integers(g, ...(intsAttribute(node, "axes") ?? [0, 2, 3]));
  const mean = (value: Value): Value => g.op("ReduceMean", [value, axes], { keepdims: 1 });
  const centred = g.op("Sub", [x, mean(x)]);
  const deviation = g.op("Sqrt", [mean(g.op("Mul", [centred, centred]))]);
  name(g, g.op("Div", [centred, g.op("Add", [deviation, scalar(g, 1e-9)])]), node.outputs[0]);
};

export const standardLowerings: LoweringTable = {
  Attention: attention,
  RotaryEmbedding: rotaryEmbedding,
  MeanVarianceNormalization: meanVarianceNormalization,
};
