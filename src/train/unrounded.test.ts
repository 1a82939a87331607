import { describe, expect, it } from "vitest";
import { twoLayers } from "../lora/testing/models.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { openSession } from "../runtime/session.ts";
import { tensor } from "../tensor.ts";
import { withoutRounding } from "./unrounded.ts";

const uint8 = (dims: number[], ...values: number[]) => tensor("uint8", dims, Uint8Array.from(values));
const floats = (...values: number[]) => tensor("float32", [values.length], Float32Array.from(values));

function built(build: (g: GraphBuilder, x: Value) => Value): Model {
  const g = graphBuilder({ opset: 18 });
  const y = build(g, g.input("x", "float32", ["batch", 2]));
  const outputs = [{ name: y, type: "float32" as const, shape: undefined, doc: "" }];
  const model = createModel({ ...g.build(), outputs }, { opset: 18 });
  return { ...model, opsets: new Map([...model.opsets, ["com.microsoft", 1]]) };
}

async function outputOf(model: Model, ...x: number[]): Promise<number[]> {
  const session = await openSession(model, { threads: 1 });
  try {
    const input = tensor("float32", [x.length / 2, 2], Float32Array.from(x));
    return [...(await session.run(new Map([["x", input]]))).values().next().value!.data].map(Number);
  } finally {
    await session.dispose();
  }
}

describe("a model without its rounding", () => {
  it("is itself when it rounds nothing", () => {
    const model = twoLayers();
    expect(withoutRounding(model)).toBe(model);
  });

  it("keeps what QuantizeLinear would round, and clips as it does, through what moves it", async () => {
    // Steps of 0.5 from -4 (z = 8) up to 123.5.
    const model = built((g, x) => {
      const [scale, zero] = [g.initializer("s", floats(0.5)), g.initializer("z", uint8([1], 8))];
      const q = g.op("Transpose", [g.op("QuantizeLinear", [x, scale, zero])]);
      return g.op("Transpose", [g.op("DequantizeLinear", [q, scale, zero])]);
    });
    expect(await outputOf(model, 1.3, -7, 500, -0.6)).toEqual([1.5, -4, 123.5, -0.5]);
    const smooth = await outputOf(withoutRounding(model), 1.3, -7, 500, -0.6);
    for (const [index, value] of [1.3, -4, 123.5, -0.6].entries()) expect(smooth[index]).toBeCloseTo(value, 6);
  });

  it.each([
    ["one scale and zero point", floats(0.5), uint8([1], 2)],
    ["one for each column", floats(0.5, 0.25), uint8([2], 2, 0)],
  ])("multiplies the floats themselves where activations are quantized dynamically: %s", async (_, scale, zero) => {
    const model = built((g, x) => {
      const weight = g.initializer("w", uint8([2, 2], 1, 2, 3, 4));
      const inputs = [
        x,
        weight,
        g.initializer("s", scale),
        g.initializer("z", zero),
        g.initializer("b", floats(1, -1)),
      ];
      return g.op("DynamicQuantizeMatMul", inputs, {}, { domain: "com.microsoft" });
    });
    // (w - z) s
    const [a, b, c, d] = scale.data.length === 1 ? [-0.5, 0, 0.5, 1] : [-0.5, 0.5, 0.5, 1];
    const actual = await outputOf(withoutRounding(model), 1.234, -0.567);
    expect(actual[0]).toBeCloseTo(1.234 * a! - 0.567 * c! + 1, 6);
    expect(actual[1]).toBeCloseTo(1.234 * b! - 0.567 * d! - 1, 6);
    expect(await outputOf(model, 1.234, -0.567)).not.toEqual(actual);
  });

  it("multiplies blocks of 4 bits by the floats themselves where the product would round them to 8 bits", async () => {
    const model = built((g, x) => {
      // Two rows of one block each: (w - 8) / 4 for w = 9, 12 and 6, 8.
      const bytes = new Uint8Array(16).fill(0x88);
      [bytes[0], bytes[8]] = [0xc9, 0x86];
      const weight = g.initializer("w", tensor("uint8", [2, 1, 8], bytes));
      const attributes = { K: 2, N: 2, bits: 4, block_size: 16, accuracy_level: 4 };
      return g.op("MatMulNBits", [x, weight, g.initializer("s", floats(0.25, 0.25))], attributes, {
        domain: "com.microsoft",
      });
    });
    const [first, second] = await outputOf(withoutRounding(model), 1.234, -0.567);
    expect(first).toBeCloseTo(1.234 * 0.25 - 0.567, 6);
    expect(second).toBeCloseTo(1.234 * -0.5, 6);
  });

  it("asks for the sizes of numbers that were quantized", async () => {
    const model = built((g, x) => {
      const [scale, zero] = [g.initializer("s", floats(0.5)), g.initializer("z", uint8([1], 8))];
      const q = g.op("QuantizeLinear", [x, scale, zero]);
      const back = g.op("DequantizeLinear", [q, scale, zero]);
      return g.op("Add", [back, g.op("Cast", [g.op("Size", [q])], { to: 1 })]);
    });
    const [first, second] = await outputOf(withoutRounding(model), 1.3, -0.6);
    expect(first).toBeCloseTo(3.3, 6);
    expect(second).toBeCloseTo(1.4, 6);
  });

  it("is itself where integers are computed with", () => {
    const model = built((g, x) => {
      const [scale, zero] = [g.initializer("s", floats(0.5)), g.initializer("z", uint8([1], 8))];
      const q = g.op("QuantizeLinear", [x, scale, zero]);
      const y = g.op("MatMulInteger", [q, g.initializer("w", uint8([2, 2], 1, 2, 3, 4))]);
      return g.op("Cast", [y], { to: 1 });
    });
    expect(withoutRounding(model)).toBe(model);
  });
});
