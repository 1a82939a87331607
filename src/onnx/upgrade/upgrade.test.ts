// Every row of the table: the runtime computes the same before and after.
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../errors.ts";
import { openSession, type Tensors } from "../../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../../tensor.ts";
import {
  createModel,
  float,
  type GraphBuilder,
  graphBuilder,
  makeNode,
  type PlainAttributes,
  type Value,
} from "../builder.ts";
import type { Attribute, Dim, Model } from "../model.ts";
import { readModel } from "../read.ts";
import { writeModel } from "../write.ts";
import { upgradedOpset, upgradeModel } from "./index.ts";
import { upgradeRows } from "./table.ts";

/** Distinct values of both signs. */
function values(dims: readonly number[], from = 0): Tensor<"float32"> {
  const count = elementCount(dims);
  return tensor(
    "float32",
    dims,
    Float32Array.from({ length: count }, (_, i) => Math.sin(1.7 * (i + from)) * (1 + i / count)),
  );
}

const floats = (...list: number[]): Attribute => ({ kind: "floats", value: list.map(Math.fround) });
const int64 = (dims: number[], ...list: number[]) => tensor("int64", dims, BigInt64Array.from(list, BigInt));

type Build = (g: GraphBuilder, x: Value) => Value | readonly Value[];

/** A model over x; `declared` is x's shape as the file says it, when it says less than the values have. */
function modelOf(opset: number, dims: readonly number[], build: Build, declared: readonly Dim[] = dims): Model {
  const g = graphBuilder({ opset });
  const built = build(g, g.input("x", "float32", declared));
  for (const value of typeof built === "string" ? [built] : built) {
    g.output(value, g.info(value).type ?? "float32");
  }
  return createModel(g.build(), { opset });
}

async function run(model: Model, feeds: Tensors): Promise<Tensor[]> {
  const session = await openSession(model, { threads: 1 });
  try {
    return [...(await session.run(feeds)).values()];
  } finally {
    await session.dispose();
  }
}

/** Upgrades, and expects the same numbers from both. Gives the operators of the upgraded graph. */
async function expectSame(model: Model, x: Tensor): Promise<string[]> {
  const upgraded = upgradeModel(model);
  expect(upgraded.opsets.get("")).toBe(upgradedOpset);
  const [before, after] = [await run(model, new Map([["x", x]])), await run(upgraded, new Map([["x", x]]))];
  expect(after.map(({ type, dims }) => [type, dims])).toEqual(before.map(({ type, dims }) => [type, dims]));
  for (const [index, { data }] of before.entries()) {
    const got = after[index]!.data;
    for (let i = 0; i < data.length; i++) {
      if (!(Math.abs(Number(got[i]) - Number(data[i])) <= 1e-6)) expect(got).toEqual(data);
    }
  }
  expect(readModel(writeModel(upgraded)).graph.nodes).toEqual(upgraded.graph.nodes);
  return upgraded.graph.nodes.map(({ op }) => op);
}

interface Case {
  readonly name: string;
  readonly opset: number;
  readonly dims: readonly number[];
  readonly build: Build;
  readonly declared?: readonly Dim[];
  /** The operators that must stand there afterwards. */
  readonly operators?: readonly string[];
}

/** One node with attributes alone. */
const plain =
  (op: string, attributes: PlainAttributes = {}): Build =>
  (g, x) =>
    g.op(op, [x], attributes);

const matrix = [2, 3, 4];
const image = [2, 3, 4, 5];

const reductions = "ReduceMax ReduceMin ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceSum".split(" ");

