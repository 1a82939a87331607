// Conv and Embedding layers: the branch against a plain implementation in float64, off, merged, and what is refused.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import { createModel, type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import type { AdaptedModel } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter } from "./config.ts";
import { attachAll } from "./full.ts";
import { initAdapter } from "./init.ts";
import { bits, drawn } from "./testing/models.ts";

/** |a - b| of float32 sums over a hundred values around 1. */
const rounding = 2e-5;

interface ConvCase {
  readonly name: string;
  /** W [out, in / groups, ...kernel]; x [batch, in, ...places]. */
  readonly weight: readonly number[];
  readonly x: readonly number[];
  readonly attributes: PlainAttributes;
  readonly groups: number;
  readonly strides: readonly number[];
  /** Before each axis; what lies behind the end is zero as well. */
  readonly begins: readonly number[];
}

const convs: ConvCase[] = [
  {
    name: "Conv1d",
    weight: [6, 4, 3],
    x: [2, 4, 9],
    attributes: { strides: [2], pads: [1, 1], kernel_shape: [3] },
    groups: 1,
    strides: [2],
    begins: [1],
  },
  {
    name: "Conv2d",
    weight: [6, 4, 3, 2],
    x: [2, 4, 6, 5],
    attributes: { strides: [1, 2], pads: [1, 0, 1, 1] },
    groups: 1,
    strides: [1, 2],
    begins: [1, 0],
  },
  {
    name: "Conv2d, SAME_UPPER",
    weight: [4, 3, 3, 3],
    x: [1, 3, 5, 5],
    attributes: { auto_pad: "SAME_UPPER" },
    groups: 1,
    strides: [1, 1],
    begins: [1, 1],
  },
  {
    name: "Conv2d in two groups",
    weight: [6, 2, 3, 3],
    x: [2, 4, 5, 5],
    attributes: { pads: [1, 1, 1, 1], group: 2 },
    groups: 2,
    strides: [1, 1],
    begins: [1, 1],
  },
  {
    name: "Conv2d, depthwise",
    weight: [4, 1, 3, 3],
    x: [1, 4, 5, 5],
    attributes: { pads: [1, 1, 1, 1], group: 4 },
    groups: 4,
    strides: [1, 1],
    begins: [1, 1],
  },
  {
    name: "Conv2d, 1x1, dilated in name only",
    weight: [6, 4, 1, 1],
    x: [1, 4, 3, 3],
    attributes: { dilations: [2, 2] },
    groups: 1,
    strides: [1, 1],
    begins: [0, 0],
  },
  {
    name: "Conv3d",
    weight: [4, 2, 2, 1, 2],
    x: [1, 2, 3, 3, 3],
    attributes: {},
    groups: 1,
    strides: [1, 1, 1],
    begins: [0, 0, 0],
  },
];

function convModel({ weight, x, attributes }: ConvCase, makeWeight?: (g: GraphBuilder, stored: Value) => Value): Model {
  const g = graphBuilder({ opset: 18 });
  const stored = g.initializer("body.0.weight", drawn("w", ...weight));
  const inputs = [
    g.input("x", "float32", ["batch", x[1]!, ...x.slice(2).map((_, axis) => `size_${axis}`)]),
    makeWeight === undefined ? stored : makeWeight(g, stored),
    g.initializer("body.0.bias", drawn("b", weight[0]!)),
  ];
  g.output(g.op("Conv", inputs, attributes, { name: "/body/body.0/Conv" }), "float32");
  return createModel(g.build(), { opset: 18 });
}

/** Row-major positions of a shape. */
function* positions(dims: readonly number[]): Generator<number[]> {
  for (let index = 0; index < elementCount(dims); index++) {
    let rest = index;
    const at = dims.map(() => 0);
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      at[axis] = rest % dims[axis]!;
      rest = Math.floor(rest / dims[axis]!);
    }
    yield at;
  }
}

