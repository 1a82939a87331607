import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { openSession } from "../../runtime/session.ts";
import { tensor } from "../../tensor.ts";
import { joinGelus } from "./join-gelu.ts";

const c = Math.sqrt(2 / Math.PI);
const number = (g: GraphBuilder, value: number): Value => g.constant("float32", value);

/** gelu_new of transformers: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the power as two products or as Pow */
function tanhGelu(g: GraphBuilder, x: Value, usesPow: boolean): Value {
  const cube = usesPow ? g.op("Pow", [x, number(g, 3)]) : g.op("Mul", [g.op("Mul", [x, x]), x]);
  const u = g.op("Mul", [g.op("Add", [x, g.op("Mul", [number(g, 0.044715), cube])]), number(g, c)]);
  return g.op("Mul", [g.op("Mul", [number(g, 0.5), x]), g.op("Add", [number(g, 1), g.op("Tanh", [u])])]);
}

/** torch.nn.GELU of the TorchScript exporter: (x (1 + erf(x / sqrt(2)))) 0.5 */
function erfGelu(g: GraphBuilder, x: Value): Value {
  const erf = g.op("Erf", [g.op("Div", [x, number(g, Math.SQRT2)])]);
  return g.op("Mul", [g.op("Mul", [x, g.op("Add", [erf, number(g, 1)])]), number(g, 0.5)]);
}

function modelOf(build: (g: GraphBuilder, x: Value) => Value): Model {
  const g = graphBuilder({ opset: 18 });
  const sum = g.op("Add", [g.input("x", "float32", ["n"]), g.input("b", "float32", ["n"])]);
  g.output(g.op("Identity", [build(g, sum)], {}, { output: "y" }), "float32", ["n"]);
  return createModel(g.build(), { opset: 18 });
}

const operators = ({ graph }: Model): string[] => graph.nodes.map(({ op }) => op);

async function run(model: Model, x: Float32Array): Promise<ArrayLike<number>> {
  const session = await openSession(model, { threads: 1 });
  const feed = (data: Float32Array) => tensor("float32", [data.length], data);
  const result = await session.run(
    new Map([
      ["x", feed(x)],
      ["b", feed(new Float32Array(x.length).fill(0.25))],
    ]),
  );
  await session.dispose();
  return result.get("y")!.data as Float32Array;
}

const written: [string, string, (g: GraphBuilder, x: Value) => Value][] = [
  ["tanh, with products", "FastGelu", (g, x) => tanhGelu(g, x, false)],
  ["tanh, with Pow", "FastGelu", (g, x) => tanhGelu(g, x, true)],
  ["erf", "Gelu", erfGelu],
];

describe("joinGelus", () => {
  it.each(written)("joins what exporters write: %s", async (_name, op, build) => {
    const model = modelOf(build);
    const joined = joinGelus(model);
    expect(operators(joined)).toEqual(["Add", op, "Identity"]);
    const x = Float32Array.from({ length: 201 }, (_, index) => (index - 100) / 20);
    const [before, after] = [await run(model, x), await run(joined, x)];
    for (let index = 0; index < x.length; index++) expect(after[index]).toBeCloseTo(before[index]!, 5);
  });

  it("joins each of several, and keeps what others read", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["n"]);
    const y = tanhGelu(g, erfGelu(g, x), false);
    g.output(g.op("Identity", [y], {}, { output: "y" }), "float32", ["n"]);
    expect(operators(joinGelus(createModel(g.build(), { opset: 18 })))).toEqual(["Gelu", "FastGelu", "Identity"]);
  });

  it.each<[string, (g: GraphBuilder, x: Value) => Value]>([
    ["a tanh alone", (g, x) => g.op("Tanh", [x])],
    ["another scale", (g, x) => g.op("Mul", [erfGelu(g, x), number(g, 2)])],
    ["x twice: x (1 + erf(x / sqrt 2))", (g, x) => g.op("Mul", [x, g.op("Add", [g.op("Erf", [x]), number(g, 1)])])],
    ["a vector for the half", (g, x) => g.op("Mul", [g.op("Tanh", [x]), g.constant("float32", [0.5, 0.5])])],
  ])("leaves what only looks like it: %s", (name, build) => {
    const model = modelOf(build);
    const joined = joinGelus(model);
    if (name === "another scale") expect(operators(joined)).toEqual(["Add", "Gelu", "Mul", "Identity"]);
    else expect(joined).toBe(model);
  });

  it("never changes what is computed, however the constants are", async () => {
    const x = Float32Array.of(-3, -1, -0.2, 0, 0.4, 1, 2.5);
    const value = fc.constantFrom(0.5, 1, c, 0.044715, Math.SQRT1_2, 3);
    await fc.assert(
      fc.asyncProperty(value, value, value, fc.constantFrom("Tanh", "Erf"), async (half, one, inner, op) => {
        const model = modelOf((g, x) => {
          const t = g.op(op, [g.op("Mul", [x, number(g, inner)])]);
          return g.op("Mul", [g.op("Mul", [x, number(g, half)]), g.op("Add", [t, number(g, one)])]);
        });
        const [before, after] = [await run(model, x), await run(joinGelus(model), x)];
        for (let index = 0; index < x.length; index++) expect(after[index]).toBeCloseTo(before[index]!, 5);
      }),
      { numRuns: 30 },
    );
  });
});
