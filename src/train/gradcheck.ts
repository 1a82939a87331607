// The gradients of an adapted model held against central differences: for each parameter, along a random direction v, grad . v
// against (f(p + h v) - f(p - h v)) / 2h. Differences are computed in float64 where ONNX Runtime has the kernels; the gradients
// are those of training, in float32. f is a random weighted sum of one output. Gradients go straight through the rounding of
// quantized activations, which differences cannot: both are taken where that rounding is left out (unrounded.ts).

import type { AdaptedModel } from "../lora/adapted.ts";
import { widened } from "../onnx/float64.ts";
import { prune, reads } from "../onnx/graph.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom, type Random } from "../random.ts";
import { centralSlope, openPrecise, type Precision } from "../runtime/precise.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import type { Loss } from "./losses.ts";
import { buildStepGraph, type StepGraph } from "./step-graph.ts";
import { withoutRounding } from "./unrounded.ts";

export interface GradcheckOptions extends SessionOptions {
  /** Seed of the values, the weights of the sum and the directions; default 0. */
  readonly seed?: number;
  /** The output that is summed; by default the first. */
  readonly output?: string;
}

/** One parameter along one direction. */
export interface GradcheckRow {
  /** The parameter's key. */
  readonly key: string;
  /** grad . v */
  readonly analytic: number;
  /** The central difference. */
  readonly numeric: number;
  /** |analytic - numeric| over the gradient's length, which is what a random direction sees of it on average. */
  readonly error: number;
}

export interface Gradcheck {
  readonly rows: readonly GradcheckRow[];
  /** What the differences were computed in. */
  readonly precision: Precision;
  /** Activations are quantized: gradients and differences are those of the model without that rounding. */
  readonly withoutRounding: boolean;
  /** The largest `error` of a right gradient. */
  readonly tolerance: number;
  /** Whether all rows are within it. */
  readonly passed: boolean;
}

/** Rounding of the gradients alone, or that of the differences too. */
export const gradcheckTolerance: Readonly<Record<Precision, number>> = { float64: 1e-3, float32: 5e-2 };

/** Half the distance of two points, as a share of the parameter's own size. */
const steps: Readonly<Record<Precision, number>> = { float64: 1e-5, float32: 2e-2 };

/**
 * How much finer the steps are that are tried: in float32 kinks between the points (ReLU, MaxPool) spoil a large one, rounding
 * a small one. A right gradient agrees at one of them, a wrong one at none.
 */
const finerSteps: Readonly<Record<Precision, readonly number[]>> = { float64: [1], float32: [1, 8, 64] };

/** The share of the largest gradient's length under which another's does not count. */
const negligible = 1e-4;

/** No denormal: the runtime makes the thread take those for zero. */
const smallest = 1e-30;

/** How large the drawn parameters are: large enough that every gradient exists, small beside the base's weights. */
const spread = 0.1;

/**
 * Compares the gradients of all parameters with central differences, at random values of the parameters (a fresh adapter's B is
 * zero, and so would be half of the gradients).
 *
 * @throws LowrankError as `valueAndGrad` does.
 * @example
 * const adapted = attachLora(model, { targetModules: ["query"] });
 * const { passed, rows } = await gradcheck(adapted, randomInputs(model));
 */
export async function gradcheck(
  adapted: AdaptedModel,
  inputs: Readonly<Record<string, Tensor>>,
  { seed = 0, output, ...options }: GradcheckOptions = {},
): Promise<Gradcheck> {
  const point = new Map<string, Tensor>(Object.entries(inputs));
  for (const { key, dims } of adapted.parameters) {
    point.set(key, drawn(dims, createRandom(seed, `gradcheck ${key}`), spread));
  }
  const built = buildStepGraph(adapted, weightedSum(output));
  const measured = output ?? built.outputs[0]!;
  const { dims } = await runOnce(only(adapted.model, measured), point, measured, options);
  const length = Math.sqrt(Math.max(1, elementCount(dims)));
  point.set(built.labels, drawn(dims, createRandom(seed, "gradcheck weights"), 1 / length));

  // The nodes of the backward pass are those of training; without rounding in front of them they give the slope of a function.
  const model = withoutRounding(built.model);
  const gradients = await gradientsAt({ ...built, model }, point, options);
  const forward = only(model, built.loss);
  // GPUs have no float64, and float32 would leave a few digits only.
  const session = await openPrecise(forward, { ...options, device: "cpu" });
  try {
    const at = new Map([...feedsOf(forward, point)].map(([name, value]) => [name, widened(value)]));
    const valueAt = async (): Promise<number> => Number((await session.run(at)).get(built.loss)!.data[0]);
    const { precision } = session;
    // A gradient that is nothing but rounding beside the others has no length to compare with.
    const floor = Math.max(smallest, negligible * Math.max(...[...gradients.values()].map(lengthOf)));
    const rows: GradcheckRow[] = [];
    for (const { key } of adapted.parameters) {
      const random = createRandom(seed, `gradcheck along ${key}`);
      rows.push({
        key,
        ...(await along(valueAt, at.get(key)!, gradients.get(key)!, { precision, floor }, random)),
      });
    }
    const tolerance = gradcheckTolerance[session.precision];
    const passed = rows.every(({ error }) => error <= tolerance);
    return { rows, precision: session.precision, withoutRounding: model !== built.model, tolerance, passed };
  } finally {
    await session.dispose();
  }
}

