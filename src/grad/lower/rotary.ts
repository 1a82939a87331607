// Rotary position embeddings (Su et al. 2021): pairs of a head's values are turned by an angle that grows with the
// position; the cosines and sines stand in tables [positions, pairs].
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { intAttribute } from "../../onnx/model.ts";
import { rankOf } from "../rule.ts";
import { integers, type Lowering, name, refuse, sizeOf } from "./lowering.ts";

export interface Rotation {
  readonly cos: Value; // [positions, pairs]
  readonly sin: Value; // [positions, pairs]
  /** [B, T] or [T]; undefined where the tables are by place already, [B, T, pairs]. */
  readonly positions: Value | undefined;
  /** Pairs are neighbours; otherwise the first half pairs with the second. */
  readonly interleaved: boolean;
  /** Where the heads stand in x: [B, N, T, D] or [B, T, N, D]. */
  readonly headAxis: 1 | 2;
  /** How many of a head's values are turned, the first ones; all when left out. */
  readonly turned?: number;
}

/** x with its heads turned. */
export function rotate(g: GraphBuilder, x: Value, rotation: Rotation): Value {
  const { turned, interleaved } = rotation;
  if (turned !== undefined) {
    const axis = integers(g, 3);
    const front = g.op("Slice", [x, integers(g, 0), integers(g, turned), axis]);
    const rest = g.op("Slice", [x, integers(g, turned), integers(g, Number.MAX_SAFE_INTEGER), axis]);
    const { turned: _, ...whole } = rotation;
    return g.op("Concat", [rotate(g, front, whole), rest], { axis: 3 });
  }
  const { positions } = rotation;
  const table = (values: Value): Value =>
    perHead(g, positions === undefined ? values : g.op("Gather", [values, positions]), rotation);
  const cos = table(rotation.cos);
  const sin = table(rotation.sin);
  const apart = interleaved ? g.op("Reshape", [x, integers(g, 0, 0, 0, -1, 2)]) : x;
  const axis = interleaved ? 4 : 3;
  const halves = g.ops("Split", [apart], 2, { axis, num_outputs: 2 });
  const [a, b] = (interleaved ? halves.map((half) => g.op("Squeeze", [half, integers(g, 4)])) : halves) as [
    Value,
    Value,
  ];
  // (a, b) -> (a cos - b sin, b cos + a sin)
  const first = g.op("Sub", [g.op("Mul", [a, cos]), g.op("Mul", [b, sin])]);
  const second = g.op("Add", [g.op("Mul", [b, cos]), g.op("Mul", [a, sin])]);
  if (!interleaved) return g.op("Concat", [first, second], { axis: 3 });
  const pairs = [first, second].map((half) => g.op("Unsqueeze", [half, integers(g, 4)]));
  return g.op("Reshape", [g.op("Concat", pairs, { axis: 4 }), integers(g, 0, 0, 0, -1)]);
}

/** [B, T, pairs] or [T, pairs] with an axis for the heads. */
function perHead(g: GraphBuilder, values: Value, { headAxis }: Rotation): Value {
  return g.op("Unsqueeze", [values, integers(g, headAxis === 1 ? -3 : -2)]);
}

/** Positions `from`, `from` + 1, …; `from` and `count` are vectors of one integer. */
export function positionsFrom(g: GraphBuilder, from: Value, count: Value): Value {
  const none = integers(g, 0);
  const start = g.op("Squeeze", [from, none]);
  const length = g.op("Squeeze", [count, none]);
  return g.op("Range", [start, g.op("Add", [start, length]), g.constant("int64", 1)]);
}

/** com.microsoft.RotaryEmbedding: x [B, T, N D] or [B, N, T, D]. */
export const rotaryEmbedding: Lowering = (node, g) => {
  const [x, ids, cos, sin] = node.inputs as [Value, Value, Value, Value];
  if (intAttribute(node, "is_packed_batching", 0) !== 0) refuse(node, "packed batches are not supported");
  const rank = rankOf(g, node, x);
  const heads = intAttribute(node, "num_heads", 0);
  const turned = intAttribute(node, "rotary_embedding_dim", 0);
  const offset = rankOf(g, node, ids) < 2;
  const positions = offset
    ? positionsFrom(g, g.op("Reshape", [ids, integers(g, 1)]), sizeOf(g, x, rank === 3 ? 1 : 2))
    : ids;
  const rotation: Rotation = {
    cos,
    sin,
    positions,
    interleaved: intAttribute(node, "interleaved", 0) !== 0,
    headAxis: rank === 3 ? 2 : 1,
    ...(turned > 0 && { turned }),
  };
  if (rank === 4) return name(g, rotate(g, x, rotation), node.outputs[0]);
  const apart = g.op("Reshape", [x, heads > 0 ? integers(g, 0, 0, heads, -1) : headsBySize(g, cos)]);
  name(g, g.op("Reshape", [rotate(g, apart, rotation), integers(g, 0, 0, -1)]), node.outputs[0]);
};

/** Without a number of heads, a head has as many values as two rows of the table. */
function headsBySize(g: GraphBuilder, cos: Value): Value {
  const pairs = g.info(cos).shape?.[1];
  if (typeof pairs === "number") return integers(g, 0, 0, -1, 2 * pairs);
  const size = g.op("Mul", [sizeOf(g, cos, 1), integers(g, 2)]);
  return g.op("Concat", [integers(g, 0, 0, -1), size], { axis: 0 });
}