const cases: Case[] = [
  ...reductions.flatMap((op): Case[] => [
    { name: `${op}, axes`, opset: 7, dims: matrix, build: plain(op, { axes: [0, 2], keepdims: 0 }) },
    { name: `${op}, negative axis`, opset: 12, dims: matrix, build: plain(op, { axes: [-1] }) },
    { name: `${op}, all axes`, opset: 12, dims: matrix, build: plain(op, { keepdims: 0 }) },
  ]),
  ...["ReduceLogSum", "ReduceLogSumExp"].map(
    (op): Case => ({
      name: op,
      opset: 13,
      dims: matrix,
      build: (g, x) => g.op(op, [g.op("Exp", [x])], { axes: [1] }),
    }),
  ),
  {
    name: "ReduceSum-13, axes as an input already",
    opset: 13,
    dims: matrix,
    build: (g, x) => g.op("ReduceSum", [x, g.constant("int64", [1])]),
  },
  { name: "Squeeze", opset: 11, dims: [1, 3, 1], build: plain("Squeeze", { axes: [0] }) },
  { name: "Squeeze, every axis of one", opset: 7, dims: [1, 3, 1], build: plain("Squeeze") },
  { name: "Unsqueeze", opset: 7, dims: [3, 4], build: plain("Unsqueeze", { axes: [0, 2] }) },
  { name: "Unsqueeze, negative", opset: 11, dims: [3, 4], build: plain("Unsqueeze", { axes: [-1] }) },
  { name: "Slice", opset: 7, dims: matrix, build: plain("Slice", { starts: [1, 0], ends: [3, -1], axes: [1, 2] }) },
  {
    name: "Slice, to the end, no axes",
    opset: 9,
    dims: matrix,
    build: plain("Slice", { starts: [-1], ends: { kind: "ints", value: [2n ** 63n - 1n] } }),
  },
  { name: "Pad", opset: 7, dims: [2, 3], build: plain("Pad", { pads: [0, 1, 2, 0], value: float(1.5) }) },
  {
    name: "Pad, reflected",
    opset: 10,
    dims: [2, 3],
    build: plain("Pad", { pads: [0, 2, 0, 1], mode: "reflect" }),
  },
  {
    name: "Pad, of a computed type",
    opset: 9,
    dims: [2, 3],
    build: (g, x) => {
      const wide = g.op("Pad", [g.op("Cast", [x], { to: 11 })], { pads: [1, 0, 0, 0], value: float(2) });
      return g.op("Cast", [wide], { to: 1 });
    },
    operators: ["Cast", "CastLike", "Pad", "Cast"],
  },
  { name: "Clip", opset: 7, dims: [3, 4], build: plain("Clip", { min: float(-0.5), max: float(0.7) }) },
  { name: "Clip, from below", opset: 10, dims: [3, 4], build: plain("Clip", { min: float(0) }) },
  { name: "Clip, from above", opset: 10, dims: [3, 4], build: plain("Clip", { max: float(0) }) },
  { name: "Split, sizes", opset: 7, dims: [2, 6], build: (g, x) => g.ops("Split", [x], 2, { axis: 1, split: [2, 4] }) },
  { name: "Split, equal parts", opset: 11, dims: [2, 6], build: (g, x) => g.ops("Split", [x], 3, { axis: -1 }) },
  {
    name: "Split-13, sizes as an input",
    opset: 13,
    dims: [6],
    build: (g, x) => g.ops("Split", [x, g.constant("int64", [1, 5])], 2),
  },
  { name: "Split-13, equal parts", opset: 13, dims: [6], build: (g, x) => g.ops("Split", [x], 2) },
  { name: "TopK", opset: 7, dims: [3, 5], build: (g, x) => largest(g, g.ops("TopK", [x], 2, { k: 2, axis: 1 })) },
  {
    name: "TopK-10, k as an input",
    opset: 10,
    dims: [3, 5],
    build: (g, x) => largest(g, g.ops("TopK", [x, g.constant("int64", [2])], 2)),
  },
  { name: "Dropout", opset: 7, dims: [3, 5], build: plain("Dropout", { ratio: float(0.3) }) },
  {
    name: "Dropout with a mask that nothing reads",
    opset: 10,
    dims: [3, 5],
    build: (g, x) => g.ops("Dropout", [x], 2)[0]!,
  },
  ...[7, 9].map(
    (opset): Case => ({
      name: `BatchNormalization-${opset}`,
      opset,
      dims: image,
      build: (g, x) => normalized(g, x, [3], opset === 7 ? { spatial: 1 } : {}),
      operators: ["BatchNormalization"],
    }),
  ),
  {
    name: "BatchNormalization of each place",
    opset: 7,
    dims: image,
    build: (g, x) => normalized(g, x, [3, 4, 5], { spatial: 0, epsilon: float(1e-3) }),
  },
  ...["Softmax", "LogSoftmax", "Hardmax"].flatMap((op): Case[] => [
    { name: `${op}, by default over all but the first axis`, opset: 9, dims: matrix, build: plain(op) },
    { name: `${op}, axis 2 of 4`, opset: 11, dims: image, build: plain(op, { axis: 2 }) },
    { name: `${op}, axis -2`, opset: 11, dims: matrix, build: plain(op, { axis: -2 }) },
    { name: `${op}, axis 0`, opset: 7, dims: matrix, build: plain(op, { axis: 0 }) },
    { name: `${op}, the last axis`, opset: 12, dims: matrix, build: plain(op, { axis: 2 }), operators: [op] },
    { name: `${op}, axis -1`, opset: 12, dims: matrix, build: plain(op, { axis: -1 }), operators: [op] },
    { name: `${op}, sizes of 1 behind`, opset: 9, dims: [2, 5, 1, 1], build: plain(op), operators: [op] },
    {
      name: `${op}, sizes that vary`,
      opset: 9,
      dims: matrix,
      declared: ["a", "b", "c"],
      build: plain(op),
      operators: ["Shape", "Flatten", op, "Reshape"],
    },
  ]),
  ...[7, 9].flatMap((opset): Case[] =>
    ["nearest", "linear"].map((mode) => ({
      name: `Upsample-${opset}, ${mode}`,
      opset,
      dims: [1, 2, 3, 4],
      build: (g, x) =>
        opset === 7
          ? g.op("Upsample", [x], { mode, scales: floats(1, 1, 2, 1.5) })
          : g.op("Upsample", [x, g.constant("float32", [1, 1, 2, 1.5])], { mode }),
      operators: ["Resize"],
    })),
  ),
  ...[
    ["nearest", [1, 1, 2, 1.5]],
    ["nearest", [1, 1, 0.6, 0.6]],
    ["linear", [1, 1, 2, 0.6]],
  ].map(
    ([mode, scales]): Case => ({
      name: `Resize-10, ${mode}, ${scales}`,
      opset: 10,
      dims: [1, 2, 4, 5],
      build: (g, x) => g.op("Resize", [x, g.constant("float32", scales as number[])], { mode: mode as string }),
    }),
  ),
  {
    name: "Resize-11, sizes, with empty tensors for what is left out",
    opset: 11,
    dims: [1, 2, 4, 5],
    build: (g, x) =>
      g.op("Resize", [x, g.constant("float32", []), g.constant("float32", []), g.constant("int64", [1, 2, 7, 9])], {
        mode: "linear",
        coordinate_transformation_mode: "align_corners",
      }),
  },
  {
    name: "Resize-11, tf_half_pixel_for_nn",
    opset: 11,
    dims: [1, 2, 4, 5],
    build: (g, x) =>
      g.op("Resize", [x, g.constant("float32", []), g.constant("float32", [1, 1, 2, 0.5])], {
        coordinate_transformation_mode: "tf_half_pixel_for_nn",
        nearest_mode: "floor",
      }),
  },
  {
    name: "Scatter",
    opset: 9,
    dims: [3, 3],
    build: (g, x) =>
      g.op("Scatter", [x, g.initializer("i", int64([1, 2], 2, 0)), g.initializer("u", values([1, 2], 9))], { axis: 1 }),
    operators: ["ScatterElements"],
  },
  {
    name: "RoiAlign",
    opset: 10,
    dims: [1, 1, 6, 6],
    build: (g, x) =>
      g.op(
        "RoiAlign",
        [x, g.initializer("rois", tensor("float32", [1, 4], Float32Array.of(0, 0, 5, 4))), g.constant("int64", [0])],
        { output_height: 2, output_width: 3, sampling_ratio: 2 },
      ),
  },
];

