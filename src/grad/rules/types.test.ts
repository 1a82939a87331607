import { describe, expect, it } from "vitest";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { elementCode } from "../../onnx/elements.ts";
import { gradientsOf, int64, integers } from "../testing/rules.ts";

// A model in another float type than float32 must get gradients in that type: every constant that a rule writes follows it.
// float64 stands for all of them, since the runtime has its kernels on every machine.
type Function = (g: GraphBuilder, x: Value) => Value;

const named = (...operators: string[]): [string, Function][] =>
  operators.map((operator) => [operator, (g, x) => g.op(operator, [x])]);

const functions: readonly [name: string, apply: Function][] = [
  ...named("Relu", "Sigmoid", "Tanh", "Abs", "Exp", "Sqrt", "Reciprocal", "Log", "Neg", "Softmax", "LogSoftmax"),
  ...named("Sin", "Cos", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL2"),
  ...named("ReduceL1", "ReduceSumSquare", "ReduceLogSumExp"),
  ["Gelu", (g, x) => g.op("Gelu", [x], { approximate: "tanh" })],
  ["Clip", (g, x) => g.op("Clip", [x, g.op("CastLike", [g.constant("float32", 0.5), x])])],
  ["Pow", (g, x) => g.op("Pow", [x, int64(g, 2)])],
  ["Max", (g, x) => g.op("Max", [x, g.op("Reciprocal", [x])])],
  ["Where", (g, x) => g.op("Where", [g.op("Less", [x, g.op("Reciprocal", [x])]), x, g.op("Neg", [x])])],
  ["LayerNormalization", (g, x) => g.op("LayerNormalization", [x, g.op("Slice", [x, int64(g, 0), int64(g, 1)])])],
  ["Gather", (g, x) => g.op("Gather", [x, int64(g, 1, 1)])],
  ["Gather of one place", (g, x) => g.op("Gather", [x, g.constant("int64", 1)], { axis: 1 })],
  ["GatherElements", (g, x) => g.op("GatherElements", [x, integers(g, [1, 2], 1, 0)])],
  ["GatherND", (g, x) => g.op("GatherND", [x, integers(g, [1, 2], 1, 0)])],
  ["Slice", (g, x) => g.op("Slice", [x, int64(g, 0), int64(g, 2), int64(g, 1)])],
  ["Slice with steps", (g, x) => g.op("Slice", [x, int64(g, 0), int64(g, 3), int64(g, 1), int64(g, 2)])],
  ["Pad", (g, x) => g.op("Pad", [x, int64(g, 0, 1, 0, 1)])],
  ["Pad by reflection", (g, x) => g.op("Pad", [x, int64(g, 0, 1, 0, 1)], { mode: "reflect" })],
  ["Split", (g, x) => g.ops("Split", [x], 2, { num_outputs: 2 })[1]!],
  ["Einsum", (g, x) => g.op("Einsum", [x, x], { equation: "ij,kj->ik" })],
  [
    "ScatterND",
    (g, x) =>
      g.op("ScatterND", [
        x,
        integers(g, [1, 2], 1, 0),
        g.op("Slice", [g.op("Reshape", [x, int64(g, -1)]), int64(g, 0), int64(g, 1)]),
      ]),
  ],
];

describe("a rule computes in the type of the values", () => {
  const point = { dims: [2, 3], values: [0.3, 1.7, 0.6, 2.2, 0.8, 1.4] };
  it.each(functions)("%s", async (_, apply) => {
    const [plain] = await gradientsOf((g, [x]) => apply(g, x!), [point]);
    const [wide] = await gradientsOf(
      (g, [x]) => {
        const y = apply(g, g.op("Cast", [x!], { to: elementCode("float64") }));
        return g.op("Cast", [y], { to: elementCode("float32") });
      },
      [point],
    );
    expect(wide!.length).toBe(6);
    for (const [index, value] of plain!.entries()) expect(wide![index]).toBeCloseTo(value, 5);
  });
});
