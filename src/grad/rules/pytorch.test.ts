// Single operators against PyTorch: results and gradients of test/fixtures/rules (scripts/fixtures/rules.py).
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { float, graphBuilder, type PlainAttributes } from "../../onnx/builder.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { evaluate } from "../testing/check.ts";
import { backward } from "../walk.ts";

interface Values {
  readonly dims: readonly number[];
  readonly data: readonly number[];
}

interface Case {
  readonly name: string;
  readonly operator: string;
  readonly opset: number;
  readonly attributes: Readonly<Record<string, number | string | number[] | { readonly float: number }>>;
  readonly inputs: readonly Values[];
  readonly constants: readonly (
    | { readonly integers: number[] }
    | { readonly floats: number[]; readonly dims: number[] }
  )[];
  readonly output: Values;
  readonly seed: Values;
  readonly gradients: readonly (Values | null)[];
}

/** What the golden cases ask for: |a - b| <= 1e-5 + 1e-4 |b|. */
const tolerance = { absolute: 1e-5, relative: 1e-4 };

describe.each(["conv", "pool", "norm", "resize"])("%s: results and gradients are PyTorch's", (family) => {
  const file = new URL(`../../../test/fixtures/rules/${family}.json`, import.meta.url);
  const { cases } = JSON.parse(readFileSync(file, "utf8")) as { cases: Case[] };
  it.each(cases)("$operator $name", async (one) => {
    const { output, gradients } = await run(one);
    expect(worst(output, one.output)).toBeLessThanOrEqual(1);
    one.gradients.forEach((expected, index) => {
      if (expected !== null) expect(worst(gradients[index]!, expected), `input ${index}`).toBeLessThanOrEqual(1);
    });
  });
});

async function run({ operator, opset, attributes, inputs, constants, seed, gradients }: Case) {
  const g = graphBuilder({ opset });
  const names = inputs.map(({ dims }, index) => g.input(`x${index}`, "float32", dims));
  const others = constants.map((constant) =>
    "integers" in constant ? g.constant("int64", constant.integers) : g.constant("float32", constant.floats),
  );
  const plain = Object.entries(attributes).map(([key, value]) => [
    key,
    typeof value === "object" && "float" in value ? float(value.float) : value,
  ]);
  // An empty vector of scales is as good as none.
  const given = operator === "Resize" ? ["", "", others[2]!] : others;
  const y = g.op(operator, [...names, ...given], Object.fromEntries(plain) as PlainAttributes);
  expect(g.info(y)).toEqual({ type: "float32", shape: seed.dims });
  const d = g.input("d", "float32", seed.dims);
  const wanted = names.filter((_, index) => gradients[index] !== null);
  const computed = backward(g, new Map([[y, d]]), wanted);
  const outputs = [y, ...wanted.map((name) => g.op("Identity", [computed.get(name)!]))];
  const feeds = new Map<string, Tensor>([
    ...inputs.map(({ dims, data }, index): [string, Tensor] => [names[index]!, floats(dims, data)]),
    [d, floats(seed.dims, seed.data)],
  ]);
  const infos = outputs.map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
  const results = await evaluate({ ...g.build(), outputs: infos }, feeds, opset);
  return {
    output: results.get(y)!,
    gradients: names.map((name) => results.get(outputs[wanted.indexOf(name) + 1]!)),
  };
}

function floats(dims: readonly number[], data: readonly number[]): Tensor<"float32"> {
  return tensor("float32", dims, Float32Array.from(data));
}

/** The largest error as a share of the tolerance. */
function worst(actual: Tensor, { dims, data }: Values): number {
  expect(actual.dims).toEqual(dims);
  const errors = data.map(
    (value, index) =>
      Math.abs(Number(actual.data[index]) - value) / (tolerance.absolute + tolerance.relative * Math.abs(value)),
  );
  return Math.max(0, ...errors);
}
