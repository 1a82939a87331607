import { describe, expect, it } from "vitest";
import { tensor } from "../tensor.ts";
import { graphBuilder, type PlainAttributes, type Value } from "./builder.ts";
import { constantValue } from "./graph.ts";
import { type Attribute, type Dim, fromTensor, type Graph, type ValueInfo } from "./model.ts";
import { broadcast, sameDim, sameShape } from "./shape-row.ts";
import { inferShapes } from "./shapes.ts";

/** An input's shape, undefined for one of unknown rank, or a constant vector of integers. */
type Input = readonly Dim[] | undefined | { readonly integers: readonly number[] };

interface Case {
  readonly inputs: readonly Input[];
  readonly attributes?: PlainAttributes;
  readonly expected: readonly Dim[] | undefined;
}

/** The shape of the first output of an operator. */
function inferred(
  operator: string,
  { inputs, attributes = {} }: Pick<Case, "inputs" | "attributes">,
): Graph & { y: Value } {
  const g = graphBuilder({ opset: 18 });
  const values = inputs.map((input, index) => {
    if (input !== undefined && "integers" in input) return g.constant("int64", input.integers);
    // An unknown rank: the output of an operator that nothing is known of.
    if (input === undefined) return g.op("Mystery", [], {}, { domain: "test" });
    return g.input(`x${index}`, "float32", input);
  });
  const y = g.op(operator, values, attributes);
  return { ...g.build(), y };
}

function shapeOf(operator: string, parts: Pick<Case, "inputs" | "attributes">): readonly Dim[] | undefined {
  const { y, ...graph } = inferred(operator, parts);
  return inferShapes(graph).get(y)?.shape;
}

const ints = (...integers: number[]) => ({ integers });
const b = "batch";

