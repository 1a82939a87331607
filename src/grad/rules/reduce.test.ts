import { describe, expect, it } from "vitest";
import { type Case, dims, gradientsOf, int64, op, testRules, within } from "../testing/rules.ts";
import { reduceRules } from "./reduce.ts";

/** A reduction over all axes, one kept, two dropped, none, and by axes that are computed. */
const ways = (operator: string, from = -2, to = 2): Case[] => [
  ["all", op(operator), within(from, to, [2, 3])],
  ["all, to a scalar", op(operator, { keepdims: 0 }), within(from, to, [2, 3])],
  ["an axis kept", (g, [x]) => g.op(operator, [x!, int64(g, 1)]), within(from, to, [2, 3, 2])],
  ["axes dropped", (g, [x]) => g.op(operator, [x!, int64(g, -1, 0)], { keepdims: 0 }), within(from, to, [2, 3, 2])],
  [
    "axes that are computed",
    (g, [x, axes]) => g.op(operator, [x!, g.op("Cast", [axes!], { to: 7 })], { keepdims: 0 }),
    [...within(from, to, [2, 3]), { dims: [1], values: [1], frozen: true }],
  ],
];

const cases: Readonly<Record<string, readonly Case[]>> = {
  ReduceMax: ways("ReduceMax"),
  ReduceMin: ways("ReduceMin"),
  ReduceProd: [
    ...ways("ReduceProd", 0.5, 2),
    [
      "with one 0 and with two",
      (g, [x]) => g.op("ReduceProd", [x!, int64(g, 1)]),
      [{ dims: [3, 3], values: [2, 0, -3, 0, 0, 1, 2, 3, 4] }],
    ],
    ["no axes", (g, [x]) => g.op("ReduceProd", [x!, int64(g)], { noop_with_empty_axes: 1 }), dims([2, 3])],
  ],
  ReduceL1: ways("ReduceL1", 0.2, 2),
  ReduceL2: ways("ReduceL2"),
  ReduceSumSquare: ways("ReduceSumSquare"),
  ReduceLogSum: ways("ReduceLogSum", 0.5, 2),
  ReduceLogSumExp: ways("ReduceLogSumExp"),
};

testRules(reduceRules, cases);

// torch.autograd's values (2.13) for the same points.
describe("at ties and zeros the gradient is PyTorch's", () => {
  const values = [1, 3, 3, 0, 0, 0];
  it.each<[operator: string, torch: string, gradient: number[]]>([
    ["ReduceMax", "amax", [0, 0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]],
    ["ReduceMin", "amin", [1, 0, 0, 1 / 3, 1 / 3, 1 / 3]],
    ["ReduceL1", "norm(1)", [1, 1, 1, 0, 0, 0]],
    ["ReduceL2", "norm(2)", [1, 3, 3, 0, 0, 0].map((value) => value / Math.sqrt(19))],
    ["ReduceProd", "prod", [9, 3, 3, 0, 0, 0]],
  ])("%s: %s", async (operator, _, gradient) => {
    const [dx] = await gradientsOf((g, [x]) => g.op(operator, [x!, int64(g, 1)]), [{ dims: [2, 3], values }]);
    for (const [index, value] of gradient.entries()) expect(dx![index]).toBeCloseTo(value, 6);
  });
});
