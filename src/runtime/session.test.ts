import { afterEach, describe, expect, it } from "vitest";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { isGuardError, leavesOutputsInPlace, withGuard } from "./in-place.ts";
import { loadOrt } from "./ort.ts";
import { checkDevice, devices, openSession, type Session } from "./session.ts";

/** sum = a + b and product = a b, of float32 [n, 2]. */
function twoOutputs(): Model {
  const g = graphBuilder({ opset: 17 });
  const [a, b] = [g.input("a", "float32", ["n", 2]), g.input("b", "float32", ["n", 2])];
  g.output(g.op("Add", [a, b], {}, { output: "sum" }), "float32", ["n", 2]);
  g.output(g.op("Mul", [a, b], {}, { output: "product" }), "float32", ["n", 2]);
  return createModel(g.build(), { opset: 17 });
}

const pair = (...values: number[]): Tensor<"float32"> =>
  tensor("float32", [values.length / 2, 2], Float32Array.from(values));

let opened: Session[] = [];
afterEach(async () => {
  await Promise.all(opened.map((session) => session.dispose()));
  opened = [];
});

async function open(model: Model | Uint8Array = twoOutputs(), forBinding = false): Promise<Session> {
  const session = await openSession(model, { threads: 1, forBinding });
  opened.push(session);
  return session;
}

const values = (value: Tensor | undefined) => [...value!.data];

describe("run", () => {
  it("gives all outputs, or those that are asked for", async () => {
    const session = await open();
    expect([session.inputs, session.outputs]).toEqual([
      ["a", "b"],
      ["sum", "product"],
    ]);
    const feeds = new Map([
      ["a", pair(1, 2)],
      ["b", pair(3, 4)],
    ]);
    const all = await session.run(feeds);
    expect([...all.keys()]).toEqual(["sum", "product"]);
    expect(all.get("sum")).toEqual(pair(4, 6));
    expect(values(all.get("product"))).toEqual([3, 8]);
    expect([...(await session.run(feeds, ["product"])).keys()]).toEqual(["product"]);
  });

  it("takes a model as bytes too", async () => {
    const session = await open(writeModel(twoOutputs()));
    const results = await session.run(
      new Map([
        ["a", pair(1, 2)],
        ["b", pair(3, 4)],
      ]),
    );
    expect(values(results.get("sum"))).toEqual([4, 6]);
  });

  it("brings every element type in and out", async () => {
    const tensors: Tensor[] = [
      tensor("float32", [2], Float32Array.of(1.5, -2)),
      tensor("float64", [2], Float64Array.of(0.1, -1e300)),
      tensor("int8", [2], Int8Array.of(-128, 127)),
      tensor("uint8", [2], Uint8Array.of(0, 255)),
      tensor("int16", [2], Int16Array.of(-32768, 32767)),
      tensor("uint16", [2], Uint16Array.of(0, 65535)),
      tensor("int32", [2], Int32Array.of(-(2 ** 31), 2 ** 31 - 1)),
      tensor("uint32", [2], Uint32Array.of(0, 2 ** 32 - 1)),
      tensor("int64", [2], BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n)),
      tensor("uint64", [2], BigUint64Array.of(0n, 2n ** 64n - 1n)),
      tensor("bool", [2], Uint8Array.of(1, 0)),
      tensor("float16", [2], Uint16Array.of(0x3c00, 0xc000)),
    ];
    for (const value of tensors) {
      const g = graphBuilder({ opset: 17 });
      g.output(g.op("Identity", [g.input("x", value.type, [2])], {}, { output: "y" }), value.type, [2]);
      const session = await open(createModel(g.build(), { opset: 17 }));
      const y = (await session.run(new Map([["x", value]]))).get("y")!;
      expect([y.type, y.dims, [...y.data]]).toEqual([value.type, value.dims, [...value.data]]);
    }
  });

  it("takes scalars and empty tensors", async () => {
    const g = graphBuilder({ opset: 17 });
    const [x, s] = [g.input("x", "float32", ["n", 2]), g.input("s", "float32", [])];
    g.output(g.op("Mul", [x, s], {}, { output: "y" }), "float32", ["n", 2]);
    const session = await open(createModel(g.build(), { opset: 17 }));
    const scale = tensor("float32", [], Float32Array.of(3));
    const run = async (value: Tensor) =>
      (
        await session.run(
          new Map<string, Tensor>([
            ["x", value],
            ["s", scale],
          ]),
        )
      ).get("y");
    expect(values(await run(pair(1, 2)))).toEqual([3, 6]);
    expect(await run(pair())).toMatchObject({ dims: [0, 2] });
  });
});

