import { describe, expect, it } from "vitest";
import { checkGradient, checkTolerance, evaluate } from "../grad/testing/check.ts";
import { backward } from "../grad/walk.ts";
import { type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { causalLm, checkClasses, crossEntropy, type Loss, meanSquaredError } from "./losses.ts";
import { classes, fixture, floats } from "./testing/fixture.ts";

/** |a - b| of float32 values around 1 that were computed in another order. */
const rounding = 2e-6;

interface Evaluated {
  readonly loss: number;
  /** In closed form, as training uses it. */
  readonly closed: number[];
  /** By walking back through the loss's own operators. */
  readonly walked: number[];
}

async function evaluated(loss: Loss, output: Tensor, labels: Tensor): Promise<Evaluated> {
  const g = graphBuilder({ opset: 17 });
  const x = g.input("output", "float32", output.dims);
  const built = loss.build(g, x, g.input("labels", labels.type, labels.dims));
  const walked = backward(g, new Map([[built.loss, g.constant("float32", 1)]]), [x]).get(x)!;
  const gradient = built.gradient!;
  const outputs = [built.loss, gradient, walked].map((name) => ({
    name,
    type: undefined,
    shape: undefined,
    doc: "",
  }));
  const results = await evaluate(
    { ...g.build(), outputs },
    new Map<string, Tensor>([
      ["output", output],
      ["labels", labels],
    ]),
  );
  const values = (name: string) => [...(results.get(name)!.data as Float32Array)];
  expect(results.get(built.loss)!.dims).toEqual([]);
  expect(results.get(gradient)!.dims).toEqual(output.dims);
  return { loss: values(built.loss)[0]!, closed: values(gradient), walked: values(walked) };
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  for (const [index, value] of expected.entries())
    expect(Math.abs(actual[index]! - value), `[${index}]`).toBeLessThan(rounding);
}

const losses: Readonly<Record<string, () => Loss>> = {
  cross_entropy: crossEntropy,
  causal_lm: causalLm,
  mse: meanSquaredError,
};
const cases = fixture.losses.map(({ name, output, labels, ...expected }) => ({
  name,
  dims: output.dims,
  make: losses[name]!,
  output: floats(output),
  labels: name === "mse" ? floats(labels) : classes(labels.data, labels.dims),
  ...expected,
}));

describe.each(cases)("$name of an output $dims", ({ make, output, labels, loss, gradient }) => {
  it("has PyTorch's value and gradient", async () => {
    const ours = await evaluated(make(), output, labels);
    expect(Math.abs(ours.loss - loss)).toBeLessThan(rounding);
    expectClose(ours.closed, gradient);
  });

  it("has a closed-form gradient that equals the walk over its own operators", async () => {
    const { closed, walked } = await evaluated(make(), output, labels);
    expectClose(closed, walked);
  });

  it("agrees with central differences", async () => {
    const build = (g: GraphBuilder, [x]: readonly Value[]) => make().build(g, x!, g.initializer("labels", labels)).loss;
    const { error, precision } = await checkGradient(build, [
      { dims: output.dims, values: [...output.data] as number[] },
    ]);
    expect(precision).toBe("float64");
    expect(error).toBeLessThan(checkTolerance.float64);
  });
});

describe("crossEntropy", () => {
  it("is log(classes) for equal logits, and stays finite for huge ones", async () => {
    const equal = await evaluated(crossEntropy(), tensor("float32", [2, 4], new Float32Array(8)), classes([0, 3]));
    expect(equal.loss).toBeCloseTo(Math.log(4), 6);
    expectClose(equal.closed, [-0.375, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, -0.375]);
    const huge = await evaluated(
      crossEntropy(),
      tensor("float32", [1, 2], Float32Array.of(10_000, -10_000)),
      classes([1]),
    );
    expect(huge.loss).toBe(20_000);
    expect(huge.closed).toEqual([1, -1]);
  });

  it("ignores what it is told to ignore: the mean is over the others", async () => {
    const output = floats({ dims: [3, 2], data: [1, 2, 30, -4, 0.5, 0] });
    const some = await evaluated(crossEntropy({ ignoreIndex: 7 }), output, classes([0, 7, 1]));
    const without = await evaluated(crossEntropy(), floats({ dims: [2, 2], data: [1, 2, 0.5, 0] }), classes([0, 1]));
    expect(some.loss).toBeCloseTo(without.loss, 6);
    expect(some.closed.slice(2, 4).map(Math.abs)).toEqual([0, 0]);
    expectClose([...some.closed.slice(0, 2), ...some.closed.slice(4)], without.closed);
  });

  it("can ignore a real class", async () => {
    const output = floats({ dims: [2, 2], data: [3, 1, 2, 5] });
    const { loss } = await evaluated(crossEntropy({ ignoreIndex: 0 }), output, classes([0, 1]));
    expect(loss).toBeCloseTo(Math.log(1 + Math.exp(-3)), 6);
  });

  it("is NaN when all labels are ignored, as in PyTorch", async () => {
    const { loss } = await evaluated(
      crossEntropy(),
      floats({ dims: [2, 2], data: [3, 1, 2, 5] }),
      classes([-100, -100]),
    );
    expect(loss).toBeNaN();
  });
});

describe("causalLm", () => {
  it("is cross entropy of each token's logits against the next token", async () => {
    const output = floats({ dims: [1, 3, 2], data: [1, 0, 0, 2, 9, -9] });
    const { loss, closed } = await evaluated(causalLm(), output, classes([1, 0, 1], [1, 3]));
    const direct = await evaluated(crossEntropy(), floats({ dims: [2, 2], data: [1, 0, 0, 2] }), classes([0, 1]));
    expect(loss).toBeCloseTo(direct.loss, 6);
    expectClose(closed.slice(0, 4), direct.closed);
    expect(closed.slice(4).map(Math.abs)).toEqual([0, 0]);
  });

  it("takes ignored tokens, and is NaN when there is no next token", async () => {
    const output = floats({ dims: [1, 3, 2], data: [1, 0, 0, 2, 9, -9] });
    const { loss } = await evaluated(causalLm({ ignoreIndex: 5 }), output, classes([1, 0, 5], [1, 3]));
    expect(loss).toBeCloseTo(Math.log(1 + Math.exp(-1)), 6);
    expect(
      (await evaluated(causalLm(), floats({ dims: [1, 1, 2], data: [1, 0] }), classes([1], [1, 1]))).loss,
    ).toBeNaN();
  });
});

describe("what a loss says of itself", () => {
  it("its name, its labels, and which output it is measured on", () => {
    expect(
      [crossEntropy(), causalLm(), meanSquaredError()].map(({ name, labels, output }) => [name, labels, output]),
    ).toEqual([
      ["cross_entropy", "int64", undefined],
      ["causal_lm", "int64", undefined],
      ["mse", "float32", undefined],
    ]);
    expect(crossEntropy({ output: "logits" }).output).toBe("logits");
    expect(meanSquaredError({ output: "y" }).output).toBe("y");
    expect([
      crossEntropy().ignoreIndex,
      causalLm({ ignoreIndex: 0 }).ignoreIndex,
      meanSquaredError().ignoreIndex,
    ]).toEqual([-100, 0, undefined]);
  });
});

describe("checkClasses", () => {
  it("takes classes and the ignored label", () => {
    checkClasses(classes([0, 9, -100]), 10, -100);
    checkClasses(classes([0, 1_000_000]), undefined, -100);
    checkClasses(classes([12]), 10, 12);
  });

  it("refuses labels below and above, and says where", () => {
    expect(() => checkClasses(classes([0, -1]), 10, -100)).toThrow(
      "batch: labels: expected 0 to 9, or -100 to be ignored, got -1 at [1]",
    );
    expect(() => checkClasses(classes([10]), 10, -100)).toThrow(expect.objectContaining({ code: "data" }));
    expect(() => checkClasses(classes([-100]), 10, 0)).toThrow(/got -100 at \[0\]/);
    expect(() => checkClasses(classes([-3]), undefined, -100)).toThrow(/expected 0 or more/);
  });
});
