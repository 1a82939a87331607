import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { graphBuilder, type Value } from "../../onnx/builder.ts";
import { inferShapes } from "../../onnx/shapes.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { evaluate } from "../testing/check.ts";
import { backward } from "../walk.ts";

const opset = 20;
const info = (name: Value) => ({ name, type: undefined, shape: undefined, doc: "" });

/** The places that x[start:end:step] reads, by the words of ONNX's Slice. */
function places(size: number, start: number, end: number, step: number): number[] {
  const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
  const from = start < 0 ? start + size : start;
  const to = end < 0 ? end + size : end;
  const found: number[] = [];
  if (step > 0) for (let at = clamp(from, 0, size); at < clamp(to, 0, size); at += step) found.push(at);
  else for (let at = clamp(from, 0, size - 1); at > clamp(to, -1, size - 1); at += step) found.push(at);
  return found;
}

/** y and dx of a slice of 1, 2, 3, …, with 1, 2, 3, … as y's gradient; and the shape that was inferred for y. */
async function sliced(size: number, start: number, end: number, step: number, known: boolean) {
  const g = graphBuilder({ opset });
  const x = g.input("x", "float32", [known ? size : "n"]);
  const y = g.op("Slice", [x, ...[start, end, 0, step].map((value) => g.constant("int64", [value]))]);
  const d = g.input("d", "float32", g.info(y).shape ?? [null]);
  const dx = backward(g, new Map([[y, d]]), [x]).get(x)!;
  const count = (length: number): Tensor =>
    tensor(
      "float32",
      [length],
      Float32Array.from({ length }, (_, index) => index + 1),
    );
  const feeds = new Map([
    ["x", count(size)],
    ["d", count(places(size, start, end, step).length)],
  ]);
  const results = await evaluate({ ...g.build(), outputs: [info(y), info(dx)] }, feeds, opset);
  return {
    y: [...(results.get(y)!.data as Float32Array)],
    dx: [...(results.get(dx)!.data as Float32Array)],
    shape: inferShapes(g.build()).get(y)!.shape,
  };
}

describe("a slice of any window", () => {
  it("is read, inferred and put back as the specification says", async () => {
    const bound = fc.integer({ min: -7, max: 7 });
    const step = fc.constantFrom(1, 1, 2, 3, -1, -2);
    const window = fc.tuple(fc.integer({ min: 1, max: 5 }), bound, bound, step, fc.boolean());
    await fc.assert(
      fc.asyncProperty(window, async ([size, start, end, stride, known]) => {
        const at = places(size, start, end, stride);
        const { y, dx, shape } = await sliced(size, start, end, stride, known);
        expect(y).toEqual(at.map((place) => place + 1));
        expect(dx).toEqual(Array.from({ length: size }, (_, place) => at.indexOf(place) + 1));
        if (known) expect(shape).toEqual([at.length]);
      }),
      { numRuns: 120 },
    );
  });
});
