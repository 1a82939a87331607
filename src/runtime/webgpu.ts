// What ONNX Runtime's WebGPU provider claims and then cannot do, or does wrong: such nodes are kept on the CPU beside it. It
// says so only when it runs, if at all, so each row was found by holding all rules against differences and PyTorch on it
// (docs/devices.md says how).
import { type Attribute, type Graph, intAttribute, type Model, type Node, stringAttribute } from "../onnx/model.ts";
import type { Shape } from "../onnx/shape-row.ts";
import { type ShapeTracker, shapeTracker } from "../onnx/shapes.ts";

/** Whether a node must not run on WebGPU; `known` tells of its inputs. */
type Refusal = (node: Node, known: ShapeTracker) => boolean;

/** The dimensions of a convolution's weight, [out, in / group, ...kernel] ([in, out / group, ...kernel] of a ConvTranspose). */
const weightOf = ({ inputs }: Node, { infos }: ShapeTracker): Shape | undefined => infos.get(inputs[1] ?? "")?.shape;

/**
 * "Conv3D does not support grouped convolution". Without groups, input channels in threes (6, 9, 15, …) with output channels in
 * fours give wrong values; 3 by themselves are right.
 */
const isFaultyConv: Refusal = (node, known) => {
  const weight = weightOf(node, known);
  if (weight === undefined) return true;
  const [outputs, inputs] = weight;
  if (intAttribute(node, "group", 1) > 1) return weight.length > 4;
  if (typeof inputs === "number" && (inputs === 3 || inputs % 3 !== 0 || inputs % 4 === 0)) return false;
  return typeof outputs !== "number" || outputs % 4 === 0;
};

/**
 * "Only Conv2d or Conv1d are supported"; and groups of several channels (what a depthwise Conv with a multiplier goes back
 * through) give wrong values.
 */
const isFaultyConvTranspose: Refusal = (node, known) => {
  const weight = weightOf(node, known);
  const groups = intAttribute(node, "group", 1);
  return weight === undefined || weight.length > 4 || (groups > 1 && weight[0] !== groups);
};

/** Its kernels want a scale of as many values as are normalized together; ONNX lets it broadcast. */
const broadcastsScale: Refusal = ({ attributes, inputs }, { infos }) => {
  const axis = attributes.get("axis");
  const [x, scale] = [infos.get(inputs[0] ?? "")?.shape, infos.get(inputs[1] ?? "")?.shape];
  const from = axis?.kind === "int" ? Number(axis.value) : -1;
  const normalized = from < 0 ? -from : x === undefined ? undefined : x.length - from;
  return normalized !== undefined && scale !== undefined && scale.length !== normalized;
};

const always: Refusal = () => true;

/** For ONNX Runtime 1.30, in the order of ONNX's own list of operators. */
const refusals: ReadonlyMap<string, Refusal> = new Map<string, Refusal>([
  ["Conv", isFaultyConv],
  ["ConvTranspose", isFaultyConvTranspose],
  // WGSL promises sine and cosine to 2^-11 and between -pi and pi only; rotary embeddings go far beyond.
  ["Cos", always],
  ["Sin", always],
  // An ellipsis in some of the operands ends in "raw_hash_map::at".
  ["Einsum", (node) => stringAttribute(node, "equation", "").includes("...")],
  ["LayerNormalization", broadcastsScale],
  ["RMSNormalization", broadcastsScale],
  // "The Indices output is not supported yet"; gradients of pooling need it.
  ["MaxPool", ({ outputs }) => (outputs[1] ?? "") !== ""],
  // "The antialias attribute of Resize operator is NOT implemented"
  ["Resize", (node) => intAttribute(node, "antialias", 0) !== 0],
  // Backwards past the beginning it gives the wrong elements.
  [
    "Slice",
    ({ inputs }, known) => (inputs[4] ?? "") !== "" && !(known.integers(inputs[4]!) ?? [-1]).every((by) => by > 0),
  ],
]);

/** A model whose nodes that WebGPU is not to run have names, and those names. */
export interface SharedWork {
  readonly model: Model;
  readonly onCpu: readonly string[];
}

/**
 * The nodes that are to stay on the CPU when `model` runs on WebGPU.
 *
 * @example keptOnCpu(model).onCpu; // ["/rotary/Cos", "/rotary/Sin"]
 */
export function keptOnCpu(model: Model): SharedWork {
  const onCpu: string[] = [];
  const graph = marked(model.graph, onCpu);
  return { model: onCpu.length === 0 ? model : { ...model, graph }, onCpu };
}

/** The provider finds nodes by name: those without one get it. Graphs inside nodes are gone through as well. */
function marked(graph: Graph, onCpu: string[]): Graph {
  let tracker: ShapeTracker | undefined;
  const nodes = graph.nodes.map((given): Node => {
    const node = withInner(given, onCpu);
    const refusal = node.domain === "" ? refusals.get(node.op) : undefined;
    if (refusal === undefined) return node;
    tracker ??= shapeTracker(graph);
    if (refusal(node, tracker) === false) return node;
    const name = node.name === "" ? `on_cpu/${node.op}_${onCpu.length}` : node.name;
    onCpu.push(name);
    return { ...node, name };
  });
  return { ...graph, nodes };
}

function withInner(node: Node, onCpu: string[]): Node {
  const changes = [...node.attributes].flatMap(([name, attribute]): [string, Attribute][] => {
    if (attribute.kind === "graph") return [[name, { kind: "graph", value: marked(attribute.value, onCpu) }]];
    if (attribute.kind !== "graphs") return [];
    return [[name, { kind: "graphs", value: attribute.value.map((inner) => marked(inner, onCpu)) }]];
  });
  return changes.length === 0 ? node : { ...node, attributes: new Map([...node.attributes, ...changes]) };
}
