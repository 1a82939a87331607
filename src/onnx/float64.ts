// A graph computed in float64 instead of float32: for comparing gradients with differences, where float32 would leave a few
// digits only. Inputs, weights, constants and casts are changed; other element types stay.
import { type Tensor, tensor } from "../tensor.ts";
import { elementCode } from "./elements.ts";
import { constantValue } from "./graph.ts";
import { type Attribute, fromTensor, type Graph, type Node, type StoredTensor, toTensor } from "./model.ts";

/** The same graph in float64. */
export function inFloat64(graph: Graph): Graph {
  return {
    ...graph,
    inputs: graph.inputs.map((info) => (info.type === "float32" ? { ...info, type: "float64" } : info)),
    outputs: graph.outputs.map((info) => (info.type === "float32" ? { ...info, type: "float64" } : info)),
    values: [],
    initializers: new Map([...graph.initializers].map(([name, stored]) => [name, widenStored(stored)])),
    nodes: graph.nodes.map(widenNode),
  };
}

/** float32 values as float64; other tensors as they are. */
export function widened(value: Tensor): Tensor {
  return value.type === "float32" ? tensor("float64", value.dims, Float64Array.from(value.data)) : value;
}

/** float64 values rounded to float32; other tensors as they are. */
export function narrowed(value: Tensor): Tensor {
  return value.type === "float64" ? tensor("float32", value.dims, Float32Array.from(value.data)) : value;
}

function widenStored(stored: StoredTensor): StoredTensor {
  return stored.type === "float32" ? fromTensor(widened(toTensor(stored))) : stored;
}

function widenNode(node: Node): Node {
  const { attributes } = node;
  const to = attributes.get("to");
  if (node.op === "Cast" && to?.kind === "int" && to.value === BigInt(elementCode("float32"))) {
    const wide: Attribute = { kind: "int", value: BigInt(elementCode("float64")) };
    return { ...node, attributes: new Map([...attributes, ["to", wide]]) };
  }
  if (node.op === "ConstantOfShape" && node.domain === "") {
    const value = attributes.get("value");
    const fill = value?.kind === "tensor" ? value.value : fromTensor(tensor("float32", [1], new Float32Array(1)));
    return { ...node, attributes: new Map([["value", { kind: "tensor", value: widenStored(fill) }]]) };
  }
  const constant = constantValue(node);
  return constant === undefined
    ? node
    : { ...node, attributes: new Map([["value", { kind: "tensor", value: widenStored(constant) }]]) };
}
