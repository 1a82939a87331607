// What the layers of a model are given: the base run with the inputs of its sites as outputs.
import { prune, reads } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import type { Site } from "../onnx/sites.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";

type Inputs = Readonly<Record<string, Tensor>>;

/** Runs a model for the inputs of some of its layers. */
export interface Activations {
  /** By the name of the value. */
  run(inputs: Inputs): Promise<ReadonlyMap<string, Tensor>>;
  dispose(): Promise<void>;
}

export async function openActivations(
  model: Model,
  sites: readonly Site[],
  options: SessionOptions,
): Promise<Activations> {
  const given = new Set(model.graph.inputs.map(({ name }) => name));
  const wanted = [...new Set(sites.map(({ node }) => node.inputs[0]!))];
  const computed = wanted.filter((name) => !given.has(name));
  const infos = inferShapes(model.graph);
  const outputs = computed.map((name) => ({
    name,
    type: infos.get(name)?.type ?? "float32",
    shape: undefined,
    doc: "",
  }));
  if (outputs.length === 0) return { run: async (inputs) => pick(inputs, wanted), dispose: async () => {} };
  const graph = prune({ ...model.graph, outputs });
  const read = new Set(graph.nodes.flatMap(reads));
  const own = { ...graph, inputs: graph.inputs.filter(({ name }) => read.has(name)) };
  const session = await openSession({ ...model, graph: own }, options);
  return {
    async run(inputs) {
      const feeds = new Map(session.inputs.flatMap((name) => (inputs[name] ? [[name, inputs[name]] as const] : [])));
      return new Map([...pick(inputs, wanted), ...(await session.run(feeds))]);
    },
    dispose: () => session.dispose(),
  };
}

function pick(inputs: Inputs, names: readonly string[]): ReadonlyMap<string, Tensor> {
  return new Map(names.flatMap((name) => (inputs[name] ? [[name, inputs[name]] as const] : [])));
}
