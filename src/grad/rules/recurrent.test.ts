// Recurrent layers against PyTorch: test/fixtures/rules/recurrent.json (scripts/fixtures/recurrent.py). The runtime has no float64
// kernels for them, so that differences would say little.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { graphBuilder, type PlainAttributes, type Value } from "../../onnx/builder.ts";
import type { Dim } from "../../onnx/model.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { evaluate } from "../testing/check.ts";
import { backward } from "../walk.ts";

interface Values {
  readonly dims: readonly number[];
  readonly data: readonly number[];
}

interface Case {
  readonly operator: string;
  readonly attributes: Readonly<Record<string, string | number | string[]>>;
  readonly lengths: number[] | null;
  readonly inputs: Readonly<Record<string, Values>>;
  readonly outputs: readonly Values[];
  readonly seeds: readonly (Values | null)[];
  readonly gradients: Readonly<Record<string, Values>>;
}

const file = new URL("../../../test/fixtures/rules/recurrent.json", import.meta.url);
const { cases } = JSON.parse(readFileSync(file, "utf8")) as { cases: Case[] };
const order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"];
const hidden = 2;

/** Sizes are told, or each is a symbol. */
describe.each(["static", "symbolic"])("recurrent layers agree with PyTorch, sizes %s", (known) => {
  const table = cases.map((one, index) => ({
    ...one,
    label: `${index} ${one.operator} ${JSON.stringify(one.attributes)} ${one.lengths ?? ""}`,
  }));
  it.each(table)("$label", async ({ operator, attributes, lengths, inputs, outputs, seeds, gradients }) => {
    const opset = known === "static" ? 18 : 22;
    const g = graphBuilder({ opset });
    const dimsOf = (name: string, { dims }: Values): readonly Dim[] =>
      known === "static" ? dims : dims.map((_, axis) => `${name}_${axis}`);
    for (const [name, value] of Object.entries(inputs)) g.input(name, "float32", dimsOf(name, value));
    if (lengths) g.initializer("sequence_lens", tensor("int32", [lengths.length], Int32Array.from(lengths)));
    const given = order.map((name) => (inputs[name] || (lengths && name === "sequence_lens") ? name : ""));
    const plain = Object.fromEntries(
      Object.entries(attributes).map(([key, value]): [string, PlainAttributes[string]] => [
        key,
        typeof value === "object"
          ? { kind: "strings", value: value.map((text) => new TextEncoder().encode(text)) }
          : value,
      ]),
    );
    const results = g.ops(operator, given, outputs.length, { hidden_size: hidden, ...plain });
    const starts = new Map<Value, Value>();
    for (const [at, seed] of seeds.entries()) {
      if (seed !== null) starts.set(results[at]!, g.input(`seed_${at}`, "float32", dimsOf(`seed_${at}`, seed)));
    }
    const names = Object.keys(inputs);
    const computed = backward(g, starts, names);
    const wanted = [...results, ...names.map((name) => g.op("Identity", [computed.get(name)!]))];
    const infos = wanted.map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
    const feeds = new Map<string, Tensor>([
      ...Object.entries(inputs).map(([name, value]): [string, Tensor] => [name, floats(value)]),
      ...seeds.flatMap((seed, at): [string, Tensor][] => (seed === null ? [] : [[`seed_${at}`, floats(seed)]])),
    ]);
    const got = await evaluate({ ...g.build(), outputs: infos }, feeds, opset);
    outputs.forEach((value, at) => {
      expect(worst(got.get(wanted[at]!)!, value), `output ${at}`).toBeLessThanOrEqual(1);
    });
    names.forEach((name, at) => {
      expect(worst(got.get(wanted[outputs.length + at]!)!, gradients[name]!), name).toBeLessThanOrEqual(1);
    });
  });
});

function floats({ dims, data }: Values): Tensor<"float32"> {
  return tensor("float32", dims, Float32Array.from(data));
}

/** The largest error as a share of 1e-5 + 1e-4 |b|. */
function worst(actual: Tensor, { dims, data }: Values): number {
  expect(actual.dims).toEqual(dims);
  const errors = data.map((value, at) => Math.abs(Number(actual.data[at]) - value) / (1e-5 + 1e-4 * Math.abs(value)));
  return Math.max(0, ...errors);
}

describe("recurrent layers on the path", () => {
  const model = (attributes: PlainAttributes, outputs: number) => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["T", 2, 3]);
    const [w, r] = [g.input("w", "float32", [1, 8, 3]), g.input("r", "float32", [1, 8, hidden])];
    return { g, x, results: g.ops("LSTM", [x, w, r], outputs, { hidden_size: hidden, ...attributes }) };
  };

  it("are refused by what they have that no gradient goes through", () => {
    const { g, x, results } = model({ clip: { kind: "float", value: 3 }, input_forget: 1 }, 1);
    const seed = g.input("seed", "float32", ["T", 1, 2, hidden]);
    expect(() => backward(g, new Map([[results[0]!, seed]]), [x])).toThrow(
      /\(LSTM\): no gradient goes through it with clip, input_forget/,
    );
  });

  it("need no name for an output that nothing reads", async () => {
    const { g, x, results } = model({}, 3);
    const seed = g.input("seed", "float32", [1, 2, hidden]);
    const whole = g.op("Identity", [backward(g, new Map([[results[1]!, seed]]), [x]).get(x)!]);
    const unnamed = g.build();
    const other = graphBuilder({ opset: 18, from: { ...unnamed, nodes: [] }, reserved: [whole] });
    for (const node of unnamed.nodes.slice(0, 1)) other.node({ ...node, outputs: ["", "last"] });
    const again = other.op("Identity", [backward(other, new Map([["last", seed]]), [x]).get(x)!]);
    const random = (...dims: number[]) =>
      floats({
        dims,
        data: Array.from({ length: dims.reduce((a, b) => a * b) }, (_, at) => Math.sin(3 * at + dims.length)),
      });
    const feeds = new Map<string, Tensor>([
      ["x", random(4, 2, 3)],
      ["w", random(1, 8, 3)],
      ["r", random(1, 8, hidden)],
      ["seed", random(1, 2, hidden)],
    ]);
    const info = (name: string) => [{ name, type: undefined, shape: undefined, doc: "" }];
    const [a, b] = [
      (await evaluate({ ...g.build(), outputs: info(whole) }, feeds, 18)).get(whole)!,
      (await evaluate({ ...other.build(), outputs: info(again) }, feeds, 18)).get(again)!,
    ];
    expect(b).toEqual(a);
    expect(Math.max(...[...a.data].map(Number))).toBeGreaterThan(0.01);
  });
});