function valueAt({ dims, data }: Tensor, at: readonly number[]): number {
  let index = 0;
  for (const [axis, size] of dims.entries()) {
    const place = at[axis]!;
    if (place < 0 || place >= size) return 0;
    index = index * size + place;
  }
  return Number(data[index]);
}

/** A convolution as its definition has it, at the output's places. */
function convolve(
  x: Tensor,
  w: Tensor,
  groups: number,
  outDims: readonly number[],
  one: Pick<ConvCase, "strides" | "begins">,
): Tensor {
  const [out, perGroup, ...kernel] = w.dims as [number, number, ...number[]];
  const dims = [outDims[0]!, out, ...outDims.slice(2)];
  const values = Float64Array.from(positions(dims), ([batch, channel, ...place]) => {
    const first = Math.floor((channel! * groups) / out) * perGroup;
    let sum = 0;
    for (const [input, ...offset] of positions([perGroup, ...kernel])) {
      const at = offset.map((step, axis) => place[axis]! * one.strides[axis]! + step - one.begins[axis]!);
      sum += valueAt(w, [channel!, input!, ...offset]) * valueAt(x, [batch!, first + input!, ...at]);
    }
    return sum;
  });
  return tensor("float64", dims, values);
}

async function run(model: Model | AdaptedModel, x: Tensor, adapter: Adapter | null = null): Promise<Tensor> {
  const session = await createSession(model);
  try {
    return (await session.run({ x }, { adapter })).values().next().value!;
  } finally {
    await session.dispose();
  }
}

function expectClose(actual: Tensor, expected: ArrayLike<number>): void {
  expect(actual.data.length).toBe(expected.length);
  for (const [index, value] of [...actual.data].entries())
    expect(Math.abs(Number(value) - expected[index]!)).toBeLessThan(rounding);
}

/** Random values for every parameter. */
function randomAdapter(adapted: AdaptedModel): Adapter {
  const tensors = adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)] as const);
  return { config: adapted.config!, tensors: new Map(tensors) };
}

/** The adapter after its way through PEFT's files. */
const throughFiles = (adapter: Adapter): Adapter => readAdapter(writeAdapter(adapter));

describe.each(convs)("LoRA on a $name", (one) => {
  const model = convModel(one);
  const x = drawn("x", ...one.x);
  const r = 2 * one.groups;
  const config = { r, loraAlpha: 3 * r, targetModules: ["body.0"] };
  const adapted = attachLora(model, config);

  it("adds s B(A(x)), A over all channels, B in the base's groups", async () => {
    const base = await run(model, x);
    const adapter = randomAdapter(adapted);
    const [A, B] = adapted.parameters.map(({ key }) => adapter.tensors.get(key)!);
    expect([A!.dims, B!.dims]).toEqual([
      [r, one.x[1], ...one.weight.slice(2)],
      [one.weight[0], 2, ...one.weight.slice(2).map(() => 1)],
    ]);
    const h = convolve(x, A!, 1, base.dims, one);
    const alone = { strides: one.strides.map(() => 1), begins: one.begins.map(() => 0) };
    const delta = convolve(h, B!, one.groups, base.dims, alone);
    const expected = Float64Array.from(
      base.data as Float32Array,
      (value, index) => value + 3 * Number(delta.data[index]),
    );
    expectClose(await run(adapted, x, adapter), expected);
    expectClose(await run(adapted, x, throughFiles(adapter)), expected);
    // Into the weights, in the base's own layout or, where it has groups, without them.
    const merged = merge(model, adapter);
    expectClose(await run(merged, x), expected);
    const [site] = sites(merged);
    expect(site).toMatchObject({ modulePath: "body.0", groups: 1, inFeatures: one.x[1] });
  });

  it("is the base, bit for bit, without an adapter and with a fresh one", async () => {
    const base = bits(await run(model, x));
    expect(bits(await run(adapted, x))).toEqual(base);
    expect(bits(await run(adapted, x, initAdapter(adapted).adapter))).toEqual(base);
  });

  it("merges into a weight that the graph computes", async () => {
    const computed = convModel(one, (g, stored) => g.op("Mul", [stored, g.constant("float32", 0.5)]));
    const both = attachLora(computed, { ...config, targetModules: ".*" });
    const adapter = randomAdapter(both);
    expectClose(await run(merge(computed, adapter), x), (await run(both, x, adapter)).data as Float32Array);
  });
});

