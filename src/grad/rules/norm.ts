// Normalization. d: the gradient of y; x [N, C, …]; n: x normalized, before scale and bias.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { describeNode, floatAttribute, intAttribute } from "../../onnx/model.ts";
import { normalizeAxis } from "../../onnx/shape-row.ts";
import { type Rule, type RuleTable, rankOf, single } from "../rule.ts";
import { add, div, int64, mul, scalar, sub, where } from "./parts.ts";

export const normRules: RuleTable = {
  // y = (x - mean) inv scale + bias with inv = 1 / sqrt(variance + eps), all of them given, [C] each
  BatchNormalization: single((node, d, g) => {
    const [x, scale, bias, mean, variance] = node.inputs as [Value, Value, Value, Value, Value];
    if (intAttribute(node, "training_mode", 0) !== 0) {
      throw new LowrankError(
        "model",
        `${describeNode(node)}: expected training_mode 0, got 1: it normalizes by the batch; export the model for inference`,
      );
    }
    const rank = rankOf(g, node, x);
    const inv = inverseRoot(g, variance, floatAttribute(node, "epsilon", 1e-5));
    const slope = mul(g, scale, inv);
    const dx = mul(g, d, byChannel(g, slope, rank));
    const total = overOtherAxes(g, d, rank);
    const centred = sub(g, x, byChannel(g, mean, rank));
    const dscale = mul(g, inv, overOtherAxes(g, mul(g, d, centred), rank));
    // dmean = -slope sum d; dvariance = -inv^2 / 2 scale dscale
    const dvariance = mul(g, mul(g, scalar(g, -0.5, inv), mul(g, inv, inv)), mul(g, scale, dscale));
    return [dx, dscale, bias ? total : null, g.op("Neg", [mul(g, slope, total)]), dvariance];
  }),
  // n = (x - mean) inv over the axes behind [N, C]; y = n scale + bias, by channel
  InstanceNormalization: single((node, d, g) => {
    const [x, scale] = node.inputs as [Value, Value];
    const rank = rankOf(g, node, x);
    const axes = Array.from({ length: rank - 2 }, (_, axis) => axis + 2);
    const { n, pullBack } = normalized(g, x, axes, floatAttribute(node, "epsilon", 1e-5));
    const dx = pullBack(mul(g, d, byChannel(g, scale, rank)));
    return [dx, overOtherAxes(g, mul(g, d, n), rank), overOtherAxes(g, d, rank)];
  }),
  // The same over the channels of each group and all behind; scale and bias by channel (by group before opset 21)
  GroupNormalization: single((node, d, g) => {
    const [x, scale] = node.inputs as [Value, Value];
    const rank = rankOf(g, node, x);
    const groups = int64(g, 0, intAttribute(node, "num_groups", 1), -1);
    const grouped = (value: Value): Value => g.op("Reshape", [value, groups]);
    const { n, pullBack } = normalized(g, grouped(x), [2], floatAttribute(node, "epsilon", 1e-5));
    const back = (value: Value): Value => g.op("Reshape", [value, g.op("Shape", [x])]);
    if (g.opset < 21) {
      const dn = mul(g, grouped(d), byChannel(g, scale, 3));
      const sum = (value: Value): Value => overOtherAxes(g, value, 3);
      return [back(pullBack(dn)), sum(mul(g, grouped(d), n)), sum(grouped(d))];
    }
    const dn = mul(g, d, byChannel(g, scale, rank));
    return [back(pullBack(grouped(dn))), overOtherAxes(g, mul(g, d, back(n)), rank), overOtherAxes(g, d, rank)];
  }),
  // n = x / sqrt(mean x^2 + eps), y = n scale; dx = inv (dn - n mean(dn n))
  RMSNormalization: single((node, d, g) => {
    const [x, scale] = node.inputs as [Value, Value];
    const axes = axesFrom(rankOf(g, node, x), intAttribute(node, "axis", -1));
    const mean = meanOver(g, axes);
    const inv = inverseRoot(g, mean(mul(g, x, x)), floatAttribute(node, "epsilon", 1e-5));
    const n = mul(g, x, inv);
    const dn = mul(g, d, scale);
    return [mul(g, inv, sub(g, dn, mul(g, n, mean(mul(g, dn, n))))), mul(g, d, n)];
  }),
  // y = x / r with r = (sum |x|^p)^(1/p); dx = (d - slope sum(d y)) / r with slope = sign(x) or y; 0 where r = 0
  LpNormalization: single((node, d, g) => {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    const isSum = intAttribute(node, "p", 2) === 1;
    const axes = int64(g, intAttribute(node, "axis", -1));
    const r = g.op(isSum ? "ReduceL1" : "ReduceL2", [x, axes]);
    const along = g.op("ReduceSum", [mul(g, d, y), axes]);
    const dx = div(g, sub(g, d, mul(g, isSum ? g.op("Sign", [x]) : y, along)), r);
    const zero = scalar(g, 0, x);
    return [where(g, g.op("Equal", [r, zero]), zero, dx)];
  }),
  // y = x / s^beta with s = bias + alpha mean of x^2 over `size` neighbouring channels
  // dx = d / s^beta - 2 alpha beta x mean over the channels whose neighbour it is (d x / s^(beta + 1))
  LRN: single((node, d, g) => {
    const x = node.inputs[0]!;
    const alpha = floatAttribute(node, "alpha", 1e-4);
    const beta = floatAttribute(node, "beta", 0.75);
    const size = intAttribute(node, "size", 1);
    const before = Math.floor((size - 1) / 2);
    const after = size - 1 - before;
    const squares = neighbours(g, mul(g, x, x), x, before, after);
    const s = add(g, mul(g, squares, scalar(g, alpha, x)), scalar(g, floatAttribute(node, "bias", 1), x));
    const direct = mul(g, d, g.op("Pow", [s, scalar(g, -beta, x)]));
    const through = neighbours(g, div(g, mul(g, direct, x), s), x, after, before);
    return [sub(g, direct, mul(g, scalar(g, 2 * alpha * beta, x), mul(g, x, through)))];
  }),
} satisfies Record<string, Rule>;

