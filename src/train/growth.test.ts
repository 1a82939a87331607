// What is written into a hostile file many times must not be walked many times each: the work on a file grows with its size,
// not with its square. Work is counted in look-ups of maps and sets, which every walk over a graph makes at each node.
import { describe, expect, it, vi } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { sites } from "../onnx/sites.ts";
import { support } from "./support.ts";

/** A layer `first` on x [batch, 4], and what `build` writes behind it, which ends in the model's output. */
function model(build: (g: GraphBuilder, h: Value, x: Value) => Value) {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["batch", 4]);
  const h = g.op("MatMul", [x, g.initializer("first.weight", drawn("first", 4, 4))]);
  g.output(build(g, h, x), "float32");
  return createModel(g.build(), { opset: 18 });
}

/** How many look-ups `run` makes. */
function lookUps(run: () => void): number {
  const spies = [vi.spyOn(Map.prototype, "get"), vi.spyOn(Map.prototype, "has"), vi.spyOn(Set.prototype, "has")];
  try {
    run();
    return spies.reduce((sum, { mock }) => sum + mock.calls.length, 0);
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

const product = (g: GraphBuilder, h: Value, weight: Value, index: number): Value =>
  g.op("MatMul", [h, weight], {}, { name: `/layer.${index}/MatMul` });

/** `count` layers, each on a form of the weight that is made from the one before. */
const weightChain = (form: (g: GraphBuilder, weight: Value) => Value) => (count: number) =>
  model((g, h) => {
    let [weight, y] = [g.initializer("w", drawn("w", 4, 4)), h];
    for (let index = 0; index < count; index++) {
      weight = form(g, weight);
      y = product(g, y, weight, index);
    }
    return y;
  });

/** `count` nodes, each on the one before. */
const chain = (step: (g: GraphBuilder, h: Value, x: Value, index: number) => Value) => (count: number) =>
  model((g, h, x) => {
    let y = h;
    for (let index = 0; index < count; index++) y = step(g, y, x, index);
    return y;
  });

const axis = (g: GraphBuilder): Value => g.constant("int64", [0]);

const graphs = {
  "layers on one weight": weightChain((_, weight) => weight),
  "layers on copies of copies": weightChain((g, weight) => g.op("Identity", [weight])),
  "layers on casts of casts": weightChain((g, weight) => g.op("Cast", [weight], { to: 1 })),
  "layers on turned weights": weightChain((g, weight) => g.op("Transpose", [weight], { perm: [1, 0] })),
  "a rank that grows": chain((g, h) => g.op("Unsqueeze", [h, axis(g)])),
  "a rank that comes and goes": chain((g, h, _, index) => g.op(index % 2 ? "Squeeze" : "Unsqueeze", [h, axis(g)])),
  copies: chain((g, h) => g.op("Identity", [h])),
  reshapes: chain((g, h) => g.op("Reshape", [h, g.op("Shape", [h])])),
  casts: chain((g, h, _, index) => g.op("Cast", [h], { to: index % 2 ? 1 : 11 })),
  transpositions: chain((g, h) => g.op("Transpose", [h], { perm: [1, 0] })),
  concatenations: chain((g, h, x) => g.op("Concat", [h, x], { axis: 1 })),
  sums: chain((g, h, x) => g.op("Add", [h, x])),
  biases: chain((g, h, _, index) => g.op("Add", [h, g.initializer(`b${index}`, drawn("b", 4))])),
  "embeddings on one table": (count: number) =>
    model((g, h) => {
      const table = g.initializer("table.weight", drawn("table", 9, 4));
      const ids = g.input("ids", "int64", ["batch"]);
      return g.op("Sum", [h, ...Array.from({ length: count }, () => g.op("Gather", [table, ids]))]);
    }),
  "a weight behind many operators": (count: number) =>
    model((g, h) => {
      let weight = g.initializer("w", drawn("w", 4, 4));
      for (let index = 0; index < count; index++) weight = g.op("Add", [weight, weight]);
      return product(g, h, weight, 0);
    }),
};

describe("the work on a file grows with its size", () => {
  it.each(Object.entries(graphs))("%s", (_, build) => {
    const [small, large] = [build(100), build(200)];
    const looked = (one: typeof small): number =>
      lookUps(() => support(one, { r: 1, targetModules: ["first"] })) + lookUps(() => attachLora(one));
    expect(looked(large) / looked(small)).toBeLessThan(2.4);
  });
});

describe("what large files give", () => {
  it("thousands of layers on one weight say so in one list", () => {
    const found = sites(graphs["layers on copies of copies"](3000)).slice(1);
    expect(found.length).toBe(3000);
    expect(new Set(found.map(({ sharedWith }) => sharedWith)).size).toBe(1);
    expect(found[0]!.sharedWith.slice(0, 2)).toEqual(["layer.0", "layer.1"]);
    expect(found[0]!.sharedWith.length).toBe(3000);
  });

  it("thousands of layers of one path with weights of their own are a site each, compared with a few others", () => {
    const layers = (count: number) =>
      model((g, h) => {
        let y = h;
        for (let index = 0; index < count; index++) {
          const weight = g.initializer(`onnx::MatMul_${index}`, drawn(`${index}`, 4, 4));
          y = g.op("MatMul", [y, weight], {}, { name: `/layer/MatMul${index === 0 ? "" : `_${index}`}` });
        }
        return y;
      });
    const [small, large] = [layers(400), layers(800)];
    expect(sites(large).filter(({ modulePath }) => modulePath === "layer").length).toBe(800);
    expect(lookUps(() => sites(large)) / lookUps(() => sites(small))).toBeLessThan(2.4);
    expect(() => attachLora(large, { targetModules: ["layer"] })).toThrow(/799 faults/);
  });

  it("a chain of thousands of turned and cast weights is followed to its start, without a stack of that depth", () => {
    const count = 20_000;
    const long = model((g, h) => {
      let weight = g.initializer("deep.weight", drawn("deep", 4, 4));
      for (let index = 0; index < count; index++) {
        weight = index % 2 ? g.op("Cast", [weight], { to: 1 }) : g.op("Transpose", [weight], { perm: [1, 0] });
      }
      return g.op("MatMul", [h, weight]);
    });
    const adapted = attachLora(long, { r: 1, targetModules: ["deep"], modulesToSave: ["first"] });
    expect(adapted.parameters.map(({ key }) => key.replace("base_model.model.", ""))).toEqual([
      "deep.lora_A.weight",
      "deep.lora_B.weight",
      "first.weight",
    ]);
  });

  it("sizes of thousands of equal parts follow one another", () => {
    const parts = 3000;
    const split = model((g, h) => {
      const wide = g.op("MatMul", [h, g.initializer("wide.weight", drawn("wide", 4, parts))]);
      return g.op("Sum", g.ops("Split", [wide], parts, { axis: 1, num_outputs: parts }));
    });
    const shapes = inferShapes(split.graph);
    expect(shapes.get(split.graph.nodes[1]!.outputs[0]!)?.shape).toEqual(["batch", parts]);
    expect(shapes.get(split.graph.nodes[2]!.outputs[parts - 1]!)?.shape).toEqual(["batch", 1]);
    expect(sites(split).map(({ modulePath }) => modulePath)).toEqual(["first", "wide"]);
  });
});
