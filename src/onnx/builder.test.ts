import { describe, expect, it } from "vitest";
import { tensor, zeros } from "../tensor.ts";
import { float, graphBuilder, makeNode } from "./builder.ts";
import { behindIdentity, consumers, producers, prune, reads, storedValue } from "./graph.ts";
import { type Attribute, type Graph, type Node, toTensor } from "./model.ts";

function subgraph(parts: Partial<Graph>): Attribute {
  return { kind: "graph", value: { ...graphBuilder({ opset: 17 }).build(), ...parts } };
}

const value = (name: string) => ({ name, type: undefined, shape: undefined, doc: "" });

describe("constants", () => {
  it("beyond int64 become its limits, as the ends of slices do", () => {
    const g = graphBuilder({ opset: 17 });
    const name = g.constant("int64", [2 ** 63, -(2 ** 63), 2 ** 40]);
    const stored = storedValue(g.build(), producers(g.build()), name)!;
    expect(toTensor(stored).data).toEqual(BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n), 2n ** 40n));
  });
});

describe("names", () => {
  it("are minted so that nothing has them yet", () => {
    const g = graphBuilder({ opset: 17, scope: "s/", reserved: ["kept"] });
    expect(g.input("x", "float32", [1])).toBe("x");
    expect(g.input("x", "float32", [1])).toBe("x_1");
    expect(g.initializer("x", zeros([1]))).toBe("x_2");
    expect(g.freshName("kept")).toBe("kept_1");
    expect(g.freshName("x_1")).toBe("x_1_1");
    expect(g.op("Relu", ["x"])).toBe("s/Relu_output_0");
    expect(g.op("Relu", ["x"])).toBe("s/Relu_1_output_0");
    expect(g.op("Relu", ["x"], {}, { name: "mine", output: "y" })).toBe("y");
    expect(g.ops("Split", ["x"], 2)).toEqual(["s/Split_output_0", "s/Split_output_1"]);
    expect(g.build().nodes.map(({ name }) => name)).toEqual(["s/Relu", "s/Relu_1", "mine", "s/Split"]);
  });

  it("avoid those of a graph that is gone on with, inside its subgraphs too", () => {
    const inner = makeNode({ op: "Relu", name: "deep", inputs: ["x"], outputs: ["deeper"] });
    const body = subgraph({
      inputs: [value("arg")],
      nodes: [inner],
      initializers: new Map([["w", { type: "float32", dims: [0], bytes: new Uint8Array(0) }]]),
    });
    const node = makeNode({
      op: "If",
      name: "n",
      inputs: ["c"],
      outputs: ["o"],
      attributes: new Map([["then_branch", body]]),
    });
    const from: Graph = { ...graphBuilder({ opset: 17 }).build(), inputs: [value("c")], nodes: [node] };
    const g = graphBuilder({ opset: 17, from });
    for (const name of ["c", "n", "o", "deep", "deeper", "arg", "w"]) expect(g.freshName(name)).toBe(`${name}_1`);
    const later = graphBuilder({ opset: 17 });
    later.node(node);
    expect(later.freshName("deeper")).toBe("deeper_1");
  });

  it("that are asked for exactly must be free", () => {
    const g = graphBuilder({ opset: 17 });
    g.input("x", "float32", [1]);
    expect(() => g.op("Relu", ["x"], {}, { output: "x" })).toThrow("internal: the graph has a value x already");
  });
});

