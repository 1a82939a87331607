// Scaled dot-product attention (Vaswani et al. 2017) in standard operators, with what ONNX Runtime's attention operators
// share: causal masks, windows, grouped key-value heads, a soft cap.
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { integers, scalar, sizeOf } from "./lowering.ts";

/** B batch, N heads, G groups of heads, T queries, S keys, D head size. */
export interface AttentionParts {
  readonly q: Value; // [B, N, T, D], or [B, G, N / G, T, D] when grouped
  readonly k: Value; // [B, N, S, D], or [B, G, 1, S, D]
  readonly v: Value; // [B, N, S, E], or [B, G, 1, S, E]
  readonly rank: 4 | 5;
  /** Default: 1 / sqrt(D). */
  readonly scale?: number;
  /** Added to the scores, broadcast to them. */
  readonly biases: readonly Value[];
  /** Only keys up to the query's own place, the last query being at the last key. */
  readonly causal: boolean;
  /** Only that many keys back, the query's own place included. */
  readonly window?: number;
  /** scores -> cap tanh(scores / cap) */
  readonly softCap?: number;
}

/** y [B, N, T, E] = softmax(scale q k^T + biases) v; [B, G, N / G, T, E] when grouped. */
export function attend(g: GraphBuilder, { q, k, v, rank, scale, softCap, ...parts }: AttentionParts): Value {
  const axes = [...Array(rank).keys()];
  const swapped = [...axes.slice(0, -2), rank - 1, rank - 2];
  const scaled = g.op("Mul", [q, scale === undefined ? inverseRoot(g, q, rank) : scalar(g, scale)]);
  let scores = g.op("MatMul", [scaled, g.op("Transpose", [k], { perm: swapped })]);
  if (softCap !== undefined) {
    const cap = scalar(g, softCap);
    scores = g.op("Mul", [g.op("Tanh", [g.op("Div", [scores, cap])]), cap]);
  }
  for (const bias of parts.biases) scores = g.op("Add", [scores, bias]);
  if (parts.causal) {
    const allowed = causalMask(g, sizeOf(g, q, rank - 2), sizeOf(g, k, rank - 2), parts.window);
    scores = g.op("Where", [allowed, scores, scalar(g, lowest)]);
  }
  return g.op("MatMul", [g.op("Softmax", [scores], { axis: -1 }), v]);
}

/** The lowest float32: what masked scores are. */
const lowest = -3.4028234663852886e38;

/** 1 / sqrt(D), as a constant where D is known. */
function inverseRoot(g: GraphBuilder, q: Value, rank: number): Value {
  const size = g.info(q).shape?.[rank - 1];
  if (typeof size === "number") return scalar(g, 1 / Math.sqrt(size));
  return g.op("Reciprocal", [g.op("Sqrt", [g.op("Cast", [sizeOf(g, q, rank - 1)], { to: 1 })])]);
}

/** [T, S]: whether query t may see key s, s - (S - T) <= t, and s - (S - T) > t - window. */
function causalMask(g: GraphBuilder, queries: Value, keys: Value, window?: number): Value {
  const count = (n: Value): Value =>
    g.op("Range", [g.constant("int64", 0), g.op("Squeeze", [n, integers(g, 0)]), g.constant("int64", 1)]);
  const row = g.op("Unsqueeze", [g.op("Add", [count(queries), g.op("Sub", [keys, queries])]), integers(g, 1)]);
  const column = g.op("Unsqueeze", [count(keys), integers(g, 0)]);
  const before = g.op("LessOrEqual", [column, row]);
  if (window === undefined) return before;
  const near = g.op("Greater", [column, g.op("Sub", [row, g.constant("int64", window)])]);
  return g.op("And", [before, near]);
}

/** [B, T, N D] -> [B, N, T, D] */
export function splitHeads(g: GraphBuilder, x: Value, heads: number): Value {
  return g.op("Transpose", [g.op("Reshape", [x, integers(g, 0, 0, heads, -1)])], { perm: [0, 2, 1, 3] });
}

/** [B, N, T, E] -> [B, T, N E] */
export function joinHeads(g: GraphBuilder, y: Value): Value {
  return g.op("Reshape", [g.op("Transpose", [y], { perm: [0, 2, 1, 3] }), integers(g, 0, 0, -1)]);
}
