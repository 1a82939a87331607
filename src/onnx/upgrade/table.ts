// The operators that changed between operator sets 7 and 18 in more than the types they take, each with its way to 18.
// Source: ONNX's Changelog.md; where that leaves something open, what ONNX Runtime computes.
import { LowrankError } from "../../errors.ts";
import { makeNode } from "../builder.ts";
import { describeNode, floatAttribute, intAttribute, intsAttribute, type Node } from "../model.ts";
import { resizeRows } from "./resize.ts";
import { int, type Rewrite, text, type UpgradeContext, type UpgradeRows, withAttributes, withInputs } from "./row.ts";

/** `axes` was an attribute. */
const axesToInput: Rewrite = (node, context) => {
  const axes = intsAttribute(node, "axes");
  if (axes === undefined) return [node];
  // No axes at all mean every axis, then and now; as an empty input they could not be told from "none".
  const inputs = axes.length === 0 ? node.inputs : [node.inputs[0]!, context.constant("int64", axes)];
  return [withAttributes(withInputs(node, inputs), ["axes"])];
};

/** y = x[starts:ends] took its bounds as attributes before 10. */
const slice: Rewrite = (node, context) => {
  const inputs = ["starts", "ends", "axes"].map((name) => {
    const values = node.attributes.get(name);
    // "To the end" is often written as the largest integer there is, which a number cannot hold.
    return values?.kind === "ints" ? context.constant("int64", values.value.map(clamped)) : "";
  });
  return [withAttributes(withInputs(node, [node.inputs[0]!, ...inputs]), ["starts", "ends", "axes"])];
};

function clamped(value: bigint): number {
  const limit = Number.MAX_SAFE_INTEGER;
  return Math.max(-limit, Math.min(limit, Number(value)));
}

/** Pads and value were attributes before 11. */
const pad: Rewrite = (node, context) => {
  const pads = context.constant("int64", intsAttribute(node, "pads") ?? []);
  const value = floatAttribute(node, "value", 0);
  const [constants, name] = value === 0 ? [[], ""] : scalarLike(node, value, context);
  return [...constants, withAttributes(withInputs(node, [node.inputs[0]!, pads, name]), ["pads", "value"])];
};

/** Bounds were attributes before 11. */
const clip: Rewrite = (node, context) => {
  const bounds = ["min", "max"].map((name) =>
    node.attributes.has(name) ? scalarLike(node, floatAttribute(node, name, 0), context) : ([[], ""] as const),
  );
  const inputs = [node.inputs[0]!, ...bounds.map(([, name]) => name)];
  return [...bounds.flatMap(([nodes]) => nodes), withAttributes(withInputs(node, inputs), ["min", "max"])];
};

/** A scalar of the type of the node's first input, and the nodes that make it. */
function scalarLike(node: Node, value: number, context: UpgradeContext): readonly [readonly Node[], string] {
  const scalar = context.constant("float32", value);
  const x = node.inputs[0]!;
  if (context.info(x).type === "float32") return [[], scalar];
  const output = context.freshName(`${node.outputs[0]}/scalar`);
  return [[makeNode({ op: "CastLike", name: output, inputs: [scalar, x], outputs: [output] })], output];
}

/** Sizes were an attribute before 13; from 18 on, parts of equal size say how many they are. */
const split: Rewrite = (node, context) => {
  const sizes = intsAttribute(node, "split");
  if (sizes !== undefined) {
    return [withAttributes(withInputs(node, [node.inputs[0]!, context.constant("int64", sizes)]), ["split"])];
  }
  if (node.inputs[1]) return [node];
  return [withAttributes(node, [], { num_outputs: int(node.outputs.length) })];
};

/** k was an attribute before 10. */
const topK: Rewrite = (node, context) => {
  if (!node.attributes.has("k")) return [node];
  const k = context.constant("int64", [intAttribute(node, "k", 0)]);
  return [withAttributes(withInputs(node, [node.inputs[0]!, k]), ["k"])];
};

/** The ratio was an attribute before 12, and inference copied its input, as it does without a `training_mode` input. */
const dropout: Rewrite = (node, context) => {
  const [y, mask = ""] = node.outputs;
  if (context.isRead(mask))
    throw refused(node, "its mask is read, which inference leaves open before operator set 12; export the model again");
  const ratio = context.constant("float32", floatAttribute(node, "ratio", 0.5));
  return [withAttributes({ ...node, inputs: [node.inputs[0]!, ratio], outputs: [y!] }, ["ratio", "is_test"])];
};

