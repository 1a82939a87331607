// What a model offers to an adapter, and whether one can be trained: for `lowrank inspect`, and for programs that ask before
// they begin. The verdict is the trainer's own: the training graph is built, and what that refuses is told.
import { LowrankError } from "../errors.ts";
import { loweringOf } from "../grad/lower/table.ts";
import { findPath, pathObstacles } from "../grad/path.ts";
import { gradientRule } from "../grad/table.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { LoraConfig } from "../lora/config.ts";
import { parameterCount } from "../lora/init.ts";
import type { ElementType } from "../onnx/elements.ts";
import { producers } from "../onnx/graph.ts";
import type { Dim, Graph, Model, Node, ValueInfo } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { summary } from "../onnx/summary.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import { elementCount } from "../tensor.ts";
import type { Loss } from "./losses.ts";
import { buildStepGraph } from "./step-graph.ts";

/** Plain data, also as JSON. */
export interface Support {
  /** The version of ONNX's own operator set. */
  readonly opset: number;
  readonly producer: string;
  /** How many values the weights hold, those of layers whose weights ConstantOfShape makes included. */
  readonly parameters: number;
  readonly inputs: readonly ValueSummary[];
  readonly outputs: readonly ValueSummary[];
  /** The commonest first. */
  readonly operators: readonly OperatorCount[];
  /** The places that can be adapted, in graph order. */
  readonly sites: readonly SiteSummary[];
  /** For a configuration: whether it can be trained. */
  readonly verdict?: Verdict;
}

export interface ValueSummary {
  readonly name: string;
  /** Null for what is no tensor. */
  readonly type: ElementType | null;
  /** Sizes, symbols, and null for what is not known; null when not even the rank is. */
  readonly shape: readonly Dim[] | null;
}

/** How a gradient goes through an operator: by a rule, by rewriting it first; it is zero; it does not. */
export type GradientStatus = "rule" | "lowered" | "zero" | "none";

export interface OperatorCount {
  /** With its domain in front, where that is not ONNX's own. */
  readonly operator: string;
  readonly count: number;
  readonly gradient: GradientStatus;
}

export interface SiteSummary {
  readonly modulePath: string;
  readonly kind: string;
  readonly operator: string;
  /** The weight's shape as it is stored, in values, and of a packed layer's part its own; null when it is not known. */
  readonly shape: readonly Dim[] | null;
  /** Values of weight and bias. */
  readonly parameters: number;
  /** A BatchNorm was folded into the weight: an adapter of the layer as PyTorch had it does not fit exactly. */
  readonly foldedNorm: boolean;
}

export interface Verdict {
  readonly trainable: boolean;
  /** Module paths that would be adapted. */
  readonly targets: readonly string[];
  /** How many values the adapter would train. */
  readonly parameters: number;
  /** Operators between the adapters and the output that no gradient goes through, with the names of their nodes. */
  readonly obstacles: readonly { readonly operator: string; readonly nodes: readonly string[] }[];
  /** Why it cannot be trained, in words; empty when it can. */
  readonly faults: readonly string[];
}

/**
 * Inputs, outputs, operators and sites of a model; with a configuration, whether it can be trained.
 *
 * @param options `output` is the output that a loss would be measured on; by default the first.
 * @throws LowrankError "config" for a faulty configuration, targets that match nothing, or an output that is not there.
 * @example
 * const { verdict } = support(model, { targetModules: ["q_proj", "v_proj"] });
 * if (!verdict.trainable) console.error(verdict.faults.join("\n"));
 */
export function support(
  model: Model,
  config: LoraConfig,
  options?: { readonly output?: string },
): Support & { readonly verdict: Verdict };
export function support(model: Model): Support;
export function support(model: Model, config?: LoraConfig, options: { readonly output?: string } = {}): Support {
  const { graph, opsets, producer } = model;
  const shapes = inferShapes(graph);
  const sizeOf = (name: string): number => elementCount(sizes(shapes.get(name)?.shape));
  const all = sites(model);
  return {
    opset: opsets.get("") ?? 0,
    producer: [producer.name, producer.version].filter((part) => part !== "").join(" "),
    parameters: summary(model).parameters + sum(madeWeights(graph, all).map(sizeOf)),
    inputs: graph.inputs.filter(({ name }) => !graph.initializers.has(name)).map(summarized),
    outputs: graph.outputs.map(summarized),
    operators: countOperators(model),
    sites: all.map((site) => {
      const { modulePath, kind, node, weight, bias, quantized, part, foldedNorm } = site;
      // Bytes of blocks, or the whole of a packed layer, are not the layer's own shape.
      const own = quantized !== undefined || part !== undefined ? linearDims(site) : shapes.get(weight)?.shape;
      const count = elementCount(sizes(own)) + (bias === undefined ? 0 : sizeOf(bias));
      return { modulePath, kind, operator: operatorOf(node), shape: own ?? null, parameters: count, foldedNorm };
    }),
    ...(config !== undefined && { verdict: verdictOn(model, config, options.output) }),
  };
}