describe("merging into a file of before IR version 4", () => {
  const grouped = convs.find(({ groups }) => groups === 2)!;
  const x = drawn("x", ...grouped.x);

  it.each([undefined, "Mul"])("lists each initializer as an input, with its shape (weight by %s)", async (op) => {
    const computed =
      op === undefined ? undefined : (g: GraphBuilder, w: Value) => g.op(op, [w, g.constant("float32", 2)]);
    const model = convModel(grouped, computed);
    const listed = [...model.graph.initializers].map(([name, { type, dims }]) => ({
      name,
      type,
      shape: dims,
      doc: "",
    }));
    const old: Model = {
      ...model,
      irVersion: 3,
      graph: { ...model.graph, inputs: [...model.graph.inputs, ...listed] },
    };
    const adapted = attachLora(model, { r: 2, targetModules: ["body.0"] });
    const adapter = randomAdapter(adapted);
    const merged = merge(old, adapter);
    const shapes = new Map(merged.graph.inputs.map(({ name, shape }) => [name, shape]));
    for (const [name, { dims }] of merged.graph.initializers) expect(shapes.get(name)).toEqual(dims);
    expectClose(await run(merged, x), (await run(adapted, x, adapter)).data as Float32Array);
  });
});

describe("what a Conv cannot have", () => {
  const [, conv] = convs;

  it("LoRA where it is dilated: refused when it is attached and when it is merged", () => {
    const model = convModel({ ...conv!, attributes: { dilations: [2, 1] } });
    const fault = "body.0: LoRA is not defined for a dilated Conv (dilations 2, 1); exclude it";
    expect(() => attachLora(model, { targetModules: ["body.0"] })).toThrow(fault);
    const plain = attachLora(convModel(conv!), { r: 2, targetModules: ["body.0"] });
    expect(() => merge(model, randomAdapter(plain))).toThrow(fault);
  });

  it("a rank that its groups do not divide", () => {
    const grouped = convs.find(({ groups }) => groups === 4)!;
    expect(() => attachLora(convModel(grouped), { r: 6, targetModules: ["body.0"] })).toThrow(
      expect.objectContaining({
        code: "config",
        message: "attachLora: body.0: expected a rank that its 4 groups divide, got 6; set rankPattern, or exclude it",
      }),
    );
  });

  it("a place in all-linear", () => {
    expect(() => attachLora(convModel(conv!))).toThrow(/matches no layer/);
  });

  it("a fresh A from a fan-in without its kernel", () => {
    const adapted = attachLora(convModel(conv!), { r: 400, targetModules: ["body.0"] });
    const [A, B] = adapted.parameters.map(
      ({ key }) => initAdapter(adapted).adapter.tensors.get(key)!.data as Float32Array,
    );
    const largest = A!.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const bound = 1 / Math.sqrt(4 * 3 * 2);
    expect(largest).toBeLessThanOrEqual(bound);
    expect(largest).toBeGreaterThan(0.99 * bound);
    expect(B!.every((value) => value === 0)).toBe(true);
  });
});

