// ONNX Runtime's attention operators: MultiHeadAttention (projected queries, keys, values), Attention (with its own packed
// projection) and GroupQueryAttention (decoders, rotary embeddings). Caches are prepended to keys and values, so that one of
// length zero is none.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { floatAttribute, intAttribute, intsAttribute, type Node } from "../../onnx/model.ts";
import { sameDim } from "../../onnx/shape-row.ts";
import { rankOf } from "../rule.ts";
import { type AttentionParts, attend, joinHeads, splitHeads } from "./attend.ts";
import {
  addIfGiven,
  integers,
  type Lowering,
  type LoweringTable,
  name,
  refuse,
  refuseOutputs,
  scalar,
  sizeOf,
} from "./lowering.ts";
import { positionsFrom, rotaryEmbedding, rotate } from "./rotary.ts";

const multiHeadAttention: Lowering = (node, g) => {
  const [query, key, value, bias, padding, scoreBias, pastKey, pastValue] = node.inputs;
  refuseInputs(node, { past_sequence_length: 8, cache_indirection: 9 });
  refuseOutputs(node, { qk: 3 });
  const heads = intAttribute(node, "num_heads", 1);
  if (!key || !value || rankOf(g, node, query!) !== 3 || rankOf(g, node, key) === 5) {
    refuse(node, "packed queries, keys and values are not supported");
  }
  const [biasQ, biasK, biasV] = splitBias(g, node, bias, key);
  const headed = (x: Value, b: Value | undefined): Value =>
    rankOf(g, node, x) === 4 ? x : splitHeads(g, addIfGiven(g, x, b), heads);
  const q = headed(query!, biasQ);
  const k = withPast(g, pastKey, headed(key, biasK));
  const v = withPast(g, pastValue, headed(value, biasV));
  name(g, k, node.outputs[1]);
  name(g, v, node.outputs[2]);
  const biases = [...(scoreBias ? [scoreBias] : []), ...paddingBias(g, node, padding, query!, k)];
  const y = attend(g, { q, k, v, rank: 4, biases, causal: isCausal(node), ...stated(node) });
  name(g, joinHeads(g, y), node.outputs[0]);
};

const attention: Lowering = (node, g) => {
  const [x, weights, bias, mask, past, scoreBias] = node.inputs as [Value, Value, Value?, Value?, Value?, Value?];
  if (past || node.outputs[1]) refuse(node, "a cache is not supported here");
  if (intAttribute(node, "do_rotary", 0) !== 0) refuse(node, "do_rotary is not supported");
  const heads = intAttribute(node, "num_heads", 1);
  const sizes = intsAttribute(node, "qkv_hidden_sizes");
  const projected = addIfGiven(g, g.op("MatMul", [x, weights]), bias);
  const parts = g.ops(
    "Split",
    sizes ? [projected, integers(g, ...sizes)] : [projected],
    3,
    sizes ? { axis: 2 } : { axis: 2, num_outputs: 3 },
  );
  const [q, k, v] = parts.map((part) => splitHeads(g, part, heads)) as [Value, Value, Value];
  const biases = [...(scoreBias ? [scoreBias] : []), ...paddingBias(g, node, mask, x, k)];
  const y = attend(g, { q, k, v, rank: 4, biases, causal: isCausal(node), ...stated(node) });
  name(g, joinHeads(g, y), node.outputs[0]);
};

/** Keys beyond a sequence's own length lie after all its queries: the causal mask hides them, seqlens_k is not needed. */
const groupQueryAttention: Lowering = (node, g) => {
  const [pastKey, pastValue] = node.inputs.slice(3, 5);
  refuseInputs(node, { head_sink: 11, k_scale: 12, v_scale: 13, q_norm_weight: 14, k_norm_weight: 15 });
  refuseOutputs(node, { output_qk: 3 });
  if (intAttribute(node, "causal", 1) === 0) refuse(node, "it is supported only with a causal mask");
  for (const attribute of ["smooth_softmax", "sliding_window_cache"]) {
    if (intAttribute(node, attribute, 0) > 0) refuse(node, `${attribute} is not supported`);
  }
  const heads = intAttribute(node, "num_heads", 1);
  const groups = intAttribute(node, "kv_num_heads", 1);
  const [query, key, value] = headsOfGroups(g, node, heads, groups);
  const turn = groupRotation(g, node, query, pastKey);
  const k = withPast(g, pastKey, turn(key));
  const v = withPast(g, pastValue, value);
  name(g, k, node.outputs[1]);
  name(g, v, node.outputs[2]);
  const window = intAttribute(node, "local_window_size", -1);
  const softCap = floatAttribute(node, "softcap", 0);
  const scoreBias = node.inputs[10];
  if (scoreBias && heads !== groups) refuse(node, "attention_bias is supported only with as many key heads as heads");
  const grouped = heads !== groups;
  // One axis more for the heads of a group, along which keys and values are broadcast.
  const y = attend(g, {
    q: grouped ? unfold(g, turn(query), groups, heads / groups) : turn(query),
    k: grouped ? g.op("Unsqueeze", [k, integers(g, 2)]) : k,
    v: grouped ? g.op("Unsqueeze", [v, integers(g, 2)]) : v,
    rank: grouped ? 5 : 4,
    biases: scoreBias ? [scoreBias] : [],
    causal: true,
    ...(window > 0 && { window }),
    ...(softCap > 0 && { softCap }),
    ...stated(node),
  });
  name(g, joinHeads(g, grouped ? fold(g, y, heads) : y), node.outputs[0]);
};