/** Weights and biases of layers that are not stored: published models without their training fill them with one value. */
function madeWeights(graph: Graph, all: readonly Site[]): string[] {
  const made = new Set(graph.nodes.filter(({ op }) => op === "ConstantOfShape").flatMap(({ outputs }) => outputs));
  return [...new Set(all.flatMap(({ weight, bias = "" }) => [weight, bias]))].filter((name) => made.has(name));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function linearDims({ layout, inFeatures, outFeatures }: Site): number[] {
  return layout === "out,in" ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
}

function verdictOn(model: Model, config: LoraConfig, output: string | undefined): Verdict {
  const nothing: Verdict = { trainable: false, targets: [], parameters: 0, obstacles: [], faults: [] };
  let adapted: AdaptedModel;
  try {
    adapted = attachLora(model, config);
  } catch (error) {
    return { ...nothing, faults: faultsOf(error) };
  }
  const about = {
    ...nothing,
    targets: adapted.sites.map(({ site }) => site.modulePath),
    parameters: parameterCount(adapted),
  };
  try {
    buildStepGraph(adapted, anyLoss(output));
    return { ...about, trainable: true };
  } catch (error) {
    return { ...about, faults: faultsOf(error), obstacles: obstaclesTo(adapted, output) };
  }
}

/** What is wrong with a model; mistakes in the question are thrown on. */
function faultsOf(error: unknown): readonly string[] {
  if (error instanceof LowrankError && error.code === "model") return error.faults;
  throw error;
}

/** Stands for every loss: the walk starts with any gradient of the output. */
function anyLoss(output: string | undefined): Loss {
  return {
    name: "support",
    labels: "float32",
    output,
    build: (g, value, weights) => ({
      loss: g.op("ReduceSum", [g.op("Mul", [value, weights])], { keepdims: 0 }),
      gradient: weights,
    }),
  };
}

function obstaclesTo({ model: { graph }, parameters }: AdaptedModel, output?: string): Verdict["obstacles"] {
  const shapes = inferShapes(graph);
  const typeOf = (value: string): ElementType | undefined => shapes.get(value)?.type;
  const target = output ?? graph.outputs[0]!.name;
  const path = findPath(graph, typeOf, new Set(parameters.map(({ key }) => key)), new Set([target]));
  const isLowered = (node: Node): boolean => loweringOf(node.domain, node.op) !== undefined;
  return pathObstacles(path, typeOf, isLowered).map(({ operator, nodes }) => ({
    operator,
    nodes: nodes.map((node) => node.name || node.outputs.find((name) => name !== "") || ""),
  }));
}

function countOperators(model: Model): OperatorCount[] {
  // Older forms are differentiated as what they are written in: the node that computes the same value.
  const { graph } = upgradedIfPossible(model);
  const made = producers(graph);
  const shapes = inferShapes(graph);
  const counts = new Map<string, { count: number; gradient: GradientStatus }>();
  for (const node of model.graph.nodes) {
    const current = made.get(node.outputs.find((output) => output !== "") ?? "") ?? node;
    const status = gradientStatus(current, (name) => shapes.get(name)?.type);
    const gradient = status === "rule" && current.op !== node.op ? "lowered" : status;
    const known = counts.get(operatorOf(node));
    const count = (known?.count ?? 0) + 1;
    // One node of it that no gradient goes through is what a person wants to know of.
    counts.set(operatorOf(node), { count, gradient: known?.gradient === "none" ? "none" : gradient });
  }
  return [...counts]
    .map(([operator, counted]) => ({ operator, ...counted }))
    .sort((a, b) => b.count - a.count || (a.operator < b.operator ? -1 : 1));
}

/** The model as it would be trained; as it is where that is refused, which the verdict tells. */
function upgradedIfPossible(model: Model): Model {
  try {
    return upgradeModel(model);
  } catch (error) {
    if (error instanceof LowrankError) return model;
    throw error;
  }
}

function gradientStatus(node: Node, typeOf: (value: string) => ElementType | undefined): GradientStatus {
  const { domain, op, inputs, outputs } = node;
  if (loweringOf(domain, op) !== undefined) return "lowered";
  const rule = gradientRule(domain, op);
  if (rule !== undefined) return rule === "zero" ? "zero" : "rule";
  // Nothing goes into a constant, and integers and truth values have no gradient.
  const isDiscrete = (output: string): boolean => !(typeOf(output) ?? "float").includes("float");
  return inputs.length === 0 || outputs.every((output) => output === "" || isDiscrete(output)) ? "zero" : "none";
}

function operatorOf({ domain, op }: Node): string {
  return domain === "" ? op : `${domain}.${op}`;
}

function summarized({ name, type, shape }: ValueInfo): ValueSummary {
  return { name, type: type ?? null, shape: shape ?? null };
}

function sizes(shape: readonly Dim[] | undefined): number[] {
  return shape?.map((dim) => (typeof dim === "number" ? dim : 0)) ?? [0];
}
