// The training step as one graph: the adapted model's forward pass, the loss, and the gradients of its parameters.
import { LowrankError, throwFaults } from "../errors.ts";
import { lowerPath } from "../grad/lower/lower.ts";
import { findPath } from "../grad/path.ts";
import { recompute } from "../grad/recompute.ts";
import { backward, differentiableOpsets } from "../grad/walk.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { withoutCache } from "../onnx/cache.ts";
import { prune } from "../onnx/graph.ts";
import type { Dim, Graph, Model, ValueInfo } from "../onnx/model.ts";
import type { Tensor } from "../tensor.ts";
import { checkClasses, type Loss, type LossNodes, labelsOf } from "./losses.ts";

export interface StepGraph {
  readonly model: Model;
  /** Names in that graph. */
  readonly labels: string;
  readonly loss: string;
  /** A scalar input that gradients are multiplied by, where that was asked for. */
  readonly lossScale?: string;
  /** The model's outputs. */
  readonly outputs: readonly string[];
  /** The gradient of each parameter, by the parameter's key. */
  readonly gradients: ReadonlyMap<string, string>;
  /** Throws LowrankError "data" for class labels that are no classes of the output. */
  checkLabels(labels: Tensor): void;
}

export interface StepGraphOptions {
  /** Hold less: activations are computed again when the backward pass needs them (grad/recompute.ts). Default false. */
  readonly checkpointActivations?: boolean;
  /** The gradients are scaled by an input of the graph (`StepGraph.lossScale`). Default false. */
  readonly lossScale?: boolean;
}

/**
 * Writes loss and gradients behind an adapted model. A decoder's cache is left out: training reads whole sequences.
 *
 * @throws LowrankError "model" when an operator in the way has no gradient rule (all are listed), or the operator set is
 * out of range; "config" when the loss names an output that is not there.
 */
export function buildStepGraph(
  adapted: AdaptedModel,
  loss: Loss,
  { checkpointActivations = false, lossScale = false }: StepGraphOptions = {},
): StepGraph {
  const whole = withoutCache(adapted.model);
  const { graph } = whole;
  const opset = whole.opsets.get("") ?? 0;
  if (opset < differentiableOpsets.from || opset > differentiableOpsets.to) {
    throw new LowrankError(
      "model",
      `operator set ${opset}: gradients can be written for ${differentiableOpsets.from} to ${differentiableOpsets.to}; export the model again`,
    );
  }
  const target = outputOf(graph, loss);
  const parameters = adapted.parameters.map(({ key }) => key);
  const targets = [target.name, ...(loss.otherOutputs ?? [])];
  const lowered = lowerPath(whole, parameters, targets);
  const g = graphBuilder({ opset, from: lowered.graph, scope: "grad/" });
  checkReached(g, loss, parameters, targets);
  const shape = g.info(target.name).shape ?? target.shape;
  if (shape === undefined) throw new LowrankError("model", `loss ${loss.name}: the rank of the output is unknown`);
  const { shape: labelShape, classes } = labelsOf(loss, shape);
  const labels = g.input("labels", loss.labels, labelShape);
  const measured = asFloat32(g, target.name);
  const nodes = loss.build(g, measured, labels);
  const { loss: value } = nodes;
  const scale = lossScale ? g.input("loss_scale", "float32", []) : undefined;
  const computed = backward(g, scaledSeeds(g, seedsOf(g, loss, nodes, measured), scale), parameters);

  // Two parameters may have one gradient (those of p + q); outputs are told apart by name.
  const taken = new Set([value, ...graph.outputs.map(({ name }) => name)]);
  const gradients = new Map<string, Value>();
  for (const [key, name] of computed) {
    const own = taken.has(name) ? g.op("Identity", [name]) : name;
    taken.add(own);
    gradients.set(key, own);
  }
  const outputs = [
    floats(value, []),
    ...graph.outputs,
    ...adapted.parameters.map(({ key, graphDims }) => floats(gradients.get(key)!, graphDims)),
  ];
  const plain = prune({ ...g.build(), outputs });
  const forward = new Set(lowered.graph.nodes);
  const written = checkpointActivations
    ? recompute(plain, { opset, forward, parameters: new Set(parameters) }).graph
    : plain;
  return {
    model: { ...lowered, graph: written },
    labels,
    checkLabels: (given) => {
      if (loss.ignoreIndex === undefined) return;
      checkClasses(given, classes, loss.ignoreIndex);
    },
    loss: value,
    ...(scale !== undefined && { lossScale: scale }),
    outputs: graph.outputs.map(({ name }) => name),
    gradients,
  };
}

