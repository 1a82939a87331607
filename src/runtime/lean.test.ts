import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom } from "../random.ts";
import { tensor } from "../tensor.ts";
import { isLarge, withoutTransposes } from "./lean.ts";
import { openSession } from "./session.ts";

function drawn(seed: number, ...dims: number[]) {
  const random = createRandom(seed);
  return tensor(
    "float32",
    dims,
    Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random.normal()),
  );
}

/** x W, then what backward products are: by W^T, by (W^T)^T, and by the transpose of an input. */
function products(): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["batch", 3, 4]);
  const w = g.initializer("w", drawn(1, 4, 6));
  const transposed = g.op("Transpose", [w], { perm: [1, 0] });
  const there = g.op("MatMul", [x, w]);
  const back = g.op("MatMul", [there, transposed]);
  const again = g.op("MatMul", [back, g.op("Transpose", [transposed], { perm: [1, 0] })]);
  const byInput = g.op("MatMul", [again, g.op("Transpose", [g.input("a", "float32", [5, 6])], { perm: [1, 0] })]);
  g.output(g.op("Identity", [byInput], {}, { output: "y" }), "float32", ["batch", 3, 5]);
  return createModel(g.build(), { opset: 18 });
}

describe("withoutTransposes", () => {
  it("reads a stored matrix as it is, however often it is transposed, and leaves other products alone", () => {
    const model = products();
    const { graph } = withoutTransposes(model);
    expect(graph.nodes.map(({ op }) => op)).toEqual([
      "MatMul",
      "FusedMatMul",
      "MatMul",
      "Transpose",
      "MatMul",
      "Identity",
    ]);
    expect(graph.nodes.filter(({ inputs }) => inputs[1] === "w")).toHaveLength(3);
    expect(model.graph.nodes.filter(({ op }) => op === "Transpose")).toHaveLength(3);
  });

  it("computes the same", async () => {
    const feeds = new Map([
      ["x", drawn(2, 2, 3, 4)],
      ["a", drawn(3, 5, 6)],
    ]);
    const results: Float32Array[] = [];
    for (const model of [products(), withoutTransposes(products())]) {
      const session = await openSession(model, { threads: 1 });
      results.push((await session.run(feeds)).get("y")!.data as Float32Array);
      await session.dispose();
    }
    expect(results[1]!.length).toBe(30);
    results[1]!.forEach((value, index) => {
      expect(value).toBeCloseTo(results[0]![index]!, 3);
    });
  });
});

describe("isLarge", () => {
  it("counts the bytes of all stored weights", () => {
    const model = products();
    expect(isLarge(model)).toBe(false);
    const stored = { type: "float32", dims: [8, 2 ** 20], bytes: new Uint8Array(32 * 2 ** 20) } as const;
    const initializers = new Map([
      ["w", stored],
      ["v", stored],
    ]);
    expect(isLarge({ ...model, graph: { ...model.graph, initializers } })).toBe(true);
  });
});