describe.each([false, true])("bind, in a session that was opened for it: %s", (forBinding) => {
  it("reads inputs and writes outputs in place, run after run", async () => {
    const session = await open(twoOutputs(), forBinding);
    const [a, b, sum] = [pair(1, 2), pair(3, 4), pair(0, 0)];
    const bound = session.bind(
      new Map([
        ["a", a],
        ["b", b],
      ]),
      new Map([["sum", sum]]),
    );
    await bound.run();
    expect(values(sum)).toEqual([4, 6]);
    a.data.set([10, 20]);
    b.data[0] = -3;
    await bound.run();
    expect(values(sum)).toEqual([7, 24]);
  });

  it("takes other buffers, of other sizes, by feed", async () => {
    const session = await open(twoOutputs(), forBinding);
    const total = tensor("float32", [], new Float32Array(1));
    const g = graphBuilder({ opset: 17 });
    g.output(g.op("ReduceSum", [g.input("x", "float32", ["n"])], { keepdims: 0 }, { output: "t" }), "float32", []);
    const summing = await open(createModel(g.build(), { opset: 17 }), forBinding);
    const bound = summing.bind(
      new Map([["x", tensor("float32", [2], Float32Array.of(1, 2))]]),
      new Map([["t", total]]),
    );
    for (const list of [[1, 2], [5], [1, 2, 3, 4]]) {
      bound.feed("x", tensor("float32", [list.length], Float32Array.from(list)));
      await bound.run();
      expect(total.data[0]).toBe(list.reduce((sum, value) => sum + value));
    }
    // The same array in another shape is another tensor.
    const data = Float32Array.of(1, 2, 3, 4);
    const product = pair(0, 0, 0, 0);
    const pairs = session.bind(
      new Map([
        ["a", pair(1, 1, 1, 1)],
        ["b", tensor("float32", [2, 2], data)],
      ]),
      new Map([["product", product]]),
    );
    await pairs.run();
    expect(() => pairs.feed("b", tensor("float32", [4], data))).toThrow(
      "batch: input b: expected float32 [n, 2], got float32 [4]",
    );
    await pairs.run();
    expect(values(product)).toEqual([1, 2, 3, 4]);
  });

  it("leaves run as it is", async () => {
    const session = await open(twoOutputs(), forBinding);
    expect(session.outputs).toEqual(["sum", "product"]);
    const feeds = new Map([
      ["a", pair(1, 2)],
      ["b", pair(3, 4)],
    ]);
    const product = pair(0, 0);
    await session.bind(feeds, new Map([["product", product]])).run();
    const results = await session.run(feeds);
    expect([...results.keys()]).toEqual(["sum", "product"]);
    expect(results.get("product")).toEqual(product);
  });

  it("refuses what a run would refuse", async () => {
    const session = await open(twoOutputs(), forBinding);
    expect(() => session.bind(new Map([["a", pair(1, 2)]]), new Map())).toThrow("batch: input b: missing");
    const bound = session.bind(
      new Map([
        ["a", pair(1, 2)],
        ["b", pair(1, 2)],
      ]),
      new Map([["sum", pair(0, 0)]]),
    );
    expect(() => bound.feed("c", pair(1, 2))).toThrow("batch: input c: the model has no such input");
    bound.feed("a", pair(1, 2, 3, 4, 5, 6));
    await expect(bound.run()).rejects.toMatchObject({
      code: "runtime",
      message: expect.stringMatching(/^the run failed: /),
    });
  });
});

describe("outputs in place", () => {
  it("are what this runtime leaves there: bound runs need not be copied", async () => {
    expect(await leavesOutputsInPlace(await loadOrt())).toBe(true);
  });

  it("need a guard in front of the model's own outputs, and nothing else of it", () => {
    const model = twoOutputs();
    const guarded = withGuard(model);
    expect(guarded.model.graph.outputs.map(({ name }) => name)).toEqual([guarded.guard, "sum", "product"]);
    expect(guarded.model.graph.nodes.slice(0, 2)).toEqual(model.graph.nodes);
    expect(model.graph.outputs.length).toBe(2);
  });

  it("tell the guard's refusal from a run that failed", () => {
    expect(isGuardError(new Error("Non tensor type is temporarily not supported."))).toBe(true);
    expect(isGuardError(new Error("Non-zero status code returned while running Add node"))).toBe(false);
    expect(isGuardError("Non tensor type is temporarily not supported")).toBe(false);
  });
});

