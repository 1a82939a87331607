import { describe, expect, it } from "vitest";
import { float, graphBuilder, type PlainAttributes } from "../builder.ts";
import type { Dim } from "../model.ts";
import { inferShapes } from "../shapes.ts";

type Row = readonly [
  operator: string,
  attributes: PlainAttributes,
  inputs: readonly (readonly Dim[])[],
  expected: readonly Dim[] | undefined,
];

const n = "batch";
const rows: readonly Row[] = [
  [
    "Conv",
    {},
    [
      [n, 3, 7, 8],
      [5, 3, 3, 2],
    ],
    [n, 5, 5, 7],
  ],
  [
    "Conv",
    { strides: [2, 3], pads: [1, 0, 0, 2], dilations: [2, 1] },
    [
      [n, 3, 7, 8],
      [5, 3, 3, 2],
    ],
    [n, 5, 2, 3],
  ],
  [
    "Conv",
    { auto_pad: "SAME_UPPER", strides: [2, 2] },
    [
      [n, 3, 7, "w"],
      [5, 3, 3, 3],
    ],
    [n, 5, 4, "ceil(w/2)"],
  ],
  [
    "Conv",
    { auto_pad: "VALID", strides: [2] },
    [
      [n, 3, 8],
      ["r", 3, 3],
    ],
    [n, "r", 3],
  ],
  // The same formula of the same size is the same size.
  [
    "Conv",
    { pads: [1, 1, 1, 1] },
    [
      [n, 3, "h", "w"],
      [5, 3, 3, 3],
    ],
    [n, 5, "h", "w"],
  ],
  [
    "Conv",
    { strides: [2, 1], pads: [1, 0, 1, 0] },
    [
      [n, 3, "h", "w"],
      [5, 3, 3, 3],
    ],
    [n, 5, "floor((h-1)/2)+1", "(w-2)"],
  ],
  [
    "Conv",
    {},
    [
      [n, 3, 7, null],
      [5, 3, "k", 3],
    ],
    [n, 5, null, null],
  ],
  [
    "Conv",
    { kernel_shape: [3, 3] },
    [
      [n, 3, 7, 8],
      [5, 3, "k", "l"],
    ],
    [n, 5, 5, 6],
  ],
  [
    "ConvTranspose",
    { strides: [2, 1], pads: [1, 0, 1, 0], output_padding: [1, 0] },
    [
      [n, 4, 3, "w"],
      [4, 5, 3, 3],
    ],
    [n, 5, 6, "(w+2)"],
  ],
  [
    "ConvTranspose",
    { strides: [2], group: 2 },
    [
      [n, 4, "t"],
      [4, 3, 2],
    ],
    [n, 6, "(t)*2"],
  ],
  [
    "ConvTranspose",
    { strides: [2, 2], auto_pad: "SAME_UPPER" },
    [
      [n, 4, 3, "w"],
      [4, 5, 3, 3],
    ],
    [n, 5, 6, null],
  ],
  [
    "ConvTranspose",
    { output_shape: [7, 9], strides: [2, 2] },
    [
      [n, 4, 3, 4],
      [4, 5, 3, 3],
    ],
    [n, 5, 7, 9],
  ],
  ["MaxPool", { kernel_shape: [2, 2], strides: [2, 2] }, [[n, 3, 7, 8]], [n, 3, 3, 4]],
  ["MaxPool", { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, [[n, 3, 7, 8]], [n, 3, 4, 4]],
  // The second window would start behind the image.
  ["MaxPool", { kernel_shape: [2], strides: [3], pads: [1, 1], ceil_mode: 1 }, [[n, 3, 2]], [n, 3, 1]],
  ["AveragePool", { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, [[n, 3, "h", "w"]], [n, 3, "h", "w"]],
  ["LpPool", { kernel_shape: [3], strides: [2], ceil_mode: 1 }, [[n, 3, "t"]], [n, 3, "ceil(before 0, (t-3)/2)+1"]],
  ["GlobalAveragePool", {}, [[n, 3, "h", 4]], [n, 3, 1, 1]],
  ["GlobalMaxPool", {}, [[n, 3, "t"]], [n, 3, 1]],
  ["RMSNormalization", { epsilon: float(0.1) }, [[n, "t", 4], [4]], [n, "t", 4]],
];

describe("shapes of convolution, pooling and normalization", () => {
  it.each(rows)("%s %o of %j", (operator, attributes, inputs, expected) => {
    const g = graphBuilder({ opset: 23 });
    const values = inputs.map((shape, index) => g.input(`x${index}`, "float32", shape));
    const y = g.op(operator, values, attributes);
    expect(inferShapes(g.build()).get(y)).toEqual({ type: "float32", shape: expected });
  });

  it("gives Resize the sizes that it is asked for, on its axes", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [n, 3, 4, "w"]);
    const sizes = g.op("Concat", [g.op("Shape", [x], { end: 2 }), g.constant("int64", [8, 9])], { axis: 0 });
    const all = g.op("Resize", [x, "", "", sizes]);
    const some = g.op("Resize", [x, "", "", g.constant("int64", [7])], { axes: [-2] });
    const scaled = g.op("Resize", [x, "", g.constant("float32", [2, 2])], { axes: [2, 3] });
    const shapes = inferShapes(g.build());
    expect(shapes.get(all)?.shape).toEqual([n, 3, 8, 9]);
    expect(shapes.get(some)?.shape).toEqual([n, 3, 7, "w"]);
    expect(shapes.get(scaled)?.shape).toEqual([n, 3, null, null]);
  });

  it("knows the outputs behind the first", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [n, 3, 4, 4]);
    const channels = g.input("c", "float32", [3]);
    const pooled = g.ops("MaxPool", [x], 2, { kernel_shape: [2, 2] });
    const layer = g.ops("LayerNormalization", [x, channels], 3, { axis: 2 });
    const batch = g.ops("BatchNormalization", [x, channels, channels, channels, channels], 3, { training_mode: 1 });
    const shapes = inferShapes(g.build());
    expect(shapes.get(pooled[1]!)).toEqual({ type: "int64", shape: [n, 3, 3, 3] });
    expect(layer.slice(1).map((name) => shapes.get(name)?.shape)).toEqual([
      [n, 3, 1, 1],
      [n, 3, 1, 1],
    ]);
    expect(batch.slice(1).map((name) => shapes.get(name)?.shape)).toEqual([[3], [3]]);
  });
});
