// Sites: the places of a model that can be adapted, each with the path that PyTorch gave its module: Linear (Gemm, MatMul
// and quantized products), Conv1d to 3d and Embedding (Gather), where their weight is a constant, and the rows of a packed
// projection that are queries, keys and values. A module that is called several times is one site.
import { dynamicProducts } from "./dynamic-product.ts";
import { consumers } from "./graph.ts";
import type { Model, Node } from "./model.ts";
import { biasPath, modulePath, saysFoldedNorm, weightPath, withoutQuantization } from "./module-path.ts";
import { type FoundSite, joinCalls } from "./sites/calls.ts";
import { type Constants, constantsOf } from "./sites/constants.ts";
import { layerAt } from "./sites/layers.ts";
import { partsOf } from "./sites/packed.ts";

/** PyTorch's name of a layer that can be adapted. */
export type SiteKind = "Linear" | "Conv1d" | "Conv2d" | "Conv3d" | "Embedding";

/** A layer y = x W^T (+ bias), a convolution with W, or the rows of W by index, in PyTorch's terms. */
export interface Site extends Call {
  readonly kind: SiteKind;
  /** What PyTorch called the module: `encoder.layer.0.attention.query`. */
  readonly modulePath: string;
  /** Which input of the node W is. */
  readonly weightInput: number;
  /** The paths of all sites that read the same stored weight, this one among them; empty where no other does. */
  readonly sharedWith: readonly string[];
  /** The value that holds the bias, where the node (or an Add behind it) has one. */
  readonly bias: string | undefined;
  /** Features or channels that come in; an Embedding's vocabulary. */
  readonly inFeatures: number;
  /** Features or channels that go out; an Embedding's width. */
  readonly outFeatures: number;
  /** y = factor x W^T: a Gemm's alpha; else 1. */
  readonly factor: number;
  /** A Conv's kernel sizes; empty for other layers. */
  readonly kernel: readonly number[];
  /** A Conv's groups; 1 for other layers. */
  readonly groups: number;
  /** How W is stored when that is not in floats; undefined when it is. */
  readonly quantized: QuantizedWeight | undefined;
  /** A BatchNorm was folded into W: an adapter of the layer as it was before lacks the BatchNorm's factor. */
  readonly foldedNorm: boolean;
  /** The rows of a packed projection that the site is; undefined for a whole layer. */
  readonly part: Part | undefined;
  /** The product is inside com.microsoft.Attention, where nothing can be added to it: an update is added to W. */
  readonly fused: boolean;
  /** Every use of the module in graph order; the first is the one that the site itself tells of. */
  readonly calls: readonly Call[];
}

/** One use of a module. */
export interface Call {
  /** The Gemm, MatMul, Conv or Gather; MatMulNBits, or the node that multiplies integers. */
  readonly node: Node;
  /** The value that holds W: an initializer, or what is computed from initializers alone. */
  readonly weight: string;
  /** How W is stored: "out,in" (a Conv: [out, in / groups, ...kernel]) as PyTorch does, or "in,out". */
  readonly layout: "out,in" | "in,out";
  /** What the layer is applied to: x, or an Embedding's indices. */
  readonly input: string;
  /** The layer's result, to which its update is added; a bias behind the node comes later. */
  readonly output: string;
}

/** W in 4 or 8 bits: in blocks (MatMulNBits), or whole beside dynamically quantized activations. */
export interface QuantizedWeight {
  readonly form: "blocks" | "dynamic";
  /** The values that hold its scales and zero points; "" where there are none. */
  readonly scale: string;
  readonly zero: string;
}

/** Rows [from, from + outFeatures) of the W of another site. */
export interface Part {
  /** The packed layer's module path. */
  readonly of: string;
  readonly from: number;
  /** Rows of the whole W. */
  readonly total: number;
}

/**
 * Every place of a model that can be adapted, in graph order, the parts of a packed projection after it. Parts are called
 * q_proj, k_proj and v_proj, beside the projection: those of `h.0.attn.c_attn` are `h.0.attn.q_proj` and so on; those of a
 * layer that is no projection by its name, or stands alone, are below it (`self_attn.q_proj`).
 *
 * @example for (const site of sites(model)) console.log(site.kind, site.modulePath, site.inFeatures, site.outFeatures);
 */
export function sites(model: Model): Site[] {
  const { graph } = model;
  const constants = constantsOf(graph);
  const readers = consumers(graph);
  const productAt = dynamicProducts(graph);
  const modules = new Set<string>();
  for (const name of graph.initializers.keys())
    modules.add(withoutQuantization(name).replace(/\.(weight|bias|qweight)$/, ""));
  const counts = new Map<string, number>();
  const found = graph.nodes.flatMap((node): FoundSite[] => {
    const count = counts.get(node.op) ?? 0;
    counts.set(node.op, count + 1);
    const layer = layerAt(node, constants, productAt);
    if (layer === undefined) return [];
    const { ownBias, ...rest } = layer;
    const { outFeatures } = layer;
    const stored = constants.uncast(layer.weight);
    const behind = layer.kind === "Linear" ? addedBias(constants, readers, layer.output, outFeatures) : undefined;
    const bias = isBias(constants, ownBias, outFeatures) ? ownBias : behind?.bias;
    const isShared = (readers.get(bias ?? "")?.length ?? 0) > 1;
    const path =
      modulePath(node, stored, (name) => modules.has(name), isShared ? undefined : bias) ??
      weightPath(constants.source(layer.weight)) ??
      biasPath(behind?.node, bias, isShared) ??
      fallbackPath(node, stored, count);
    return [{ ...rest, modulePath: path, node, bias, foldedNorm: saysFoldedNorm(node, stored) }];
  });
  const joined = joinCalls(graph, found, constants);
  const taken = new Set(joined.map((site) => site.modulePath));
  return joined.flatMap((site) => {
    const parts = partsOf(site, constants, readers, taken);
    for (const part of parts) taken.add(part.modulePath);
    return [site, ...parts];
  });
}

/** The Add behind a value that nothing else reads, when it adds one number to each column. */
function addedBias(
  constants: Constants,
  readers: ReadonlyMap<string, readonly Node[]>,
  output: string,
  outFeatures: number,
): { readonly node: Node; readonly bias: string } | undefined {
  const [node, ...others] = readers.get(output) ?? [];
  if (node === undefined || others.length > 0 || node.op !== "Add" || node.domain !== "") return undefined;
  const bias = node.inputs.find((name) => isBias(constants, name, outFeatures));
  return bias === undefined ? undefined : { node, bias };
}

function isBias(constants: Constants, name: string | undefined, outFeatures: number): boolean {
  const dims = constants.info(name)?.shape;
  return dims?.length === 1 && dims[0] === outFeatures;
}

/** `count` is the number of nodes of that operator before this one: it stays when other operators are rewritten. */
function fallbackPath(node: Node, weight: string, count: number): string {
  // Exporters' made-up names (`onnx::MatMul_12`) say nothing about the module.
  if (!weight.includes("::") && weight !== "") return withoutQuantization(weight);
  return node.name !== "" ? node.name.replace(/^\//, "").replaceAll("/", ".") : `${node.op}_${count}`;
}