/** sum(weights * output), with the weights as labels. */
function weightedSum(output: string | undefined): Loss {
  return {
    name: "weighted_sum",
    labels: "float32",
    output,
    build: (g, value, weights) => ({
      loss: g.op("ReduceSum", [g.op("Mul", [value, weights])], { keepdims: 0 }),
      gradient: weights,
    }),
  };
}

/** The model with one of its values as its only output. */
function only(model: Model, name: string): Model {
  const outputs = model.graph.outputs.filter((output) => output.name === name);
  const graph = prune({ ...model.graph, outputs });
  const read = new Set([name, ...graph.nodes.flatMap(reads)]);
  return { ...model, graph: { ...graph, inputs: graph.inputs.filter((input) => read.has(input.name)) } };
}

/** Those of `point` that a model reads. */
function feedsOf(model: Model, point: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const names = new Set(model.graph.inputs.map(({ name }) => name));
  return new Map([...point].filter(([name]) => names.has(name)));
}

async function runOnce(
  model: Model,
  point: ReadonlyMap<string, Tensor>,
  output: string,
  options: SessionOptions,
): Promise<Tensor> {
  const session = await openSession(model, options);
  try {
    return (await session.run(feedsOf(model, point))).get(output)!;
  } finally {
    await session.dispose();
  }
}

async function gradientsAt(
  { model, gradients }: StepGraph,
  point: ReadonlyMap<string, Tensor>,
  options: SessionOptions,
): Promise<Map<string, Float32Array>> {
  const session = await openSession(model, options);
  try {
    const results = await session.run(feedsOf(model, point), [...gradients.values()]);
    return new Map([...gradients].map(([key, name]) => [key, results.get(name)!.data as Float32Array]));
  } finally {
    await session.dispose();
  }
}

/** One parameter, whose values are moved along a random direction and put back. */
async function along(
  valueAt: () => Promise<number>,
  parameter: Tensor,
  gradient: Float32Array,
  { precision, floor }: { readonly precision: Precision; readonly floor: number },
  random: Random,
): Promise<Omit<GradcheckRow, "key">> {
  const values = parameter.data as Float64Array;
  const middle = values.slice();
  const direction = Float64Array.from(middle, () => random.normal());
  const slopeAt = (h: number): Promise<number> =>
    centralSlope((t) => {
      for (let index = 0; index < values.length; index++) values[index] = middle[index]! + t * direction[index]!;
      return valueAt();
    }, h);
  const analytic = gradient.reduce((sum, value, index) => sum + value * direction[index]!, 0);
  const rows: Omit<GradcheckRow, "key">[] = [];
  for (const finer of finerSteps[precision]) {
    const numeric = await slopeAt((steps[precision] * spread) / finer);
    const error = Math.abs(analytic - numeric) / Math.max(lengthOf(gradient), Math.abs(numeric), floor);
    rows.push({ analytic, numeric, error });
  }
  values.set(middle);
  return rows.reduce((best, row) => (row.error < best.error ? row : best));
}

function lengthOf(gradient: Float32Array): number {
  return Math.sqrt(gradient.reduce((sum, value) => sum + value * value, 0));
}

/** Normal values of the given deviation. */
function drawn(dims: readonly number[], random: Random, deviation: number): Tensor<"float32"> {
  return tensor(
    "float32",
    dims,
    Float32Array.from({ length: elementCount(dims) }, () => deviation * random.normal()),
  );
}
