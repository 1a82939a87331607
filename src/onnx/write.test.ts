import { describe, expect, it } from "vitest";
import { openSession } from "../runtime/session.ts";
import { tensor } from "../tensor.ts";
import { createModel, graphBuilder } from "./builder.ts";
import type { Model } from "./model.ts";
import { readModel } from "./read.ts";
import { writeModel, writeModelParts } from "./write.ts";

/** y = x W + b, with W [64, 32] of 8 KiB and b of 128 bytes. */
function linear(): Model {
  const g = graphBuilder({ opset: 17 });
  const x = g.input("x", "float32", ["batch", 64]);
  const w = g.initializer(
    "w",
    tensor(
      "float32",
      [64, 32],
      Float32Array.from({ length: 2048 }, (_, index) => index % 7),
    ),
  );
  const b = g.initializer("b", tensor("float32", [32], new Float32Array(32).fill(0.5)));
  g.output(g.op("Gemm", [x, w, b], {}, { output: "y" }), "float32", ["batch", 32]);
  return createModel(g.build(), { opset: 17 });
}

describe("writeModelParts", () => {
  it("leaves large weights where they are, and inlines the small", () => {
    const model = linear();
    const { bytes, data } = writeModelParts(model);
    const stored = model.graph.initializers.get("w")!;
    expect(bytes.length).toBeLessThan(1000);
    expect([...data.keys()]).toEqual(["weights_0"]);
    expect(data.get("weights_0")!.buffer).toBe(stored.bytes.buffer);
    expect(() => readModel(bytes)).toThrow(/"w".*external file/);
  });

  it("is the same model when it is put together again", () => {
    const model = linear();
    const { bytes, data } = writeModelParts(model);
    const external = (location: string, offset: number, length: number) =>
      data.get(location)!.subarray(offset, offset + length);
    expect(writeModel(readModel(bytes, "parts", { external }))).toEqual(writeModel(model));
  });

  it("finds weights that are views into one file by their offsets", async () => {
    const whole = readModel(writeModel(linear()));
    expect(whole.graph.initializers.get("w")!.bytes.byteOffset).toBeGreaterThan(0);
    const session = await openSession(whole);
    const x = tensor("float32", [1, 64], new Float32Array(64).fill(1));
    const y = (await session.run(new Map([["x", x]]))).get("y")!.data;
    // Column c sums (32 row + c) % 7 over 64 rows.
    const expected = Array.from({ length: 32 }, (_, column) =>
      Array.from({ length: 64 }, (__, row) => (32 * row + column) % 7).reduce((a, b) => a + b, 0.5),
    );
    expect([...y]).toEqual(expected);
    await session.dispose();
  });
});