/** Every gradient would be zero where nothing differentiable leads from the parameters to the output: labels from an ArgMax. */
function checkReached(g: GraphBuilder, loss: Loss, parameters: readonly string[], targets: readonly string[]): void {
  const graph = g.build();
  const typeOf = (value: Value) => g.info(value).type;
  const isReached = (name: string): boolean =>
    findPath(graph, typeOf, new Set(parameters), new Set([name])).nodes.length > 0;
  if (parameters.length === 0 || targets.some(isReached)) return;
  const described = targets.map((name) => `${JSON.stringify(name)} (${typeOf(name) ?? "unknown type"})`).join(", ");
  const others = graph.outputs
    .map(({ name }) => name)
    .filter((name) => typeOf(name)?.includes("float") && isReached(name));
  throw new LowrankError(
    "model",
    `loss ${loss.name}: no gradient gets from the output ${described} to what is trained; ${
      others.length > 0
        ? `measure it on ${others.join(" or ")}`
        : "export the model with an output of floats, or adapt layers in front of it"
    }`,
  );
}

function floats(name: string, shape: readonly Dim[]): ValueInfo {
  return { name, type: "float32", shape, doc: "" };
}

/**
 * Losses are computed in float32, whatever type the model's output has; the walk goes back through the cast. An output that is
 * only rounded at the very end (float32.ts) is taken before that.
 */
function asFloat32(g: GraphBuilder, output: Value): Value {
  const { type = "float32" } = g.info(output);
  if (type === "float32") return output;
  const made = g.build().nodes.find(({ outputs }) => outputs.includes(output));
  const [source = ""] = made?.op === "Cast" ? made.inputs : [];
  return g.info(source).type === "float32" ? source : g.op("Cast", [output], { to: 1 });
}

/** Where the walk starts: the gradients that the loss has written, or 1 at the loss itself. */
function seedsOf(g: GraphBuilder, loss: Loss, nodes: LossNodes, output: Value): Map<Value, Value> {
  if (nodes.gradient !== undefined) return new Map([...(nodes.otherGradients ?? []), [output, nodes.gradient]]);
  const { type = "float32", shape = [] } = g.info(nodes.loss);
  if (type === "float32" && shape.length === 0) return new Map([[nodes.loss, g.constant("float32", 1)]]);
  throw new LowrankError(
    "config",
    `loss ${loss.name}: expected a float32 scalar, got ${type} with ${shape.length} axes; reduce it with keepdims: 0`,
  );
}

function scaledSeeds(g: GraphBuilder, seeds: Map<Value, Value>, scale: Value | undefined): Map<Value, Value> {
  if (scale === undefined) return seeds;
  return new Map([...seeds].map(([value, seed]) => [value, g.op("Mul", [seed, scale])]));
}

function outputOf({ outputs }: Graph, loss: Loss): ValueInfo {
  const named = (name: string): ValueInfo | undefined => outputs.find((output) => output.name === name);
  const wanted = [loss.output, ...(loss.otherOutputs ?? [])].filter((name) => name !== undefined);
  const names = outputs.map(({ name }) => name).join(", ");
  const missing = wanted.filter((name) => named(name) === undefined);
  const faults = missing.map((name) => `the model has no output ${JSON.stringify(name)}; it has ${names}`);
  throwFaults("config", `loss ${loss.name}`, faults);
  return loss.output === undefined ? outputs[0]! : named(loss.output)!;
}
