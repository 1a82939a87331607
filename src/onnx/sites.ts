// Sites: the places of a model that can be adapted, each with the path that PyTorch gave its module. So far Linear
// layers: Gemm or MatMul whose second operand is a constant matrix.
import { consumers, producers, storedValue } from "./graph.ts";
import { floatAttribute, type Graph, intAttribute, type Model, type Node } from "./model.ts";
import { modulePath } from "./module-path.ts";

/** A layer y = x W^T (+ bias), in PyTorch's terms. */
export interface Site {
  readonly kind: "Linear";
  /** What PyTorch called the module: `encoder.layer.0.attention.query`. */
  readonly modulePath: string;
  /** The Gemm or MatMul. */
  readonly node: Node;
  /** The value that holds W: an initializer, or a Constant or Identity node's output. */
  readonly weight: string;
  /** The value that holds the bias, where the node (or an Add behind it) has one. */
  readonly bias: string | undefined;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** How W is stored: "out,in" as torch.nn.Linear does, or "in,out". */
  readonly layout: "out,in" | "in,out";
}

/**
 * Every place of a model that can be adapted, in graph order.
 *
 * @example for (const site of sites(model)) console.log(site.modulePath, site.inFeatures, site.outFeatures);
 */
export function sites(model: Model): Site[] {
  const { graph } = model;
  const made = producers(graph);
  const readers = consumers(graph);
  const modules = new Set<string>();
  for (const name of graph.initializers.keys()) modules.add(name.replace(/\.(weight|bias)$/, ""));
  return graph.nodes.flatMap((node, index) => {
    const matrix = linearWeight(graph, made, node);
    if (matrix === undefined) return [];
    const path = modulePath(node, matrix.weight, (name) => modules.has(name));
    return [
      {
        kind: "Linear" as const,
        modulePath: path ?? fallbackPath(node, matrix.weight, index),
        node,
        ...matrix,
        bias: biasOf(graph, made, readers, node, matrix.outFeatures),
      },
    ];
  });
}

type Matrix = Pick<Site, "weight" | "inFeatures" | "outFeatures" | "layout">;

function linearWeight(graph: Graph, made: ReadonlyMap<string, Node>, node: Node): Matrix | undefined {
  if (node.domain !== "" || (node.op !== "Gemm" && node.op !== "MatMul")) return undefined;
  const [x, weight] = node.inputs;
  if (x === undefined || weight === undefined || intAttribute(node, "transA", 0) !== 0) return undefined;
  if (floatAttribute(node, "alpha", 1) !== 1) return undefined;
  const stored = storedValue(graph, made, weight);
  // A constant times a constant is no layer; it only computes another weight.
  if (stored === undefined || storedValue(graph, made, x) !== undefined || stored.dims.length !== 2) return undefined;
  const [rows, columns] = stored.dims as [number, number];
  return node.op === "Gemm" && intAttribute(node, "transB", 0) !== 0
    ? { weight, inFeatures: columns, outFeatures: rows, layout: "out,in" }
    : { weight, inFeatures: rows, outFeatures: columns, layout: "in,out" };
}

function biasOf(
  graph: Graph,
  made: ReadonlyMap<string, Node>,
  readers: ReadonlyMap<string, readonly Node[]>,
  node: Node,
  outFeatures: number,
): string | undefined {
  const isBias = (name: string | undefined): name is string => {
    const dims = name === undefined ? undefined : storedValue(graph, made, name)?.dims;
    return dims?.length === 1 && dims[0] === outFeatures;
  };
  if (node.op === "Gemm") return isBias(node.inputs[2]) ? node.inputs[2] : undefined;
  const [next, ...others] = readers.get(node.outputs[0]!) ?? [];
  return others.length === 0 && next?.op === "Add" && next.domain === "" ? next.inputs.find(isBias) : undefined;
}

function fallbackPath(node: Node, weight: string, index: number): string {
  // Exporters' made-up names (`onnx::MatMul_12`) say nothing about the module.
  if (!weight.includes("::") && weight !== "") return weight;
  return node.name !== "" ? node.name.replace(/^\//, "").replaceAll("/", ".") : `${node.op}_${index}`;
}
