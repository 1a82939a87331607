// The table test of a family of rules: each case is held against central differences, for every way in which sizes can be
// known and in the oldest, a middle and the newest operator set, and each rule of the family must have a case.
import { describe, expect, it } from "vitest";
import type { GraphBuilder, PlainAttributes, Value } from "../../onnx/builder.ts";
import { graphBuilder } from "../../onnx/builder.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { RuleTable } from "../rule.ts";
import { backward } from "../walk.ts";
import { type CheckedInput, checkGradient, checkTolerance, evaluate, type SizesKnown, sizesKnown } from "./check.ts";

export type Build = (g: GraphBuilder, x: readonly Value[]) => Value;
/** `since`: the first operator set that has it, where that is later than 18. */
export type Case = readonly [label: string, build: Build, inputs: readonly CheckedInput[], since?: number];

const opsets: Readonly<Record<SizesKnown, number>> = { static: 18, shared: 20, symbolic: 23 };

/** Inputs of these shapes, drawn from [-2, 2]. */
export const dims = (...list: (readonly number[])[]): CheckedInput[] => list.map((one) => ({ dims: one }));

/** Inputs of these shapes, drawn from a range. */
export const within = (from: number, to: number, ...list: (readonly number[])[]): CheckedInput[] =>
  list.map((one) => ({ dims: one, range: [from, to] as const }));

/** A function that is one operator. */
export const op =
  (operator: string, attributes: PlainAttributes = {}): Build =>
  (g, x) =>
    g.op(operator, x, attributes);

export const int64 = (g: GraphBuilder, ...values: number[]): Value => g.constant("int64", values);

/** Integers in any shape. */
export const integers = (g: GraphBuilder, shape: readonly number[], ...values: number[]): Value =>
  g.initializer("integers", tensor("int64", shape, BigInt64Array.from(values, BigInt)));

/** Declares the tests of a family; rules named in `elsewhere` are tested by other means. */
export function testRules(
  rules: RuleTable,
  cases: Readonly<Record<string, readonly Case[]>>,
  elsewhere: readonly string[] = [],
): void {
  describe("each rule agrees with central differences", () => {
    const table = Object.entries(cases).flatMap(([operator, list]) =>
      list.map(([label, build, inputs, opset]) => ({ operator, label, build, inputs, since: opset ?? 18 })),
    );
    it.each(table)("$operator $label", async ({ build, inputs, since }) => {
      for (const known of sizesKnown) {
        const opset = Math.max(opsets[known], since);
        const { error, precision } = await checkGradient(build, inputs, { known, opset });
        expect(error, `sizes: ${known}, operator set ${opset}, ${precision}`).toBeLessThan(checkTolerance[precision]);
      }
    });

    it("and every rule of the family is held against them", () => {
      expect([...Object.keys(cases), ...elsewhere].sort()).toEqual(Object.keys(rules).sort());
    });
  });
}

/** The gradients of a function at given points, with ones as the gradient of its value. */
export async function gradientsOf(
  build: Build,
  inputs: readonly Required<Pick<CheckedInput, "dims" | "values">>[],
): Promise<number[][]> {
  const opset = 20;
  const g = graphBuilder({ opset });
  const names = inputs.map(({ dims: shape }, index) => g.input(`x${index}`, "float32", shape));
  const y = build(g, names);
  const ones = g.op("Expand", [g.constant("float32", 1), g.op("Shape", [y])]);
  const gradients = backward(g, new Map([[y, ones]]), names);
  const outputs = names.map((name) => g.op("Identity", [gradients.get(name)!]));
  const point = inputs.map(({ dims: shape, values }, index): [string, Tensor] => [
    `x${index}`,
    tensor("float32", shape, Float32Array.from(values)),
  ]);
  const info = (name: string) => ({ name, type: undefined, shape: undefined, doc: "" });
  const results = await evaluate({ ...g.build(), outputs: outputs.map(info) }, new Map(point), opset);
  return outputs.map((name) => [...(results.get(name)!.data as Float32Array)]);
}
