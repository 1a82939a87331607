// Full training with the same machine: every weight of the model becomes an input instead of an initializer.
import { LowrankError, throwFaults } from "../errors.ts";
import { fromTensor, type Graph, type Model, type StoredTensor, toTensor } from "../onnx/model.ts";
import { upgradeModel } from "../onnx/upgrade/index.ts";
import { withoutZipMaps } from "../onnx/zip-map.ts";
import type { Tensor } from "../tensor.ts";
import { AdaptedModel, type Parameter } from "./adapted.ts";

/** Inputs that training by gradient leaves alone: normalization statistics, and numbers that only say how to compute. */
const settings: Readonly<Record<string, readonly number[]>> = {
  BatchNormalization: [3, 4],
  Resize: [1, 2, 3],
  Upsample: [1],
  Dropout: [1, 2],
};

/**
 * The model with every weight as an input: float32 initializers of one or more dimensions, except normalization statistics
 * and settings of operators. Models of operator sets 7 to 17 are written in 18.
 *
 * @throws LowrankError "model" when the operator set is outside 7 to 23.
 * @example const trainable = attachAll(model); // then train(trainable, …) and withWeights(trainable, tensors)
 */
export function attachAll(base: Model): AdaptedModel {
  const model = upgradeModel(withoutZipMaps(base));
  const { graph } = model;
  // The upgrade's own constants are no weights.
  const weights = [...base.graph.initializers].filter(([name, stored]) => isWeight(base.graph, name, stored));
  const parameters = weights.map(([key, { dims }]): Parameter => ({ key, type: "float32", dims, graphDims: dims }));
  const names = new Set(parameters.map(({ key }) => key));
  return new AdaptedModel({
    base,
    model: {
      ...model,
      graph: {
        ...graph,
        // Older files list initializers among the inputs; each name must stand there once.
        inputs: [
          ...graph.inputs.filter(({ name }) => !names.has(name)),
          ...parameters.map(({ key, type, graphDims }) => ({ name: key, type, shape: graphDims, doc: "" })),
        ],
        initializers: new Map([...graph.initializers].filter(([name]) => !names.has(name))),
      },
    },
    parameters,
    sites: [],
    config: null,
  });
}

function isWeight(graph: Graph, name: string, stored: StoredTensor): boolean {
  if (stored.type !== "float32" || stored.dims.length === 0) return false;
  return !graph.nodes.some((node) => settings[node.op]?.some((index) => node.inputs[index] === name));
}

/**
 * The weights that the base starts from, by name: what full training begins with. Views of the model's own bytes.
 *
 * @throws LowrankError "config" for a model whose inputs are adapters.
 */
export function currentWeights(adapted: AdaptedModel): Map<string, Tensor> {
  if (adapted.config !== null)
    throw new LowrankError(
      "config",
      "full training: the model was adapted with LoRA; use attachAll, or train its adapter",
    );
  return new Map(adapted.parameters.map(({ key }) => [key, toTensor(adapted.base.graph.initializers.get(key)!)]));
}

/**
 * The base with other values for some of its weights, by name.
 *
 * @throws LowrankError "model" that lists every name and shape that does not fit.
 */
export function withWeights(model: Model, tensors: ReadonlyMap<string, Tensor>): Model {
  const initializers = new Map(model.graph.initializers);
  const faults: string[] = [];
  for (const [name, value] of tensors) {
    const before = initializers.get(name);
    if (before === undefined) faults.push(`${name}: the model has no such weight`);
    else if (before.type !== value.type || before.dims.join() !== value.dims.join()) {
      faults.push(`${name}: expected ${before.type} [${before.dims}], got ${value.type} [${value.dims}]`);
    } else initializers.set(name, { ...before, ...fromTensor(value) });
  }
  throwFaults("model", "weights", faults);
  return { ...model, graph: { ...model.graph, initializers } };
}
