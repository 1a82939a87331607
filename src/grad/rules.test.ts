import { describe, expect, it } from "vitest";
import { float, type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../onnx/builder.ts";
import { elementCode } from "../onnx/elements.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { elementwiseRules } from "./rules/elementwise.ts";
import { linearRules } from "./rules/linear.ts";
import { shapeRules } from "./rules/shape.ts";
import { type CheckedInput, checkGradient, checkTolerance, evaluate, sizesKnown } from "./testing/check.ts";
import { backward } from "./walk.ts";

type Build = (g: GraphBuilder, x: readonly Value[]) => Value;
type Case = readonly [label: string, build: Build, inputs: readonly CheckedInput[], opset?: number];

const dims = (...list: (readonly number[])[]): CheckedInput[] => list.map((one) => ({ dims: one }));
const within = (from: number, to: number, ...list: (readonly number[])[]): CheckedInput[] =>
  list.map((one) => ({ dims: one, range: [from, to] as const }));
const op =
  (operator: string, attributes: PlainAttributes = {}): Build =>
  (g, x) =>
    g.op(operator, x, attributes);
const int64 = (g: GraphBuilder, ...values: number[]) => g.constant("int64", values);

/** Values on both sides of a kink at 0, none nearer than the differences' steps. */
const kinked: CheckedInput[] = [{ dims: [2, 3], values: [-1.5, -0.3, -0.1, 0.1, 0.4, 2] }];

/** An operator of two inputs, in every way in which shapes broadcast. */
function broadcasts(operator: string, from = -2, to = 2): Case[] {
  const shapes: [number[], number[]][] = [
    [
      [2, 3],
      [2, 3],
    ],
    [[2, 3], [3]],
    [
      [2, 1],
      [1, 3],
    ],
    [[], [2, 3]],
    [[1], [2, 2]],
    [
      [4, 1],
      [2, 1, 3],
    ],
    [
      [1, 3],
      [1, 3],
    ],
    [[1, 1], [3]],
  ];
  return shapes.map(([a, b]) => [`[${a}] and [${b}]`, op(operator), within(from, to, a, b)]);
}

const cases: Readonly<Record<string, readonly Case[]>> = {
  Add: broadcasts("Add"),
  Sub: broadcasts("Sub"),
  Mul: [...broadcasts("Mul"), ["a value by itself", (g, [x]) => g.op("Mul", [x!, x!]), dims([2, 2])]],
  Div: broadcasts("Div", 0.5, 2),
  Sum: [
    ["three of three shapes", op("Sum"), dims([2, 3], [3], [2, 1])],
    ["one", op("Sum"), dims([2])],
  ],
  Pow: [
    ...broadcasts("Pow", 0.5, 2),
    ["a constant square", (g, [x]) => g.op("Pow", [x!, g.constant("float32", 2)]), dims([2, 3])],
    ["a constant of integers", (g, [x]) => g.op("Pow", [x!, int64(g, 3, 1)]), dims([2, 2])],
    [
      "at 0: squares and powers of 0",
      (g, [x]) => g.op("Pow", [x!, g.initializer("b", tensor("float32", [3], Float32Array.of(2, 1, 0)))]),
      [{ dims: [3], values: [0, 0, 0] }],
    ],
  ],
  Neg: [["", op("Neg"), dims([2, 3])]],
  Exp: [["", op("Exp"), dims([2, 3])]],
  Log: [["", op("Log"), within(0.2, 3, [2, 3])]],
  Sqrt: [["", op("Sqrt"), within(0.2, 3, [2, 3])]],
  Reciprocal: [["", op("Reciprocal"), within(0.5, 3, [2, 3])]],
  Abs: [["", op("Abs"), kinked]],
  Sigmoid: [["", op("Sigmoid"), dims([2, 3])]],
  Tanh: [["", op("Tanh"), dims([2, 3])]],
  Relu: [["", op("Relu"), kinked]],
  LeakyRelu: [
    ["", op("LeakyRelu"), kinked],
    ["alpha 0.3", op("LeakyRelu", { alpha: float(0.3) }), kinked],
  ],
  Elu: [
    ["", op("Elu"), kinked],
    ["alpha 0.3", op("Elu", { alpha: float(0.3) }), kinked],
  ],
  Softplus: [["", op("Softplus"), dims([2, 3])]],
  Erf: [["", op("Erf"), dims([2, 3])]],
  Identity: [["", op("Identity"), dims([2, 3])]],
  Cast: [
    ["to the same type", op("Cast", { to: elementCode("float32") }), dims([2, 3])],
    [
      "to float64 and back",
      (g, [x]) => {
        const wide = g.op("Cast", [x!], { to: elementCode("float64") });
        return g.op("Cast", [g.op("Mul", [wide, wide])], { to: elementCode("float32") });
      },
      dims([2, 3]),
    ],
  ],
  Where: [
    [
      "a condition from an input",
      (g, [a, b]) => g.op("Where", [g.op("Greater", [a!, g.constant("float32", 0)]), a!, b!]),
      [kinked[0]!, { dims: [2, 3] }],
    ],
    [
      "branches that broadcast",
      (g, [a, b, c]) => g.op("Where", [g.op("Less", [c!, g.constant("float32", 0)]), a!, b!]),
      [{ dims: [3] }, { dims: [2, 1] }, { ...kinked[0]!, frozen: true }],
    ],
  ],
  Dropout: [
    ["without training_mode", op("Dropout"), dims([2, 3])],
    [
      "with training_mode false",
      (g, [x]) =>
        g.op("Dropout", [
          x!,
          g.constant("float32", 0.5),
          g.initializer("training", tensor("bool", [], Uint8Array.of(0))),
        ]),
      dims([2, 3]),
    ],
  ],
  Softmax: [-1, 0, 1].map((axis): Case => [`axis ${axis}`, op("Softmax", { axis }), dims([2, 3, 2])]),
  LogSoftmax: [-1, 0, 1].map((axis): Case => [`axis ${axis}`, op("LogSoftmax", { axis }), dims([2, 3, 2])]),
  LayerNormalization: [
    ["the last axis", op("LayerNormalization"), dims([2, 4], [4], [4])],
    ["no bias, its own epsilon", op("LayerNormalization", { epsilon: float(0.1) }), dims([3, 4], [4])],
    ["two axes", op("LayerNormalization", { axis: 1 }), dims([2, 2, 3], [2, 3], [2, 3])],
    ["two axes from the end, opset 20", op("LayerNormalization", { axis: -2 }), dims([2, 2, 3], [2, 3], [2, 3]), 20],
    ["a scale that broadcasts, opset 20", op("LayerNormalization", { axis: 1 }), dims([2, 2, 3], [3], [3]), 20],
  ],
  MatMul: [
    ["matrices", op("MatMul"), dims([2, 3], [3, 4])],
    ["a stack and a matrix", op("MatMul"), dims([2, 2, 3], [3, 2])],
    ["a matrix and a stack", op("MatMul"), dims([2, 3], [2, 3, 2])],
    ["stacks that broadcast", op("MatMul"), dims([2, 1, 2, 3], [3, 3, 1])],
    ["a vector and a matrix", op("MatMul"), dims([3], [3, 2])],
    ["a matrix and a vector", op("MatMul"), dims([2, 3], [3])],
    ["two vectors", op("MatMul"), dims([3], [3])],
    ["a vector and a stack", op("MatMul"), dims([3], [2, 3, 2])],
    ["a stack and a vector", op("MatMul"), dims([2, 2, 3], [3])],
    ["by itself", (g, [x]) => g.op("MatMul", [x!, x!]), dims([2, 2])],
  ],
  Gemm: [0, 1].flatMap((transA) =>
    [0, 1].flatMap((transB): Case[] => {
      const [a, b] = [transA ? [3, 2] : [2, 3], transB ? [4, 3] : [3, 4]];
      const scaled = { transA, transB, alpha: float(0.5), beta: float(-2) };
      return [
        [`transA ${transA}, transB ${transB}`, op("Gemm", { transA, transB }), dims(a, b)],
        [`transA ${transA}, transB ${transB}, alpha, beta, a row c`, op("Gemm", scaled), dims(a, b, [4])],
        [`transA ${transA}, transB ${transB}, a column c`, op("Gemm", { transA, transB }), dims(a, b, [2, 1])],
      ];
    }),
  ),
  Reshape: [
    ["", (g, [x]) => g.op("Reshape", [x!, int64(g, 3, -1)]), dims([2, 3])],
    ["with a size copied", (g, [x]) => g.op("Reshape", [x!, int64(g, 0, 2, 3)]), dims([2, 6])],
    ["to a scalar", (g, [x]) => g.op("Reshape", [x!, int64(g)]), dims([1, 1])],
  ],
  Flatten: [0, 1, 2].map((axis): Case => [`axis ${axis}`, op("Flatten", { axis }), dims([2, 1, 3])]),
  Squeeze: [
    ["axes", (g, [x]) => g.op("Squeeze", [x!, int64(g, -1, 0)]), dims([1, 3, 1])],
    ["all", op("Squeeze"), dims([1, 3, 1])],
  ],
  Unsqueeze: [["", (g, [x]) => g.op("Unsqueeze", [x!, int64(g, 0, -1)]), dims([2, 3])]],
  Transpose: [
    ["reversed", op("Transpose"), dims([2, 3, 4])],
    ["perm [1, 2, 0]", op("Transpose", { perm: [1, 2, 0] }), dims([2, 3, 2])],
  ],
  ReduceSum: [
    ["all", op("ReduceSum"), dims([2, 3])],
    ["all, to a scalar", op("ReduceSum", { keepdims: 0 }), dims([2, 3])],
    ["an axis kept", (g, [x]) => g.op("ReduceSum", [x!, int64(g, 1)]), dims([2, 3, 2])],
    ["axes dropped", (g, [x]) => g.op("ReduceSum", [x!, int64(g, -1, 0)], { keepdims: 0 }), dims([2, 3, 2])],
    ["no axes", (g, [x]) => g.op("ReduceSum", [x!, int64(g)], { noop_with_empty_axes: 1 }), dims([2, 3])],
  ],
  ReduceMean: [
    ["all", op("ReduceMean"), dims([2, 3])],
    ["axes as an attribute", op("ReduceMean", { axes: [-1] }), dims([2, 3])],
    ["axes as an attribute, dropped", op("ReduceMean", { axes: [0, 2], keepdims: 0 }), dims([2, 3, 2])],
    [
      "axes as an input, opset 20",
      (g, [x]) => g.op("ReduceMean", [x!, int64(g, 1)], { keepdims: 0 }),
      dims([2, 3, 2]),
      20,
    ],
  ],
  GatherElements: [
    [
      "along the last axis, a place read twice",
      (g, [x]) =>
        g.op(
          "GatherElements",
          [x!, g.initializer("at", tensor("int64", [2, 3], BigInt64Array.of(0n, 0n, 2n, 1n, -1n, 1n)))],
          { axis: 1 },
        ),
      dims([2, 3]),
    ],
    [
      "along the first, fewer than there are",
      (g, [x]) => g.op("GatherElements", [x!, g.initializer("at", tensor("int64", [1, 2], BigInt64Array.of(2n, 0n)))]),
      dims([3, 2]),
    ],
  ],
};

describe("each rule agrees with central differences", () => {
  const table = Object.entries(cases).flatMap(([operator, list]) =>
    list.map(([label, build, inputs, opset]) => ({ operator, label, build, inputs, opset: opset ?? 17 })),
  );
  it.each(table)("$operator $label", async ({ build, inputs, opset }) => {
    for (const known of sizesKnown) {
      const { error, precision } = await checkGradient(build, inputs, { known, opset });
      expect(error, `sizes: ${known}, ${precision}`).toBeLessThan(checkTolerance[precision]);
    }
  });

  it("and every rule of these families is held against them", () => {
    const rules = Object.keys({ ...elementwiseRules, ...linearRules, ...shapeRules }).sort();
    expect(Object.keys(cases).sort()).toEqual(rules);
  });
});

describe("the check itself", () => {
  it("finds a gradient that is wrong", async () => {
    // exp(x) trunc(x): the cast to integers stops the walk, rightly so wherever trunc is flat.
    const stepped: Build = (g, [x]) =>
      g.op("Mul", [g.op("Exp", [x!]), g.op("Cast", [g.op("Cast", [x!], { to: 7 })], { to: 1 })]);
    const right = await checkGradient(stepped, [{ dims: [2], values: [1.5, 2.5] }]);
    expect(right.error).toBeLessThan(1e-5);
    // At 2 it jumps: the differences see that, and the gradient does not.
    const jump = await checkGradient(stepped, [{ dims: [2], values: [1.5, 2] }]);
    expect(jump.error).toBeGreaterThan(0.5);
  });

  it("computes differences in float64 where it can, and in float32 where not", async () => {
    expect((await checkGradient(op("Mul"), dims([2], [2]))).precision).toBe("float64");
    expect((await checkGradient(op("Erf"), dims([2]))).precision).toBe("float32");
  });
});

describe("Dropout while it trains", () => {
  it("divides by what is kept, where the mask kept it", async () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", [64]);
    const training = g.input("training", "bool", []);
    const [y, mask] = g.ops("Dropout", [x, g.constant("float32", 0.75), training], 2);
    const d = g.input("d", "float32", [64]);
    const dx = backward(g, new Map([[y!, d]]), [x]).get(x)!;
    const outputs = [y!, mask!, dx].map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
    const run = async (trains: number) => {
      const feeds = new Map<string, Tensor>([
        ["x", tensor("float32", [64], new Float32Array(64).fill(3))],
        [
          "d",
          tensor(
            "float32",
            [64],
            Float32Array.from({ length: 64 }, (_, index) => index + 1),
          ),
        ],
        ["training", tensor("bool", [], Uint8Array.of(trains))],
      ]);
      const results = await evaluate({ ...g.build(), outputs }, feeds);
      return [y!, mask!, dx].map((name) => [...(results.get(name)!.data as Float32Array)]) as [
        number[],
        number[],
        number[],
      ];
    };
    const [kept, on, gradient] = await run(1);
    expect(on.some((bit) => bit === 1) && on.some((bit) => bit === 0)).toBe(true);
    expect(kept).toEqual(on.map((bit) => bit * 12));
    expect(gradient).toEqual(on.map((bit, index) => bit * 4 * (index + 1)));
    expect((await run(0))[2]).toEqual(on.map((_, index) => index + 1));
  });

  it("is refused when its mask is thrown away", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", [4]);
    const y = g.op("Dropout", [x, g.constant("float32", 0.5), g.input("training", "bool", [])], {}, { name: "drop" });
    expect(() => backward(g, new Map([[y, x]]), [x])).toThrow(
      /node "drop" \(Dropout\): it may train, and its mask is no output/,
    );
  });
});

describe("what a rule cannot do", () => {
  it("differentiate a second output", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", [2, 4]);
    const scale = g.constant("float32", [1, 1, 1, 1]);
    const [y, mean] = g.ops("LayerNormalization", [x, scale], 2, {}, { name: "norm" });
    const sum = g.op("Add", [y!, mean!]);
    expect(() => backward(g, new Map([[sum, x]]), [x])).toThrow(
      /node "norm" \(LayerNormalization\): only its first output can be differentiated/,
    );
  });

  it("work without a rank that it needs", () => {
    const g = graphBuilder({ opset: 17 });
    const x = g.input("x", "float32", [2, 4]);
    const mystery = g.op("Mystery", [], {}, { domain: "test" });
    const product = g.op("MatMul", [x, mystery], {}, { name: "product" });
    expect(() => backward(g, new Map([[product, x]]), [x])).toThrow(
      /node "product" \(MatMul\): the rank of "Mystery_output_0" is unknown; run ONNX's shape inference/,
    );
  });
});