/** n = (x - mean) / sqrt(variance + eps) over `axes`, and the gradient of x from that of n: inv (dn - mean(dn) - n mean(dn n)). */
function normalized(
  g: GraphBuilder,
  x: Value,
  axes: readonly number[],
  epsilon: number,
): { n: Value; pullBack: (dn: Value) => Value } {
  const mean = meanOver(g, axes);
  const centred = sub(g, x, mean(x));
  const inv = inverseRoot(g, mean(mul(g, centred, centred)), epsilon);
  const n = mul(g, centred, inv);
  return { n, pullBack: (dn) => mul(g, inv, sub(g, sub(g, dn, mean(dn)), mul(g, n, mean(mul(g, dn, n))))) };
}

function meanOver(g: GraphBuilder, axes: readonly number[]): (value: Value) => Value {
  return (value) => g.op("ReduceMean", [value, g.constant("int64", axes)], { keepdims: 1 });
}

/** 1 / sqrt(variance + eps) */
function inverseRoot(g: GraphBuilder, variance: Value, epsilon: number): Value {
  return g.op("Reciprocal", [g.op("Sqrt", [add(g, variance, scalar(g, epsilon, variance))])]);
}

/** A vector over channels, [C], in a shape that broadcasts against [N, C, …]. */
function byChannel(g: GraphBuilder, vector: Value, rank: number): Value {
  if (rank === 2) return vector;
  return g.op("Reshape", [vector, g.constant("int64", [-1, ...Array<number>(rank - 2).fill(1)])]);
}

/** The sum over all axes but the channels': [C]. */
function overOtherAxes(g: GraphBuilder, value: Value, rank: number): Value {
  const axes = [...Array(rank).keys()].filter((axis) => axis !== 1);
  return g.op("ReduceSum", [value, g.constant("int64", axes)], { keepdims: 0 });
}

/** The axes from `axis` to the last. */
function axesFrom(rank: number, axis: number): number[] {
  const first = normalizeAxis(axis, rank);
  return Array.from({ length: rank - first }, (_, index) => first + index);
}

/** The sum over `before` channels in front of each, itself and `after` behind it, over their number: x's shape. */
function neighbours(g: GraphBuilder, value: Value, x: Value, before: number, after: number): Value {
  const rows = g.op("Unsqueeze", [g.op("Reshape", [value, int64(g, 0, 0, -1)]), int64(g, 1)]);
  const mean = g.op("AveragePool", [rows], {
    kernel_shape: [before + after + 1, 1],
    pads: [before, 0, after, 0],
    count_include_pad: 1,
  });
  return g.op("Reshape", [mean, g.op("Shape", [x])]);
}
