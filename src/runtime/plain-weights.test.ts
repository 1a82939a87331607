import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { withLateWeights } from "../grad/late-weights.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { elementCount, tensor } from "../tensor.ts";
import { withPlainWeights } from "./plain-weights.ts";
import { openSession } from "./session.ts";

interface Form {
  readonly type: "int8" | "uint8";
  readonly dims: readonly number[];
  /** Undefined for one scale. */
  readonly axis: number | undefined;
  readonly hasZero: boolean;
}

/** y = x + W, with W stored as `form` says. */
function modelOf({ type, dims, axis, hasZero }: Form, seed: number, isAsked = false): Model {
  const g = graphBuilder({ opset: 19 });
  const random = createRandom(seed, "weights");
  const at = axis === undefined || axis >= 0 ? axis : axis + dims.length;
  const many = at === undefined ? [] : [dims[at]!];
  const bytes = (count: number) =>
    type === "int8"
      ? Int8Array.from({ length: count }, () => random.integer(256) - 128)
      : Uint8Array.from({ length: count }, () => random.integer(256));
  const scale = Float32Array.from({ length: elementCount(many) }, () => random.uniform());
  const inputs = [
    g.initializer("w", tensor(type as "int8", dims, bytes(elementCount(dims)) as Int8Array<ArrayBuffer>)),
    g.initializer("s", tensor("float32", many, scale)),
    ...(hasZero
      ? [g.initializer("z", tensor(type as "int8", many, bytes(elementCount(many)) as Int8Array<ArrayBuffer>))]
      : []),
  ];
  const w = g.op("DequantizeLinear", inputs, axis === undefined ? {} : { axis }, { output: "plain" });
  g.output(g.op("Add", [g.input("x", "float32", dims), w], {}, { output: "y" }), "float32", dims);
  if (isAsked) g.output(w, "float32", dims);
  return createModel(g.build(), { opset: 19 });
}

/** What the runtime itself makes of the graph: a model as bytes is given to it as it is. */
async function run(model: Model, dims: readonly number[]): Promise<Float32Array> {
  const session = await openSession(writeModel(model), { threads: 1 });
  const x = tensor("float32", dims, new Float32Array(elementCount(dims)));
  const y = (await session.run(new Map([["x", x]]))).get("y")!;
  await session.dispose();
  return y.data as Float32Array;
}

const forms: fc.Arbitrary<Form> = fc
  .tuple(
    fc.constantFrom("int8" as const, "uint8" as const),
    fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 4 }),
    fc.boolean(),
  )
  .chain(([type, dims, hasZero]) =>
    fc.option(fc.integer({ min: -dims.length, max: dims.length - 1 }), { nil: undefined }).map((axis) => ({
      ...{ type, dims, hasZero, axis },
    })),
  );

describe("weights of 8 bits in float32", () => {
  it("are the numbers that the runtime makes of them, bit for bit", async () => {
    await fc.assert(
      fc.asyncProperty(forms, fc.integer({ min: 0, max: 1000 }), async (form, seed) => {
        const model = modelOf(form, seed);
        const plain = withPlainWeights(model);
        expect(plain.graph.nodes.map(({ op }) => op)).toEqual(["Add"]);
        expect([...plain.graph.initializers.keys()]).toEqual(["plain"]);
        expect(await run(plain, form.dims)).toEqual(await run(model, form.dims));
      }),
      { numRuns: 40 },
    );
  });

  it("are shared by the nodes that read the same in the same way, waiting ones included", () => {
    const g = graphBuilder({ opset: 19 });
    const weight = g.initializer("w", tensor("int8", [2, 2], Int8Array.of(1, 2, 3, 4)));
    const scale = g.initializer("s", tensor("float32", [2], Float32Array.of(0.5, 2)));
    const x = g.input("x", "float32", ["n", 2]);
    const byColumn = g.op("MatMul", [x, g.op("DequantizeLinear", [weight, scale], { axis: 1 })]);
    const again = g.op("MatMul", [byColumn, g.op("DequantizeLinear", [weight, scale], { axis: 1 })]);
    const byRow = g.op("MatMul", [again, g.op("DequantizeLinear", [weight, scale], { axis: 0 })]);
    g.output(byRow, "float32", ["n", 2]);
    const late = withLateWeights(createModel(g.build(), { opset: 19 }));
    expect(late.graph.nodes.filter(({ op }) => op === "Where")).toHaveLength(3);
    const { graph } = withPlainWeights(late);
    expect(graph.nodes.map(({ op }) => op)).toEqual(["MatMul", "MatMul", "MatMul"]);
    const [first, second, third] = graph.nodes.map(({ inputs }) => graph.initializers.get(inputs[1]!)!);
    expect(second).toBe(first);
    const floats = ({ bytes }: typeof first & object): number[] => [...new Float32Array(bytes.slice().buffer)];
    expect(floats(first!)).toEqual([0.5, 4, 1.5, 8]);
    expect(floats(third!)).toEqual([0.5, 1, 6, 8]);
  });

  it("stay as they are where they are an output, and where they would be more than a little", () => {
    const asked = modelOf({ type: "int8", dims: [2, 3], axis: 0, hasZero: false }, 1, true);
    expect(withPlainWeights(asked)).toBe(asked);
    const large = modelOf({ type: "int8", dims: [2049, 2048], axis: 0, hasZero: false }, 1);
    expect(withPlainWeights(large)).toBe(large);
  });
});
