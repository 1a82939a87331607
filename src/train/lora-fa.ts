// LoRA-FA (Zhang, Zhang, Shi, Chu and Li 2023, arXiv:2308.03303): A stays as it starts. It is a constant of the training graph,
// so that no gradient of it is computed. B learns from gradients that are projected to the closest of what full training would
// do, g (A A^T)^-1 / s^2, by AdamW; both as PEFT 0.21 has them (optimizers/lorafa.py).
import { throwFaults } from "../errors.ts";
import { symmetricEigen } from "../linalg/eigen.ts";
import type { Matrix } from "../linalg/matrix.ts";
import { AdaptedModel } from "../lora/adapted.ts";
import { fromTensor } from "../onnx/model.ts";
import type { Tensor } from "../tensor.ts";
import type { NamedArrays, Optimizer } from "./optimizers.ts";

export interface LoraFaOptions {
  /** Decay of the mean of gradients, in [0, 1); default 0.9. */
  readonly beta1?: number;
  /** Decay of the mean of their squares, in [0, 1); default 0.999. */
  readonly beta2?: number;
  /** Added to the denominator; default 1e-6. */
  readonly epsilon?: number;
  /** Shrinks parameters by learning rate * weightDecay after each step; default 0. */
  readonly weightDecay?: number;
}

/** What training of B alone works on. */
export interface LoraFa {
  /** The adapted model with its A as constants: its parameters are the others. */
  readonly adapted: AdaptedModel;
  readonly optimizer: Optimizer;
}

/**
 * The half of an adapter that LoRA-FA trains, and the optimizer that PEFT trains it with.
 *
 * @throws LowrankError "config" for layers that are no Linear ones (an Embedding's A starts at zero, and would stay there) and
 * for options out of range.
 */
export function loraFa(adapted: AdaptedModel, tensors: ReadonlyMap<string, Tensor>, options: LoraFaOptions): LoraFa {
  const hyper: Required<LoraFaOptions> = { beta1: 0.9, beta2: 0.999, epsilon: 1e-6, weightDecay: 0, ...options };
  const kinds = adapted.sites.filter(({ site }) => site.kind !== "Linear");
  throwFaults("config", "loraFa", [
    ...kinds.map(({ site: { modulePath, kind } }) => `${modulePath}: expected a Linear layer, got ${kind}; exclude it`),
    ...(["beta1", "beta2"] as const)
      .filter((name) => !(hyper[name] >= 0 && hyper[name] < 1))
      .map((name) => `${name}: expected a number in [0, 1), got ${hyper[name]}`),
    ...(["epsilon", "weightDecay"] as const)
      .filter((name) => !(hyper[name] >= 0 && Number.isFinite(hyper[name])))
      .map((name) => `${name}: expected a number of 0 or more, got ${hyper[name]}`),
  ]);
  const projections = new Map(
    adapted.sites.map(({ a, b, scale }) => [b, projection(tensors.get(a) as Tensor<"float32">, scale)]),
  );
  return { adapted: withConstantA(adapted, tensors), optimizer: projectedAdamw(projections, hyper) };
}

function withConstantA(adapted: AdaptedModel, tensors: ReadonlyMap<string, Tensor>): AdaptedModel {
  const { base, model, sites, config, initial } = adapted;
  const frozen = new Set(sites.map(({ a }) => a));
  const { graph } = model;
  const constants = [...frozen].map((key) => [key, fromTensor(tensors.get(key)!)] as const);
  const parameters = adapted.parameters.filter(({ key }) => !frozen.has(key));
  // The rank is no symbol any more: A's is a number, and B's must be the same.
  const sizes = new Map(parameters.map(({ key, dims }) => [key, dims]));
  const inputs = graph.inputs
    .filter(({ name }) => !frozen.has(name))
    .map((info) => ({ ...info, shape: sizes.get(info.name) ?? info.shape }));
  return new AdaptedModel({
    base,
    model: { ...model, graph: { ...graph, inputs, initializers: new Map([...graph.initializers, ...constants]) } },
    parameters: parameters.map((parameter) => ({ ...parameter, graphDims: parameter.dims })),
    sites,
    config,
    initial,
  });
}

/** Added to the diagonal of A A^T, as in PEFT. */
const ridge = 1e-8;

/** The pseudo-inverse of A A^T + ridge, over scale^2: [r, r]; a [r, in]. */
function projection(a: Tensor<"float32">, scale: number): Matrix {
  const [r, width] = a.dims as [number, number];
  const gram = new Float64Array(r * r);
  for (let i = 0; i < r; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = i === j ? ridge : 0;
      for (let k = 0; k < width; k++) sum += a.data[i * width + k]! * a.data[j * width + k]!;
      gram[i * r + j] = sum;
    }
  }
  const { values, vectors } = symmetricEigen({ rows: r, columns: r, data: gram });
  const least = values[0]! * r * 2 ** -23; // what torch.linalg.pinv takes for zero in float32
  const data = new Float64Array(r * r);
  for (let e = 0; e < r; e++) {
    if (values[e]! <= least) continue;
    const factor = 1 / (values[e]! * scale * scale);
    for (let i = 0; i < r; i++) {
      for (let j = 0; j < r; j++) {
        data[i * r + j] = data[i * r + j]! + factor * vectors.data[e * r + i]! * vectors.data[e * r + j]!;
      }
    }
  }
  return { rows: r, columns: r, data };
}

/** AdamW in the form of transformers 4: epsilon beside the uncorrected root, decay after the step. */
function projectedAdamw(projections: ReadonlyMap<string, Matrix>, hyper: Required<LoraFaOptions>): Optimizer {
  const { beta1, beta2, epsilon, weightDecay } = hyper;
  return {
    name: "loraFa",
    hyperparameters: { ...hyper },
    slots: ["m", "v"],
    init(parameters, arena) {
      const slot = (): NamedArrays =>
        new Map([...parameters].map(([key, { length }]) => [key, arena.allocate(length)]));
      return { step: 0, slots: new Map([["m", slot()] as const, ["v", slot()] as const]) };
    },
    update(parameters, gradients, state, learningRate) {
      const faults = [...parameters].filter(([key, { length }]) => gradients.get(key)?.length !== length);
      throwFaults(
        "config",
        "loraFa",
        faults.map(([key]) => `gradients.${key}: missing, or of another length`),
      );
      state.step += 1;
      const size = (learningRate * Math.sqrt(1 - beta2 ** state.step)) / (1 - beta1 ** state.step);
      for (const [key, p] of parameters) {
        const g = projected(gradients.get(key)!, projections.get(key));
        const [m, v] = [state.slots.get("m")!.get(key)!, state.slots.get("v")!.get(key)!];
        for (let i = 0; i < p.length; i++) {
          m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!;
          v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! * g[i]!;
          p[i] = p[i]! - (size * m[i]!) / (Math.sqrt(v[i]!) + epsilon);
          if (weightDecay > 0) p[i] = p[i]! - learningRate * weightDecay * p[i]!;
        }
      }
    },
  };
}

/** g [out, r] times the projection [r, r]; g itself where there is none. */
function projected(g: Float32Array, by: Matrix | undefined): Float32Array {
  if (by === undefined) return g;
  const r = by.rows;
  const out = new Float32Array(g.length);
  for (let at = 0; at < g.length; at += r) {
    for (let j = 0; j < r; j++) {
      let sum = 0;
      for (let k = 0; k < r; k++) sum += g[at + k]! * by.data[k * r + j]!;
      out[at + j] = sum;
    }
  }
  return out;
}
