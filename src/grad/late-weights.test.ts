import { describe, expect, it } from "vitest";
import { createModel, graphBuilder, type PlainAttributes, type Value } from "../onnx/builder.ts";
import { producers, prune } from "../onnx/graph.ts";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { openSession } from "../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { lowerPath } from "./lower/lower.ts";
import { backward } from "./walk.ts";

const random = createRandom(5, "late weights");
const floats = (...dims: number[]) =>
  tensor(
    "float32",
    dims,
    Float32Array.from({ length: elementCount(dims) }, () => random.normal()),
  );

/** y = x W1 W2, both in int8; gradients of x. */
async function gradient(scaleDims: readonly number[], attributes: PlainAttributes, isLate: boolean) {
  const g = graphBuilder({ opset: 21 });
  const stream = createRandom(9, "weights");
  let h: Value = g.input("x", "float32", ["batch", 8]);
  for (let layer = 0; layer < 2; layer++) {
    const weight = tensor(
      "int8",
      [8, 8],
      Int8Array.from({ length: 64 }, () => stream.integer(200) - 100),
    );
    const scale = Float32Array.from({ length: elementCount(scaleDims) }, () => 0.01 + 0.01 * stream.uniform());
    const inputs = [g.initializer("w", weight), g.initializer("s", tensor("float32", scaleDims, scale))];
    h = g.op("MatMul", [h, g.op("DequantizeLinear", inputs, attributes)]);
  }
  g.output(h, "float32", ["batch", 8]);
  const model = createModel(g.build(), { opset: 21 });
  const step = graphBuilder({ opset: 21, from: (isLate ? lowerPath(model, ["x"], [h]) : model).graph, scope: "grad/" });
  const seed = step.input("seed", "float32", ["batch", 8]);
  const dx = backward(step, new Map([[h, seed]]), ["x"]).get("x")!;
  const outputs = [h, dx].map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
  return { graph: prune({ ...step.build(), outputs }), outputs: [h, dx] };
}

/** As bytes, since a session of a small model would be made without any dequantization (runtime/plain-weights.ts). */
async function run(graph: Awaited<ReturnType<typeof gradient>>["graph"], feeds: ReadonlyMap<string, Tensor>) {
  const session = await openSession(writeModel(createModel(graph, { opset: 21 })), { threads: 1 });
  try {
    return [...(await session.run(feeds)).values()].map(({ data }) => data as Float32Array);
  } finally {
    await session.dispose();
  }
}

describe("weights that are dequantized when they are used", () => {
  const forms: [string, number[], PlainAttributes][] = [
    ["one scale", [], {}],
    ["a scale a column", [8], { axis: 1 }],
    ["blocks of 4 rows", [2, 8], { axis: 0, block_size: 4 }],
  ];
  for (const [name, dims, attributes] of forms) {
    it(`give the same output and gradient: ${name}`, async () => {
      const feeds = new Map([
        ["x", floats(3, 8)],
        ["seed", floats(3, 8)],
      ]);
      const late = await run((await gradient(dims, attributes, true)).graph, feeds);
      const early = await run((await gradient(dims, attributes, false)).graph, feeds);
      for (const [index, values] of late.entries()) {
        const gaps = values.map((value, at) => Math.abs(value - early[index]![at]!) / (1 + Math.abs(value)));
        expect(Math.max(...gaps)).toBeLessThan(1e-5);
        expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.1);
      }
    });
  }

  it("are made once for each use, and none depends on constants alone", async () => {
    const { graph } = await gradient([8], { axis: 1 }, true);
    const weights = graph.nodes.filter(({ op }) => op === "DequantizeLinear");
    expect(weights).toHaveLength(4); // two layers, forward and backward
    const made = producers(graph);
    for (const { inputs } of weights) expect(made.get(inputs[1]!)?.op).toBe("Where");
    expect([...graph.initializers.values()].filter(({ type }) => type === "int8")).toHaveLength(2);
  });
});
