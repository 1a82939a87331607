// The transpose of broadcasting is summation: a gradient in a broadcast shape is summed over the axes along which its
// value was repeated. Where shapes are static this is decided here; where they are not, it is written into the graph.
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { sameDim, sameShape } from "../onnx/shape-row.ts";

/** `gradient` summed to the shape of `value`. */
export function unbroadcast(g: GraphBuilder, gradient: Value, value: Value): Value {
  const from = g.info(gradient).shape;
  const to = g.info(value).shape;
  if (sameShape(from, to)) return gradient;
  if (from === undefined || to === undefined || from.length < to.length)
    return unbroadcastAtRunTime(g, gradient, value);

  const extra = from.length - to.length;
  const repeated: number[] = [];
  for (const [axis, dim] of to.entries()) {
    const other = from[axis + extra]!;
    if (sameDim(dim, other)) continue;
    // A size other than 1 was never repeated; 1 against anything may have been.
    if (typeof dim === "number" && dim !== 1) continue;
    if (dim !== 1) return unbroadcastAtRunTime(g, gradient, value);
    repeated.push(axis + extra);
  }
  const leading = [...Array(extra).keys()];
  const kept =
    repeated.length === 0 ? gradient : g.op("ReduceSum", [gradient, g.constant("int64", repeated)], { keepdims: 1 });
  return leading.length === 0 ? kept : g.op("ReduceSum", [kept, g.constant("int64", leading)], { keepdims: 0 });
}

function unbroadcastAtRunTime(g: GraphBuilder, gradient: Value, value: Value): Value {
  const one = g.constant("int64", [1]);
  const from = g.op("Shape", [gradient]);
  const to = g.op("Shape", [value]);
  // The value's shape with ones in front, as broadcasting reads it.
  const missing = g.op("Sub", [g.op("Shape", [from]), g.op("Shape", [to])]);
  const aligned = g.op("Concat", [g.op("Expand", [one, missing]), to], { axis: 0 });
  const repeated = g.op("And", [g.op("Equal", [aligned, one]), g.op("Not", [g.op("Equal", [from, one])])]);
  const axes = g.op("Squeeze", [g.op("NonZero", [g.op("Cast", [repeated], { to: 7 })]), g.constant("int64", [0])]);
  const summed = g.op("ReduceSum", [gradient, axes], { keepdims: 1, noop_with_empty_axes: 1 });
  return g.op("Reshape", [summed, to]);
}
