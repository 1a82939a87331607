import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { prune } from "../onnx/graph.ts";
import type { Graph } from "../onnx/model.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { gradientRule } from "./table.ts";
import { evaluate } from "./testing/check.ts";
import { backward } from "./walk.ts";

const row = (...values: number[]) => tensor("float32", [values.length], Float32Array.from(values));

/** Input values, and the gradients of the inputs called p, q, … of what `build` makes of them, seeded with ones. */
async function gradients(
  inputs: Readonly<Record<string, Tensor>>,
  build: (g: GraphBuilder) => Value,
): Promise<Record<string, number[]>> {
  const { graph, names } = differentiated(inputs, build);
  const results = await evaluate(graph, new Map(Object.entries(inputs)));
  return Object.fromEntries([...names].map(([key, name]) => [key, [...(results.get(name)!.data as Float32Array)]]));
}

function differentiated(
  inputs: Readonly<Record<string, Tensor>>,
  build: (g: GraphBuilder) => Value,
): { graph: Graph; names: Map<string, string> } {
  const g = graphBuilder({ opset: 17, scope: "grad/" });
  for (const [name, { dims }] of Object.entries(inputs)) g.input(name, "float32", dims);
  const y = build(g);
  const ones = g.op("Expand", [g.constant("float32", 1), g.op("Shape", [y])]);
  const found = backward(
    g,
    new Map([[y, ones]]),
    Object.keys(inputs).filter((name) => name < "x"),
  );
  // Copies, since one value may be the gradient of two inputs.
  const names = new Map([...found].map(([key, value]) => [key, g.op("Identity", [value])]));
  const outputs = [...names.values()].map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
  return { graph: prune({ ...g.build(), outputs }), names };
}

/** How many nodes of each operator a graph has. */
function counts(graph: Graph): Record<string, number> {
  const count: Record<string, number> = {};
  for (const { op } of graph.nodes) count[op] = (count[op] ?? 0) + 1;
  return count;
}

describe("what the walk adds up", () => {
  it("the gradients of a value that is used twice, thrice, and by itself", async () => {
    const p = row(2, -3);
    // p + 3 p + p p
    const build = (g: GraphBuilder) =>
      g.op("Add", [g.op("Add", ["p", g.op("Mul", ["p", g.constant("float32", 3)])]), g.op("Mul", ["p", "p"])]);
    expect((await gradients({ p }, build)).p).toEqual([1 + 3 + 4, 1 + 3 - 6]);
  });

  it("gradients that come through two branches into one node", async () => {
    // h = p x; exp(0 h) h + h
    const build = (g: GraphBuilder) => {
      const h = g.op("Mul", ["p", "x"]);
      return g.op("Add", [g.op("Mul", [g.op("Exp", [g.op("Mul", [h, g.constant("float32", 0)])]), h]), h]);
    };
    expect(await gradients({ p: row(5, 7), x: row(1, 10) }, build)).toEqual({ p: [2, 20] });
  });

  it("what a parameter gets as part of the seed itself", async () => {
    expect(await gradients({ p: row(4) }, () => "p")).toEqual({ p: [1] });
  });

  it("one gradient for two parameters that are added", async () => {
    expect(
      await gradients({ p: row(1, 2), q: row(3, 4), x: row(5, 6) }, (g) => g.op("Mul", [g.op("Add", ["p", "q"]), "x"])),
    ).toEqual({ p: [5, 6], q: [5, 6] });
  });

  it("nothing for a parameter that does not reach the seed", async () => {
    const build = (g: GraphBuilder) => {
      g.op("Exp", ["q"]);
      return g.op("Mul", ["p", "x"]);
    };
    expect(await gradients({ p: row(1), q: row(2, 3), x: row(9) }, build)).toEqual({ p: [9], q: [0, 0] });
  });
});

