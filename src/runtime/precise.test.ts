import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { tensor } from "../tensor.ts";
import { centralSlope, openPrecise } from "./precise.ts";

/** y = x / 3 + 1, by way of a cast, a Constant-like initializer and a ConstantOfShape. */
function third() {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["n"]);
  const one = g.op("Exp", [g.op("ConstantOfShape", [g.op("Shape", [x])])]);
  const three = g.op("Cast", [g.initializer("three", tensor("int64", [], BigInt64Array.of(3n)))], { to: 1 });
  g.output(g.op("Add", [g.op("Div", [x, three]), one], {}, { output: "y" }), "float32", ["n"]);
  return createModel(g.build(), { opset: 18 });
}

describe("openPrecise", () => {
  it("computes in float64 where it can", async () => {
    const session = await openPrecise(third(), { threads: 1 });
    const results = await session.run(new Map([["x", tensor("float64", [2], Float64Array.of(1, 0.1))]]));
    expect(session.precision).toBe("float64");
    expect([...(results.get("y")!.data as Float64Array)]).toEqual([1 / 3 + 1, 0.1 / 3 + 1]);
    await session.dispose();
  });

  it("computes in float32 where it cannot", async () => {
    const g = graphBuilder({ opset: 18 });
    g.output(g.op("Erf", [g.input("x", "float32", ["n"])], {}, { output: "y" }), "float32", ["n"]);
    const session = await openPrecise(createModel(g.build(), { opset: 18 }), { threads: 1 });
    const results = await session.run(new Map([["x", tensor("float64", [1], Float64Array.of(0.5))]]));
    expect(session.precision).toBe("float32");
    expect(results.get("y")!.type).toBe("float32");
    expect(Number(results.get("y")!.data[0])).toBeCloseTo(0.5204998778, 6); // Abramowitz & Stegun, table 7.1
    await session.dispose();
  });
});

describe("centralSlope", () => {
  it("is exact for polynomials of degree 4, and of order h^4 beyond", async () => {
    const quartic = async (t: number) => 3 + 2 * t - t ** 2 + 5 * t ** 3 + t ** 4;
    expect(await centralSlope(quartic, 0.5)).toBeCloseTo(2, 12);
    const error = async (h: number) => Math.abs((await centralSlope(async (t) => Math.exp(t), h)) - 1);
    expect((await error(0.1)) / (await error(0.05))).toBeCloseTo(16, 0);
  });
});
