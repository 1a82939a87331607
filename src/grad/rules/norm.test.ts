import { describe, expect, it } from "vitest";
import { float, type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../../onnx/builder.ts";
import { elementCode } from "../../onnx/elements.ts";
import { type CheckedInput, checkGradient, checkTolerance, sizesKnown } from "../testing/check.ts";
import { backward } from "../walk.ts";
import { normRules } from "./norm.ts";

type Case = readonly [label: string, attributes: PlainAttributes, inputs: readonly CheckedInput[], opset?: number];

const dims = (...list: (readonly number[])[]): CheckedInput[] => list.map((one) => ({ dims: one }));
const small = (...list: (readonly number[])[]): CheckedInput[] => list.map((one) => ({ dims: one, range: [-1, 1] }));
/** x, scale, bias, mean, variance */
const batch = (x: readonly number[], channels: number): CheckedInput[] => [
  ...small(x, [channels], [channels], [channels]),
  { dims: [channels], range: [0.5, 2] },
];

/** Mean and variance in float64, so that the differences have no rounding of float32 in them. */
const stash_type = elementCode("float64");

const cases: Readonly<Record<string, readonly Case[]>> = {
  BatchNormalization: [
    ["2d", {}, batch([2, 3, 2, 2], 3)],
    ["of features", {}, batch([4, 3], 3)],
    ["1d, its own epsilon", { epsilon: float(0.1) }, batch([2, 2, 3], 2)],
    ["3d", {}, batch([1, 2, 2, 1, 2], 2)],
  ],
  InstanceNormalization: [
    ["2d", {}, small([2, 2, 3, 2], [2], [2])],
    ["1d, its own epsilon", { epsilon: float(0.1) }, small([2, 3, 4], [3], [3])],
    ["3d", {}, small([1, 2, 2, 2, 2], [2], [2])],
  ],
  GroupNormalization: [
    ["scale by channel", { num_groups: 2, stash_type }, small([2, 4, 2, 2], [4], [4]), 21],
    [
      "scale by channel, 1d, its own epsilon",
      { num_groups: 3, stash_type, epsilon: float(0.1) },
      small([2, 3, 4], [3], [3]),
      21,
    ],
    ["scale by group", { num_groups: 2 }, small([2, 4, 2, 2], [2], [2]), 18],
    ["one group", { num_groups: 1, stash_type }, small([2, 3, 3], [3], [3]), 23],
  ],
  RMSNormalization: [
    ["the last axis", {}, small([2, 4], [4]), 23],
    ["two axes, its own epsilon", { axis: 1, epsilon: float(0.1) }, small([2, 2, 3], [2, 3]), 23],
    ["a scale that broadcasts", { axis: -2 }, small([2, 2, 3], [3]), 23],
  ],
  LpNormalization: [
    ["p 2", {}, dims([2, 3, 4])],
    ["p 2, another axis", { axis: 1 }, dims([2, 3, 4])],
    ["p 1", { p: 1, axis: 0 }, [{ dims: [3, 2], values: [-1.5, 0.3, 0.4, -2, 1, 0.5] }]],
  ],
  LRN: [
    ["odd size", { size: 3, alpha: float(0.5), beta: float(0.75), bias: float(2) }, dims([2, 4, 2, 2])],
    ["wider than the channels", { size: 5, alpha: float(0.3), beta: float(0.5) }, dims([2, 2, 3, 2])],
  ],
};

describe.each(Object.entries(cases))("%s agrees with central differences", (operator, list) => {
  it.each(list.map(([label, attributes, inputs, opset = 18]) => ({ label, attributes, inputs, opset })))(
    "$label, opset $opset",
    async ({ attributes, inputs, opset }) => {
      const build = (g: GraphBuilder, x: readonly Value[]): Value => g.op(operator, x, attributes);
      for (const known of sizesKnown) {
        const { error, precision } = await checkGradient(build, inputs, { known, opset });
        expect(error, `sizes: ${known}, ${precision}`).toBeLessThan(checkTolerance[precision]);
      }
    },
  );
});

describe("BatchNormalization while it trains", () => {
  it("is refused", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [2, 1, 3]);
    const one = g.constant("float32", [1]);
    const [y] = g.ops("BatchNormalization", [x, one, one, one, one], 3, { training_mode: 1 }, { name: "norm" });
    expect(() => backward(g, new Map([[y!, x]]), [x])).toThrow(
      /node "norm" \(BatchNormalization\): expected training_mode 0, got 1/,
    );
  });
});

it("every rule of the family is held against differences", () => {
  expect(Object.keys(cases).sort()).toEqual(Object.keys(normRules).sort());
});
