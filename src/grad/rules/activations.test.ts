import { describe, expect, it } from "vitest";
import { float } from "../../onnx/builder.ts";
import type { CheckedInput } from "../testing/check.ts";
import { type Case, dims, gradientsOf, op, testRules, within } from "../testing/rules.ts";
import { activationRules, contribActivationRules } from "./activations.ts";

const point = (...values: number[]): CheckedInput[] => [{ dims: [values.length], values }];
/** Values on both sides of a kink at 0, none nearer than the differences' steps. */
const kinked = point(-2.5, -1.5, -0.3, -0.1, 0.1, 0.4, 2, 3);
const constant = (value: number) => (g: Parameters<Case[1]>[0]) => g.constant("float32", value);
const plain = (operator: string, inputs: readonly CheckedInput[] = dims([2, 3])): Case[] => [
  ["", op(operator), inputs],
];

const cases: Readonly<Record<string, readonly Case[]>> = {
  Sin: plain("Sin"),
  Cos: plain("Cos"),
  Tan: plain("Tan", within(-1, 1, [2, 3])),
  Asin: plain("Asin", within(-0.6, 0.6, [2, 3])),
  Acos: plain("Acos", within(-0.6, 0.6, [2, 3])),
  Atan: plain("Atan"),
  Sinh: plain("Sinh"),
  Cosh: plain("Cosh"),
  Asinh: plain("Asinh"),
  Acosh: plain("Acosh", within(1.3, 3, [2, 3])),
  Atanh: plain("Atanh", within(-0.8, 0.8, [2, 3])),
  Selu: [
    ["", op("Selu"), kinked],
    ["alpha 1, gamma 2", op("Selu", { alpha: float(1), gamma: float(2) }), kinked],
  ],
  Celu: [
    ["", op("Celu"), kinked],
    ["alpha 0.5", op("Celu", { alpha: float(0.5) }), kinked],
  ],
  Gelu: [
    ["", op("Gelu"), dims([2, 3]), 20],
    ["tanh", op("Gelu", { approximate: "tanh" }), dims([2, 3]), 20],
  ],
  Softsign: plain("Softsign", kinked),
  HardSigmoid: [
    ["", op("HardSigmoid"), point(-3, -2, 0.3, 1, 3)],
    ["alpha 1/6, beta 1/2", op("HardSigmoid", { alpha: float(1 / 6), beta: float(0.5) }), point(-4, -2, 0.3, 1, 4)],
  ],
  HardSwish: plain("HardSwish", point(-4, -2, 0.3, 1, 4)),
  Mish: plain("Mish"),
  Swish: [
    ["", op("Swish"), dims([2, 3]), 24],
    ["alpha 1.5", op("Swish", { alpha: float(1.5) }), dims([2, 3]), 24],
  ],
  PRelu: [
    ["a slope for each", op("PRelu"), [{ dims: [2, 2], values: [-1, 0.5, 2, -0.2] }, { dims: [2, 2] }]],
    ["one slope", op("PRelu"), [...kinked, { dims: [1] }]],
    [
      "a slope for each channel",
      op("PRelu"),
      [{ dims: [1, 2, 3], values: [-1, 0.5, 2, -0.2, 1, -3] }, { dims: [2, 1] }],
    ],
  ],
  ThresholdedRelu: [
    ["", op("ThresholdedRelu"), point(-1, 0.5, 0.8, 1.2, 2)],
    ["alpha -0.5", op("ThresholdedRelu", { alpha: float(-0.5) }), point(-1, -0.7, -0.3, 1)],
  ],
  Clip: [
    ["both bounds", (g, [x]) => g.op("Clip", [x!, constant(-1)(g), constant(1)(g)]), kinked],
    ["from below", (g, [x]) => g.op("Clip", [x!, constant(0)(g)]), kinked],
    ["from above", (g, [x]) => g.op("Clip", [x!, "", constant(0)(g)]), kinked],
    ["none", op("Clip"), kinked],
    ["bounds that are inputs", op("Clip"), [...kinked, { dims: [], values: [-1] }, { dims: [], values: [1.2] }]],
  ],
  Min: [
    ["two", op("Min"), dims([2, 3], [2, 3])],
    ["three that broadcast", op("Min"), dims([2, 1, 3], [3], [2, 1])],
    ["one", op("Min"), dims([2])],
  ],
  Max: [
    ["two", op("Max"), dims([2, 3], [2, 3])],
    ["three that broadcast", op("Max"), dims([2, 1, 3], [3], [2, 1])],
    ["one", op("Max"), dims([2])],
  ],
  Mean: [
    ["three of three shapes", op("Mean"), dims([2, 3], [3], [2, 1])],
    ["one", op("Mean"), dims([2])],
  ],
  Mod: [
    ["fmod", op("Mod", { fmod: 1 }), [...point(5.3, -5.3, 1.2, -0.4), { dims: [4], values: [2, 2, -0.5, 3] }]],
    [
      "fmod by one value",
      op("Mod", { fmod: 1 }),
      [
        { dims: [2, 2], values: [5.3, -5.3, 1.2, -0.4] },
        { dims: [], values: [1.7] },
      ],
    ],
  ],
  CastLike: [
    ["to the same type", (g, [x]) => g.op("CastLike", [x!, constant(0)(g)]), dims([2, 3])],
    [
      "to float64 and back",
      (g, [x]) => {
        const wide = g.op("CastLike", [x!, g.op("Cast", [constant(0)(g)], { to: 11 })]);
        return g.op("CastLike", [g.op("Mul", [wide, wide]), x!]);
      },
      dims([2, 3]),
    ],
  ],
};

