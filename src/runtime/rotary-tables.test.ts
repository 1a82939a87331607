import { describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Dim, Model } from "../onnx/model.ts";
import { tensor } from "../tensor.ts";
import { withRotaryTables } from "./rotary-tables.ts";
import { openSession } from "./session.ts";

/** y = x [batch, 1 head, 2 places, 2 values] turned by tables of one pair at each place, given for `rows` rows. */
function rotary(rows: Dim): Model {
  const g = graphBuilder({ opset: 23 });
  const x = g.input("x", "float32", ["batch", 1, 2, 2]);
  const [cos, sin] = [g.input("cos", "float32", [rows, 2, 1]), g.input("sin", "float32", [rows, 2, 1])];
  g.output(g.op("RotaryEmbedding", [x, cos, sin], {}, { output: "y" }), "float32", ["batch", 1, 2, 2]);
  return createModel(g.build(), { opset: 23 });
}

describe("tables of RotaryEmbedding", () => {
  it("of one row serve every row of the batch", async () => {
    const session = await openSession(rotary(1), { threads: 1 });
    const floats = (dims: number[], ...values: number[]) => tensor("float32", dims, Float32Array.from(values));
    // No turn at the first place, a quarter at the second: (a, b) -> (-b, a).
    const feeds = new Map([
      ["x", floats([2, 1, 2, 2], 1, 2, 3, 4, 5, 6, 7, 8)],
      ["cos", floats([1, 2, 1], 1, 0)],
      ["sin", floats([1, 2, 1], 0, 1)],
    ]);
    const y = (await session.run(feeds)).get("y")!;
    await session.dispose();
    expect([...y.data]).toEqual([1, 2, -4, 3, 5, 6, -8, 7]);
  });

  it("for each row stay as they are", () => {
    const model = rotary("batch");
    expect(withRotaryTables(model)).toBe(model);
  });
});