const cases: Readonly<Record<string, readonly Case[]>> = {
  Relu: [
    { inputs: [[b, 3]], expected: [b, 3] },
    { inputs: [[]], expected: [] },
    { inputs: [undefined], expected: undefined },
  ],
  Softmax: [{ inputs: [[2, null, "t"]], expected: [2, null, "t"] }],
  Add: [
    { inputs: [[b, 3], [3]], expected: [b, 3] },
    { inputs: [[b, 1], [4]], expected: [b, 4] },
    {
      inputs: [
        [5, 1, 3],
        [b, 1],
      ],
      expected: [5, b, 3],
    },
    { inputs: [[b], [4]], expected: [4] },
    { inputs: [[b], ["other"]], expected: [null] },
    { inputs: [[b, 2], []], expected: [b, 2] },
    { inputs: [[b, 2], undefined], expected: undefined },
  ],
  Sum: [{ inputs: [[1, 3], [b, 1], [3]], expected: [b, 3] }],
  Where: [{ inputs: [[b, 1], [4], []], expected: [b, 4] }],
  Gemm: [
    {
      inputs: [
        [b, 3],
        [3, 5],
      ],
      expected: [b, 5],
    },
    { inputs: [[3, b], [5, 3], [5]], attributes: { transA: 1, transB: 1 }, expected: [b, 5] },
    { inputs: [undefined, [3, 5]], expected: [null, 5] },
  ],
  MatMul: [
    {
      inputs: [
        [b, 3],
        [3, 5],
      ],
      expected: [b, 5],
    },
    {
      inputs: [
        [b, "t", 3],
        [3, 5],
      ],
      expected: [b, "t", 5],
    },
    {
      inputs: [
        [b, 1, 2, 3],
        [4, 3, 5],
      ],
      expected: [b, 4, 2, 5],
    },
    { inputs: [[3], [3, 5]], expected: [5] },
    { inputs: [[b, 3], [3]], expected: [b] },
    { inputs: [[3], [3]], expected: [] },
    { inputs: [[b, 3], undefined], expected: undefined },
  ],
  ReduceSum: [
    { inputs: [[b, 3, 4]], expected: [1, 1, 1] },
    { inputs: [[b, 3, 4]], attributes: { keepdims: 0 }, expected: [] },
    { inputs: [[b, 3, 4], ints(-1, 0)], attributes: { keepdims: 0 }, expected: [3] },
    { inputs: [[b, 3, 4], ints(1)], expected: [b, 1, 4] },
    { inputs: [[b, 3], ints()], attributes: { noop_with_empty_axes: 1 }, expected: [b, 3] },
    { inputs: [[b, 3], ints()], expected: [1, 1] },
    { inputs: [[b, 3], [2]], expected: [null, null] },
    { inputs: [[b, 3], undefined], expected: [null, null] },
    { inputs: [[b, 3], [2]], attributes: { keepdims: 0 }, expected: undefined },
  ],
  ReduceMean: [
    { inputs: [[b, 3, 4]], attributes: { axes: [-1] }, expected: [b, 3, 1] },
    { inputs: [[b, 3, 4], ints(2)], attributes: { keepdims: 0 }, expected: [b, 3] },
    { inputs: [undefined, ints(2)], expected: undefined },
  ],
  ArgMax: [
    { inputs: [[b, 3, 4]], attributes: { axis: -1, keepdims: 0 }, expected: [b, 3] },
    { inputs: [[b, 3, 4]], expected: [1, 3, 4] },
  ],
  Transpose: [
    { inputs: [[b, 3, 4]], expected: [4, 3, b] },
    { inputs: [[b, 3, 4]], attributes: { perm: [0, 2, 1] }, expected: [b, 4, 3] },
  ],
  Unsqueeze: [
    { inputs: [[b, 3], ints(0, -1)], expected: [1, b, 3, 1] },
    { inputs: [[b], ints(1)], expected: [b, 1] },
    { inputs: [[b], [1]], expected: undefined },
  ],
  Squeeze: [
    { inputs: [[b, 1, 3, 1], ints(1, -1)], expected: [b, 3] },
    { inputs: [[2, 1, 3]], expected: [2, 3] },
    { inputs: [[b, 1]], expected: undefined },
  ],
  Flatten: [
    { inputs: [[b, 3, 4]], expected: [b, 12] },
    { inputs: [[b, 3, 4]], attributes: { axis: 0 }, expected: [1, null] },
    { inputs: [[2, 3, 4]], attributes: { axis: -1 }, expected: [6, 4] },
    { inputs: [[2, 3, 4]], attributes: { axis: 3 }, expected: [24, 1] },
    { inputs: [undefined], expected: [null, null] },
  ],
  Reshape: [
    { inputs: [[2, 3, 4], ints(6, -1)], expected: [6, 4] },
    { inputs: [[b, 3, 4], ints(0, 12)], expected: [b, 12] },
    { inputs: [[b, 3, 4], ints(-1, 12)], expected: [b, 12] },
    { inputs: [[2, 0, 4], ints(0, 0, 2, 2)], expected: [2, 0, 2, 2] },
    { inputs: [[0, 4], ints(-1, 0)], attributes: { allowzero: 1 }, expected: [null, 0] },
    { inputs: [[2, 5], ints(3, -1)], expected: [3, null] },
    { inputs: [[b, 3, 4], [2]], expected: [null, null] },
    { inputs: [[b, 3, 4], [2 ** 40]], expected: undefined },
    { inputs: [[b, 3, 4], undefined], expected: undefined },
  ],
  Concat: [
    {
      inputs: [
        [b, 2],
        [b, 3],
      ],
      attributes: { axis: -1 },
      expected: [b, 5],
    },
    {
      inputs: [
        [b, 2],
        ["c", 2],
      ],
      attributes: { axis: 0 },
      expected: [null, 2],
    },
    {
      inputs: [
        [b, 2],
        [4, 3],
      ],
      attributes: { axis: 1 },
      expected: [4, 5],
    },
    { inputs: [[b, 2], undefined], attributes: { axis: 1 }, expected: undefined },
  ],
  Gather: [
    {
      inputs: [
        [7, 4],
        [b, "t"],
      ],
      expected: [b, "t", 4],
    },
    { inputs: [[b, 5, 4], []], attributes: { axis: 1 }, expected: [b, 4] },
    { inputs: [[b, 5, 4], undefined], expected: undefined },
  ],
  GatherElements: [
    {
      inputs: [
        [b, 5],
        [b, 1],
      ],
      attributes: { axis: 1 },
      expected: [b, 1],
    },
  ],
  Expand: [
    { inputs: [[3, 1], ints(2, 1, 6)], expected: [2, 3, 6] },
    { inputs: [[b, 1], ints(1, 4)], expected: [b, 4] },
    { inputs: [[3, 1], [3]], expected: undefined },
  ],
  ConstantOfShape: [
    { inputs: [ints(2, 3)], expected: [2, 3] },
    { inputs: [ints()], expected: [] },
    { inputs: [[2]], expected: undefined },
  ],
  Shape: [
    { inputs: [[b, 3, 4]], expected: [3] },
    { inputs: [[b, 3, 4]], attributes: { start: 1 }, expected: [2] },
    { inputs: [[b, 3, 4]], attributes: { start: -2, end: -1 }, expected: [1] },
    { inputs: [[b, 3, 4]], attributes: { start: 2, end: 1 }, expected: [0] },
    { inputs: [undefined], expected: [null] },
  ],
  Size: [{ inputs: [[b, 3]], expected: [] }],
  Cast: [{ inputs: [[b, 3]], attributes: { to: 7 }, expected: [b, 3] }],
  CastLike: [{ inputs: [[b, 3], [9]], expected: [b, 3] }],
  Equal: [{ inputs: [[b, 1], [3]], expected: [b, 3] }],
  NoSuchOperator: [{ inputs: [[b, 3]], expected: undefined }],
};