/** TopK's values, and its places as numbers. */
function largest(g: GraphBuilder, [top, places]: readonly Value[]): Value[] {
  return [top!, g.op("Cast", [places!], { to: 1 })];
}

function normalized(g: GraphBuilder, x: Value, dims: number[], attributes: PlainAttributes): Value {
  const positive = tensor(
    "float32",
    dims,
    values(dims, 4).data.map((value) => value * value + 0.1),
  );
  const parts = ["scale", "shift", "mean"].map((name, index) => g.initializer(name, values(dims, index)));
  return g.op("BatchNormalization", [x, ...parts, g.initializer("variance", positive)], attributes);
}

describe("upgradeModel gives what the old form gave", () => {
  it.each(cases)("$name (operator set $opset)", async ({ opset, dims, build, declared = dims, operators }) => {
    const done = await expectSame(modelOf(opset, dims, build, declared), values(dims));
    if (operators !== undefined) expect(done).toEqual(operators);
  });

  it("for every operator in the table", () => {
    const tested = new Set(
      cases.flatMap(({ opset, dims, build }) => modelOf(opset, dims, build).graph.nodes).map(({ op }) => op),
    );
    expect(Object.keys(upgradeRows).filter((op) => !tested.has(op))).toEqual(["Scan"]);
  });

  it("inside the branches of If", async () => {
    const branch = (op: string, attributes: PlainAttributes): Attribute => {
      const inner = graphBuilder({ opset: 9, name: op, reserved: ["x"], scope: `${op}/` });
      const y = inner.op(op, ["x"], attributes);
      inner.output(y, "float32", [2, 3]);
      return { kind: "graph", value: inner.build() };
    };
    const model = modelOf(9, [2, 3], (g, x) => {
      const isPositive = g.op("Greater", [g.op("ReduceSum", [x], { keepdims: 0 }), g.constant("float32", 0)]);
      return g.op("If", [isPositive], {
        then_branch: branch("Clip", { min: float(0.25) }),
        else_branch: branch("Pad", { pads: [0, 0, 0, 0] }),
      });
    });
    const x = values([2, 3]);
    await expectSame(model, x);
    await expectSame(
      model,
      tensor(
        "float32",
        [2, 3],
        x.data.map((value) => -value),
      ),
    );
  });
});

