// Shape inference: element type and dimensions of every value, as far as they are known without running the graph.
// A row for each operator (shape-rows/); a symbol ("batch") stands for an unknown size, and equal symbols are equal sizes.
// An operator without a row leaves its outputs unknown: nothing may depend on them.
import { constantValue } from "./graph.ts";
import { type Graph, type Node, type StoredTensor, toTensor } from "./model.ts";
import { type Known, type Shape, type ShapeRows, statedAxes, type TensorInfo, unknown } from "./shape-row.ts";
import { basicRows } from "./shape-rows/basic.ts";

const rows: ShapeRows = { ...basicRows };

/** Types and shapes by value name; what the file itself states for a value fills in where inference does not know. */
export function inferShapes(graph: Graph): ReadonlyMap<string, TensorInfo> {
  return shapeTracker(graph).infos;
}

/** Shapes that grow with a graph: `add` infers one more node's outputs. */
export interface ShapeTracker {
  readonly infos: ReadonlyMap<string, TensorInfo>;
  add(node: Node): void;
  addInput(name: string, info: TensorInfo): void;
  addConstant(name: string, stored: StoredTensor): void;
}

/** Infers all of `graph`, and then whatever is added. */
export function shapeTracker(graph: Graph): ShapeTracker {
  const infos = new Map<string, TensorInfo>();
  const sizes = new Map<string, Shape>();
  const stated = new Map([...graph.values, ...graph.outputs].map((info) => [info.name, info]));
  const addConstant = (name: string, stored: StoredTensor): void => {
    infos.set(name, { type: stored.type, shape: stored.dims });
    if (stored.type === "int64" && stored.dims.length <= 1) sizes.set(name, integerValues(stored));
  };
  const known: Known = {
    sizes: (name) => sizes.get(name ?? ""),
    integers: (name) => {
      const values = sizes.get(name ?? "");
      return values?.every((value) => typeof value === "number") ? (values as number[]) : undefined;
    },
  };
  const add = (node: Node): void => {
    const constant = constantValue(node);
    if (constant !== undefined) {
      addConstant(node.outputs[0]!, constant);
      return;
    }
    const inputs = node.inputs.map((name) => infos.get(name) ?? unknown);
    const row = node.domain === "" ? rows[node.op] : undefined;
    const results = row?.(node, inputs, known) ?? [];
    const ofShape = node.op === "Shape" ? inputs[0]?.shape : undefined;
    if (ofShape !== undefined) sizes.set(node.outputs[0]!, statedAxes(node, ofShape));
    node.outputs.forEach((output, index) => {
      if (output !== "") infos.set(output, refine(results[index] ?? unknown, stated.get(output)));
    });
  };
  for (const info of graph.inputs) infos.set(info.name, info);
  for (const [name, stored] of graph.initializers) addConstant(name, stored);
  for (const node of graph.nodes) add(node);
  return { infos, add, addConstant, addInput: (name, info) => infos.set(name, info) };
}

function refine(inferred: TensorInfo, stated: TensorInfo | undefined): TensorInfo {
  if (stated === undefined) return inferred;
  const { shape } = inferred;
  const other = stated.shape;
  // A stated shape of another rank is wrong (exporters leave such behind): what was computed counts.
  const merged =
    shape === undefined
      ? other
      : shape.map((dim, axis) => dim ?? (other?.length === shape.length ? other[axis]! : null));
  return { type: inferred.type ?? stated.type, shape: merged };
}

function integerValues(stored: StoredTensor): number[] {
  return Array.from(toTensor(stored).data as ArrayLike<number | bigint>, Number);
}
