// Resize: along each axis its result is a linear map of its input, y = R^T x, whatever the mode (nearest, linear, cubic,
// with or without antialias). R is the resized unit matrix: the operator itself says what its coordinates and weights are,
// so that the gradient dx = R d agrees with it in every mode. Where sizes are static the runtime computes R once.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { type Attribute, describeNode, intsAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import { normalizeAxis, sameDim } from "../../onnx/shape-row.ts";
import { type Rule, type RuleTable, rankOf, single } from "../rule.ts";
import { inTypeOf, int64, sizeOf } from "./parts.ts";

export const resizeRules: RuleTable = {
  Resize: single((node, d, g) => {
    refuseWhatIsNotLinear(node);
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    const rank = rankOf(g, node, x);
    const axes = intsAttribute(node, "axes")?.map((axis) => normalizeAxis(axis, rank)) ?? [...Array(rank).keys()];
    let dx = d;
    for (const [position, axis] of axes.entries()) {
      if (sameDim(g.info(x).shape?.[axis], g.info(y).shape?.[axis])) continue;
      dx = along(g, dx, axis, rank, resizedUnits(node, axis, position, g));
    }
    return [dx];
  }),
} satisfies Record<string, Rule>;

function refuseWhatIsNotLinear(node: Node): void {
  const coordinates = stringAttribute(node, "coordinate_transformation_mode", "half_pixel");
  const policy = stringAttribute(node, "keep_aspect_ratio_policy", "stretch");
  const faults = [
    ...(coordinates === "tf_crop_and_resize" ? ["coordinates other than tf_crop_and_resize"] : []),
    ...(policy === "stretch" ? [] : [`keep_aspect_ratio_policy stretch, got ${policy}`]),
  ];
  if (faults.length === 0) return;
  throw new LowrankError(
    "model",
    `${describeNode(node)}: expected ${faults.join(" and ")}; adapt only layers behind it`,
  );
}

/** R [n, o] of one axis: what each of its n places contributes to the o places of the result. */
function resizedUnits(node: Node, axis: number, position: number, g: GraphBuilder): Value {
  const [x, , scales, sizes] = node.inputs;
  const size = sizeOf(g, x!, axis);
  const square = g.op("Concat", [size, size], { axis: 0 });
  const units = g.op("EyeLike", [g.op("ConstantOfShape", [square])]);
  // As an image of one channel: [1, 1, n, n], resized along the last axis.
  const image = g.op("Unsqueeze", [units, int64(g, 0, 1)]);
  const part = (list: Value): Value => g.op("Gather", [list, int64(g, position)]);
  const extent = sizes
    ? ["", g.op("Concat", [int64(g, 1, 1), size, part(sizes)], { axis: 0 })]
    : [g.op("Concat", [g.constant("float32", [1, 1, 1]), part(scales!)], { axis: 0 })];
  const resized = g.op("Resize", [image, "", ...extent], attributesOf(node));
  return g.op("Squeeze", [resized, int64(g, 0, 1)]);
}

function attributesOf(node: Node): Record<string, Attribute> {
  const { axes: _, ...others } = Object.fromEntries(node.attributes);
  return others;
}

/** d [… o …] times R^T [o, n] along `axis`: [… n …] */
function along(g: GraphBuilder, d: Value, axis: number, rank: number, units: Value): Value {
  const matrix = inTypeOf(g, units, d);
  // The last but one axis has its rows in place: a product from the left.
  if (axis === rank - 2) return g.op("MatMul", [matrix, d]);
  const transposed = g.op("Transpose", [matrix], { perm: [1, 0] });
  if (axis === rank - 1) return g.op("MatMul", [d, transposed]);
  const perm = [...Array(rank).keys()];
  [perm[axis], perm[rank - 1]] = [rank - 1, axis];
  const product = g.op("MatMul", [g.op("Transpose", [d], { perm }), transposed]);
  return g.op("Transpose", [product], { perm });
}
