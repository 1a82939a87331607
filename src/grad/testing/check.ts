// Gradient rules against central differences. A function of some inputs is built as a graph; its analytic gradients are
// computed in float32 as always, the differences in float64 where ONNX Runtime has the kernels, so that only the rule's own
// rounding counts. The function is made scalar by weighting its output with random numbers, which are the walk's seed.
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import { widened } from "../../onnx/float64.ts";
import type { Dim, Graph } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { centralSlope, openPrecise, type Precision } from "../../runtime/precise.ts";
import { devices, openSession } from "../../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../../tensor.ts";
import { backward } from "../walk.ts";

/** An input of the function: float32 values of this shape, differentiated unless `frozen`. */
export interface CheckedInput {
  readonly dims: readonly number[];
  /** By default drawn from `range`. */
  readonly values?: readonly number[];
  /** Default [-2, 2]. */
  readonly range?: readonly [from: number, to: number];
  readonly frozen?: boolean;
}

/**
 * What the graph is told of its inputs' sizes: all of them; a symbol for each size, the same for equal ones; or a symbol of
 * its own for each, so that broadcasting is known only while the graph runs.
 */
export type SizesKnown = "static" | "shared" | "symbolic";
export const sizesKnown: readonly SizesKnown[] = ["static", "shared", "symbolic"];

export interface GradientCheck {
  /** The largest |analytic - difference| / (1 + |difference|) over all elements of all inputs. */
  readonly error: number;
  /** What the differences were computed in. */
  readonly precision: Precision;
}

/** Largest `error` of a right rule: rounding of the analytic gradient alone, or that of the differences too. */
export const checkTolerance: Readonly<Record<GradientCheck["precision"], number>> = { float64: 1e-5, float32: 5e-5 };

/** Half the distance of two points, large where their values are rounded to float32. */
const steps: Readonly<Record<GradientCheck["precision"], number>> = { float64: 1e-4, float32: 2e-2 };

type Build = (g: GraphBuilder, inputs: readonly Value[]) => Value;

/** Compares the gradients of `build` at one point, chosen by `seed`, with central differences. */
export async function checkGradient(
  build: Build,
  inputs: readonly CheckedInput[],
  { known = "static", opset = 17, seed = 1 }: { known?: SizesKnown; opset?: number; seed?: number } = {},
): Promise<GradientCheck> {
  const point = new Map(inputs.map((input, index) => [`x${index}`, draw(input, seed, index)]));
  const forward = functionGraph(build, inputs, "static", opset);
  const y = (await evaluate({ ...forward, outputs: [output("y")] }, point, opset)).get("y")!;
  const weight = draw({ dims: y.dims }, seed, inputs.length);

  const active = inputs.flatMap(({ frozen = false }, index) => (frozen ? [] : [`x${index}`]));
  const analytic = await gradientsAt(functionGraph(build, inputs, known, opset), active, point, weight, opset);
  const scalar = await scalarFunction(forward, weight, opset);
  try {
    let error = 0;
    for (const name of active) {
      const difference = await differences(scalar, point, name);
      error = Math.max(
        error,
        ...difference.map((value, index) => Math.abs(value - analytic.get(name)![index]!) / (1 + Math.abs(value))),
      );
    }
    return { error, precision: scalar.precision };
  } finally {
    await scalar.dispose();
  }
}

/** `LOWRANK_TEST_DEVICE=webgpu npx vitest run src/grad/rules` holds the rules against differences on another device. */
const device = devices.find((name) => name === process.env.LOWRANK_TEST_DEVICE) ?? "cpu";

/** Runs a graph once, for its outputs. */
export async function evaluate(
  graph: Graph,
  feeds: ReadonlyMap<string, Tensor>,
  opset = 17,
): Promise<Map<string, Tensor>> {
  const session = await openSession(createModel(graph, { opset }), { device, threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.dispose();
  }
}

function draw(
  { dims, values, range: [from, to] = [-2, 2] }: CheckedInput,
  seed: number,
  index: number,
): Tensor<"float32"> {
  const random = createRandom(seed, `check ${index}`);
  const data = Float32Array.from(
    { length: elementCount(dims) },
    (_, at) => values?.[at] ?? from + (to - from) * random.uniform(),
  );
  return tensor("float32", dims, data);
}

/** x0, x1, … -> y */
function functionGraph(build: Build, inputs: readonly CheckedInput[], known: SizesKnown, opset: number): Graph {
  const g = graphBuilder({ name: "checked", opset });
  const values = inputs.map(({ dims }, index) =>
    g.input(
      `x${index}`,
      "float32",
      dims.map((size, axis) => dimFor(known, size, index, axis)),
    ),
  );
  g.op("Identity", [build(g, values)], {}, { output: "y" });
  return g.build();
}

function dimFor(known: SizesKnown, size: number, index: number, axis: number): Dim {
  if (known === "static" || (known === "shared" && size === 1)) return size;
  return known === "shared" ? `size_${size}` : `size_${index}_${axis}`;
}

function output(name: string) {
  return { name, type: undefined, shape: undefined, doc: "" };
}

async function gradientsAt(
  forward: Graph,
  active: readonly string[],
  point: ReadonlyMap<string, Tensor>,
  weight: Tensor,
  opset: number,
) {
  const g = graphBuilder({ opset, from: forward, scope: "grad/" });
  const seed = g.input("seed", "float32", g.info("y").shape ?? weight.dims.map(() => null));
  const gradients = backward(g, new Map([["y", seed]]), active);
  // Copies, since one value may be the gradient of two inputs.
  const names = active.map((name) => g.op("Identity", [gradients.get(name)!]));
  const results = await evaluate(
    { ...g.build(), outputs: names.map(output) },
    new Map([...point, ["seed", weight]]),
    opset,
  );
  return new Map(
    active.map((name, index) => {
      const { dims, data } = results.get(names[index]!)!;
      const wanted = point.get(name)!.dims;
      if (dims.join() !== wanted.join())
        throw new Error(`the gradient of ${name} has shape [${dims}], not [${wanted}]`);
      return [name, data as Float32Array];
    }),
  );
}

interface ScalarFunction {
  readonly precision: GradientCheck["precision"];
  at(point: ReadonlyMap<string, Tensor>): Promise<number>;
  dispose(): Promise<void>;
}

/** sum(weight * y), in float64 where the runtime can compute that. */
async function scalarFunction(forward: Graph, weight: Tensor, opset: number): Promise<ScalarFunction> {
  const g = graphBuilder({ opset, from: forward });
  const product = g.op("Mul", ["y", g.initializer("weight", weight)]);
  const sum = g.op("ReduceSum", [product], { keepdims: 0 });
  const graph = { ...g.build(), outputs: [output(sum)] };
  const session = await openPrecise(createModel(graph, { opset }), { threads: 1 });
  return {
    precision: session.precision,
    at: async (point) => Number((await session.run(point)).get(sum)!.data[0]),
    dispose: () => session.dispose(),
  };
}

/** Partial derivatives by one input. */
async function differences(scalar: ScalarFunction, at: ReadonlyMap<string, Tensor>, name: string): Promise<number[]> {
  const point = new Map([...at].map(([key, value]) => [key, widened(value)]));
  const values = point.get(name)!.data;
  const slopes: number[] = [];
  for (let index = 0; index < values.length; index++) {
    const middle = values[index]!;
    const along = async (step: number): Promise<number> => {
      values[index] = (middle as number) + step;
      return scalar.at(point);
    };
    slopes.push(await centralSlope(along, steps[scalar.precision]));
    values[index] = middle;
  }
  return slopes;
}
