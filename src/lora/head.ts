// A fresh classification head for an encoder that has none, or one for other labels: pooling over the tokens and one Linear
// layer, as transformers' ...ForSequenceClassification models have them (their `classifier`, initialised from N(0, 0.02^2)
// with a bias of zero). The head is a layer like any other afterwards: `modulesToSave` trains it whole.
import { LowrankError } from "../errors.ts";
import { type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { behindIdentity, producers, prune } from "../onnx/graph.ts";
import type { Dim, Graph, Model, ValueInfo } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import { createRandom } from "../random.ts";
import { type Tensor, tensor } from "../tensor.ts";

/** What the head reads of a sequence: its first token, the mean of all, or the last; padding counts for nothing. */
export type Pooling = "cls" | "mean" | "last";

export interface HeadOptions {
  /** How many labels, or their names. */
  readonly labels: number | readonly string[];
  /** Default "cls". A model whose features are [batch, width] needs none; images [batch, channels, …] are averaged. */
  readonly pooling?: Pooling;
  /** The output with the features, or with the logits of a head to replace (default: the first). */
  readonly output?: string;
  /** The input that is 1 for tokens and 0 for padding; default `attention_mask`, where the model has it. */
  readonly mask?: string;
  /** Of the starting weights; default 0. */
  readonly seed?: number;
}

/** The module path of the head, and so the beginning of its keys in an adapter. */
export const headPath = "classifier";

/** The standard deviation that transformers initialises new layers with. */
const deviation = 0.02;

/**
 * The model with a fresh head, whose output "logits" [batch, labels] is its first. Where the output that is given comes out
 * of a Linear layer, that layer is the head of other labels, and is replaced; else the output is the features.
 * Adapt it with `modulesToSave: ["classifier"]`. Label names are kept in the model's metadata (`labels`, a JSON list).
 *
 * @throws LowrankError "config" for fewer than 2 labels, names that are not all different, or an output that is not there;
 * "model" when the features' width is unknown, or they are neither [batch, width], [batch, tokens, width] nor an image.
 * @example const adapted = attachLora(withHead(encoder, { labels: ["ham", "spam"], pooling: "mean" }), { modulesToSave: ["classifier"] });
 */
export function withHead(base: Model, options: HeadOptions): Model {
  const { labels, pooling = "cls", seed = 0 } = options;
  const count = checkedCount(labels);
  const model = upgradeModel(base);
  const output = outputOf(model.graph, options.output);
  const features = featuresOf(model, output);
  const others = model.graph.outputs.filter((other) => other !== output);
  const body = prune({ ...model.graph, outputs: [{ ...output, name: features }, ...others] });
  const g = graphBuilder({ opset: model.opsets.get("") ?? 0, from: body });
  const { shape, width } = featureShape(g, features, output);
  const pooled = pool(g, features, { rank: shape.length, pooling, mask: maskOf(body, options.mask) });

  const random = createRandom(seed, "head");
  const weight = Float32Array.from({ length: count * width }, () => random.normal() * deviation);
  const w = exactly(g, `${headPath}.weight`, tensor("float32", [count, width], weight));
  const b = exactly(g, `${headPath}.bias`, tensor("float32", [count], new Float32Array(count)));
  // Another output may need a value of that name still.
  const name = body.nodes.some(({ outputs }) => outputs.includes("logits")) ? `${headPath}.logits` : "logits";
  g.op("Gemm", [pooled, w, b], { transB: 1 }, { name: `/${headPath}/Gemm`, output: name });
  const logits: ValueInfo = { name, type: "float32", shape: [shape[0] ?? null, count], doc: "" };
  return {
    ...model,
    metadata:
      typeof labels === "number" ? model.metadata : new Map([...model.metadata, ["labels", JSON.stringify(labels)]]),
    graph: { ...g.build(), outputs: [logits, ...others] },
  };
}

function checkedCount(labels: HeadOptions["labels"]): number {
  const count = typeof labels === "number" ? labels : labels.length;
  if (!Number.isSafeInteger(count) || count < 2) {
    throw new LowrankError("config", `head: expected 2 labels or more, got ${count}`);
  }
  if (typeof labels !== "number" && new Set(labels).size < count) {
    throw new LowrankError("config", `head: expected labels that are all different, got ${JSON.stringify(labels)}`);
  }
  return count;
}

function outputOf({ outputs }: Graph, wanted: string | undefined): ValueInfo {
  const output = wanted === undefined ? outputs[0] : outputs.find(({ name }) => name === wanted);
  if (output !== undefined) return output;
  const names = outputs.map(({ name }) => name).join(", ");
  throw new LowrankError("config", `head: the model has no output ${JSON.stringify(wanted)}; it has ${names}`);
}

/** The value that the head reads: the output, or the input of the Linear layer that it comes out of. */
function featuresOf(model: Model, output: ValueInfo): Value {
  const made = producers(model.graph);
  const last = made.get(behindIdentity(made, output.name));
  // A bias may stand in an Add behind a MatMul.
  const products = last?.op === "Add" ? last.inputs.map((input) => made.get(input)) : [last];
  const old = sites(model).find(({ kind, node }) => kind === "Linear" && products.includes(node));
  return old === undefined ? output.name : old.node.inputs[0]!;
}

/** Sizes of the features, with a known number of axes and a known width. */
function featureShape(g: GraphBuilder, features: Value, output: ValueInfo): { shape: readonly Dim[]; width: number } {
  const shape = g.info(features).shape ?? (features === output.name ? output.shape : undefined);
  const width = shape?.[shape.length <= 3 ? shape.length - 1 : 1];
  if (shape === undefined || shape.length < 2 || shape.length > 5 || typeof width !== "number") {
    const got = shape === undefined ? "an unknown shape" : `[${shape.map((dim) => dim ?? "?").join(", ")}]`;
    throw new LowrankError(
      "model",
      `head: ${features}: expected features [batch, width], [batch, tokens, width] or [batch, channels, height, width] of a known width, got ${got}; name another output`,
    );
  }
  return { shape, width };
}

/** Features [batch, width]. */
function pool(
  g: GraphBuilder,
  features: Value,
  { rank, pooling, mask }: { rank: number; pooling: Pooling; mask: Value | undefined },
): Value {
  if (rank === 2) return features;
  if (rank > 3) return g.op("Flatten", [g.op("GlobalAveragePool", [features])], { axis: 1 });
  if (pooling === "cls") return g.op("Gather", [features, g.constant("int64", 0)], { axis: 1 });
  if (pooling === "last") return lastToken(g, features, mask);
  const tokens = g.constant("int64", [1]);
  if (mask === undefined) return g.op("ReduceMean", [features, tokens], { keepdims: 0 });
  const counts = g.op("Unsqueeze", [g.op("Cast", [mask], { to: 1 }), g.constant("int64", [2])]);
  const sum = g.op("ReduceSum", [g.op("Mul", [features, counts]), tokens], { keepdims: 0 });
  const length = g.op("ReduceSum", [counts, tokens], { keepdims: 0 });
  return g.op("Div", [sum, g.op("Max", [length, g.constant("float32", 1)])]);
}

/** Features of the last token that is no padding, wherever the padding stands. */
function lastToken(g: GraphBuilder, features: Value, mask: Value | undefined): Value {
  if (mask === undefined) return g.op("Gather", [features, g.constant("int64", -1)], { axis: 1 });
  const length = g.op("Squeeze", [g.op("Shape", [mask], { start: 1, end: 2 })]);
  const positions = g.op("Range", [g.constant("int64", 0), length, g.constant("int64", 1)]);
  const present = g.op("Mul", [g.op("Cast", [mask], { to: 7 }), positions]);
  const last = g.op("ArgMax", [present], { axis: 1, keepdims: 1 }); // [batch, 1]
  return g.op("GatherND", [features, last], { batch_dims: 1 });
}

function maskOf({ inputs }: Graph, wanted: string | undefined): Value | undefined {
  const mask = inputs.find(({ name }) => name === (wanted ?? "attention_mask"));
  if (mask !== undefined || wanted === undefined) return mask?.name;
  const names = inputs.map(({ name }) => name).join(", ");
  throw new LowrankError("config", `head: the model has no input ${JSON.stringify(wanted)}; it has ${names}`);
}

/** An initializer of exactly this name: adapters find the head by it. */
function exactly(g: GraphBuilder, name: string, value: Tensor): Value {
  const given = g.initializer(name, value);
  if (given === name) return given;
  throw new LowrankError(
    "model",
    `head: the model has a value ${name} that other outputs need; name its output, to replace it`,
  );
}

/** The label names that a model with a head carries; null where it has none. */
export function labelsOfModel({ metadata }: Model): readonly string[] | null {
  try {
    const labels: unknown = JSON.parse(metadata.get("labels") ?? "null");
    return Array.isArray(labels) && labels.every((label) => typeof label === "string") ? labels : null;
  } catch {
    return null; // another producer's metadata of that name
  }
}
