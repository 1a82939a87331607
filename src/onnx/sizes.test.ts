import { describe, expect, it } from "vitest";
import { tensor } from "../tensor.ts";
import { type GraphBuilder, graphBuilder, type Value } from "./builder.ts";
import type { Dim } from "./model.ts";
import { inferShapes } from "./shapes.ts";
import { unknownSizes } from "./sizes.ts";

/** The shape of zeros whose sizes `write` computes from x [batch, 3, seq] and y [batch, 4]. */
function sizes(write: (g: GraphBuilder, x: Value, y: Value) => Value): readonly Dim[] | undefined {
  const g = graphBuilder({ opset: 20 });
  const x = g.input("x", "float32", ["batch", 3, "seq"]);
  const y = g.input("y", "float32", ["batch", 4]);
  const zeros = g.op("ConstantOfShape", [write(g, x, y)]);
  return inferShapes(g.build()).get(zeros)!.shape;
}

const ints = (g: GraphBuilder, ...values: number[]): Value => g.constant("int64", values);
const int = (g: GraphBuilder, value: number): Value => g.constant("int64", value);
const shape = (g: GraphBuilder, x: Value): Value => g.op("Shape", [x]);
/** One size, as exporters take it: Gather, then Unsqueeze. */
const one = (g: GraphBuilder, x: Value, axis: number): Value =>
  g.op("Unsqueeze", [g.op("Gather", [shape(g, x), int(g, axis)]), ints(g, 0)]);

