// Shapes of the operators that gradients and the commonest models are made of.
import { elementCount } from "../../tensor.ts";
import { elementType } from "../elements.ts";
import { type Dim, intAttribute, intsAttribute } from "../model.ts";
import {
  broadcast,
  constantAxes,
  normalizeAxis,
  type Shape,
  type ShapeRow,
  type ShapeRows,
  statedAxes,
  unknown,
} from "../shape-row.ts";

/** More axes than any tensor has; a size that a file states is not taken for a rank above it. */
const maxRank = 64;

const same: ShapeRow = (_, [x]) => [x ?? unknown];
const elementwise: ShapeRow = (_, inputs) => [
  { type: inputs[0]?.type, shape: broadcast(...inputs.map((info) => info.shape)) },
];
const comparison: ShapeRow = (_, inputs) => [{ type: "bool", shape: broadcast(...inputs.map((info) => info.shape)) }];

const gemm: ShapeRow = (node, [a, b]) => {
  const row = a?.shape?.length === 2 ? a.shape[intAttribute(node, "transA", 0) ? 1 : 0]! : null;
  const column = b?.shape?.length === 2 ? b.shape[intAttribute(node, "transB", 0) ? 0 : 1]! : null;
  return [{ type: a?.type, shape: [row, column] }];
};

const matMul: ShapeRow = (_, [a, b]) => [{ type: a?.type, shape: matMulShape(a?.shape, b?.shape) }];

function matMulShape(a: Shape | undefined, b: Shape | undefined): Shape | undefined {
  if (a === undefined || b === undefined || a.length === 0 || b.length === 0) return undefined;
  const batch = broadcast(a.slice(0, -2), b.slice(0, -2));
  if (batch === undefined) return undefined;
  return [...batch, ...(a.length > 1 ? [a.at(-2)!] : []), ...(b.length > 1 ? [b.at(-1)!] : [])];
}

const reduce: ShapeRow = (node, [x], known) => {
  const keep = intAttribute(node, "keepdims", 1) !== 0;
  const axes = constantAxes(node, 1, known);
  if (x?.shape === undefined) return [{ type: x?.type, shape: undefined }];
  const rank = x.shape.length;
  // Axes that are computed while the graph runs.
  if (axes === undefined && node.inputs[1]) {
    return [{ type: x.type, shape: keep ? x.shape.map(() => null) : undefined }];
  }
  const noop = intAttribute(node, "noop_with_empty_axes", 0) !== 0;
  const all = axes === undefined || axes.length === 0;
  const reduced = new Set(all ? (noop ? [] : x.shape.keys()) : axes.map((axis) => normalizeAxis(axis, rank)));
  const shape = x.shape.flatMap((dim, axis): Dim[] => (reduced.has(axis) ? (keep ? [1] : []) : [dim]));
  return [{ type: x.type, shape }];
};

const argReduce: ShapeRow = (node, [x]) => {
  const axis = x?.shape === undefined ? 0 : normalizeAxis(intAttribute(node, "axis", 0), x.shape.length);
  const keep = intAttribute(node, "keepdims", 1) !== 0;
  return [
    { type: "int64", shape: x?.shape?.flatMap((dim, index): Dim[] => (index === axis ? (keep ? [1] : []) : [dim])) },
  ];
};

const transpose: ShapeRow = (node, [x]) => {
  const rank = x?.shape?.length ?? 0;
  const order = intsAttribute(node, "perm") ?? [...Array(rank).keys()].reverse();
  return [{ type: x?.type, shape: x?.shape && order.map((axis) => x.shape![axis] ?? null) }];
};

const unsqueeze: ShapeRow = (node, [x], known) => {
  const axes = constantAxes(node, 1, known);
  if (x?.shape === undefined || axes === undefined) return [{ type: x?.type, shape: undefined }];
  const rank = x.shape.length + axes.length;
  const added = new Set(axes.map((axis) => normalizeAxis(axis, rank)));
  const rest = [...x.shape];
  return [
    { type: x.type, shape: Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : (rest.shift() ?? null))) },
  ];
};

const squeeze: ShapeRow = (node, [x], known) => {
  const axes = constantAxes(node, 1, known);
  if (x?.shape === undefined || (axes === undefined && x.shape.some((dim) => typeof dim !== "number")))
    return [{ type: x?.type, shape: undefined }];
  const removed = new Set(
    axes?.map((axis) => normalizeAxis(axis, x.shape!.length)) ??
      x.shape.flatMap((dim, axis) => (dim === 1 ? [axis] : [])),
  );
  return [{ type: x.type, shape: x.shape.filter((_, axis) => !removed.has(axis)) }];
};

const flatten: ShapeRow = (node, [x]) => {
  if (x?.shape === undefined) return [{ type: x?.type, shape: [null, null] }];
  const axis = normalizeAxis(
    intAttribute(node, "axis", 1),
    x.shape.length + (intAttribute(node, "axis", 1) < 0 ? 0 : 1),
  );
  return [{ type: x.type, shape: [product(x.shape.slice(0, axis)), product(x.shape.slice(axis))] }];
};

function product(dims: Shape): Dim {
  if (dims.length === 1) return dims[0]!;
  return dims.every((dim) => typeof dim === "number") ? elementCount(dims as number[]) : null;
}

