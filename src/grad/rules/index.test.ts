import { describe, expect, it } from "vitest";
import { type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { CheckedInput } from "../testing/check.ts";
import { type Case, dims, gradientsOf, int64, integers, op, testRules } from "../testing/rules.ts";
import { backward } from "../walk.ts";
import { indexRules } from "./index.ts";

/** x[…] with one entry for each axis that is sliced. */
const slice =
  (starts: number[], ends: number[], axes?: number[], steps?: number[]) =>
  (g: GraphBuilder, [x]: readonly Value[]): Value =>
    g.op("Slice", [
      x!,
      int64(g, ...starts),
      int64(g, ...ends),
      axes ? int64(g, ...axes) : "",
      steps ? int64(g, ...steps) : "",
    ]);

/** The same, with starts and ends that are known only while the graph runs. */
const computedSlice =
  (axes: number[], steps: number[]) =>
  (g: GraphBuilder, [x, starts, ends]: readonly Value[]): Value => {
    const [from, to] = [starts!, ends!].map((value) => g.op("Cast", [value], { to: 7 }));
    return g.op("Slice", [x!, from!, to!, int64(g, ...axes), int64(g, ...steps)]);
  };
const frozen = (...values: number[]): CheckedInput => ({ dims: [values.length], values, frozen: true });

const pad =
  (pads: number[], mode = "constant", axes?: number[]) =>
  (g: GraphBuilder, [x, value]: readonly Value[]): Value =>
    g.op("Pad", [x!, int64(g, ...pads), value ?? "", axes ? int64(g, ...axes) : ""], { mode });

const gather = (shape: number[], axis: number, ...values: number[]) => {
  return (g: GraphBuilder, [x]: readonly Value[]): Value =>
    g.op("Gather", [x!, integers(g, shape, ...values)], { axis });
};

const cases: Readonly<Record<string, readonly Case[]>> = {
  Concat: [
    ["the first axis", op("Concat", { axis: 0 }), dims([2, 3], [1, 3])],
    ["the last axis, three, one of no size", op("Concat", { axis: -1 }), dims([2, 3], [2, 0], [2, 1])],
    ["a middle axis", op("Concat", { axis: 1 }), dims([2, 1, 2], [2, 2, 2])],
    ["an axis from the end", op("Concat", { axis: -2 }), dims([2, 1, 2], [2, 2, 2])],
    ["one by itself", op("Concat", { axis: 0 }), dims([2])],
    ["a value with itself", (g, [x]) => g.op("Concat", [x!, x!], { axis: 1 }), dims([2, 2])],
  ],
  Split: [
    [
      "three parts, used apart",
      (g, [x]) => {
        const [a, b, c] = g.ops("Split", [x!, int64(g, 1, 2, 1)], 3, { axis: 1 });
        return g.op("Concat", [g.op("Mul", [a!, c!]), b!], { axis: 1 });
      },
      dims([2, 4]),
    ],
    [
      "equal parts, one unused",
      (g, [x]) => {
        const [a, , c] = g.ops("Split", [x!], 3, { axis: -1, num_outputs: 3 });
        return g.op("Mul", [a!, c!]);
      },
      dims([2, 6]),
    ],
    [
      "parts that do not fit",
      (g, [x]) => g.op("ReduceSum", [g.ops("Split", [x!], 2, { num_outputs: 2 })[1]!], { keepdims: 0 }),
      dims([5, 2]),
    ],
  ],
  Slice: [
    ["from the start", slice([0], [2]), dims([4, 2])],
    ["an inner part", slice([1, 1], [3, 3]), dims([4, 5])],
    ["an axis from the end, past the end", slice([-2], [2 ** 31], [-1]), dims([2, 5])],
    ["all", slice([0], [2 ** 31], [1]), dims([2, 3])],
    ["starts and ends from the end", slice([-3, -4], [-1, 9], [1, 0], [1, 1]), dims([3, 4, 2])],
    ["a start before the first", slice([-9], [2], [0]), dims([3])],
    ["nothing at all", slice([2], [1], [0]), dims([3, 2])],
    ["every second value", slice([0], [5], [1], [2]), dims([2, 5])],
    ["every second value up to 2^63 - 1", slice([1], [2 ** 63], [1], [2]), dims([2, 5])],
    ["backwards down to -2^63", slice([-1], [-(2 ** 63)], [0], [-2]), dims([5])],
    ["every third from the second on", slice([1], [9], [0], [3]), dims([8])],
    ["backwards", slice([-1], [-9], [0], [-1]), dims([4, 2])],
    ["backwards by two, and forwards", slice([3, 1], [0, 3], [0, 1], [-2, 1]), dims([4, 4])],
    ["a computed window", computedSlice([1, 0], [1, 1]), [{ dims: [3, 4] }, frozen(1, -9), frozen(3, 2)]],
    ["a computed window with steps", computedSlice([1, 0], [-2, 2]), [{ dims: [3, 5] }, frozen(4, 0), frozen(0, 3)]],
  ],
  Pad: [
    ["margins of zeros", pad([1, 0, 0, 2]), dims([2, 3])],
    ["margins of a value", pad([1, 0, 0, 2]), dims([2, 3], [])],
    ["margins that cut", pad([-1, 1, 0, -1]), dims([3, 3], [])],
    ["one axis, from the end", pad([2, 1], "constant", [-2]), dims([2, 2, 2])],
    ["reflected", pad([1, 2, 1, 0], "reflect"), dims([2, 3])],
    ["the edge repeated", pad([0, 2, 1, 1], "edge"), dims([2, 3])],
    ["wrapped", pad([1, 0, 2, 1], "wrap"), dims([3, 2]), 19],
    ["reflected, on one axis from the end", pad([1, 1], "reflect", [-1]), dims([2, 1, 3])],
  ],
  Expand: [
    ["leading axes and a size of 1", (g, [x]) => g.op("Expand", [x!, int64(g, 2, 3, 4)]), dims([3, 1])],
    ["ones in the shape", (g, [x]) => g.op("Expand", [x!, int64(g, 1, 1)]), dims([2, 3])],
    ["a scalar", (g, [x]) => g.op("Expand", [x!, int64(g, 2, 2)]), dims([])],
    [
      "to the shape of another",
      (g, [x, y]) => g.op("Expand", [x!, g.op("Shape", [y!])]),
      [{ dims: [1, 2] }, { dims: [3, 2], frozen: true }],
    ],
  ],
  Tile: [
    ["two axes", (g, [x]) => g.op("Tile", [x!, int64(g, 2, 3)]), dims([2, 2])],
    ["one of three axes", (g, [x]) => g.op("Tile", [x!, int64(g, 1, 2, 1)]), dims([2, 1, 3])],
    ["none", (g, [x]) => g.op("Tile", [x!, int64(g, 0)]), dims([2])],
  ],
  OneHot: [
    [
      "values",
      (g, [values]) => g.op("OneHot", [integers(g, [2, 2], 1, 0, -1, 7), g.constant("int64", 3), values!]),
      dims([2]),
    ],
    [
      "axis",
      (g, [values]) => g.op("OneHot", [integers(g, [3], 1, 0, 2), g.constant("int64", 4), values!], { axis: 0 }),
      dims([2]),
    ],
  ],
  Gather: [
    ["rows, one of them twice", gather([3], 0, 1, 0, 1), dims([2, 3])],
    ["columns, from the end", gather([2], -1, -1, 0), dims([2, 3])],
    ["a middle axis, indices of two axes", gather([2, 2], 1, 0, 2, 2, -1), dims([2, 3, 2])],
    ["rows, indices of two axes", gather([1, 3], 0, 3, 3, 0), dims([4, 2])],
    ["one place of a middle axis", gather([], 1, 1), dims([2, 3, 2])],
    ["one place from the end", gather([], 0, -1), dims([3])],
    ["the first token", gather([], 1, 0), dims([2, 3, 2])],
    ["from a vector", gather([2, 2], 0, 0, 1, 1, 1), dims([2])],
    ["nothing", gather([0], 0), dims([2, 2])],
  ],
  GatherND: [
    ["single values", (g, [x]) => g.op("GatherND", [x!, integers(g, [3, 2], 0, 1, 1, 2, 0, 1)]), dims([2, 3])],
    ["rows", (g, [x]) => g.op("GatherND", [x!, integers(g, [2, 2, 1], 1, 0, 1, -1)]), dims([3, 2])],
    ["slices of two axes", (g, [x]) => g.op("GatherND", [x!, integers(g, [1, 2], -1, 0)]), dims([2, 3, 2, 2])],
    [
      "one batch axis",
      (g, [x]) => g.op("GatherND", [x!, integers(g, [2, 2, 1], 0, 2, 1, 1)], { batch_dims: 1 }),
      dims([2, 3, 2]),
    ],
    [
      "two batch axes",
      (g, [x]) => g.op("GatherND", [x!, integers(g, [2, 2, 1], 0, 2, 1, -1)], { batch_dims: 2 }),
      dims([2, 2, 3]),
    ],
  ],
  ScatterElements: [
    [
      "replacing, the last axis",
      (g, [x, u]) => g.op("ScatterElements", [x!, integers(g, [2, 2], 0, 2, 1, -1), u!], { axis: 1 }),
      dims([2, 3], [2, 2]),
    ],
    [
      "adding, places twice",
      (g, [x, u]) => g.op("ScatterElements", [x!, integers(g, [3, 2], 0, 0, 0, 1, 1, 1), u!], { reduction: "add" }),
      dims([2, 2], [3, 2]),
    ],
  ],
  ScatterND: [
    ["replacing rows", (g, [x, u]) => g.op("ScatterND", [x!, integers(g, [2, 1], 2, 0), u!]), dims([3, 2], [2, 2])],
    [
      "adding values, places twice",
      (g, [x, u]) => g.op("ScatterND", [x!, integers(g, [3, 2], 0, 1, 0, 1, 1, 0), u!], { reduction: "add" }),
      dims([2, 2], [3]),
    ],
  ],
  TopK: [
    [
      "the largest two of each row",
      (g, [x]) => g.ops("TopK", [x!, int64(g, 2)], 2)[0]!,
      [{ dims: [2, 3], values: [0.5, -1, 2, 1, 0, 3] }],
    ],
    [
      "the smallest of each column",
      (g, [x]) => g.ops("TopK", [x!, int64(g, 1)], 2, { axis: 0, largest: 0 })[0]!,
      [{ dims: [2, 3], values: [0.5, -1, 2, 1, 0, 3] }],
    ],
  ],
  Trilu: [
    ["upper", op("Trilu"), dims([3, 4])],
    ["lower", op("Trilu", { upper: 0 }), dims([2, 3, 3])],
    ["lower, below the diagonal", (g, [x]) => g.op("Trilu", [x!, g.constant("int64", -1)], { upper: 0 }), dims([3, 3])],
  ],
  DepthToSpace: ["DCR", "CRD"].map(
    (mode): Case => [mode, op("DepthToSpace", { blocksize: 2, mode }), dims([2, 8, 1, 3])],
  ),
  SpaceToDepth: [["", op("SpaceToDepth", { blocksize: 2 }), dims([1, 2, 4, 2])]],
  CumSum: [0, 1].flatMap((exclusive) =>
    [0, 1].map(
      (reverse): Case => [
        `exclusive ${exclusive}, reverse ${reverse}`,
        (g, [x]) => g.op("CumSum", [x!, g.constant("int64", -1)], { exclusive, reverse }),
        dims([2, 4]),
      ],
    ),
  ),
};

testRules(indexRules, cases);

describe("what many indices read", () => {
  it("adds up exactly, on any number of threads", async () => {
    const count = 20000;
    const at = Array.from({ length: count }, (_, index) => index % 3);
    const [dx] = await gradientsOf(gather([count], 0, ...at), [{ dims: [3, 2], values: [1, 2, 3, 4, 5, 6] }]);
    expect(dx).toEqual([6667, 6667, 6667, 6667, 6666, 6666]);
  });
});

describe("what cannot be differentiated is refused by name", () => {
  const gradientOf = (build: (g: GraphBuilder, x: Value) => Value) => () => {
    const g = graphBuilder({ opset: 20 });
    const x = g.input("x", "float32", [2, 3]);
    backward(g, new Map([[build(g, x), x]]), [x]);
  };

  it.each(["mul", "min", "max"])("a scatter with reduction %s", (reduction) => {
    const scatter = gradientOf((g, x) =>
      g.op("ScatterElements", [x, integers(g, [1, 1], 0), x], { reduction }, { name: "s" }),
    );
    expect(scatter).toThrow(`node "s" (ScatterElements): expected reduction none or add, got ${reduction}`);
  });

  it("a slice along axes that are computed", () => {
    const sliced = gradientOf((g, x) =>
      g.op("Slice", [x, int64(g, 0), int64(g, 1), g.input("axes", "int64", [1])], {}, { name: "s" }),
    );
    expect(sliced).toThrow('node "s" (Slice): expected constant axes and steps, got computed ones');
  });

  it("TopK without its indices", () => {
    const top = gradientOf((g, x) => g.op("TopK", [x, int64(g, 1)], {}, { name: "t" }));
    expect(top).toThrow('node "t" (TopK): its indices are no output of it');
  });
});