describe("what the builder makes", () => {
  it("nodes with their attributes, and inputs that end at the last one given", () => {
    const g = graphBuilder({ opset: 17 });
    g.op("Clip", ["x", "", "m", "", ""], { i: 3, s: "é", is: [1, -2], f: float(0.1) }, { domain: "d" });
    const { op, domain, inputs, attributes } = g.build().nodes[0]!;
    expect([op, domain, inputs]).toEqual(["Clip", "d", ["x", "", "m"]]);
    expect(Object.fromEntries(attributes)).toEqual({
      i: { kind: "int", value: 3n },
      s: { kind: "string", value: Uint8Array.of(0xc3, 0xa9) },
      is: { kind: "ints", value: [1n, -2n] },
      f: { kind: "float", value: Math.fround(0.1) },
    });
  });

  it("one initializer for equal constants, and another for each type, shape and sign of zero", () => {
    const g = graphBuilder({ opset: 17, scope: "s/" });
    const one = g.constant("float32", 1);
    expect(g.constant("float32", 1)).toBe(one);
    const others = [
      g.constant("int64", 1),
      g.constant("float32", [1]),
      g.constant("float32", [1, 1]),
      g.constant("float32", 0),
      g.constant("float32", -0),
    ];
    expect(new Set([one, ...others]).size).toBe(6);
    const { initializers } = g.build();
    expect(initializers.size).toBe(6);
    expect([...initializers.values()].map(({ type, dims }) => `${type}[${dims}]`)).toEqual([
      "float32[]",
      "int64[]",
      "float32[1]",
      "float32[2]",
      "float32[]",
      "float32[]",
    ]);
    expect(new Float32Array(initializers.get(others[4]!)!.bytes.buffer)[0]).toBe(-0);
  });

  it("a new graph each time, and never a change in the one that it started from", () => {
    const first = graphBuilder({ opset: 17, name: "g" });
    first.output(first.op("Relu", [first.input("x", "float32", ["n"])], {}, { output: "y" }), "float32", ["n"]);
    const from = first.build();
    const before = structuredClone(from);
    const g = graphBuilder({ opset: 17, from });
    g.initializer("w", zeros([1]));
    g.op("Neg", ["y"]);
    const kept = g.build();
    expect(kept.outputs).toEqual(from.outputs);
    g.output("y", "float32", ["n"]);
    g.output("x", "float32");
    expect(g.build().outputs.map(({ name }) => name)).toEqual(["y", "x"]);
    expect(kept.nodes.length).toBe(2);
    expect(kept.outputs.length).toBe(1);
    expect(from).toEqual(before);
  });

  it("types and shapes as it goes", () => {
    const g = graphBuilder({ opset: 17 });
    const h = g.op("MatMul", [g.input("x", "float32", ["n", 3]), g.initializer("w", zeros([3, 2]))]);
    expect(g.info(h)).toEqual({ type: "float32", shape: ["n", 2] });
    expect(g.info("nowhere")).toEqual({ type: undefined, shape: undefined });
  });
});

describe("walking a graph", () => {
  /** p = x + w, q = If(c) { x * p } */
  const inner: Node = makeNode({ op: "Mul", name: "inner", inputs: ["x", "p"], outputs: ["i"] });
  const body = subgraph({ nodes: [inner], outputs: [value("i")] });
  const add = makeNode({ op: "Add", name: "add", inputs: ["x", "w", ""], outputs: ["p"] });
  const branch = makeNode({
    op: "If",
    name: "if",
    inputs: ["c"],
    outputs: ["q", ""],
    attributes: new Map([["then_branch", body]]),
  });
  const unused = makeNode({ op: "Neg", name: "unused", inputs: ["p"], outputs: ["r"] });
  const graph: Graph = {
    ...graphBuilder({ opset: 17 }).build(),
    inputs: [value("x"), value("c"), value("idle")],
    outputs: [value("q")],
    values: [value("p"), value("r")],
    initializers: new Map(
      ["w", "v"].map((name) => [name, { type: "float32" as const, dims: [1], bytes: new Uint8Array(4) }]),
    ),
    nodes: [add, branch, unused],
  };

  it("reads include what subgraphs take from outside, and nothing that is their own", () => {
    expect(reads(add)).toEqual(["x", "w"]);
    expect(reads(branch)).toEqual(["c", "x", "p"]);
  });

  it("producers and consumers", () => {
    expect([...producers(graph)].map(([name, node]) => `${name}: ${node.name}`)).toEqual([
      "p: add",
      "q: if",
      "r: unused",
    ]);
    expect(
      consumers(graph)
        .get("x")!
        .map(({ name }) => name),
    ).toEqual(["add", "if"]);
    expect(
      consumers(graph)
        .get("p")!
        .map(({ name }) => name),
    ).toEqual(["if", "unused"]);
    expect(consumers(graph).get("idle")).toBeUndefined();
  });

  it("prune drops what no output needs, and keeps the inputs", () => {
    const pruned = prune(graph);
    expect(pruned.nodes).toEqual([add, branch]);
    expect([...pruned.initializers.keys()]).toEqual(["w"]);
    expect(pruned.values.map(({ name }) => name)).toEqual(["p"]);
    expect(pruned.inputs).toEqual(graph.inputs);
    expect(graph.nodes.length).toBe(3);
    expect(prune({ ...graph, outputs: [value("x")] }).nodes).toEqual([]);
  });

  it("finds the constant behind Identity nodes, and none behind anything else", () => {
    const g = graphBuilder({ opset: 17 });
    const w = g.initializer("w", tensor("float32", [1], Float32Array.of(5)));
    const copy = g.op("Identity", [g.op("Identity", [w])]);
    const relu = g.op("Relu", [w]);
    const foreign = g.op("Identity", [w], {}, { domain: "d" });
    const built = g.build();
    const made = producers(built);
    expect(behindIdentity(made, copy)).toBe("w");
    expect(storedValue(built, made, copy)).toBe(built.initializers.get("w"));
    expect(storedValue(built, made, relu)).toBeUndefined();
    expect(storedValue(built, made, foreign)).toBeUndefined();
    expect(storedValue(built, made, "nowhere")).toBeUndefined();
  });
});
