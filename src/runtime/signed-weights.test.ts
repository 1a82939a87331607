import { afterEach, describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { tensor } from "../tensor.ts";
import { openSession, type Session } from "./session.ts";
import { hasIntegerProducts, withOwnSignedWeights } from "./signed-weights.ts";

/** y = x W by 8-bit products, and w = W as float32: of int8 W [64, 8], all 127. */
function twoReaders(): Model {
  const g = graphBuilder({ opset: 21 });
  const weight = g.initializer("weight", tensor("int8", [64, 8], new Int8Array(512).fill(127)));
  const x = g.input("x", "uint8", ["n", 64]);
  g.output(g.op("MatMulInteger", [x, weight], {}, { output: "y" }), "int32", ["n", 8]);
  const scale = g.initializer("scale", tensor("float32", [8], new Float32Array(8).fill(0.5)));
  g.output(g.op("DequantizeLinear", [weight, scale], { axis: 1 }, { output: "w" }), "float32", [64, 8]);
  return createModel(g.build(), { opset: 21 });
}

let session: Session | undefined;
afterEach(async () => {
  await session?.dispose();
});

describe("weights of 8 signed bits", () => {
  it("get a name for each node that reads them, over the same bytes", () => {
    const model = twoReaders();
    const { graph } = withOwnSignedWeights(model);
    const [weight] = model.graph.initializers.keys();
    expect(graph.nodes.map(({ inputs }) => inputs.find((name) => name.startsWith(weight!)))).toEqual([
      weight,
      `${weight}/2`,
    ]);
    expect(graph.initializers.get(`${weight}/2`)!.bytes).toBe(model.graph.initializers.get(weight!)!.bytes);
  });

  it("get a zero point of their scale's shape where they have none", () => {
    const { graph } = withOwnSignedWeights(twoReaders());
    const zero = graph.initializers.get(graph.nodes[1]!.inputs[2]!);
    expect(zero).toEqual({ type: "int8", dims: [8], bytes: new Uint8Array(8) });
  });

  it("count where activations have 8 bits too", () => {
    const model = twoReaders();
    expect(hasIntegerProducts(model)).toBe(true);
    const nodes = model.graph.nodes.filter(({ op }) => op === "DequantizeLinear");
    expect(hasIntegerProducts({ ...model, graph: { ...model.graph, nodes } })).toBe(false);
  });

  it("leave a model alone in which no two nodes read the same", () => {
    const once = withOwnSignedWeights(twoReaders());
    expect(withOwnSignedWeights(once)).toBe(once);
  });

  it("are dequantized for each node that reads them, as the runtime does, which would name the weights twice", async () => {
    const g = graphBuilder({ opset: 21 });
    const floats = (...values: number[]) => tensor("float32", [values.length], Float32Array.from(values));
    const [scale, zero] = [
      g.initializer("scale", floats(0.5)),
      g.initializer("zero", tensor("int8", [1], Int8Array.of(0))),
    ];
    const x = g.input("x", "float32", ["n", 2]);
    const rounded = g.op("DequantizeLinear", [g.op("QuantizeLinear", [x, scale, zero]), scale, zero]);
    const bias = g.initializer("bias", tensor("int8", [2], Int8Array.of(3, -4)));
    const added = g.op(
      "DequantizeLinear",
      [bias, g.initializer("steps", floats(0.5, 0.25)), g.initializer("zeros", tensor("int8", [2], new Int8Array(2)))],
      { axis: 0 },
    );
    g.output(g.op("Mul", [g.op("Add", [rounded, added]), added], {}, { output: "y" }), "float32", ["n", 2]);
    const model = createModel(g.build(), { opset: 21 });
    const { graph } = withOwnSignedWeights(model);
    const last = graph.nodes.slice(-3);
    expect(last.map(({ op }) => op)).toEqual(["Add", "DequantizeLinear", "Mul"]);
    expect(last[1]!.inputs[0]).toBe("bias/2");
    expect(graph.initializers.get("bias/2")!.bytes).toBe(model.graph.initializers.get("bias")!.bytes);
    session = await openSession(model, { threads: 1 });
    const results = await session.run(new Map([["x", tensor("float32", [1, 2], Float32Array.of(1, -1.5))]]));
    expect([...results.get("y")!.data]).toEqual([2.5 * 1.5, 2.5]);
  });

  it("are multiplied without saturation, on every processor", async () => {
    session = await openSession(twoReaders(), { threads: 1 });
    const x = tensor("uint8", [1, 64], new Uint8Array(64).fill(255));
    const results = await session.run(new Map([["x", x]]));
    expect([...results.get("y")!.data]).toEqual(Array(8).fill(64 * 255 * 127));
    expect([...results.get("w")!.data].every((value) => value === 63.5)).toBe(true);
  });
});
