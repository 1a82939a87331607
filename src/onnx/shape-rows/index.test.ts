import { describe, expect, it } from "vitest";
import { graphBuilder, type PlainAttributes } from "../builder.ts";
import type { Dim } from "../model.ts";
import { inferShapes } from "../shapes.ts";

type Input = readonly Dim[] | { readonly integers: readonly number[] };
const ints = (...integers: number[]): Input => ({ integers });
const b = "batch";

/** The shapes of an operator's outputs. */
function shapes(operator: string, inputs: readonly (Input | "")[], attributes: PlainAttributes, outputs: number) {
  const g = graphBuilder({ opset: 20 });
  const values = inputs.map((input, index) => {
    if (input === "") return "";
    return "integers" in input ? g.constant("int64", input.integers) : g.input(`x${index}`, "float32", input);
  });
  const names = g.ops(operator, values, outputs, attributes);
  const infos = inferShapes(g.build());
  return names.map((name) => infos.get(name)!.shape);
}

type Row = readonly [
  operator: string,
  inputs: readonly (Input | "")[],
  attributes: PlainAttributes,
  ...expected: (readonly Dim[] | undefined)[],
];

describe("shapes by operator", () => {
  const rows: readonly Row[] = [
    ["Sin", [[b, 6]], {}, [b, 6]],
    ["Cos", [[1, b, 6]], {}, [1, b, 6]],
    ["Compress", [[b, 6], [6]], { axis: 1 }, [b, null]],
    ["Compress", [[b, 6], [4]], {}, [null]],
    ["Split", [[b, 6], ints(1, 5)], { axis: 1 }, [b, 1], [b, 5]],
    ["Split", [[b, 5]], { axis: -1, num_outputs: 2 }, [b, 3], [b, 2]],
    ["Split", [[b, 6], [2]], { axis: 1 }, [b, null], [b, null]],
    ["Split", [[b, 6]], { axis: 0 }, [null, 6], [null, 6]],
    ["Slice", [[b, 9, 4], ints(1), ints(7), ints(1), ints(2)], {}, [b, 3, 4]],
    ["Slice", [[b, 9], ints(0, -3), ints(2 ** 40, -1)], {}, [b, 2]],
    ["Slice", [[b, 9], ints(-1), ints(-99), ints(1), ints(-2)], {}, [b, 5]],
    ["Slice", [[5, 9], ints(8), ints(2), ints(1)], {}, [5, 0]],
    ["Slice", [[b, 9], ints(1), ints(3), ints(0)], {}, [null, 9]],
    ["Slice", [[b, 9], [1], [1], ints(1)], {}, [b, null]],
    ["Slice", [[b, 9], ints(0), ints(3), [1]], {}, [null, null]],
    ["Slice", [[b, 9], ints(0), ints(3), ints(2 ** 31)], {}, [b, 9]],
    ["Pad", [[b, 3], ints(0, 1, 0, 2)], {}, [b, 6]],
    ["Pad", [[b, 3], ints(1, -1), "", ints(-2)], {}, [b, 3]],
    ["Pad", [[b, 3], ints(1, 1), "", ints(0)], {}, [null, 3]],
    ["Pad", [[b, 3], [4]], {}, [null, null]],
    ["TopK", [[b, 9], ints(4)], {}, [b, 4], [b, 4]],
    ["TopK", [[b, 9], [1]], { axis: 0 }, [null, 9], [null, 9]],
    [
      "GatherND",
      [
        [b, 3, 4],
        [7, 2],
      ],
      {},
      [7, 4],
    ],
    [
      "GatherND",
      [
        [b, 3, 4],
        [b, 7, 1],
      ],
      { batch_dims: 1 },
      [b, 7, 4],
    ],
    [
      "GatherND",
      [
        [b, 3, 4],
        [7, null],
      ],
      {},
      undefined,
    ],
    ["OneHot", [[b, 3], ints(5), [2]], {}, [b, 3, 5]],
    ["OneHot", [[b, 3], [1], [2]], { axis: 0 }, [null, b, 3]],
    ["DepthToSpace", [[b, 12, 2, "w"]], { blocksize: 2 }, [b, 3, 4, null]],
    ["DepthToSpace", [[b, 3, 2, 2]], { blocksize: 0 }, [b, null, 0, 0]],
    ["SpaceToDepth", [[b, 3, 4, 6]], { blocksize: 2 }, [b, 12, 2, 3]],
    ["Tile", [[b, 3], ints(1, 2)], {}, [b, 6]],
    ["Tile", [[b, 3], ints(2, 1)], {}, [null, 3]],
    ["Range", [ints(), ints(), ints()], {}, [null]],
    ["NonZero", [[b, 3, 4]], {}, [3, null]],
    ["EyeLike", [[b, 3]], {}, [b, 3]],
    ["Reshape", [[b, "t", 12], ints(0, 0, 4, -1)], {}, [b, "t", 4, 3]],
    ["Reshape", [[b, "t", 12], ints(-1, 12)], {}, [null, 12]],
    ["Reshape", [[b, 1, 12], ints(-1, 12)], {}, [b, 12]],
    ["Reshape", [[null, 12], ints(-1, 12)], {}, [null, 12]],
    [
      "Einsum",
      [
        [b, "i", 4],
        [b, "j", 4],
      ],
      { equation: "bik,bjk->bij" },
      [b, "i", "j"],
    ],
    [
      "Einsum",
      [
        [b, 2, 3],
        [3, 5],
      ],
      { equation: "...i,ij" },
      [b, 2, 5],
    ],
    ["Einsum", [[b, 3]], { equation: "ijk->i" }, undefined],
  ];
  const table = rows.map(([operator, inputs, attributes, ...expected]) => ({ operator, inputs, attributes, expected }));
  it.each(table)("$operator $inputs $attributes", ({ operator, inputs, attributes, expected }) => {
    expect(shapes(operator, inputs, attributes, expected.length)).toEqual(expected);
  });

  it("the first n of a table are n", () => {
    const g = graphBuilder({ opset: 20 });
    const n = g.op("Shape", [g.input("x", "float32", ["seq"])]);
    const first = (size: number) =>
      g.info(g.op("Slice", [g.input("table", "float32", [size, 4]), g.constant("int64", [0]), n])).shape;
    expect(first(512)).toEqual(["seq", 4]);
    expect(first(1)![0]).not.toBe("seq");
  });

  it("Range from 0 is as long as the size that it counts to", () => {
    const g = graphBuilder({ opset: 20 });
    const x = g.input("x", "float32", ["batch", "seq"]);
    const size = g.op("Gather", [g.op("Shape", [x]), g.constant("int64", 1)]);
    const range = g.op("Range", [g.constant("int64", 0), size, g.constant("int64", 1)]);
    expect(g.info(range)).toEqual({ type: "int64", shape: ["seq"] });
  });
});
