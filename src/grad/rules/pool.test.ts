import { describe, expect, it } from "vitest";
import type { GraphBuilder, PlainAttributes, Value } from "../../onnx/builder.ts";
import { createRandom } from "../../random.ts";
import { elementCount } from "../../tensor.ts";
import { checkGradient, checkTolerance, sizesKnown } from "../testing/check.ts";
import { poolRules } from "./pool.ts";

type Case = readonly [label: string, attributes: PlainAttributes, dims: readonly number[]];

const window: readonly Case[] = [
  ["1d", { kernel_shape: [2], strides: [2] }, [2, 2, 5]],
  ["2d", { kernel_shape: [2, 2], strides: [2, 2] }, [2, 2, 4, 4]],
  ["2d, overlapping, pads", { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, [1, 2, 5, 6]],
  ["2d, uneven", { kernel_shape: [3, 2], strides: [1, 3], pads: [1, 0, 2, 1] }, [1, 2, 4, 6]],
  ["2d, ceil_mode", { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }, [1, 2, 6, 5]],
  ["2d, ceil_mode, pads", { kernel_shape: [3, 2], strides: [2, 3], pads: [1, 1, 1, 1], ceil_mode: 1 }, [1, 2, 6, 6]],
  ["2d, SAME_UPPER", { kernel_shape: [3, 2], strides: [2, 1], auto_pad: "SAME_UPPER" }, [1, 2, 6, 3]],
  ["2d, SAME_LOWER", { kernel_shape: [2, 3], strides: [1, 2], auto_pad: "SAME_LOWER" }, [1, 2, 3, 6]],
  ["2d, VALID", { kernel_shape: [2, 2], strides: [3, 1], auto_pad: "VALID" }, [1, 2, 6, 3]],
  ["2d, dilations", { kernel_shape: [2, 2], strides: [2, 1], dilations: [2, 3], pads: [1, 0, 0, 1] }, [1, 1, 5, 6]],
  ["3d", { kernel_shape: [2, 1, 2], strides: [2, 1, 1] }, [1, 2, 5, 2, 3]],
];
const including = (cases: readonly Case[]): Case[] =>
  cases.map(([label, attributes, dims]) => [
    `${label}, padding counted`,
    { ...attributes, count_include_pad: 1 },
    dims,
  ]);
const global: readonly Case[] = [
  ["1d", {}, [2, 3, 4]],
  ["2d", {}, [2, 2, 3, 2]],
  ["3d", {}, [1, 2, 2, 3, 2]],
];

const rules: readonly { operator: string; cases: readonly Case[]; opset?: number }[] = [
  { operator: "MaxPool", cases: window },
  { operator: "AveragePool", cases: [...window, ...including(window)], opset: 19 },
  {
    operator: "LpPool",
    cases: [
      // The runtime computes it in float32 only: few values keep the differences' rounding small.
      ...window.filter(([, , dims]) => elementCount(dims) <= 40),
      [
        "2d, pads, ceil_mode",
        { kernel_shape: [3, 2], strides: [2, 3], pads: [1, 1, 1, 1], ceil_mode: 1 },
        [1, 1, 6, 6],
      ],
      ["p 3", { kernel_shape: [2, 2], p: 3 }, [1, 2, 3, 3]],
      ["p 1", { kernel_shape: [2, 2], p: 1 }, [1, 2, 3, 3]],
    ],
  },
  { operator: "GlobalAveragePool", cases: global },
  { operator: "GlobalMaxPool", cases: global },
  { operator: "GlobalLpPool", cases: [...global, ["p 3", { p: 3 }, [1, 2, 3, 2]]] },
];

/** Values of both signs that stand apart, none near 0: a step of the differences never changes which is the largest. */
function apart(dims: readonly number[]): number[] {
  const order = Int32Array.from({ length: elementCount(dims) }, (_, place) => place);
  createRandom(1, "apart").shuffle(order);
  return Array.from(order, (place) => (Math.floor(place - order.length / 2) + 0.5) / 10);
}

describe.each(rules)("$operator agrees with central differences", ({ operator, cases, opset = 18 }) => {
  it.each(cases.map(([label, attributes, dims]) => ({ label, attributes, dims })))(
    "$label",
    async ({ attributes, dims }) => {
      const build = (g: GraphBuilder, x: readonly Value[]): Value => g.op(operator, x, attributes);
      for (const known of sizesKnown) {
        const { error, precision } = await checkGradient(build, [{ dims, values: apart(dims) }], { known, opset });
        expect(error, `sizes: ${known}, ${precision}`).toBeLessThan(checkTolerance[precision]);
      }
    },
  );
});

it("every rule of the family is held against differences", () => {
  expect(rules.map(({ operator }) => operator).sort()).toEqual(Object.keys(poolRules).sort());
});
