import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { ElementType } from "../onnx/elements.ts";
import type { Dim, Model } from "../onnx/model.ts";
import { tensor } from "../tensor.ts";
import { inputsFrom, randomInputs } from "./random-inputs.ts";

function model(inputs: readonly (readonly [name: string, type: ElementType, shape: readonly Dim[]])[]): Model {
  const g = graphBuilder({ opset: 18 });
  for (const [name, type, shape] of inputs) g.input(name, type, shape);
  return createModel(g.build(), { opset: 18 });
}

describe("randomInputs", () => {
  it("fits types and shapes: equal symbols are equal sizes, what is past is empty", () => {
    const inputs = randomInputs(
      model([
        ["ids", "int64", ["batch", "tokens"]],
        ["attention_mask", "int64", ["batch", "tokens"]],
        ["past", "float32", ["batch", 2, "past_length", 8]],
        ["image", "float32", ["batch", 3, null, "width"]],
        ["flag", "bool", [2]],
      ]),
    );
    expect(Object.entries(inputs).map(([name, { type, dims }]) => [name, type, dims])).toEqual([
      ["ids", "int64", [2, 4]],
      ["attention_mask", "int64", [2, 4]],
      ["past", "float32", [2, 2, 0, 8]],
      ["image", "float32", [2, 3, 32, 32]],
      ["flag", "bool", [2]],
    ]);
    expect(inputs.attention_mask!.data).toEqual(new BigInt64Array(8).fill(1n));
    const image = inputs.image!.data as Float32Array;
    const mean = image.reduce((sum, value) => sum + value, 0) / image.length;
    expect(Math.abs(mean)).toBeLessThan(0.1);
  });

  it("stays within the tables that indices are looked up in, through a cast and a reshape", () => {
    const g = graphBuilder({ opset: 18 });
    const ids = g.input("ids", "int32", [200]);
    const table = (name: string, rows: number) =>
      g.initializer(name, tensor("float32", [rows, 2], new Float32Array(2 * rows)));
    const rows = g.op("Reshape", [g.op("Cast", [ids], { to: 7 }), g.constant("int64", [20, 10])]);
    g.op("Gather", [table("large", 50), rows]);
    g.op("Gather", [table("small", 7), rows]);
    const data = randomInputs(createModel(g.build(), { opset: 18 })).ids!.data as Int32Array;
    expect([Math.min(...data), Math.max(...data)]).toEqual([0, 6]);
  });

  it("is the same for the same seed", () => {
    const one = model([["x", "float32", ["n", 3]]]);
    expect(randomInputs(one, { seed: 4 })).toEqual(randomInputs(one, { seed: 4 }));
    expect(randomInputs(one, { seed: 4 })).not.toEqual(randomInputs(one, { seed: 5 }));
  });

  it("names all inputs that it can make nothing for", () => {
    const odd = model([
      ["text", "string", [1]],
      ["x", "float32", [1]],
      ["half", "float16", [1]],
    ]);
    expect(() => randomInputs(odd)).toThrow(
      /2 faults\n.*input text: a random string cannot be made.*\n.*input half: a random float16 cannot be made/,
    );
  });
});

describe("inputsFrom", () => {
  const wanted = model([
    ["a", "float32", [1]],
    ["b", "float32", [1]],
  ]);
  const value = tensor("float32", [1], Float32Array.of(3));

  it("takes what the model has inputs for", () => {
    const all = new Map([
      ["a", value],
      ["b", value],
      ["c", value],
    ]);
    expect(Object.keys(inputsFrom(wanted, all))).toEqual(["a", "b"]);
  });

  it("says what is missing", () => {
    expect(() => inputsFrom(wanted, new Map([["b", value]]))).toThrow(
      "inputs: expected tensors a, b, got b; missing: a",
    );
  });
});