describe("shapes by operator", () => {
  const table = Object.entries(cases).flatMap(([operator, list]) => list.map((one) => [operator, one] as const));
  it.each(table)("%s %j", (operator, one) => expect(shapeOf(operator, one)).toEqual(one.expected));

  it.each<[operator: string, attributes: PlainAttributes, type: string | undefined]>([
    ["Relu", {}, "float32"],
    ["Add", {}, "float32"],
    ["Equal", {}, "bool"],
    ["Less", {}, "bool"],
    ["ArgMax", {}, "int64"],
    ["Shape", {}, "int64"],
    ["Size", {}, "int64"],
    ["Cast", { to: 11 }, "float64"],
    ["Cast", { to: 99 }, undefined],
    ["NoSuchOperator", {}, undefined],
  ])("%s %j gives %s", (operator, attributes, type) => {
    const { y, ...graph } = inferred(operator, {
      inputs: [
        [b, 3],
        [b, 3],
      ],
      attributes,
    });
    expect(inferShapes(graph).get(y)!.type).toBe(type);
  });

  it("ConstantOfShape has its value's type, and Where that of its branches", () => {
    const g = graphBuilder({ opset: 18 });
    const value: Attribute = { kind: "tensor", value: fromTensor(tensor("int64", [1], BigInt64Array.of(1n))) };
    const ones = g.op("ConstantOfShape", [g.constant("int64", [2, 3])], { value });
    const plain = g.op("ConstantOfShape", [g.constant("int64", [2, 3])]);
    const x = g.input("x", "float32", [2, 3]);
    expect(g.info(ones)).toEqual({ type: "int64", shape: [2, 3] });
    expect(g.info(plain).type).toBe("float32");
    expect(g.info(g.op("Where", [g.op("Less", [x, x]), ones, ones]))).toEqual({ type: "int64", shape: [2, 3] });
  });

  it("an operator of another domain is not known by its name", () => {
    const g = graphBuilder({ opset: 18 });
    expect(g.info(g.op("Relu", [g.input("x", "float32", [2])], {}, { domain: "com.example" })).shape).toBeUndefined();
  });
});

