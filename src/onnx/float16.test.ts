import { describe, expect, it } from "vitest";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createModel, type GraphBuilder, graphBuilder } from "./builder.ts";
import { productsInFloat16 } from "./float16.ts";
import { float16ToFloat32, toHalf } from "./half.ts";
import type { Model } from "./model.ts";

const opset = 18;

function model(build: (g: GraphBuilder) => void): Model {
  const g = graphBuilder({ opset });
  build(g);
  return createModel(g.build(), { opset });
}

const floats = (dims: readonly number[], ...values: number[]): Tensor<"float32"> =>
  tensor("float32", dims, Float32Array.from(values));

async function run(given: Model, x: Tensor, name = "y"): Promise<number[]> {
  const session = await openSession(given, { threads: 1 });
  try {
    return [...((await session.run(new Map([["x", x]]))).get(name)!.data as Float32Array)];
  } finally {
    await session.dispose();
  }
}

const rounded = (...values: number[]): number[] => [...float16ToFloat32(toHalf("float16", values))];
const ops = ({ graph }: Model): string[] => graph.nodes.map(({ op }) => op);

describe("productsInFloat16", () => {
  const layer = (weight: number): Model =>
    model((g) => {
      const x = g.input("x", "float32", ["n", 1]);
      const product = g.op("MatMul", [x, g.initializer("w", floats([1, 2], weight, 1.0001))]);
      g.output(g.op("Add", [product, g.initializer("b", floats([2], 1.00001, 0))], {}, { output: "y" }), "float32", [
        "n",
        2,
      ]);
    });

  it("has products between casts, and nothing else changed", async () => {
    const half = productsInFloat16(layer(0.1));
    expect(ops(half)).toEqual(["Cast", "MatMul", "Cast", "Add"]);
    const [w0, w1] = rounded(0.1, 1.0001) as [number, number];
    // The CPU's provider has no float16 products: it takes the casts of activations out, and weights alone are rounded there.
    const [first, second] = await run(half, floats([1, 1], 3.0003));
    expect(Math.abs(first! - (3.0003 * w0 + 1.00001))).toBeLessThan(2 ** -11);
    expect(Math.abs(second! - 3.0003 * w1)).toBeLessThan(3 * 2 ** -10);
    expect(half.graph.inputs).toEqual(layer(0.1).graph.inputs);
    expect(half.graph.outputs).toEqual(layer(0.1).graph.outputs);
  });

  it("stores weights once, in float16, and leaves the given model alone", () => {
    const given = layer(0.1);
    const { initializers } = productsInFloat16(given).graph;
    expect([...initializers.values()].map(({ type, dims }) => [type, dims])).toEqual([
      ["float32", [2]],
      ["float16", [1, 2]],
    ]);
    expect([...given.graph.initializers.keys()]).toEqual(["w", "b"]);
  });

  it("leaves a product alone whose weight does not fit", async () => {
    const given = layer(70000);
    const half = productsInFloat16(given);
    expect(half.graph).toEqual(given.graph);
    expect((await run(half, floats([1, 1], 2)))[0]).toBe(Math.fround(140000 + 1));
  });

  it("transposes a weight as it is stored, once for a forward and a backward product", async () => {
    const given = model((g) => {
      const x = g.input("x", "float32", ["n", 2]);
      const w = g.initializer("w", floats([2, 3], 1, 2, 3, 4, 5, 6));
      const back = g.op("MatMul", [g.op("MatMul", [x, w]), g.op("Transpose", [w], { perm: [1, 0] })]);
      g.output(g.op("Identity", [back], {}, { output: "y" }), "float32", ["n", 2]);
    });
    const half = productsInFloat16(given);
    expect([...half.graph.initializers.values()].map(({ type }) => type)).toEqual(["float16"]);
    expect(ops(half).filter((op) => op === "Transpose")).toHaveLength(1);
    expect(await run(half, floats([1, 2], 1, -1))).toEqual(await run(given, floats([1, 2], 1, -1)));
  });

  it("reads weights that are stored in float16 as they are, without their cast", () => {
    const given = model((g) => {
      const stored = g.initializer("w", tensor("float16", [1, 1], toHalf("float16", [2])));
      const x = g.input("x", "float32", ["n", 1]);
      g.output(g.op("MatMul", [x, g.op("Cast", [stored], { to: 1 })], {}, { output: "y" }), "float32", ["n", 1]);
    });
    const half = productsInFloat16(given);
    expect(half.graph.nodes.find(({ op }) => op === "MatMul")!.inputs[1]).toBe("w");
    expect(ops(half)).toEqual(["Cast", "MatMul", "Cast"]);
  });

  it("does so for Gemm with its bias and for Conv, and not for other types", async () => {
    const given = model((g) => {
      const x = g.input("x", "float32", [1, 1, 2, 2]);
      const conv = g.op("Conv", [x, g.initializer("k", floats([1, 1, 1, 1], 0.5))]);
      const flat = g.op("Flatten", [conv]);
      const w = g.initializer("w", floats([1, 4], 1, 1, 1, 1));
      const gemm = g.op("Gemm", [flat, w, g.initializer("c", floats([1], 0.25))], { transB: 1 });
      const wide = g.op("Cast", [gemm], { to: 11 });
      const doubled = g.op("MatMul", [wide, g.initializer("d", tensor("float64", [1, 1], Float64Array.of(2)))]);
      g.output(g.op("Cast", [doubled], { to: 1 }, { output: "y" }), "float32", [1, 1]);
    });
    const half = productsInFloat16(given);
    const types = [...half.graph.initializers.values()].map(({ type }) => type).sort();
    expect(types).toEqual(["float16", "float16", "float16", "float64"]);
    expect(await run(half, floats([1, 1, 2, 2], 1, 2, 3, 4))).toEqual([10.5]);
  });
});
