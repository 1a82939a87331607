// What a model's declaration says to clients, and whether rows of different requests may share a run.
import type { Graph, Model, ValueInfo } from "../onnx/model.ts";
import type { Description, Port } from "./engine.ts";

/**
 * The description of a model.
 *
 * @param modules the layers that adapters may change
 */
export function describeModel(model: Model, modules: readonly string[]): Description {
  const { graph } = model;
  return {
    inputs: graph.inputs.map(portOf),
    outputs: graph.outputs.map(portOf),
    sharesRuns: sharesRuns(graph),
    modules,
  };
}

function portOf({ name, type, shape }: ValueInfo): Port {
  const sizes = shape?.map((dim) => (typeof dim === "number" || typeof dim === "string" ? dim : null)) ?? null;
  return { name, type: type as string | undefined, shape: sizes };
}

/** Operators that look at all rows at once: a row's result depends on what else is in the batch. */
const mixing = new Set([
  "DynamicQuantizeLinear",
  "DynamicQuantizeMatMul",
  "RandomNormalLike",
  "RandomUniformLike",
  "Unique",
]);

function sharesRuns({ inputs, outputs, nodes }: Graph): boolean {
  const batch = inputs[0]?.shape?.[0];
  if (typeof batch !== "string") return false;
  if (nodes.some(({ op }) => mixing.has(op))) return false;
  if (inputs.some(({ shape }) => shape?.[0] !== batch)) return false;
  const others = new Set(inputs.flatMap(({ shape }) => shape?.slice(1) ?? []));
  // Exporters give an output's batch other names at times, but never that of another axis.
  return outputs.every(({ shape }) => {
    const first = shape?.[0];
    return (
      first === batch ||
      (shape !== undefined && shape.length > 0 && typeof first !== "number" && !others.has(first ?? null))
    );
  });
}
