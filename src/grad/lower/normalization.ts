// Layer normalization (Ba et al. 2016) and its root-mean-square form (Zhang & Sennrich 2019), fused with the residual sum
// before it or with a transformer's embedding lookups.
import { float, type GraphBuilder, makeNode, type Value } from "../../onnx/builder.ts";
import { floatAttribute, intAttribute, type Node } from "../../onnx/model.ts";
import { rankOf } from "../rule.ts";
import {
  addIfGiven,
  integers,
  type Lowering,
  type LoweringTable,
  name,
  refuseOutputs,
  scalar,
  sizeOf,
} from "./lowering.ts";

/** n = x / sqrt(mean(x^2) + epsilon), y = n scale, over the axes from `axis` on. */
const simplified: Lowering = (node, g) => {
  const [x, scale] = node.inputs as [Value, Value];
  const axis = intAttribute(node, "axis", -1);
  const last = axis < 0 ? -axis : rankOf(g, node, x) - axis;
  rootMeanSquare(g, node, x, scale, last, node.outputs[1]);
};

export const normalizationLowerings: LoweringTable = {
  SimplifiedLayerNormalization: simplified,
  // s = input + skip + bias, y = layer norm of s
  SkipLayerNormalization: (node, g) => {
    const [input, skip, gamma, beta, bias] = node.inputs as [Value, Value, Value, Value?, Value?];
    const sum = addIfGiven(g, g.op("Add", [input, skip]), bias);
    name(g, sum, node.outputs[3]);
    layerNormalization(g, node, [sum, gamma, ...(beta ? [beta] : [])], node.outputs.slice(0, 3));
  },
  // s = input + skip + bias, y = root-mean-square norm of s
  SkipSimplifiedLayerNormalization: (node, g) => {
    const [input, skip, gamma, bias] = node.inputs as [Value, Value, Value, Value?];
    refuseOutputs(node, { mean: 1 });
    const sum = addIfGiven(g, g.op("Add", [input, skip]), bias);
    name(g, sum, node.outputs[3]);
    rootMeanSquare(g, node, sum, gamma, 1, node.outputs[2]);
  },
  // s = word[ids] + position[0..T-1 or position_ids] + segment[segment_ids], y = layer norm of s
  EmbedLayerNormalization: (node, g) => {
    const [ids, segments, words, positions, segmentTable, gamma, beta, mask, positionIds] = node.inputs as [
      ...[Value, Value, Value, Value, Value, Value, Value],
      Value?,
      Value?,
    ];
    const places = positionIds
      ? g.op("Gather", [positions, positionIds])
      : g.op("Slice", [positions, integers(g, 0), sizeOf(g, ids, 1), integers(g, 0)]);
    const placed = g.op("Add", [g.op("Gather", [words, ids]), places]);
    const sum = segments ? g.op("Add", [placed, g.op("Gather", [segmentTable, segments])]) : placed;
    name(g, sum, node.outputs[2]);
    layerNormalization(g, node, [sum, gamma, beta], [node.outputs[0]!]);
    if (!node.outputs[1]) return;
    // How many tokens each sequence has; zeros without a mask.
    const counted = mask || g.op("Mul", [ids, g.op("CastLike", [integers(g, 0), ids])]);
    const lengths = g.op("ReduceSum", [counted, integers(g, 1)], { keepdims: 0 });
    g.op("Cast", [lengths], { to: 6 }, { output: node.outputs[1] });
  },
};

function layerNormalization(g: GraphBuilder, node: Node, inputs: readonly Value[], outputs: readonly string[]): void {
  const wanted = outputs.findLastIndex((output) => output !== "") + 1;
  g.node(
    makeNode({
      op: "LayerNormalization",
      name: g.freshName("lower/LayerNormalization"),
      inputs,
      outputs: outputs.slice(0, wanted),
      attributes: new Map([["epsilon", float(floatAttribute(node, "epsilon", 1e-12))]]),
    }),
  );
}

function rootMeanSquare(g: GraphBuilder, node: Node, x: Value, scale: Value, last: number, inverse?: string): void {
  const axes = integers(g, ...Array.from({ length: last }, (_, index) => index - last));
  const square = g.op("ReduceMean", [g.op("Mul", [x, x]), axes], { keepdims: 1 });
  const epsilon = scalar(g, floatAttribute(node, "epsilon", node.op === "SimplifiedLayerNormalization" ? 1e-5 : 1e-12));
  const inv = g.op("Reciprocal", [g.op("Sqrt", [g.op("Add", [square, epsilon])])]);
  name(g, inv, inverse);
  g.op("Mul", [g.op("Mul", [x, inv]), scale], {}, { output: node.outputs[0]! });
}