testRules(activationRules, cases);

const contrib =
  (operator: string): Case[1] =>
  (g, inputs) =>
    g.op(operator, [...inputs], {}, { domain: "com.microsoft" });

testRules(contribActivationRules, {
  Gelu: [["", contrib("Gelu"), dims([2, 3])]],
  BiasGelu: [["", contrib("BiasGelu"), dims([2, 3], [3])]],
  FastGelu: [
    ["", contrib("FastGelu"), dims([2, 3])],
    ["with a bias", contrib("FastGelu"), dims([2, 3], [3])],
  ],
});

// torch.autograd's values (2.13) for the same points, the gradient of the output being ones.
describe("at kinks and ties the gradient is PyTorch's", () => {
  it.each<[name: string, operator: Case[1], inputs: [number[], number[]][], gradients: number[][]]>([
    [
      "clamp at its bounds",
      (g, [x]) => g.op("Clip", [x!, constant(-1)(g), constant(1)(g)]),
      [[[5], [-2, -1, 0, 1, 2]]],
      [[0, 1, 1, 1, 0]],
    ],
    [
      "maximum of equal values",
      op("Max"),
      [
        [[3], [1, 2, 3]],
        [[3], [1, 3, 2]],
      ],
      [
        [0.5, 0, 1],
        [0.5, 1, 0],
      ],
    ],
    [
      "minimum of equal values",
      op("Min"),
      [
        [[3], [1, 2, 3]],
        [[3], [1, 3, 2]],
      ],
      [
        [0.5, 1, 0],
        [0.5, 0, 1],
      ],
    ],
    ["hardswish", op("HardSwish"), [[[5], [-3, -1.5, 0, 1.5, 3]]], [[0, 0, 0.5, 1, 1]]],
    [
      "hardsigmoid",
      op("HardSigmoid", { alpha: float(1 / 6), beta: float(0.5) }),
      [[[3], [-3, 0, 3]]],
      [[0, Math.fround(1 / 6), 0]],
    ],
    [
      "prelu at 0",
      op("PRelu"),
      [
        [[3], [-1, 0, 1]],
        [[1], [0.25]],
      ],
      [[0.25, 0.25, 1], [-1]],
    ],
    ["selu at 0", op("Selu"), [[[1], [0]]], [[Math.fround(1.6732632423543772 * 1.0507009873554805)]]],
    ["leaky_relu at 0", op("LeakyRelu", { alpha: float(0.25) }), [[[1], [0]]], [[0.25]]],
    ["elu at 0", op("Elu", { alpha: float(0.5) }), [[[1], [0]]], [[0.5]]],
    ["relu at 0", op("Relu"), [[[1], [0]]], [[0]]],
    ["threshold at its bound", op("ThresholdedRelu"), [[[2], [1, 1.5]]], [[0, 1]]],
    [
      "pow at 0",
      op("Pow"),
      [
        [[4], [0, 0, 0, 2]],
        [[4], [0, 1, 2, 0]],
      ],
      [
        [0, 1, 0, 0],
        [0, 0, 0, Math.LN2],
      ],
    ],
    ["celu at 0", op("Celu"), [[[1], [0]]], [[1]]],
    [
      "fmod",
      op("Mod", { fmod: 1 }),
      [
        [[3], [5.5, -5.5, 5.5]],
        [[3], [2, 2, -2]],
      ],
      [
        [1, 1, 1],
        [-2, 2, 2],
      ],
    ],
  ])("%s", async (_, build, inputs, gradients) => {
    const found = await gradientsOf(
      build,
      inputs.map(([shape, values]) => ({ dims: shape, values })),
    );
    for (const [index, expected] of gradients.entries()) {
      for (const [at, value] of expected.entries())
        expect(found[index]![at], `input ${index}, ${at}`).toBeCloseTo(value, 6);
    }
  });
});
