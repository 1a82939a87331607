// The table that torchsummary prints, for any ONNX model: one row for each operator, with its output's shape and its
// parameters. A batch (or any size that is not known) is -1, and one example is what memory is told for.
import { elementCount } from "../tensor.ts";
import { rawByteLength } from "./elements.ts";
import { behindIdentity, consumers, producers, storedValue } from "./graph.ts";
import type { Dim, Graph, Model, Node, StoredTensor } from "./model.ts";
import { inferShapes } from "./shapes.ts";
import { type Site, sites } from "./sites.ts";

export interface SummaryRow {
  /** "Linear-1": what the layer is, and its place in the model. */
  readonly name: string;
  /** PyTorch's name of the layer, where the file tells. */
  readonly modulePath: string | undefined;
  /** Sizes, -1 where it varies; undefined when not even the rank is known. */
  readonly outputShape: readonly number[] | undefined;
  readonly parameters: number;
  /** What LoRA of rank r would add here: r (in + out) for a Linear that can be adapted, with its kernel and groups for a Conv, else 0. */
  lora(r: number): number;
}

export interface ModelSummary {
  readonly rows: readonly SummaryRow[];
  /** Each weight once, however many operators read it. */
  readonly parameters: number;
  /** MiB of one example's inputs, of 2 x the activations (forward and backward), and of the weights, in float32 as torchsummary has it. */
  readonly inputMiB: number;
  readonly activationsMiB: number;
  readonly parametersMiB: number;
}

const mebibyte = 2 ** 20;

/**
 * The layers of a model with their shapes and parameters.
 *
 * @example for (const row of summary(model).rows) console.log(row.name, row.outputShape, row.parameters);
 */
export function summary(model: Model): ModelSummary {
  const { graph } = model;
  const shapes = inferShapes(graph);
  const layers = sites(model).filter(({ part }) => part === undefined);
  const linear = new Map(layers.flatMap((site) => site.calls.map(({ node }) => [node, site] as const)));
  const biases = addedBiases(
    graph,
    new Set([...linear.values()].flatMap(({ bias }) => (bias === undefined ? [] : [bias]))),
  );
  const made = producers(graph);
  const counted = new Set<string>();
  const rows: SummaryRow[] = [];
  let activations = 0;
  for (const node of graph.nodes) {
    // A bias that is added behind a product belongs to that layer's row, as in PyTorch.
    if (biases.has(node) || isConstant(node)) continue;
    const site = linear.get(node);
    const outputShape = shapes.get(node.outputs[0] ?? "")?.shape?.map(sizeOf);
    const weights = [...weightInputs(node), ...(site?.bias === undefined ? [] : [site.bias])];
    rows.push({
      name: `${site?.kind ?? displayName(node)}-${rows.length + 1}`,
      modulePath: site?.modulePath,
      outputShape,
      parameters: countParameters(graph, made, weights, counted),
      lora: (r) => (site === undefined ? 0 : loraParameters(site, r)),
    });
    activations += exampleCount(outputShape);
  }
  const parameters = rows.reduce((sum, row) => sum + row.parameters, 0);
  const inputs = graph.inputs.filter(({ name }) => !graph.initializers.has(name));
  const inputValues = inputs.reduce((sum, { shape }) => sum + exampleCount(shape?.map(sizeOf)), 0);
  return {
    rows,
    parameters,
    inputMiB: (inputValues * 4) / mebibyte,
    activationsMiB: (2 * activations * 4) / mebibyte,
    parametersMiB: (parameters * 4) / mebibyte,
  };
}

/** A [r, in, ...kernel] and B [out, r / groups, 1, …]. */
function loraParameters({ inFeatures, outFeatures, kernel, groups }: Site, r: number): number {
  return r * inFeatures * elementCount(kernel) + (outFeatures * r) / groups;
}

function sizeOf(dim: Dim): number {
  return typeof dim === "number" ? dim : -1;
}

/** Values of one example: what varies counts as one. */
function exampleCount(shape: readonly number[] | undefined): number {
  return shape?.reduce((product, size) => product * Math.max(size, 1), 1) ?? 0;
}

/** PyTorch's names for the commonest layers; others go by ONNX's. */
const torchNames: Readonly<Record<string, string>> = {
  Relu: "ReLU",
  LeakyRelu: "LeakyReLU",
  Elu: "ELU",
  Gelu: "GELU",
  LayerNormalization: "LayerNorm",
  BatchNormalization: "BatchNorm",
};

function displayName(node: Node): string {
  return torchNames[node.op] ?? node.op;
}

function isConstant(node: Node): boolean {
  return node.op === "Constant" || node.op === "Identity";
}

/** The Add nodes that only add a bias which a product's row counts. */
function addedBiases(graph: Graph, names: ReadonlySet<string>): ReadonlySet<Node> {
  const readers = consumers(graph);
  return new Set([...names].flatMap((name) => readers.get(name) ?? []).filter((node) => node.op === "Add"));
}

/** What PyTorch calls a module's parameters: a normalization's running statistics are none. */
function weightInputs(node: Node): readonly string[] {
  return node.op === "BatchNormalization" ? node.inputs.slice(0, 3) : node.inputs;
}

function countParameters(
  graph: Graph,
  made: ReadonlyMap<string, Node>,
  names: readonly string[],
  counted: Set<string>,
): number {
  let total = 0;
  for (const name of names) {
    const source = behindIdentity(made, name);
    const stored = storedValue(graph, made, source);
    if (stored === undefined || counted.has(source) || !isWeight(stored)) continue;
    counted.add(source);
    total += elementCount(stored.dims);
  }
  return total;
}

/** Integers are shapes and indices, not weights, unless they are quantized ones (8 bits or fewer); a scalar is a constant. */
function isWeight({ type, dims }: StoredTensor): boolean {
  return dims.length > 0 && type !== "bool" && (type.includes("float") || rawByteLength(type, 8) <= 8);
}