describe("sizes that a graph computes", () => {
  it.each<[name: string, write: (g: GraphBuilder, x: Value, y: Value) => Value, expected: readonly Dim[] | undefined]>([
    ["Shape", (g, x) => shape(g, x), ["batch", 3, "seq"]],
    ["Shape in part", (g, x) => g.op("Shape", [x], { start: -2 }), [3, "seq"]],
    [
      "Concat of gathered sizes",
      (g, x) => g.op("Concat", [one(g, x, 0), one(g, x, -1), ints(g, 4)], { axis: 0 }),
      ["batch", "seq", 4],
    ],
    ["Mod, with the divisor's sign", (g) => g.op("Mod", [ints(g, -1, 7, -3), int(g, 3)]), [2, 1, 0]],
    ["Gather of several", (g, x) => g.op("Gather", [shape(g, x), ints(g, 2, 0)]), ["seq", "batch"]],
    ["Slice", (g, x) => g.op("Slice", [shape(g, x), ints(g, 1), ints(g, 2 ** 31)]), [3, "seq"]],
    [
      "Slice from the end",
      (g, x) => g.op("Slice", [shape(g, x), ints(g, -1), ints(g, 9), ints(g, 0), ints(g, 1)]),
      ["seq"],
    ],
    [
      "Slice backwards is not followed",
      (g, x) => g.op("Slice", [shape(g, x), ints(g, -1), ints(g, -9), ints(g, 0), ints(g, -1)]),
      [null, null, null],
    ],
    ["Squeeze and Reshape", (g, x) => g.op("Reshape", [g.op("Squeeze", [one(g, x, 1)]), ints(g, -1)]), [3]],
    [
      "Cast there and back",
      (g, x) => g.op("Cast", [g.op("Cast", [shape(g, x)], { to: 6 })], { to: 7 }),
      ["batch", 3, "seq"],
    ],
    ["Mul", (g, x) => g.op("Mul", [shape(g, x), ints(g, 1, 2, 1)]), ["batch", 6, "seq"]],
    ["Mul of symbols", (g, x) => g.op("Mul", [one(g, x, 0), one(g, x, 2)]), [null]],
    ["Add", (g, x) => g.op("Add", [shape(g, x), ints(g, 0, 2, 1)]), ["batch", 5, null]],
    ["Sub", (g, x, y) => g.op("Sub", [one(g, x, 0), one(g, y, 0)]), [0]],
    ["Div", (g, x) => g.op("Div", [shape(g, x), ints(g, 1, 2, 2)]), ["batch", 1, null]],
    ["Div by 0", (g, x) => g.op("Div", [one(g, x, 1), ints(g, 0)]), [null]],
    ["Max and Min", (g, x, y) => g.op("Max", [one(g, x, 0), one(g, y, 0), one(g, y, 0)]), ["batch"]],
    ["Max of numbers", (g, x, y) => g.op("Max", [one(g, x, 1), one(g, y, 1)]), [4]],
    ["Min of numbers", (g, x, y) => g.op("Min", [one(g, x, 1), one(g, y, 1)]), [3]],
    ["Neg", (g, x) => g.op("Neg", [g.op("Neg", [one(g, x, 1)])]), [3]],
    ["Size", (g, x) => g.op("Reshape", [g.op("Size", [shape(g, x)]), ints(g, 1)]), [3]],
    ["ReduceProd", (g, x) => g.op("ReduceProd", [g.op("Slice", [shape(g, x), ints(g, 1), ints(g, 2)])]), [3]],
    ["Range", (g) => g.op("Range", [int(g, 2), int(g, 9), int(g, 3)]), [2, 5, 8]],
    [
      "ConstantOfShape",
      (g) =>
        g.op("ConstantOfShape", [ints(g, 2)], {
          value: {
            kind: "tensor",
            value: { type: "int64", dims: [1], bytes: new Uint8Array(BigInt64Array.of(7n).buffer) },
          },
        }),
      [7, 7],
    ],
    [
      "-1 for sizes that stay, as Expand is exported",
      (g, x) => {
        const wanted = g.op("Concat", [ints(g, -1), one(g, x, 0), ints(g, 5)], { axis: 0 });
        const open = g.op("Equal", [wanted, ints(g, -1)]);
        return g.op("Where", [open, ints(g, 1, 1, 1), wanted]);
      },
      [1, "batch", 5],
    ],
    [
      "a choice that is not known",
      (g, x) => g.op("Where", [g.op("Equal", [one(g, x, 0), ints(g, 5)]), ints(g, 1), ints(g, 2)]),
      [null],
    ],
    [
      "a vector that is too long to be a shape",
      (g) => g.op("Identity", [g.initializer("table", tensor("int64", [2000], new BigInt64Array(2000)))]),
      undefined,
    ],
    ["an operator that is not followed", (g, x) => g.op("Sign", [shape(g, x)]), [null, null, null]],
  ])("%s", (_, write, expected) => {
    expect(sizes(write)).toEqual(expected);
  });

  it("are given by the builder as integers where all are known", () => {
    const g = graphBuilder({ opset: 20 });
    const x = g.input("x", "float32", ["batch", 3, 4]);
    expect(g.integers(g.op("Shape", [x], { start: 1 }))).toEqual([3, 4]);
    expect(g.integers(shape(g, x))).toBeUndefined();
    expect(g.integers(x)).toBeUndefined();
  });
});

describe("sizes that nothing is known of", () => {
  it("get a symbol each in a builder, which values computed from them share", () => {
    const g = graphBuilder({ opset: 20 });
    const x = g.input("x", "float32", [null, 3]);
    const [a, b] = [g.op("Unique", [x]), g.op("NonZero", [x])];
    const symbol = g.info(x).shape![0];
    expect(typeof symbol).toBe("string");
    expect(g.info(g.op("Relu", [x])).shape).toEqual([symbol, 3]);
    expect(g.info(a).shape).toBeUndefined();
    expect(g.info(b).shape![1]).not.toBe(symbol);
    expect(inferShapes(g.build()).get(x)!.shape).toEqual([null, 3]);
  });
});

it("nothing is known of a vector whose stated size is below zero", () => {
  expect(unknownSizes({ type: "int64", shape: [-3] })).toBeUndefined();
  expect(unknownSizes({ type: "int64", shape: [2] })).toEqual([null, null]);
});

it("nothing is known of a vector whose length is computed, and below zero or too long", () => {
  expect(sizes((g) => g.op("ConstantOfShape", [ints(g, -1)]))).toBeUndefined();
  expect(
    sizes((g) =>
      g.op("Concat", [ints(g, ...Array<number>(200).fill(1)), ints(g, ...Array<number>(200).fill(2))], { axis: 0 }),
    ),
  ).toBeUndefined();
});
