// Every loss against PyTorch's values and gradients (scripts/fixtures/losses.py), and against central differences.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createModel, graphBuilder, type Value } from "../../onnx/builder.ts";
import { centralSlope, openPrecise } from "../../runtime/precise.ts";
import { openSession } from "../../runtime/session.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import {
  binaryCrossEntropy,
  causalLm,
  contrastive,
  cosineEmbedding,
  crossEntropy,
  distillation,
  huber,
  type Loss,
  labelsOf,
  meanAbsoluteError,
  meanSquaredError,
  smoothL1,
} from "../losses.ts";
import { classes, floats } from "../testing/fixture.ts";

interface Values {
  readonly dims: number[];
  readonly data: number[];
}

interface Case {
  readonly loss: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly outputs: readonly Values[];
  readonly labels: Values;
  readonly value: number;
  readonly gradients: readonly number[][];
}

/** |a - b| <= tolerance (1 + |b|), of float32 values that PyTorch computed in float64. */
const tolerance = 3e-6;
/** The same for differences in float64 of a closed form in float32. */
const differenceTolerance = 1e-5;

const makers: Readonly<Record<string, (options: object) => Loss>> = {
  binaryCrossEntropy,
  causalLm,
  contrastive,
  cosineEmbedding,
  crossEntropy,
  distillation,
  huber,
  meanAbsoluteError,
  meanSquaredError,
  smoothL1,
};

function casesOf(family: string): Case[] {
  const path = new URL(`../../../test/fixtures/losses/${family}.json`, import.meta.url);
  return (JSON.parse(readFileSync(path, "utf8")) as { cases: Case[] }).cases;
}

/** output, second, labels -> the loss and the gradients of the outputs; sizes are symbols, as in a model. */
function graphOf({ loss, options, outputs, labels }: Case) {
  const made = makers[loss]!(options);
  const g = graphBuilder({ opset: 18 });
  const names = ["output", "second"].slice(0, outputs.length);
  const shapes = outputs.map(({ dims }, index) => dims.map((size, axis) => (axis === 0 ? `rows_${index}` : size)));
  names.forEach((name, index) => {
    g.input(name, "float32", shapes[index]!);
  });
  const { shape } = labelsOf(made, shapes[0]!);
  expect(shape.length).toBe(labels.dims.length);
  const nodes = made.build(g, "output", g.input("labels", made.labels, shape));
  const gradients: Value[] = [nodes.gradient!, ...(nodes.otherGradients?.values() ?? [])];
  const named = [nodes.loss, ...gradients].map((name) => ({
    name,
    type: "float32" as const,
    shape: undefined,
    doc: "",
  }));
  const given = made.labels === "int64" ? classes(labels.data, labels.dims) : floats(labels);
  return {
    model: createModel({ ...g.build(), outputs: named }, { opset: 18 }),
    loss: nodes.loss,
    gradients,
    names,
    given,
  };
}

async function results(example: Case) {
  const { model, loss, gradients, names, given } = graphOf(example);
  const session = await openSession(model, { threads: 1 });
  try {
    const feeds = new Map<string, Tensor>(names.map((name, index) => [name, floats(example.outputs[index]!)]));
    const outputs = await session.run(feeds.set("labels", given));
    expect(outputs.get(loss)!.dims).toEqual([]);
    return {
      loss: Number(outputs.get(loss)!.data[0]),
      gradients: gradients.map((name) => outputs.get(name)! as Tensor<"float32">),
    };
  } finally {
    await session.dispose();
  }
}

function expectClose(actual: ArrayLike<number>, expected: readonly number[], within: number): void {
  expect(actual.length).toBe(expected.length);
  for (const [index, value] of expected.entries()) {
    expect(Math.abs(actual[index]! - value), `[${index}] ${actual[index]} ${value}`).toBeLessThan(
      within * (1 + Math.abs(value)),
    );
  }
}

const families = ["cross-entropy", "elementwise", "embedding", "distillation"];
const cases = families.flatMap((family) =>
  casesOf(family).map((example) => ({ ...example, title: `${example.loss}(${JSON.stringify(example.options)})` })),
);

describe.each(cases)("$title", (example) => {
  it("has PyTorch's value and gradients", async () => {
    const { loss, gradients } = await results(example);
    expectClose([loss], [example.value], tolerance);
    expect(gradients.map(({ dims }) => dims)).toEqual(example.outputs.map(({ dims }) => dims));
    gradients.forEach(({ data }, index) => {
      expectClose(data, example.gradients[index]!, tolerance);
    });
  });

  it("agrees with central differences", async () => {
    const { model, loss, names, given } = graphOf(example);
    const session = await openPrecise({
      ...model,
      graph: { ...model.graph, outputs: model.graph.outputs.slice(0, 1) },
    });
    try {
      const h = session.precision === "float64" ? 1e-5 : 1e-2;
      const within = session.precision === "float64" ? differenceTolerance : 1e-3;
      const point = example.outputs.map(({ dims, data }) => tensor("float64", dims, Float64Array.from(data)));
      const labels: Tensor =
        given.type === "float32" ? tensor("float64", given.dims, Float64Array.from(given.data)) : given;
      const feeds = new Map<string, Tensor>(names.map((name, index) => [name, point[index]!]));
      feeds.set("labels", labels);
      for (const [which, { data }] of point.entries()) {
        const slopes: number[] = [];
        for (let index = 0; index < data.length; index++) {
          const middle = data[index]!;
          const at = async (step: number) => {
            data[index] = middle + step;
            return Number((await session.run(feeds)).get(loss)!.data[0]);
          };
          slopes.push(await centralSlope(at, h));
          data[index] = middle;
        }
        expectClose(example.gradients[which]!, slopes, within);
      }
    } finally {
      await session.dispose();
    }
  });
});