export const attentionLowerings: LoweringTable = {
  MultiHeadAttention: multiHeadAttention,
  Attention: attention,
  GroupQueryAttention: groupQueryAttention,
  RotaryEmbedding: rotaryEmbedding,
};

/** [B, N, T, D] -> [B, G, N / G, T, D] */
function unfold(g: GraphBuilder, q: Value, groups: number, each: number): Value {
  const sizes = [sizeOf(g, q, 0), integers(g, groups, each), sizeOf(g, q, 2), sizeOf(g, q, 3)];
  return g.op("Reshape", [q, g.op("Concat", sizes, { axis: 0 })]);
}

/** [B, G, N / G, T, E] -> [B, N, T, E] */
function fold(g: GraphBuilder, y: Value, heads: number): Value {
  const sizes = [sizeOf(g, y, 0), integers(g, heads), sizeOf(g, y, 3), sizeOf(g, y, 4)];
  return g.op("Reshape", [y, g.op("Concat", sizes, { axis: 0 })]);
}

/** Queries [B, N, T, D], keys and values [B, G, T, D], packed in one input or given apart. */
function headsOfGroups(g: GraphBuilder, node: Node, heads: number, groups: number): [Value, Value, Value] {
  const [query, key, value] = node.inputs as [Value, Value?, Value?];
  if (key && value) return [splitHeads(g, query, heads), splitHeads(g, key, groups), splitHeads(g, value, groups)];
  const all = splitHeads(g, query, heads + 2 * groups);
  return g.ops("Split", [all, integers(g, heads, groups, groups)], 3, { axis: 1 }) as [Value, Value, Value];
}

/** How queries and keys are turned before they meet. */
function groupRotation(g: GraphBuilder, node: Node, query: Value, past: Value | undefined): (x: Value) => Value {
  if (intAttribute(node, "do_rotary", 0) === 0) return (x) => x;
  const [cos, sin, positionIds] = node.inputs.slice(7, 10) as [Value, Value, Value?];
  const start = past ? sizeOf(g, past, 2) : integers(g, 0);
  const positions = positionIds || positionsFrom(g, start, sizeOf(g, query, 2));
  const interleaved = intAttribute(node, "rotary_interleaved", 0) !== 0;
  const pairs = g.info(cos).shape?.[1];
  const size = g.info(query).shape?.[3];
  const partial = typeof pairs === "number" && typeof size === "number" && 2 * pairs < size;
  return (x) => rotate(g, x, { cos, sin, positions, interleaved, headAxis: 1, ...(partial && { turned: 2 * pairs }) });
}

/** Keys or values with the cache in front of them. */
function withPast(g: GraphBuilder, past: Value | undefined, present: Value): Value {
  return past ? g.op("Concat", [past, present], { axis: 2 }) : present;
}

/** The bias of a packed projection, for queries, keys and values. */
function splitBias(g: GraphBuilder, node: Node, bias: Value | undefined, key: Value): (Value | undefined)[] {
  if (!bias) return [];
  if (rankOf(g, node, key) === 4) refuse(node, "a bias beside keys that are projected already is not supported");
  const hidden = sizeOf(g, node.inputs[0]!, 2);
  const twice = g.op("Add", [hidden, hidden]);
  const slice = (from: Value, to: Value): Value => g.op("Slice", [bias, from, to]);
  return [slice(integers(g, 0), hidden), slice(hidden, twice), slice(twice, integers(g, Number.MAX_SAFE_INTEGER))];
}

/**
 * What is added to the scores for a padding mask of 0 and 1: [B, S], [B, T, S]; or for the lengths of the sequences, [B].
 * Masked scores sink by mask_filter_value, as in the kernel: they do not vanish when all are masked.
 */
function paddingBias(g: GraphBuilder, node: Node, mask: Value | undefined, x: Value, keys: Value): Value[] {
  if (!mask) return [];
  const rank = rankOf(g, node, mask);
  const filter = scalar(g, floatAttribute(node, "mask_filter_value", -10000));
  const sunk = (masked: Value, axes: readonly number[]): Value[] => [
    g.op("Unsqueeze", [g.op("Where", [masked, filter, scalar(g, 0)]), integers(g, ...axes)]),
  ];
  const zero = g.op("CastLike", [g.constant("int64", 0), mask]);
  if (rank === 2) return sunk(g.op("Equal", [mask, zero]), [1, 2]);
  if (rank === 3) return sunk(g.op("Equal", [mask, zero]), [1]);
  if (rank === 1 && sameDim(g.info(mask).shape?.[0], g.info(x).shape?.[0])) {
    const place = positionsFrom(g, integers(g, 0), sizeOf(g, keys, 2));
    const lengths = g.op("Unsqueeze", [g.op("Cast", [mask], { to: 7 }), integers(g, 1)]);
    return sunk(g.op("GreaterOrEqual", [place, lengths]), [1, 2]);
  }
  return refuse(node, `a mask of shape [${g.info(mask).shape}] is not supported; use [batch, keys]`);
}

function isCausal(node: Node): boolean {
  return intAttribute(node, "unidirectional", 0) !== 0;
}

/** The scale, when the node states one: 0 and absence mean 1 / sqrt(head size). */
function stated(node: Node): Pick<AttentionParts, "scale"> {
  const scale = floatAttribute(node, "scale", 0);
  return scale === 0 ? {} : { scale };
}

function refuseInputs(node: Node, inputs: Readonly<Record<string, number>>): void {
  for (const [what, index] of Object.entries(inputs)) {
    if (node.inputs[index]) refuse(node, `its input ${what} is not supported`);
  }
}
