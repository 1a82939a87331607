// Quantized weights, dequantized when they are used. The runtime computes what depends on constants alone at the very start
// of a run, so that all weights of a quantized model would stand in float32 at once, and a backward pass would keep them. So
// each use gets a DequantizeLinear of its own, whose scale is made to depend on what the weight is used with: 12 layers of
// 2048 x 2048 in 8 bits take 34 MiB in a forward and backward run instead of 425 (onnxruntime 1.30, 192 MiB in float32).
// Weights of 16 bits are widened likewise, each use with a Cast of its own.
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import { graphBuilder } from "../onnx/builder.ts";
import { isHalf } from "../onnx/float32.ts";
import { producers } from "../onnx/graph.ts";
import type { Model, Node } from "../onnx/model.ts";

/** `scale` unchanged, but not before `after` is there: that decides between the scale and itself. */
export function scaleAfter(g: GraphBuilder, scale: Value, after: Value): Value {
  const decided = g.op("IsNaN", [g.op("ReduceMax", [after], { keepdims: 0 })]);
  return g.op("Where", [decided, scale, scale]);
}

/** A second DequantizeLinear or Cast like `node`, run when `after` is there. */
export function dequantizedAfter(g: GraphBuilder, node: Node, after: Value): Value {
  if (node.op === "Cast") return castAfter(g, node, after);
  const [weight, scale, ...zero] = node.inputs as [Value, Value, ...Value[]];
  const output = g.freshName(`${node.outputs[0]}_late`);
  const inputs = [weight, scaleAfter(g, scale, after), ...zero];
  g.node({ ...node, name: g.freshName(`${node.name || "DequantizeLinear"}_late`), inputs, outputs: [output] });
  return output;
}

/** The stored weight is reshaped to the shape that it has (which copies nothing), once that has waited for `after`. */
function castAfter(g: GraphBuilder, node: Node, after: Value): Value {
  const [weight] = node.inputs as [Value];
  const sizes = g.constant("int64", g.info(weight).shape as readonly number[]);
  const decided = g.op("IsNaN", [g.op("ReduceMax", [after], { keepdims: 0 })]);
  const waited = g.op("Reshape", [weight, g.op("Where", [decided, sizes, sizes])]);
  const output = g.freshName(`${node.outputs[0]}_late`);
  g.node({ ...node, name: g.freshName(`${node.name || "Cast"}_late`), inputs: [waited], outputs: [output] });
  return output;
}

/** The nodes that dequantize stored weights, or widen those of 16 bits, by their output; each reads the stored value itself. */
export function storedQuantized(g: GraphBuilder): ReadonlyMap<Value, Node> {
  const graph = g.build();
  const made = producers(graph);
  const found = new Map<Value, Node>();
  for (const node of graph.nodes) {
    const [input = "", scale = ""] = node.inputs;
    if (node.op === "DequantizeLinear" && graph.initializers.has(input) && g.info(scale).type === "float32") {
      found.set(node.outputs[0]!, node);
    }
    if (node.op !== "Cast" || g.info(node.outputs[0]!).type !== "float32") continue;
    // Late already: behind a Reshape.
    const waited = made.get(input);
    const weight = waited?.op === "Reshape" ? waited.inputs[0]! : input;
    if (graph.initializers.has(weight) && isHalf(g.info(weight).type)) {
      found.set(node.outputs[0]!, { ...node, inputs: [weight] });
    }
  }
  return found;
}

/** The model with each stored quantized weight of a product dequantized when the product's first factor is there. */
export function withLateWeights(model: Model): Model {
  const { graph } = model;
  const made = producers(graph);
  if (!graph.nodes.some(({ op }) => op === "DequantizeLinear" || op === "Cast")) return model;
  const whole = graphBuilder({ opset: model.opsets.get("") ?? 0, from: graph, reserved: [] });
  const quantized = storedQuantized(whole);
  const g = graphBuilder({ opset: whole.opset, from: { ...graph, nodes: [] }, reserved: made.keys(), scope: "late/" });
  for (const node of graph.nodes) {
    const weight = products.has(node.op) ? quantized.get(node.inputs[1] ?? "") : undefined;
    const input = node.inputs[0] ?? "";
    const isComputed = made.has(input) || graph.inputs.some(({ name }) => name === input);
    if (weight === undefined || !isComputed || quantized.has(input)) g.node(node);
    else {
      const late = dequantizedAfter(g, weight, input);
      g.node({ ...node, inputs: node.inputs.map((name, index) => (index === 1 ? late : name)) });
    }
  }
  return { ...model, graph: g.build() };
}

const products: ReadonlySet<string> = new Set(["MatMul", "Gemm", "Conv"]);