describe("upgradeModel", () => {
  const relu = (opset: number): Model => modelOf(opset, [2, 2], plain("Relu"));

  it("leaves a model of 18 to 23 as it is", () => {
    for (const opset of [18, 20, 23]) {
      const model = relu(opset);
      expect(upgradeModel(model)).toBe(model);
    }
  });

  it("refuses operator sets below 7 and above 23", () => {
    for (const opset of [6, 24]) {
      const model: Model = { ...relu(17), opsets: new Map([["", opset]]) };
      expect(() => upgradeModel(model)).toThrow(`operator set ${opset}: expected 7 to 23; export the model again`);
    }
  });

  it("never changes the model that it is given, and keeps what did not change", () => {
    const model = modelOf(9, [2, 3], (g, x) => g.op("Softmax", [g.op("Relu", [x], {}, { name: "kept" })]));
    const before = structuredClone({ ...model, functions: [] });
    const upgraded = upgradeModel(model);
    expect({ ...model, functions: [] }).toEqual(before);
    expect(upgraded.graph.nodes[0]).toBe(model.graph.nodes[0]);
    expect(upgradeModel(relu(9)).graph.nodes).toEqual(relu(9).graph.nodes);
    const same = relu(12);
    expect(upgradeModel(same).graph.nodes).toBe(same.graph.nodes);
  });

  it("keeps names of nodes and metadata, and other domains", () => {
    const base = modelOf(9, [2, 3], plain("Clip", { min: float(0) }));
    const [clip] = base.graph.nodes;
    const metadata = new Map([["pkg", "here"]]);
    const foreign = makeNode({ op: "Clip", domain: "com.example", inputs: ["x"], outputs: ["z"], name: "foreign" });
    const model: Model = {
      ...base,
      opsets: new Map([["com.example", 3], ...base.opsets]),
      graph: { ...base.graph, nodes: [{ ...clip!, name: "mine", metadata }, foreign] },
    };
    const upgraded = upgradeModel(model);
    expect(upgraded.graph.nodes[0]).toMatchObject({ name: "mine", metadata });
    expect(upgraded.graph.nodes[1]).toBe(foreign);
    expect(upgraded.opsets).toEqual(
      new Map([
        ["com.example", 3],
        ["", 18],
      ]),
    );
  });

  it("makes initializers that are listed as inputs constants", async () => {
    const model = modelOf(9, [2, 3], (g, x) => g.op("Add", [x, g.initializer("w", values([3], 5))]));
    const listed: Model = {
      ...model,
      irVersion: 3,
      graph: { ...model.graph, inputs: [...model.graph.inputs, { name: "w", type: "float32", shape: [3], doc: "" }] },
    };
    const upgraded = upgradeModel(listed);
    expect([upgraded.irVersion, upgraded.graph.inputs.map(({ name }) => name)]).toEqual([8, ["x"]]);
    await expectSame(model, values([2, 3]));
  });

  it("names every node without a successor at once", () => {
    const model = modelOf(10, [1, 1, 4, 4], (g, x) => {
      const [y, mask] = g.ops("Dropout", [x], 2, {}, { name: "drop" });
      const small = g.op("Resize", [y!, g.constant("float32", [1, 1, 2, 0.5])], {}, { name: "mixed" });
      return [small, mask!];
    });
    let faults: readonly string[] = [];
    try {
      upgradeModel(model);
    } catch (error) {
      if (error instanceof LowrankError) faults = error.faults;
    }
    expect(faults).toEqual([
      expect.stringMatching(/^node "drop" \(Dropout\): its mask is read/),
      expect.stringMatching(/^node "mixed" \(Resize\): expected constant scales .* got \[1,1,2,0\.5\]/),
    ]);
  });

  it("writes BatchNormalization of training as such, where it can", () => {
    const training = (read: number) => {
      const model = modelOf(9, image, (g, x) => {
        const y = normalized(g, x, [3], {});
        return y;
      });
      const [node] = model.graph.nodes;
      const outputs = [...node!.outputs, "m", "v", "sm", "sv"];
      const extra = { name: outputs[read]!, type: "float32", shape: [3], doc: "" } as const;
      return {
        ...model,
        graph: { ...model.graph, nodes: [{ ...node!, outputs }], outputs: [...model.graph.outputs, extra] },
      };
    };
    const [node] = upgradeModel(training(1)).graph.nodes;
    expect(node!.outputs.length).toBe(3);
    expect(node!.attributes.get("training_mode")).toEqual({ kind: "int", value: 1n });
    expect(() => upgradeModel(training(3))).toThrow(/written for training/);
  });
});
