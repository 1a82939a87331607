import { describe, expect, it } from "vitest";
import { type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../../onnx/builder.ts";
import { type CheckedInput, checkGradient, checkTolerance, sizesKnown } from "../testing/check.ts";
import { backward } from "../walk.ts";
import { convRules } from "./conv.ts";

type Case = readonly [label: string, attributes: PlainAttributes, ...dims: (readonly number[])[]];

const build =
  (operator: string, attributes: PlainAttributes) =>
  (g: GraphBuilder, x: readonly Value[]): Value =>
    g.op(operator, x, attributes);

// x, weight, bias
const conv: readonly Case[] = [
  ["1d", { kernel_shape: [3] }, [2, 2, 5], [3, 2, 3], [3]],
  ["1d, a stride that leaves one over", { kernel_shape: [2], strides: [3] }, [1, 2, 6], [2, 2, 2]],
  ["2d, pads", { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, [2, 2, 4, 4], [3, 2, 3, 3], [3]],
  [
    "2d, stride 2 that divides",
    { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
    [1, 2, 5, 5],
    [2, 2, 3, 3],
  ],
  [
    "2d, stride 2 that does not",
    { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
    [1, 2, 6, 4],
    [2, 2, 3, 3],
  ],
  [
    "2d, uneven pads, strides",
    { kernel_shape: [2, 3], strides: [3, 2], pads: [1, 0, 2, 1] },
    [2, 1, 5, 6],
    [2, 1, 2, 3],
    [2],
  ],
  ["2d, dilations", { kernel_shape: [2, 3], dilations: [3, 2], pads: [2, 1, 1, 2] }, [1, 2, 5, 6], [2, 2, 2, 3]],
  [
    "2d, strides and dilations",
    { kernel_shape: [3, 2], strides: [3, 2], dilations: [2, 3], pads: [1, 1, 1, 1] },
    [2, 2, 7, 6],
    [2, 2, 3, 2],
  ],
  ["2d, groups", { kernel_shape: [3, 3], group: 2, pads: [1, 1, 1, 1] }, [2, 4, 3, 3], [6, 2, 3, 3], [6]],
  [
    "2d, depthwise, stride 2",
    { kernel_shape: [3, 3], group: 3, strides: [2, 2], pads: [1, 1, 1, 1] },
    [2, 3, 4, 4],
    [3, 1, 3, 3],
  ],
  [
    "2d, groups, strides, dilations",
    { kernel_shape: [2, 2], group: 2, strides: [2, 3], dilations: [2, 1] },
    [1, 4, 6, 6],
    [2, 2, 2, 2],
  ],
  ["2d, pointwise", { kernel_shape: [1, 1] }, [2, 3, 3, 2], [2, 3, 1, 1], [2]],
  ["2d, pointwise, groups", { kernel_shape: [1, 1], group: 2 }, [2, 4, 3, 2], [6, 2, 1, 1]],
  ["2d, pointwise, stride 2", { kernel_shape: [1, 1], strides: [2, 2] }, [2, 3, 4, 5], [2, 3, 1, 1]],
  ["2d, pointwise, pads", { kernel_shape: [1, 1], pads: [1, 0, 0, 2] }, [1, 2, 3, 3], [2, 2, 1, 1]],
  ["2d, SAME_UPPER", { kernel_shape: [3, 2], auto_pad: "SAME_UPPER" }, [1, 2, 4, 5], [2, 2, 3, 2]],
  [
    "2d, SAME_UPPER, strides",
    { kernel_shape: [3, 4], strides: [2, 2], auto_pad: "SAME_UPPER" },
    [1, 2, 5, 6],
    [2, 2, 3, 4],
  ],
  [
    "2d, SAME_LOWER, strides",
    { kernel_shape: [3, 4], strides: [2, 3], auto_pad: "SAME_LOWER" },
    [1, 2, 6, 6],
    [2, 2, 3, 4],
  ],
  [
    "2d, SAME_UPPER, window below stride",
    { kernel_shape: [1, 2], strides: [3, 3], auto_pad: "SAME_UPPER" },
    [1, 1, 5, 7],
    [1, 1, 1, 2],
  ],
  ["2d, VALID, strides", { kernel_shape: [2, 2], strides: [2, 1], auto_pad: "VALID" }, [1, 2, 5, 4], [2, 2, 2, 2]],
  [
    "3d, strides, groups",
    { kernel_shape: [2, 2, 2], strides: [2, 1, 2], group: 2, pads: [0, 1, 0, 1, 0, 1] },
    [1, 2, 3, 3, 4],
    [2, 1, 2, 2, 2],
    [2],
  ],
  ["3d, dilations", { kernel_shape: [2, 1, 2], dilations: [2, 1, 1] }, [1, 2, 3, 2, 3], [2, 2, 2, 1, 2]],
];

const convTranspose: readonly Case[] = [
  ["1d, stride 2", { kernel_shape: [3], strides: [2] }, [2, 2, 3], [2, 3, 3], [3]],
  ["2d", { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, [2, 2, 3, 3], [2, 3, 3, 3], [3]],
  [
    "2d, stride 2, output padding",
    { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] },
    [1, 2, 3, 2],
    [2, 2, 3, 3],
  ],
  [
    "2d, uneven pads, strides",
    { kernel_shape: [3, 2], strides: [2, 3], pads: [0, 1, 2, 0] },
    [1, 2, 3, 3],
    [2, 2, 3, 2],
  ],
  ["2d, dilations", { kernel_shape: [2, 2], dilations: [2, 3], strides: [1, 2] }, [1, 2, 3, 2], [2, 2, 2, 2]],
  ["2d, groups", { kernel_shape: [2, 2], group: 2, strides: [2, 2] }, [2, 4, 2, 2], [4, 3, 2, 2], [6]],
  [
    "2d, depthwise, dilations",
    { kernel_shape: [2, 2], group: 3, dilations: [2, 2], pads: [1, 0, 0, 1] },
    [1, 3, 3, 3],
    [3, 1, 2, 2],
  ],
  ["2d, pointwise", { kernel_shape: [1, 1] }, [2, 3, 2, 2], [3, 2, 1, 1]],
  ["2d, SAME_UPPER", { kernel_shape: [3, 3], strides: [2, 2], auto_pad: "SAME_UPPER" }, [1, 2, 3, 2], [2, 2, 3, 3]],
  ["2d, SAME_LOWER", { kernel_shape: [3, 3], strides: [2, 2], auto_pad: "SAME_LOWER" }, [1, 2, 3, 2], [2, 2, 3, 3]],
  ["3d, stride 2", { kernel_shape: [2, 1, 2], strides: [2, 1, 2] }, [1, 2, 2, 2, 2], [2, 1, 2, 1, 2]],
];

/** For sizes known in advance only. */
const withOutputShape: readonly Case[] = [
  ["uneven rest behind", { kernel_shape: [3, 3], strides: [2, 2], output_shape: [6, 4] }, [1, 2, 3, 2], [2, 2, 3, 3]],
  [
    "SAME_UPPER",
    { kernel_shape: [3, 3], strides: [2, 2], output_shape: [6, 4], auto_pad: "SAME_UPPER" },
    [1, 2, 3, 2],
    [2, 2, 3, 3],
  ],
];

const named = (cases: readonly Case[]) => cases.map(([label, attributes, ...dims]) => ({ label, attributes, dims }));

/** Small values: the runtime convolves in float32 only, and the differences' rounding grows with them. */
const inputs = (dims: readonly (readonly number[])[]): CheckedInput[] =>
  dims.map((one) => ({ dims: one, range: [-0.5, 0.5] }));

describe.each([
  { operator: "Conv", cases: conv },
  { operator: "ConvTranspose", cases: convTranspose },
])("$operator agrees with central differences", ({ operator, cases }) => {
  it.each(named(cases))("$label", async ({ attributes, dims }) => {
    for (const known of sizesKnown) {
      const { error, precision } = await checkGradient(build(operator, attributes), inputs(dims), { known, opset: 18 });
      expect(error, `sizes: ${known}, ${precision}`).toBeLessThan(checkTolerance[precision]);
    }
  });
});

describe("ConvTranspose with output_shape agrees with central differences", () => {
  it.each(named(withOutputShape))("$label", async ({ attributes, dims }) => {
    const { error, precision } = await checkGradient(build("ConvTranspose", attributes), inputs(dims), { opset: 18 });
    expect(error, precision).toBeLessThan(checkTolerance[precision]);
  });
});

describe("what is not known in advance", () => {
  it("every rule of the family is held against differences above", () => {
    expect(Object.keys(convRules).sort()).toEqual(["Conv", "ConvTranspose"]);
  });

  it("the rank of x: the window has it", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.op("Mystery", [], {}, { domain: "test" });
    const w = g.input("w", "float32", [2, 2, 3, 3]);
    const y = g.op("Conv", [x, w], { strides: [2, 2] });
    expect(g.info(backward(g, new Map([[y, y]]), [w]).get("w")!).shape).toEqual([2, 2, 3, 3]);
  });

  it("the window's size is refused", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 2, 5]);
    const w = g.input("w", "float32", [2, 2, "k"]);
    const y = g.op("Conv", [x, w], {}, { name: "conv" });
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(
      /node "conv" \(Conv\): the size of its window is unknown/,
    );
  });

  it.each([
    [{ strides: [0] }, "strides of 1 sizes above 0, got [0]"],
    [{ dilations: [-1] }, "dilations of 1 sizes above 0, got [-1]"],
    [{ strides: [1, 1] }, "strides of 1 sizes above 0, got [1,1]"],
    [{ kernel_shape: [0] }, "kernel of 1 sizes above 0, got [0]"],
  ])("a window that is none is refused: %o", (attributes, message) => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 2, 5]);
    const w = g.input("w", "float32", [2, 2, 3]);
    const y = g.op("Conv", [x, w], attributes, { name: "conv" });
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(`node "conv" (Conv): expected ${message}`);
  });

  it("the input sizes of a ConvTranspose with output_shape are refused", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 2, "t"]);
    const w = g.input("w", "float32", [2, 2, 3]);
    const y = g.op("ConvTranspose", [x, w], { output_shape: [9], strides: [2] }, { name: "up" });
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(
      /node "up" \(ConvTranspose\): with output_shape, expected input sizes known in advance, got \[t\]/,
    );
  });
});