describe("LoRA on an Embedding", () => {
  /** ids [batch, tokens] -> wte [11, 4] -> a tied output layer [.., 11]. */
  function model(): Model {
    const g = graphBuilder({ opset: 18 });
    const table = g.initializer("wte.weight", drawn("wte", 11, 4));
    const h = g.op("Gather", [table, g.input("x", "int64", ["batch", "tokens"])], {}, { name: "/wte/Gather" });
    g.output(g.op("MatMul", [h, g.op("Transpose", [table])], {}, { name: "/lm_head/MatMul" }), "float32");
    return createModel(g.build(), { opset: 18 });
  }
  const ids = tensor("int64", [2, 3], BigInt64Array.of(0n, 10n, 3n, 3n, 7n, 1n));
  const adapted = attachLora(model(), { r: 3, loraAlpha: 6, targetModules: ["wte"] });

  it("adds s (B A)^T to the rows that are read, and to nothing else that shares them", async () => {
    const adapter = randomAdapter(adapted);
    const [A, B] = adapted.parameters.map(({ key }) => adapter.tensors.get(key)!);
    expect(adapted.parameters.map(({ key, dims, graphDims }) => [key, dims, graphDims])).toEqual([
      ["base_model.model.wte.lora_embedding_A", [3, 11], ["rank_0", 11]],
      ["base_model.model.wte.lora_embedding_B", [4, 3], [4, "rank_0"]],
    ]);
    const W = drawn("wte", 11, 4);
    const row = (id: number) =>
      Array.from({ length: 4 }, (_, column) => {
        let value = valueAt(W, [id, column]);
        for (let k = 0; k < 3; k++) value += 2 * valueAt(B!, [column, k]) * valueAt(A!, [k, id]);
        return value;
      });
    const expected = [...ids.data].flatMap((id) => {
      const h = row(Number(id));
      return Array.from({ length: 11 }, (_, out) =>
        h.reduce((sum, value, column) => sum + value * valueAt(W, [out, column]), 0),
      );
    });
    expectClose(await run(adapted, ids, adapter), expected);
    expectClose(await run(adapted, ids, throughFiles(adapter)), expected);
    const merged = merge(model(), adapter);
    expectClose(await run(merged, ids), expected);
    expect(merged.graph.initializers.get("wte.weight")).toEqual(model().graph.initializers.get("wte.weight"));
  });

  it("starts with A zero and B from N(0, 1), and is the base", async () => {
    const wide = attachLora(model(), { r: 5000, targetModules: ["wte"] });
    const [A, B] = wide.parameters.map(({ key }) => initAdapter(wide).adapter.tensors.get(key)!.data as Float32Array);
    expect(A!.every((value) => value === 0)).toBe(true);
    const square = B!.reduce((sum, value) => sum + value * value, 0) / B!.length;
    expect(Math.abs(square - 1)).toBeLessThan(0.05); // 20,000 values: 4 deviations of sqrt(2 / 20,000)
    const base = bits(await run(model(), ids));
    expect(bits(await run(adapted, ids))).toEqual(base);
    expect(bits(await run(adapted, ids, initAdapter(adapted).adapter))).toEqual(base);
  });

  it("names its shapes when an adapter does not fit", () => {
    const { config, tensors } = randomAdapter(adapted);
    const [a, b] = [...tensors.keys()];
    const wrong: Adapter = {
      config,
      tensors: new Map([
        [a!, drawn("a", 3, 10)],
        [b!, drawn("b", 4, 3)],
      ]),
    };
    expect(() => merge(model(), wrong)).toThrow(
      "merge: wte: expected float32 A [r,11] and B [4,r], got float32 [3,10] and float32 [4,3]",
    );
  });
});

describe("attachAll on an older model", () => {
  it("takes its own weights only: neither scales nor what the upgrade adds", () => {
    const g = graphBuilder({ opset: 9 });
    const h = g.op("Conv", [g.input("x", "float32", [1, 2, 3, 3]), g.initializer("c.weight", drawn("c", 2, 2, 1, 1))]);
    const up = g.op("Upsample", [h, g.initializer("scales", tensor("float32", [4], Float32Array.of(1, 1, 2, 2)))]);
    g.output(g.op("Upsample", [up, g.constant("float32", [1, 1, 1, 2])]), "float32");
    const model = createModel(g.build(), { opset: 9 });
    const adapted = attachAll(model);
    expect(adapted.parameters.map(({ key }) => key)).toEqual(["c.weight"]);
    expect([adapted.base, adapted.model.opsets.get("")]).toEqual([model, 18]);
  });
});