describe("where the walk stops", () => {
  it.each(["Sign", "Floor", "Ceil", "Round"])("at %s, whose derivative is zero", async (operator) => {
    expect(gradientRule("", operator)).toBe("zero");
    const build = (g: GraphBuilder) => g.op("Add", [g.op(operator, ["p"]), g.op("Mul", ["p", "x"])]);
    expect(await gradients({ p: row(1.5, -2.5), x: row(3, 4) }, build)).toEqual({ p: [3, 4] });
  });

  it("at comparisons and shapes, whatever stands behind them", async () => {
    const build = (g: GraphBuilder) => {
      const size = g.op("Cast", [g.op("Shape", ["p"])], { to: 1 });
      const isLarge = g.op("Greater", ["p", g.constant("float32", 0)]);
      return g.op("Mul", [g.op("Where", [isLarge, "p", "x"]), size]);
    };
    expect(await gradients({ p: row(1.5, -2.5), x: row(3, 4) }, build)).toEqual({ p: [2, 0] });
  });

  it("at integers, which have no gradient: x trunc(x)", async () => {
    const build = (g: GraphBuilder) => g.op("Mul", ["p", g.op("Cast", [g.op("Cast", ["p"], { to: 7 })], { to: 1 })]);
    expect(await gradients({ p: row(1.5, -2.5) }, build)).toEqual({ p: [1, -2] });
  });

  it("at integers, without asking for the rules of what they are used for", async () => {
    const table = (g: GraphBuilder) => g.initializer("table", row(10, 20, 30));
    const build = (g: GraphBuilder) => g.op("Mul", ["p", g.op("Gather", [table(g), g.op("Cast", ["p"], { to: 7 })])]);
    expect(await gradients({ p: row(0.5, 2.5) }, build)).toEqual({ p: [10, 30] });
  });
});

describe("what the walk leaves alone", () => {
  const inputs = { p: zeros([4, 2]), x: zeros([3, 4]) };

  it("everything below the lowest parameter", () => {
    const below = (g: GraphBuilder, depth: number) => {
      let x: Value = "x";
      // Operators without a rule: they would be complained of if the walk came here.
      for (let index = 0; index < depth; index++) x = g.op("Selu", [g.op("HardSwish", [x])]);
      return g.op("MatMul", [x, "p"]);
    };
    const shallow = differentiated(inputs, (g) => below(g, 0)).graph;
    const deep = differentiated(inputs, (g) => below(g, 5)).graph;
    expect(deep.nodes.length - shallow.nodes.length).toBe(10);
    // The forward product, one for dp, and none for x.
    expect(counts(shallow)).toMatchObject({ MatMul: 1, Gemm: 1 });
  });

  it("gradients of frozen weights: a frozen layer above costs one product, not two", () => {
    const build = (layers: number) => (g: GraphBuilder) => {
      let h = g.op("MatMul", ["x", "p"]);
      for (let index = 0; index < layers; index++) {
        const weight = g.initializer("w", zeros([2, 2]));
        const bias = g.initializer("b", zeros([2]));
        h = g.op("Gemm", [h, weight, bias], { transB: 1 });
      }
      return h;
    };
    const products = (layers: number) =>
      differentiated(inputs, build(layers)).graph.nodes.filter(({ op }) => op === "Gemm" || op === "MatMul").length;
    // The product with p and dp; then for each layer its own product and dx, without dW.
    expect(products(0)).toBe(2);
    expect(products(3)).toBe(2 + 3 * 2);
    expect(counts(differentiated(inputs, build(3)).graph).ReduceSum).toBeUndefined();
  });

  it("what no seed needs", () => {
    const { graph } = differentiated({ p: row(1), x: row(1) }, (g) => {
      g.op("Unsupported", ["p"], {}, { domain: "test" });
      return g.op("Mul", ["p", "x"]);
    });
    expect(counts(graph).Unsupported).toBeUndefined();
  });

  it("the builder's other nodes, and the graph that it started from", () => {
    const first = graphBuilder({ opset: 17 });
    const y = first.op("Mul", [first.input("p", "float32", [2]), first.input("x", "float32", [2])]);
    first.output(y, "float32", [2]);
    const from = first.build();
    const before = structuredClone(from);
    const g = graphBuilder({ opset: 17, from, scope: "grad/" });
    backward(g, new Map([[y, "x"]]), ["p"]);
    expect(from).toEqual(before);
    expect(g.build().nodes.slice(0, 1)).toEqual(from.nodes);
    expect(
      g
        .build()
        .nodes.slice(1)
        .every(({ name }) => name.startsWith("grad/")),
    ).toBe(true);
  });
});