describe("errors", () => {
  it("lists every input that is missing, unknown or of another type or shape", async () => {
    const session = await open();
    const feeds = new Map<string, Tensor>([
      ["a", tensor("int32", [1, 2], Int32Array.of(1, 2))],
      ["c", pair(1, 2)],
    ]);
    await expect(session.run(feeds)).rejects.toMatchObject({
      code: "data",
      faults: [
        "input b: missing",
        "input a: expected float32 [n, 2], got int32 [1, 2]",
        "input c: the model has no such input",
      ],
    });
    const wrongArray = { type: "float32", dims: [1, 2], data: new Float64Array(2) } as unknown as Tensor;
    await expect(
      session.run(
        new Map([
          ["a", wrongArray],
          ["b", pair(1, 2)],
        ]),
      ),
    ).rejects.toMatchObject({ code: "data", message: expect.stringMatching(/^input a: /) });
  });

  it("leaves to the runtime what the model does not say", async () => {
    const g = graphBuilder({ opset: 17 });
    g.output(
      g.op("Add", [g.input("a", "float32", [null]), g.input("b", "float32", [null])], {}, { output: "y" }),
      "float32",
      [null],
    );
    const session = await open(createModel(g.build(), { opset: 17 }));
    const vector = (length: number) => tensor("float32", [length], new Float32Array(length));
    await expect(
      session.run(
        new Map([
          ["a", vector(2)],
          ["b", vector(3)],
        ]),
      ),
    ).rejects.toMatchObject({ code: "runtime", message: expect.stringMatching(/^the run failed: /) });
    expect(
      (
        await session.run(
          new Map([
            ["a", vector(3)],
            ["b", vector(3)],
          ]),
        )
      ).get("y")!.dims,
    ).toEqual([3]);
  });

  it("says that the runtime refused a model, and why", async () => {
    const g = graphBuilder({ opset: 17 });
    g.output(g.op("NoSuchOperator", [g.input("x", "float32", [2])], {}, { output: "y" }), "float32", [2]);
    const error = await openSession(createModel(g.build(), { opset: 17 })).catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: "runtime",
      message: expect.stringMatching(/^the runtime refused the model \(device default\): .*NoSuchOperator/),
    });
    await expect(openSession(Uint8Array.of(1, 2, 3))).rejects.toMatchObject({ code: "runtime" });
  });

  it("says so when a device is not there", async () => {
    expect(devices).toEqual(["cpu", "wasm", "webgpu", "cuda"]);
    await checkDevice({});
    await checkDevice({ device: "cpu", threads: 1 });
    await expect(checkDevice({ device: "wasm" })).rejects.toMatchObject({ code: "runtime" });
    await expect(openSession(twoOutputs(), { device: "wasm" })).rejects.toMatchObject({
      code: "runtime",
      message: expect.stringMatching(/device wasm/),
    });
  });

  it("does not run after it was disposed of", async () => {
    const session = await openSession(twoOutputs());
    await session.dispose();
    await expect(
      session.run(
        new Map([
          ["a", pair(1, 2)],
          ["b", pair(1, 2)],
        ]),
      ),
    ).rejects.toMatchObject({ code: "runtime" });
  });

  it("refuses text as an output", async () => {
    const g = graphBuilder({ opset: 17 });
    g.output(g.op("Cast", [g.input("x", "float32", [1])], { to: 8 }, { output: "y" }), "string", [1]);
    const session = await open(createModel(g.build(), { opset: 17 }));
    await expect(session.run(new Map([["x", tensor("float32", [1], Float32Array.of(1))]]))).rejects.toMatchObject({
      code: "runtime",
      message: "output y: expected numbers, got string",
    });
  });
});

describe("the runtime", () => {
  it("is loaded once, and is Node's here", async () => {
    const ort = await loadOrt();
    expect(await loadOrt()).toBe(ort);
    expect(ort.env.versions.node).toMatch(/^\d+\.\d+\.\d+/);
  });
});
