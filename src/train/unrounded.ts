// A graph whose activations are quantized, without the rounding: what differences can be taken of. Gradients go straight
// through the rounding (Bengio, Léonard & Courville 2013, arXiv:1308.3432), so that they belong to this function, not to the
// steps that the graph itself has; clipping stays. A backward pass in the graph is kept, and then works on unrounded values.
import { type GraphBuilder, graphBuilder, makeNode, type Value } from "../onnx/builder.ts";
import type { Model, Node } from "../onnx/model.ts";

/** By element type: the numbers that it holds. */
const ranges: Readonly<Record<string, readonly [from: number, to: number]>> = {
  uint8: [0, 255],
  int8: [-128, 127],
  uint16: [0, 65535],
  int16: [-32768, 32767],
};

/** Operators that move quantized numbers about, and may move floats as well. */
const moves = new Set("Identity Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather".split(" "));

/** Operators that ask for the sizes of quantized numbers, which floats have too. */
const sizes = new Set(["Shape", "Size"]);

/** com.microsoft.MatMulNBits: the accuracy level of products in float32; higher levels round the activations. */
const float32Level = 1n;

/**
 * The model with activations left as they are where it quantizes them, by one scale (QuantizeLinear), dynamically
 * (com.microsoft.DynamicQuantizeMatMul) or inside a product (com.microsoft.MatMulNBits); the same model when it does not, or
 * when integers are multiplied with in another way.
 */
export function withoutRounding(model: Model): Model {
  const { graph } = model;
  const whole = graphBuilder({ opset: model.opsets.get("") ?? 0, from: graph });
  const g = graphBuilder({
    opset: whole.opset,
    from: { ...graph, nodes: [] },
    reserved: graph.nodes.flatMap(({ outputs }) => outputs),
    scope: "unrounded/",
  });
  const floats = new Set<Value>(); // integers of the model that are floats here
  let changed = false;
  for (const node of graph.nodes) {
    const [input = ""] = node.inputs;
    if (isDynamic(node)) multiply(g, node);
    else if (roundsInside(node)) {
      const attributes = new Map([
        ...node.attributes,
        ["accuracy_level", { kind: "int", value: float32Level }] as const,
      ]);
      g.node({ ...node, attributes });
    } else if (isQuantizer(whole, node)) {
      clip(g, node, whole.info(node.outputs[0]!).type!);
      floats.add(node.outputs[0]!);
    } else if (node.op === "DequantizeLinear" && floats.has(input)) rescale(g, node);
    else {
      g.node(node);
      if (sizes.has(node.op) || !node.inputs.some((name) => floats.has(name))) continue;
      if (!moves.has(node.op)) return model;
      for (const output of node.outputs) floats.add(output);
    }
    changed = true;
  }
  return changed ? { ...model, graph: { ...g.build(), outputs: graph.outputs } } : model;
}

function isDynamic(node: Node): boolean {
  return node.op === "DynamicQuantizeMatMul" && node.domain === "com.microsoft";
}

function roundsInside({ op, domain, attributes }: Node): boolean {
  const level = attributes.get("accuracy_level");
  return op === "MatMulNBits" && domain === "com.microsoft" && level?.kind === "int" && level.value > float32Level;
}

/** Whether a node quantizes what is no constant, by one scale, to a type whose range is known. */
function isQuantizer(g: GraphBuilder, { op, inputs, outputs }: Node): boolean {
  if (op !== "QuantizeLinear") return false;
  const scale = g.info(inputs[1] ?? "").shape;
  const isOne = scale?.every((size) => size === 1) === true;
  return isOne && Object.hasOwn(ranges, g.info(outputs[0]!).type ?? "");
}

/** x W, W = (w - z) s of w [in, out], one s and z or one for each column; a bias if there is one. */
function multiply(g: GraphBuilder, node: Node): void {
  const [x, weight, scale, zero, bias] = node.inputs as [Value, Value, Value, Value?, Value?];
  // Not DequantizeLinear: the runtime would join it with the product, and round x again (MatMulNBits, accuracy level 4).
  const [w, z] = [weight, zero].map((value) => value && g.op("Cast", [value], { to: 1 }));
  const floats = g.op("Mul", [z ? g.op("Sub", [w!, z]) : w!, scale]);
  end(g, node, bias ? "Add" : "MatMul", bias ? [g.op("MatMul", [x, floats]), bias] : [x, floats]);
}

/** x / s + z, no less and no more than the type holds. */
function clip(g: GraphBuilder, node: Node, type: string): void {
  const [x, scale, zero] = node.inputs as [Value, Value, Value?];
  const scaled = g.op("Div", [x, scale]);
  const shifted = zero ? g.op("Add", [scaled, g.op("Cast", [zero], { to: 1 })]) : scaled;
  const [from, to] = ranges[type]!;
  end(g, node, "Clip", [shifted, g.constant("float32", from), g.constant("float32", to)]);
}

/** (q - z) s */
function rescale(g: GraphBuilder, node: Node): void {
  const [q, scale, zero] = node.inputs as [Value, Value, Value?];
  end(g, node, "Mul", [zero ? g.op("Sub", [q, g.op("Cast", [zero], { to: 1 })]) : q, scale]);
}

function end(g: GraphBuilder, node: Node, op: string, inputs: readonly Value[]): void {
  g.node(makeNode({ op, name: node.name, inputs, outputs: node.outputs }));
}