describe("sizes that are computed", () => {
  it("follow a value through Shape, whole or in part", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 3, 4]);
    const flat = g.input("flat", "float32", [null]);
    expect(g.info(g.op("Reshape", [flat, g.op("Shape", [x])])).shape).toEqual(["batch", 3, 4]);
    expect(g.info(g.op("Expand", [g.constant("float32", 1), g.op("Shape", [x], { start: 1 })])).shape).toEqual([3, 4]);
    expect(g.info(g.op("ConstantOfShape", [g.op("Shape", [x], { end: -1 })])).shape).toEqual(["batch", 3]);
  });

  it.each<[name: string, attribute: Attribute]>([
    ["value", { kind: "tensor", value: fromTensor(tensor("int64", [2], BigInt64Array.of(2n, 3n))) }],
    ["value_ints", { kind: "ints", value: [2n, 3n] }],
  ])("are read from a Constant's %s", (name, attribute) => {
    const g = graphBuilder({ opset: 18 });
    const shape = g.op("Constant", [], { [name]: attribute });
    expect(g.info(shape)).toEqual({ type: "int64", shape: [2] });
    expect(g.info(g.op("ConstantOfShape", [shape])).shape).toEqual([2, 3]);
  });

  it.each<[name: string, attribute: Attribute, type: string, dims: number[], value: number | bigint]>([
    ["value_int", { kind: "int", value: 5n }, "int64", [], 5n],
    ["value_float", { kind: "float", value: 0.5 }, "float32", [], 0.5],
    ["value_floats", { kind: "floats", value: [0.5] }, "float32", [1], 0.5],
  ])("a Constant may also say %s", (name, attribute, type, dims, value) => {
    const g = graphBuilder({ opset: 18 });
    const made = g.op("Constant", [], { [name]: attribute });
    expect(g.info(made)).toEqual({ type, shape: dims });
    const { bytes } = constantValue(g.build().nodes[0]!)!;
    const array = type === "int64" ? new BigInt64Array(bytes.buffer) : new Float32Array(bytes.buffer);
    expect([...array]).toEqual([value]);
  });

  it("text has no value as a tensor", () => {
    const g = graphBuilder({ opset: 18 });
    const made = g.op("Constant", [], { value_string: "text" });
    expect(g.info(made).shape).toBeUndefined();
  });
});

describe("what the file states", () => {
  const stated = (shape: ValueInfo["shape"]): Graph => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 3]);
    g.op("NoSuchOperator", [x], {}, { output: "h" });
    g.op("Reshape", ["h", g.input("s", "int64", [2])], {}, { output: "y" });
    const values = ["h", "y"].map((name): ValueInfo => ({ name, type: "float32", shape, doc: "" }));
    return { ...g.build(), values };
  };

  it("fills in where inference does not know", () => {
    const shapes = inferShapes(stated(["batch", 7]));
    expect(shapes.get("h")).toEqual({ type: "float32", shape: ["batch", 7] });
    expect(shapes.get("y")!.shape).toEqual(["batch", 7]);
  });

  it("does not count where it has another rank than what was computed", () => {
    expect(inferShapes(stated([1, 2, 3])).get("y")!.shape).toEqual([null, null]);
  });
});

describe("dimensions", () => {
  it("that cannot be are not known", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["N", 2, 8, 8]);
    const w = g.input("w", "float32", [4, 2, 3, 3]);
    for (const attributes of [{ strides: [0, 0] }, { dilations: [9, 9] }, { pads: [-9, -9, 0, 0] }]) {
      const y = g.op("Conv", [x, w], attributes);
      expect(inferShapes(g.build()).get(y)!.shape).toEqual(["N", 4, null, null]);
    }
  });

  it("are the same only when that is sure", () => {
    expect(sameDim(3, 3)).toBe(true);
    expect(sameDim("batch", "batch")).toBe(true);
    expect(sameDim(null, null)).toBe(false);
    expect(sameDim(undefined, undefined)).toBe(false);
    expect(sameShape(["a", 1], ["a", 1])).toBe(true);
    expect(sameShape([1], [1, 1])).toBe(false);
    expect(sameShape(undefined, undefined)).toBe(false);
    expect(sameShape([], [])).toBe(true);
  });

  it("broadcast as NumPy's do", () => {
    expect(broadcast()).toEqual([]);
    expect(broadcast([3], [2, 1], [])).toEqual([2, 3]);
    expect(broadcast(["n"], ["n"])).toEqual(["n"]);
    expect(broadcast([null], [1])).toEqual([null]);
    expect(broadcast([3], undefined)).toBeUndefined();
  });
});