/** Before 14, further outputs meant training; before 9, `spatial` 0 had statistics for each place of a channel. */
const batchNormalization: Rewrite = (node, context) => {
  const isSpatial = intAttribute(node, "spatial", 1) !== 0;
  const rest = withAttributes(node, ["spatial", "consumed_inputs", "is_test"]);
  if (!node.outputs.slice(1).some((output) => output !== "")) {
    return isSpatial ? [{ ...rest, outputs: node.outputs.slice(0, 1) }] : normalizePlaces(node, context);
  }
  if (!isSpatial || node.outputs.slice(3).some((output) => context.isRead(output)))
    throw refused(node, "it is written for training, in a form without a successor; export the model for inference");
  return [withAttributes({ ...rest, outputs: node.outputs.slice(0, 3) }, [], { training_mode: int(1) })];
};

/** y = (x - mean) / sqrt(variance + epsilon) * scale + shift, all four in the shape of one example. */
function normalizePlaces(node: Node, context: UpgradeContext): readonly Node[] {
  const [x, scale, shift, mean, variance] = node.inputs as [string, string, string, string, string];
  const nodes: Node[] = [];
  const op = (operator: string, inputs: readonly string[], output?: string): string => {
    const name = context.freshName(`${node.outputs[0]}/${operator}`);
    nodes.push(makeNode({ op: operator, name, inputs, outputs: [output ?? name], metadata: node.metadata }));
    return output ?? name;
  };
  const [constants, epsilon] = scalarLike(node, floatAttribute(node, "epsilon", 1e-5), context);
  const deviation = op("Sqrt", [op("Add", [variance, epsilon])]);
  const normal = op("Div", [op("Sub", [x, mean]), deviation]);
  op("Add", [op("Mul", [normal, scale]), shift], node.outputs[0]!);
  return [...constants, ...nodes];
}

/** Before 13, what lies from `axis` (default 1) on was one axis: x is flattened around it and given its shape again. */
const flatSoftmax: Rewrite = (node, context) => {
  const axis = intAttribute(node, "axis", 1);
  const [x] = node.inputs as [string];
  const { shape } = context.info(x);
  const behind = shape?.slice(axis < 0 ? axis + shape.length + 1 : axis + 1);
  // Nothing but sizes of 1 behind the axis: both definitions agree.
  if (axis === -1 || behind?.every((size) => size === 1)) {
    return [withAttributes(node, [], { axis: int(axis === -1 || behind?.length === 0 ? -1 : axis) })];
  }
  const [y] = node.outputs as [string];
  const [sizes, flat, result] = ["shape", "flat", "result"].map((part) => context.freshName(`${y}/${part}`));
  const step = (op: string, inputs: readonly string[], output: string): Node =>
    makeNode({ op, name: output, inputs, outputs: [output] });
  return [
    step("Shape", [x], sizes!),
    { ...step("Flatten", [x], flat!), attributes: new Map([["axis", int(axis)]]) },
    withAttributes({ ...node, inputs: [flat!], outputs: [result!] }, [], { axis: int(-1) }),
    { ...step("Reshape", [result!, sizes!], y), name: context.freshName(`${y}/reshape`) },
  ];
};

function refused(node: Node, why: string): LowrankError {
  return new LowrankError("model", `${describeNode(node)}: ${why}`);
}

const reductions = "Max Min Mean Prod L1 L2 SumSquare LogSum LogSumExp".split(" ").map((name) => `Reduce${name}`);

export const upgradeRows: UpgradeRows = {
  ...resizeRows,
  ...Object.fromEntries(reductions.map((op) => [op, { since: 18, rewrite: axesToInput }])),
  ReduceSum: { since: 13, rewrite: axesToInput },
  Squeeze: { since: 13, rewrite: axesToInput },
  Unsqueeze: { since: 13, rewrite: axesToInput },
  Slice: { since: 10, rewrite: slice },
  Pad: { since: 11, rewrite: pad },
  Clip: { since: 11, rewrite: clip },
  Split: { since: 18, rewrite: split },
  TopK: { since: 10, rewrite: topK },
  Dropout: { since: 12, rewrite: dropout },
  BatchNormalization: { since: 14, rewrite: batchNormalization },
  Softmax: { since: 13, rewrite: flatSoftmax },
  LogSoftmax: { since: 13, rewrite: flatSoftmax },
  Hardmax: { since: 13, rewrite: flatSoftmax },
  Scatter: { since: 11, rewrite: (node) => [{ ...node, op: "ScatterElements" }] },
  // Before 16 there was one way to place the samples; the attribute's default is another.
  RoiAlign: {
    since: 16,
    rewrite: (node) => [withAttributes(node, [], { coordinate_transformation_mode: text("output_half_pixel") })],
  },
  Scan: {
    since: 9,
    rewrite: (node) => {
      throw refused(node, "the form before operator set 9, over batches, has no successor; export the model again");
    },
  },
};