describe("operators without a rule", () => {
  const refused = (build: (g: GraphBuilder) => Value): LowrankError => {
    try {
      differentiated({ p: row(1), x: row(1) }, build);
    } catch (error) {
      if (error instanceof LowrankError) return error;
      throw error;
    }
    throw new Error("expected an error");
  };

  it("are all listed at once, each with its nodes", () => {
    const error = refused((g) => {
      let h: Value = "p";
      for (let index = 0; index < 5; index++) h = g.op("Unheard", [h], {}, { name: `s${index}` });
      return g.op("Fancy", [g.op("Relu", [h])], {}, { name: "f", domain: "com.example" });
    });
    expect(error.code).toBe("model");
    expect(error.faults).toEqual([
      'there is no gradient rule for Unheard ("s0", "s1", "s2" and 2 more) between the adapters and the loss: adapt only layers behind it',
      'there is no gradient rule for com.example.Fancy ("f") between the adapters and the loss: adapt only layers behind it',
    ]);
    expect(error.message).toMatch(/^cannot differentiate: 2 faults\n/);
  });

  it("are found where a subgraph reads a parameter", () => {
    const body = graphBuilder({ opset: 17 });
    body.output(body.op("Neg", ["p"]), "float32");
    const attribute = { kind: "graph", value: body.build() } as const;
    const error = refused((g) =>
      g.op("If", [g.op("Less", ["x", "x"])], { then_branch: attribute, else_branch: attribute }, { name: "choice" }),
    );
    expect(error.message).toMatch(/do not go through control flow, and If \("choice"\).*export the model without it/);
  });

  it("of another domain do not borrow ONNX's rules", () => {
    expect(gradientRule("com.example", "Relu")).toBeUndefined();
    expect(gradientRule("", "toString")).toBeUndefined();
  });
});

describe("un-broadcasting", () => {
  it("adds no node where shapes are known to be the same", () => {
    const g = graphBuilder({ opset: 17 });
    const sum = g.op("Add", [g.input("p", "float32", ["n", 3]), g.input("x", "float32", ["n", 3])]);
    const before = g.build().nodes.length;
    backward(g, new Map([[sum, "x"]]), ["p"]);
    expect(g.build().nodes.length).toBe(before);
  });

  it("adds one reduction where sizes are known, and none that asks for shapes", () => {
    const g = graphBuilder({ opset: 17 });
    const sum = g.op("Add", [g.input("p", "float32", [3]), g.input("x", "float32", ["n", 3])]);
    const gradient = backward(g, new Map([[sum, "x"]]), ["p"]).get("p")!;
    expect(g.build().nodes.map(({ op }) => op)).toEqual(["Add", "ReduceSum"]);
    expect(g.info(gradient).shape).toEqual([3]);
  });

  it("is done while the graph runs where sizes are not known, and tells the shape all the same", () => {
    const g = graphBuilder({ opset: 17 });
    const sum = g.op("Add", [g.input("p", "float32", ["m", 3]), g.input("x", "float32", ["n", 3])]);
    const gradient = backward(g, new Map([[sum, g.input("d", "float32", [null, 3])]]), ["p"]).get("p")!;
    expect(g.build().nodes.map(({ op }) => op)).toContain("NonZero");
    expect(g.info(gradient).shape).toEqual(["m", 3]);
  });
});
