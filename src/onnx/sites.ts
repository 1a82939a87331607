// Sites: the places of a model that can be adapted, each with the path that PyTorch gave its module: Linear (Gemm or
// MatMul), Conv1d to 3d and Embedding (Gather), where their weight is a constant.
import { consumers } from "./graph.ts";
import { floatAttribute, intAttribute, type Model, type Node } from "./model.ts";
import { modulePath, weightPath } from "./module-path.ts";
import { type Constants, constantsOf } from "./sites/constants.ts";

/** PyTorch's name of a layer that can be adapted. */
export type SiteKind = "Linear" | "Conv1d" | "Conv2d" | "Conv3d" | "Embedding";

/** A layer y = x W^T (+ bias), a convolution with W, or the rows of W by index, in PyTorch's terms. */
export interface Site {
  readonly kind: SiteKind;
  /** What PyTorch called the module: `encoder.layer.0.attention.query`. */
  readonly modulePath: string;
  /** The Gemm, MatMul, Conv or Gather. */
  readonly node: Node;
  /** The value that holds W: an initializer, or what is computed from initializers alone. */
  readonly weight: string;
  /** Which input of the node W is. */
  readonly weightInput: number;
  /** The paths of other sites that read the same stored weight (tied embeddings, layers called twice). */
  readonly sharedWith: readonly string[];
  /** The value that holds the bias, where the node (or an Add behind it) has one. */
  readonly bias: string | undefined;
  /** Features or channels that come in; an Embedding's vocabulary. */
  readonly inFeatures: number;
  /** Features or channels that go out; an Embedding's width. */
  readonly outFeatures: number;
  /** How W is stored: "out,in" (a Conv: [out, in / groups, ...kernel]) as PyTorch does, or "in,out". */
  readonly layout: "out,in" | "in,out";
  /** A Conv's kernel sizes; empty for other layers. */
  readonly kernel: readonly number[];
  /** A Conv's groups; 1 for other layers. */
  readonly groups: number;
}

/**
 * Every place of a model that can be adapted, in graph order.
 *
 * @example for (const site of sites(model)) console.log(site.kind, site.modulePath, site.inFeatures, site.outFeatures);
 */
export function sites(model: Model): Site[] {
  const { graph } = model;
  const constants = constantsOf(graph);
  const readers = consumers(graph);
  const modules = new Set<string>();
  for (const name of graph.initializers.keys()) modules.add(name.replace(/\.(weight|bias)$/, ""));
  const counts = new Map<string, number>();
  const found = graph.nodes.flatMap((node): Omit<Site, "sharedWith">[] => {
    const count = counts.get(node.op) ?? 0;
    counts.set(node.op, count + 1);
    const layer = node.domain === "" ? layers[node.op]?.(node, constants) : undefined;
    if (layer === undefined) return [];
    const { weight, outFeatures } = layer;
    const stored = constants.uncast(weight);
    const path =
      modulePath(node, stored, (name) => modules.has(name)) ??
      weightPath(constants.source(weight)) ??
      fallbackPath(node, stored, count);
    return [{ ...layer, modulePath: path, node, bias: biasOf(constants, readers, node, outFeatures) }];
  });
  const bySource = new Map<string, (typeof found)[number][]>();
  for (const site of found) {
    const source = constants.source(site.weight);
    bySource.set(source, [...(bySource.get(source) ?? []), site]);
  }
  return found.map((site) => {
    const others = bySource.get(constants.source(site.weight))!.filter((other) => other !== site);
    return { ...site, sharedWith: others.map((other) => other.modulePath) };
  });
}

type Layer = Omit<Site, "modulePath" | "node" | "bias" | "sharedWith">;

/** By operator: the layer that a node is, or undefined when it is none. */
const layers: Readonly<Record<string, (node: Node, constants: Constants) => Layer | undefined>> = {
  Gemm: linear,
  MatMul: linear,
  Conv: convolution,
  Gather: embedding,
};

/** The sizes of a node's constant weight; undefined when it is none, or what it is applied to is constant as well. */
function weightDims(node: Node, input: number, applied: number, constants: Constants): readonly number[] | undefined {
  // A constant times a constant is no layer; it only computes another weight.
  if (node.inputs[applied] === undefined || constants.info(node.inputs[applied]) !== undefined) return undefined;
  const dims = constants.info(node.inputs[input])?.shape;
  return dims?.every((dim) => typeof dim === "number") ? dims : undefined;
}

function linear(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 1, 0, constants);
  if (dims?.length !== 2 || intAttribute(node, "transA", 0) !== 0) return undefined;
  if (floatAttribute(node, "alpha", 1) !== 1) return undefined;
  const [rows, columns] = dims as [number, number];
  const rest = { kind: "Linear", weight: node.inputs[1]!, weightInput: 1, kernel: [], groups: 1 } as const;
  return node.op === "Gemm" && intAttribute(node, "transB", 0) !== 0
    ? { ...rest, inFeatures: columns, outFeatures: rows, layout: "out,in" }
    : { ...rest, inFeatures: rows, outFeatures: columns, layout: "in,out" };
}

const convolutions: Readonly<Record<number, SiteKind>> = { 3: "Conv1d", 4: "Conv2d", 5: "Conv3d" };

function convolution(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 1, 0, constants);
  const kind = dims && convolutions[dims.length];
  if (dims === undefined || kind === undefined) return undefined;
  const [outFeatures, perGroup, ...kernel] = dims as [number, number, ...number[]];
  const groups = intAttribute(node, "group", 1);
  const weight = node.inputs[1]!;
  return { kind, weight, weightInput: 1, inFeatures: perGroup * groups, outFeatures, layout: "out,in", kernel, groups };
}

function embedding(node: Node, constants: Constants): Layer | undefined {
  const dims = weightDims(node, 0, 1, constants);
  if (dims?.length !== 2 || intAttribute(node, "axis", 0) !== 0) return undefined;
  // Tables of integers are no weights.
  if (constants.info(node.inputs[0])?.type?.includes("float") !== true) return undefined;
  const [inFeatures, outFeatures] = dims as [number, number];
  const weight = node.inputs[0]!;
  return {
    kind: "Embedding",
    weight,
    weightInput: 0,
    inFeatures,
    outFeatures,
    layout: "in,out",
    kernel: [],
    groups: 1,
  };
}

function biasOf(
  constants: Constants,
  readers: ReadonlyMap<string, readonly Node[]>,
  node: Node,
  outFeatures: number,
): string | undefined {
  const isBias = (name: string | undefined): name is string => {
    const dims = constants.info(name)?.shape;
    return dims?.length === 1 && dims[0] === outFeatures;
  };
  if (node.op !== "MatMul") return isBias(node.inputs[2]) ? node.inputs[2] : undefined;
  const [next, ...others] = readers.get(node.outputs[0]!) ?? [];
  return others.length === 0 && next?.op === "Add" && next.domain === "" ? next.inputs.find(isBias) : undefined;
}

/** `count` is the number of nodes of that operator before this one: it stays when other operators are rewritten. */
function fallbackPath(node: Node, weight: string, count: number): string {
  // Exporters' made-up names (`onnx::MatMul_12`) say nothing about the module.
  if (!weight.includes("::") && weight !== "") return weight;
  return node.name !== "" ? node.name.replace(/^\//, "").replaceAll("/", ".") : `${node.op}_${count}`;
}