const reshape: ShapeRow = (node, [x, target], known) => {
  const sizes = known.sizes(node.inputs[1]);
  if (sizes === undefined) {
    const rank = target?.shape?.[0];
    const isRank = typeof rank === "number" && rank <= maxRank;
    return [{ type: x?.type, shape: isRank ? Array<Dim>(rank).fill(null) : undefined }];
  }
  const zeroCopies = intAttribute(node, "allowzero", 0) === 0;
  const wanted = sizes.map(
    (size, axis): Dim => (size === 0 && zeroCopies ? (x?.shape?.[axis] ?? null) : size === -1 ? null : size),
  );
  if (x?.shape === undefined || wanted.filter((dim) => dim === null).length !== 1)
    return [{ type: x?.type, shape: wanted }];
  const rest = quotient(
    x.shape,
    wanted.filter((dim) => dim !== null),
  );
  return [{ type: x.type, shape: wanted.map((dim) => dim ?? rest) }];
};

/** The product of some sizes divided by that of others, equal symbols cancelled; null where it is no single size. */
function quotient(dims: Shape, divisors: Shape): Dim {
  const symbols: Dim[] = dims.filter((dim) => typeof dim !== "number");
  for (const divisor of divisors.filter((dim) => typeof dim !== "number")) {
    const equal = symbols.indexOf(divisor);
    if (equal < 0) return null;
    symbols.splice(equal, 1);
  }
  const numbers = (list: Shape): number =>
    list.reduce<number>((total, dim) => (typeof dim === "number" ? total * dim : total), 1);
  const share = numbers(dims) / numbers(divisors);
  if (symbols.length === 0) return Number.isSafeInteger(share) ? share : null;
  return symbols.length === 1 && share === 1 ? symbols[0]! : null;
}

const concat: ShapeRow = (node, inputs) => {
  const first = inputs[0]?.shape;
  if (first === undefined || inputs.some((info) => info.shape?.length !== first.length))
    return [{ type: inputs[0]?.type, shape: undefined }];
  const axis = normalizeAxis(intAttribute(node, "axis", 0), first.length);
  const shape = first.map((dim, index): Dim => {
    const dims = inputs.map((info) => info.shape![index]!);
    if (index !== axis) return dims.find((value) => typeof value === "number") ?? dim;
    return dims.every((value) => typeof value === "number") ? (dims as number[]).reduce((a, b) => a + b, 0) : null;
  });
  return [{ type: inputs[0]?.type, shape }];
};

const gather: ShapeRow = (node, [x, indices]) => {
  if (x?.shape === undefined || indices?.shape === undefined) return [{ type: x?.type, shape: undefined }];
  const axis = normalizeAxis(intAttribute(node, "axis", 0), x.shape.length);
  return [{ type: x.type, shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)] }];
};

const random: ShapeRow = (node) => [
  { type: elementType(intAttribute(node, "dtype", 1)), shape: intsAttribute(node, "shape") },
];

export const basicRows: ShapeRows = {
  ...Object.fromEntries(
    (
      "Identity Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Exp Log Sqrt Reciprocal Neg Abs Sign Erf " +
      "Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Shrink BitwiseNot ReverseSequence Scatter Bernoulli RandomNormalLike RandomUniformLike " +
      "Floor Ceil Round Clip Softmax LogSoftmax Hardmax BatchNormalization LayerNormalization Dropout CumSum Trilu ScatterElements ScatterND " +
      "Gelu Mish Swish ThresholdedRelu InstanceNormalization GroupNormalization LpNormalization LRN Not"
    )
      .split(" ")
      .map((op) => [op, same]),
  ),
  ...Object.fromEntries(
    "Add Sub Mul Div Pow Min Max Mod Sum Mean PRelu And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor"
      .split(" ")
      .map((op) => [op, elementwise]),
  ),
  ...Object.fromEntries(
    "Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf".split(" ").map((op) => [op, comparison]),
  ),
  ...Object.fromEntries(
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp"
      .split(" ")
      .map((op) => [op, reduce]),
  ),
  ArgMax: argReduce,
  ArgMin: argReduce,
  CastLike: (_, [x, like]) => [{ type: like?.type, shape: x?.shape }],
  Cast: (node, [x]) => [{ type: elementType(intAttribute(node, "to", 0)), shape: x?.shape }],
  Concat: concat,
  Flatten: flatten,
  Gather: gather,
  GatherElements: (_, [x, indices]) => [{ type: x?.type, shape: indices?.shape }],
  Gemm: gemm,
  MatMul: matMul,
  Reshape: reshape,
  ConstantOfShape: (node, _, known) => {
    const value = node.attributes.get("value");
    return [{ type: value?.kind === "tensor" ? value.value.type : "float32", shape: known.sizes(node.inputs[0]) }];
  },
  RandomNormal: random,
  RandomUniform: random,
  Expand: (node, [x], known) => [{ type: x?.type, shape: broadcast(x?.shape, known.sizes(node.inputs[1])) }],
  Size: () => [{ type: "int64", shape: [] }],
  Shape: (node, [x]) => [{ type: "int64", shape: [x?.shape === undefined ? null : statedAxes(node, x.shape).length] }],
  Squeeze: squeeze,
  Transpose: transpose,
  Unsqueeze: unsqueeze,
  Where: (_, inputs) => [{ type: inputs[1]?.type, shape: broadcast(...inputs.map((info) => info.shape)) }],
};
