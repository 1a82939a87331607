// Shape inference: element type and dimensions of every value, as far as they are known without running the graph.
// A row for each operator (shape-rows/); a symbol ("batch") stands for an unknown size, and equal symbols are equal sizes.
// An operator without a row leaves its outputs unknown: nothing may depend on them.
import { constantValue } from "./graph.ts";
import { type Dim, type Graph, type Node, type StoredTensor, toTensor } from "./model.ts";
import { type Known, type Shape, type ShapeRow, type ShapeRows, type TensorInfo, unknown } from "./shape-row.ts";
import { attentionRows } from "./shape-rows/attention.ts";
import { basicRows } from "./shape-rows/basic.ts";
import { contribRows, quantizedRows } from "./shape-rows/contrib.ts";
import { convRows } from "./shape-rows/conv.ts";
import { einsumRows } from "./shape-rows/einsum.ts";
import { indexRows } from "./shape-rows/index.ts";
import { normRows } from "./shape-rows/norm.ts";
import { recurrentRows } from "./shape-rows/recurrent.ts";
import { holdsIntegers, sizesOf, unknownSizes } from "./sizes.ts";

const rows: ShapeRows = {
  ...basicRows,
  ...normRows,
  ...quantizedRows,
  ...convRows,
  ...einsumRows,
  ...indexRows,
  ...recurrentRows,
  ...attentionRows,
};

/** Whether the shapes of an operator's outputs can be inferred. */
export function hasShapeRow(domain: string, op: string): boolean {
  return rowFor({ domain, op }) !== undefined;
}

function rowFor({ domain, op }: Pick<Node, "domain" | "op">): ShapeRow | undefined {
  const ofDomain = domain === "" ? rows : domain === "com.microsoft" ? contribRows : {};
  return Object.hasOwn(ofDomain, op) ? ofDomain[op] : undefined;
}

/** Types and shapes by value name; what the file itself states for a value fills in where inference does not know. */
export function inferShapes(graph: Graph): ReadonlyMap<string, TensorInfo> {
  return shapeTracker(graph).infos;
}

/** Shapes that grow with a graph: `add` infers one more node's outputs. */
export interface ShapeTracker {
  readonly infos: ReadonlyMap<string, TensorInfo>;
  /** The integers that a scalar or vector holds, where all are known. */
  integers(name: string): number[] | undefined;
  add(node: Node): void;
  addInput(name: string, info: TensorInfo): void;
  addConstant(name: string, stored: StoredTensor): void;
}

/**
 * Infers all of `graph`, and then whatever is added. With `mint` a size that nothing is known of gets a symbol of its own,
 * so that values which are computed from one another one by one are known to be of equal sizes.
 */
export function shapeTracker(graph: Graph, { mint = false }: { mint?: boolean } = {}): ShapeTracker {
  const infos = new Map<string, TensorInfo>();
  const sizes = new Map<string, Shape>();
  const stated = new Map([...graph.values, ...graph.outputs].map((info) => [info.name, info]));
  const addConstant = (name: string, stored: StoredTensor): void => {
    const info = { type: stored.type, shape: stored.dims };
    infos.set(name, info);
    if (holdsIntegers(info)) sizes.set(name, integerValues(stored));
  };
  const known: Known = {
    sizes: (name = "") => sizes.get(name) ?? unknownSizes(infos.get(name)),
    integers: (name) => {
      const values = sizes.get(name ?? "");
      return values?.every((value) => typeof value === "number") ? (values as number[]) : undefined;
    },
  };
  const setInfo = (name: string, info: TensorInfo): void => {
    const possible =
      info.shape === undefined || info.shape.length > highestRank ? undefined : info.shape.map(possibleDim);
    // Named after its value: the same size wherever the symbol turns up again.
    const shape = mint ? possible?.map((dim, axis) => dim ?? `${name}[${axis}]`) : possible;
    infos.set(name, { type: info.type, shape });
  };
  const add = (node: Node): void => {
    const constant = constantValue(node);
    if (constant !== undefined) {
      addConstant(node.outputs[0]!, constant);
      return;
    }
    const inputs = node.inputs.map((name) => infos.get(name) ?? unknown);
    const row = rowFor(node);
    const results = row?.(node, inputs, known) ?? [];
    node.outputs.forEach((output, index) => {
      if (output !== "") setInfo(output, refine(results[index] ?? unknown, stated.get(output)));
    });
    const held = sizesOf(node, inputs, infos.get(node.outputs[0] ?? "") ?? unknown, known);
    if (held !== undefined) sizes.set(node.outputs[0]!, held);
  };
  for (const info of graph.inputs) setInfo(info.name, info);
  for (const [name, stored] of graph.initializers) addConstant(name, stored);
  for (const node of graph.nodes) add(node);
  return { infos, integers: known.integers, add, addConstant, addInput: setInfo };
}

/** Shapes that grow along a chain of nodes would take the square of its length. PyTorch and NumPy have 64 axes at most. */
const highestRank = 64;
const longestSymbol = 1024;

/** A size, or null for what none can be: damaged attributes (a stride of 0, pads below 0) give such. */
function possibleDim(dim: Dim): Dim {
  if (typeof dim === "string") return dim.length > longestSymbol ? null : dim;
  return dim !== null && Number.isSafeInteger(dim) && dim >= 0 ? dim : null;
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
