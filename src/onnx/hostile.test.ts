import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { readModel } from "./read.ts";
import { inferShapes } from "./shapes.ts";
import { sites } from "./sites.ts";
import { summary } from "./summary.ts";
import { AttributeProto_AttributeType as Kind } from "./testing/gen/onnx_pb.js";
import {
  type AttributeParts,
  floats,
  type GraphParts,
  goldenFile,
  graphBytes,
  graphOf,
  type ModelParts,
  modelBytes,
  type NodeParts,
  type TensorParts,
  tensorAttribute,
} from "./testing/protos.ts";
import { writeModel } from "./write.ts";

/** The error that reading gives; fails when there is none, or one that is not ours. */
function refusal(bytes: Uint8Array): LowrankError {
  try {
    readModel(bytes, "m.onnx");
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    expect(error.code).toBe("model");
    expect(error.message).toMatch(/^m\.onnx: /);
    return error;
  }
  throw new Error("expected an error, got a model");
}

const concat = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));

/** A small model that has one of everything. */
const small = graphBytes({
  initializer: [{ name: "w", dataType: 1, dims: [2n], rawData: new Uint8Array(8) }],
  node: [
    { name: "a", opType: "Add", input: ["x", "w"], output: ["h"] },
    {
      name: "b",
      opType: "LeakyRelu",
      input: ["h"],
      output: ["y"],
      attribute: [{ name: "alpha", type: Kind.FLOAT, f: 0.5 }],
    },
  ],
});

describe("damaged files", () => {
  it("an empty file", () => expect(refusal(new Uint8Array(0)).message).toMatch(/empty file/));

  it("a file that no protobuf can be", () => {
    const large = Object.defineProperty(new Uint8Array(1), "length", { value: 2 ** 31 });
    expect(refusal(large).message).toMatch(/2147483648 bytes; one protobuf holds at most 2 GiB/);
  });

  it("a file cut off at any length", () => {
    expect(readModel(small).graph.nodes.length).toBe(2);
    for (let length = 1; length < small.length; length++) refusal(small.subarray(0, length));
  });

  it("a file that is no protobuf", () => {
    const html = new TextEncoder().encode("<html><body>404 Not Found</body></html>");
    expect(refusal(html).message).toMatch(/not an ONNX model/);
    expect(refusal(new Uint8Array(100)).message).toMatch(/illegal tag/);
  });

  it("a file with something behind its end", () => {
    expect(refusal(concat(small, new Uint8Array(1))).message).toMatch(/illegal tag/);
    expect(refusal(concat(small, small.subarray(1))).message).not.toBe("");
    const unknown = new BinaryWriter()
      .tag(60, WireType.LengthDelimited)
      .bytes(Uint8Array.of(1, 2, 3))
      .finish();
    expect(refusal(concat(small, unknown)).message).toMatch(/ModelProto has no field 60/);
  });

  it("wrong wire types", () => {
    const text = new BinaryWriter().tag(1, WireType.LengthDelimited).string("8").finish(); // ir_version
    expect(refusal(concat(small, text)).message).toMatch(/ModelProto\.ir_version: expected wire type 0, got 2/);
    const number = new BinaryWriter().tag(7, WireType.Varint).uint32(1).finish(); // graph
    expect(refusal(concat(small, number)).message).toMatch(/ModelProto\.graph: expected wire type 2, got 0/);
    const group = new BinaryWriter().tag(7, WireType.StartGroup).tag(7, WireType.EndGroup).finish();
    expect(refusal(concat(small, group)).message).toMatch(/expected wire type 2, got 3/);
    const wide = new BinaryWriter().tag(5, WireType.Bit64).fixed64(1n).finish(); // model_version
    expect(refusal(concat(small, wide)).message).toMatch(/ModelProto\.model_version: expected wire type 0, got 1/);
  });

  it("numbers of more than ten bytes, and such that never end", () => {
    const tag = Uint8Array.of(0x08); // ir_version
    expect(refusal(concat(tag, new Uint8Array(10).fill(0x80), Uint8Array.of(1), small)).message).toMatch(
      /more than 10 bytes/,
    );
    expect(refusal(concat(small, tag, new Uint8Array(1000).fill(0xff))).message).toMatch(/reaches past the end/);
  });

  it("lengths past the end, of the file and of the message around", () => {
    expect(refusal(Uint8Array.of(0x3a, 0x7f, 0)).message).toMatch(/ModelProto\.graph: its length reaches past the end/);
    expect(refusal(Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f)).message).toMatch(/past the end/);
    // A graph of 3 bytes whose name has 4, in a file that is long enough for both.
    expect(refusal(concat(Uint8Array.of(0x3a, 3, 0x12, 4, 65), small)).message).toMatch(
      /GraphProto\.name: .*past the end/,
    );
  });

  it("a packed list that ends within a number", () => {
    const list = (...bytes: number[]) =>
      new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(Uint8Array.from(bytes)).finish();
    const inTensor = (tensor: Uint8Array) =>
      new BinaryWriter()
        .tag(7, WireType.LengthDelimited)
        .bytes(new BinaryWriter().tag(5, WireType.LengthDelimited).bytes(tensor).finish())
        .finish();
    expect(refusal(inTensor(list(1, 0x80))).message).toMatch(/TensorProto\.dims: the value reaches past the end/);
    const float = new BinaryWriter().tag(4, WireType.LengthDelimited).bytes(new Uint8Array(6)).finish();
    expect(refusal(inTensor(float)).message).toMatch(/TensorProto\.float_data: the value reaches past the end/);
  });

  it("graphs, and types, nested without end", () => {
    const wrap = (field: number, bytes: Uint8Array) =>
      new BinaryWriter().tag(field, WireType.LengthDelimited).bytes(bytes).finish();
    let graph: Uint8Array = new Uint8Array(0);
    for (let depth = 0; depth < 5000; depth++) graph = wrap(1, wrap(5, wrap(6, graph))); // node.attribute.g
    expect(refusal(wrap(7, graph)).message).toMatch(/nested over 100 deep/);
    let type: Uint8Array = new Uint8Array(0);
    for (let depth = 0; depth < 5000; depth++) type = wrap(4, wrap(1, type)); // sequence_type.elem_type
    expect(refusal(wrap(7, wrap(11, wrap(2, type)))).message).toMatch(/nested over 100 deep/);
  });

  it("any change of a few bytes gives an error of ours, or a model that can be used", () => {
    const change = fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 }));
    const files = [small, goldenFile("reg/model.onnx")];
    fc.assert(
      fc.property(fc.constantFrom(...files), fc.array(change, { minLength: 1, maxLength: 4 }), (file, changes) => {
        const bytes = file.slice();
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        try {
          const model = readModel(bytes);
          expect(readModel(writeModel(model))).toEqual(model);
          sites(model);
          summary(model);
        } catch (error) {
          if (!(error instanceof LowrankError)) throw error;
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe("external data", () => {
  const external: TensorParts = {
    name: "w",
    dataType: 1,
    dims: [1n],
    dataLocation: 1,
    externalData: [{ key: "location", value: "/etc/passwd" }],
  };
  /** Without data_location, which some readers do not ask for. */
  const unmarked: TensorParts = {
    name: "w",
    dataType: 1,
    dims: [1n],
    externalData: [{ key: "location", value: "w.bin" }],
  };
  const nodeWith = (attribute: AttributeParts): GraphParts => ({
    node: [{ name: "n", opType: "Identity", input: ["x"], output: ["y"], attribute: [attribute] }],
  });
  const functionWith = (node: NodeParts[], attributeProto: AttributeParts[] = []): ModelParts => ({
    functions: [{ name: "f", domain: "d", opsetImport: [{ version: 17n }], node, attributeProto }],
  });
  const constant = (attribute: AttributeParts): NodeParts => ({
    opType: "Constant",
    output: ["c"],
    attribute: [attribute],
  });

  it.each<[where: string, bytes: Uint8Array, fault: RegExp]>([
    ["an initializer", graphBytes({ initializer: [external] }), /initializer "w": its data is in an external file/],
    ["an initializer that is not marked so", graphBytes({ initializer: [unmarked] }), /external file/],
    [
      "an attribute",
      graphBytes(nodeWith(tensorAttribute("value", external))),
      /attribute value: tensor: .*external file/,
    ],
    [
      "a list of tensors",
      graphBytes(nodeWith({ name: "v", type: Kind.TENSORS, tensors: [external] })),
      /external file/,
    ],
    [
      "a subgraph",
      graphBytes(nodeWith({ name: "body", type: Kind.GRAPH, g: { name: "b", initializer: [external] } })),
      /attribute body: initializer "w": .*external file/,
    ],
    [
      "one of several subgraphs",
      graphBytes(nodeWith({ name: "b", type: Kind.GRAPHS, graphs: [{}, { initializer: [external] }] })),
      /external file/,
    ],
    [
      "a function's node",
      graphBytes({}, functionWith([constant(tensorAttribute("value", external))])),
      /function "f": .*external file/,
    ],
    [
      "a subgraph of a function",
      graphBytes({}, functionWith([constant({ name: "g", type: Kind.GRAPH, g: { initializer: [external] } })])),
      /function "f": .*external file/,
    ],
    [
      "a function's default attribute",
      graphBytes({}, functionWith([], [tensorAttribute("v", external)])),
      /function "f": attribute v: .*external file/,
    ],
    [
      "a sparse initializer",
      graphBytes({ sparseInitializer: [{ values: external }] }),
      /sparse tensors are not supported/,
    ],
    [
      "a sparse attribute",
      graphBytes(nodeWith({ name: "v", type: Kind.SPARSE_TENSOR, sparseTensor: { values: external } })),
      /sparse tensors are not supported/,
    ],
    [
      "an attribute that says it is a number",
      graphBytes(nodeWith({ name: "v", type: Kind.INT, i: 1n, t: external })),
      /t is filled, and its type says otherwise/,
    ],
    [
      "a reference to a function's attribute",
      graphBytes({}, functionWith([constant({ name: "v", type: Kind.TENSOR, refAttrName: "a", t: external })])),
      /t is filled/,
    ],
    [
      "a sparse tensor beside a dense one",
      graphBytes(nodeWith({ name: "v", type: Kind.FLOAT, f: 1, sparseTensor: { values: external } })),
      /sparseTensor is filled/,
    ],
  ])("in %s", (_, bytes, fault) => expect(refusal(bytes).message).toMatch(fault));

  it("is looked for in training_info by refusing that", () => {
    expect(refusal(graphBytes({}, { trainingInfo: [{}] })).message).toMatch(/training_info/);
  });
});

describe("tensors that contradict themselves", () => {
  const raw = (length: number) => ({ rawData: new Uint8Array(length) });
  it.each<[what: string, parts: TensorParts, fault: RegExp]>([
    [
      "raw data beside a typed field",
      { dataType: 1, dims: [1n], ...raw(4), floatData: [1] },
      /several fields at once \(floatData, rawData\)/,
    ],
    ["two typed fields", { dataType: 1, dims: [1n], int32Data: [1], floatData: [1] }, /several fields at once/],
    ["too few bytes", { dataType: 1, dims: [2n, 3n], ...raw(20) }, /float32 \[2,3\]: expected 24 bytes, got 20/],
    ["too many bytes", { dataType: 1, dims: [], ...raw(8) }, /expected 4 bytes, got 8/],
    ["no data", { dataType: 1, dims: [2n] }, /expected 8 bytes, got 0/],
    ["too few typed values", { dataType: 7, dims: [3n], int64Data: [1n, 2n] }, /expected 24 bytes of values, got 16/],
    [
      "a field that is another type's",
      { dataType: 7, dims: [1n], floatData: [1] },
      /floatData, which does not go with that type/,
    ],
    ["strings in a number's field", { dataType: 1, dims: [1n], stringData: [new Uint8Array(1)] }, /stringData/],
    ["numbers in a string's field", { dataType: 8, dims: [1n], int32Data: [1] }, /strings must stand in string_data/],
    ["raw strings", { dataType: 8, dims: [1n], ...raw(1) }, /strings must stand in string_data/],
    ["too few strings", { dataType: 8, dims: [2n], stringData: [new Uint8Array(1)] }, /expected 2 strings, got 1/],
    ["a negative dimension", { dataType: 1, dims: [-1n], ...raw(4) }, /float32 \[-1\]: dimensions must be 0 or more/],
    ["a dimension past 2^53", { dataType: 1, dims: [2n ** 62n], ...raw(4) }, /below 2\^53/],
    ["a shape that overflows", { dataType: 1, dims: [2n ** 31n, 2n ** 31n], ...raw(4) }, /the shape overflows/],
    ["a shape that overflows to 0 in 64 bits", { dataType: 1, dims: [2n ** 32n, 2n ** 32n] }, /the shape overflows/],
    ["an unknown type", { dataType: 99, dims: [1n], ...raw(4) }, /unknown element type 99/],
    ["no type", { dims: [1n], ...raw(4) }, /unknown element type 0/],
    ["segments", { dataType: 1, dims: [1n], ...raw(4), segment: { begin: 0n, end: 1n } }, /segmented/],
  ])("%s", (_, parts, fault) => {
    expect(refusal(graphBytes({ initializer: [{ name: "w", ...parts }] })).message).toMatch(fault);
    const attribute = [tensorAttribute("value", parts)];
    const node: NodeParts[] = [{ opType: "Constant", output: ["y"], attribute }];
    expect(refusal(graphBytes({ node })).message).toMatch(fault);
  });
});

describe("graphs that are none", () => {
  const node = (name: string, input: string[], output: string[], more: NodeParts = {}): NodeParts => ({
    name,
    opType: "Sum",
    input,
    output,
    ...more,
  });
  const body = (parts: GraphParts): AttributeParts => ({ name: "body", type: Kind.GRAPH, g: { name: "b", ...parts } });
  it.each<[what: string, parts: GraphParts, fault: RegExp]>([
    [
      "a cycle",
      { node: [node("a", ["q", "x"], ["p"]), node("b", ["p"], ["q"]), node("c", ["q"], ["y"])] },
      /node "a" \(Sum\): its input "q" is computed only later, or by itself \(a cycle\)/,
    ],
    ["a node that reads itself", { node: [node("a", ["y"], ["y"])] }, /a cycle/],
    ["a dangling input", { node: [node("a", ["x", "nowhere"], ["y"])] }, /its input "nowhere" does not exist/],
    ["an output that nothing computes", { node: [] }, /output "y": nothing computes it/],
    [
      "two nodes with one output",
      { node: [node("a", ["x"], ["y"]), node("b", ["x"], ["y"])] },
      /node "b" \(Sum\): its output "y": there is a value of that name already/,
    ],
    [
      "one node with an output twice",
      { node: [node("a", ["x"], ["y", "y"])] },
      /there is a value of that name already/,
    ],
    [
      "a node that computes an input",
      { node: [node("a", ["x"], ["x"]), node("b", ["x"], ["y"])] },
      /its output "x": there is/,
    ],
    [
      "two inputs of one name",
      { input: [floats("x", 2), floats("x", 2)] },
      /input "x": there is a value of that name already/,
    ],
    [
      "two initializers of one name",
      { initializer: [1, 2].map(() => ({ name: "w", dataType: 1, dims: [0n] })) },
      /there are two of that name/,
    ],
    ["an initializer without a name", { initializer: [{ dataType: 1, dims: [0n] }] }, /a name is missing/],
    [
      "a node without an operator",
      { node: [node("a", ["x"], ["y"], { opType: "" })] },
      /the operator's name is missing/,
    ],
    [
      "an attribute twice",
      { node: [node("a", ["x"], ["y"], { attribute: [1n, 2n].map((i) => ({ name: "k", type: Kind.INT, i })) })] },
      /attribute k stands there twice/,
    ],
    [
      "an attribute without a type",
      { node: [node("a", ["x"], ["y"], { attribute: [{ name: "k", i: 1n }] })] },
      /its type is missing or unknown/,
    ],
    [
      "an attribute of a type that there is not",
      { node: [node("a", ["x"], ["y"], { attribute: [{ name: "k", type: 99 as Kind, i: 1n }] })] },
      /its type is missing or unknown \(99\)/,
    ],
    [
      "a tensor attribute without a tensor",
      { node: [node("a", ["x"], ["y"], { attribute: [{ name: "k", type: Kind.TENSOR }] })] },
      /its tensor is missing/,
    ],
    [
      "a value of an unknown type",
      { input: [{ name: "x", type: { value: { case: "tensorType", value: { elemType: 77 } } } }] },
      /value "x": unknown element type 77/,
    ],
    [
      "an input size past 2^53",
      {
        input: [
          {
            ...floats("x"),
            type: {
              value: {
                case: "tensorType",
                value: { elemType: 1, shape: { dim: [{ value: { case: "dimValue", value: 2n ** 60n } }] } },
              },
            },
          },
        ],
      },
      /dimension 1152921504606846976 is out of range/,
    ],
    [
      "a domain that is not imported",
      { node: [node("a", ["x"], ["y"], { domain: "com.example" })] },
      /node "a" \(com\.example\.Sum\): its domain has no opset_import; imported: ""/,
    ],
    [
      "a dangling input in a subgraph",
      { node: [node("a", ["x"], ["y"], { attribute: [body({ node: [node("i", ["nowhere"], ["j"])] })] })] },
      /node "a" \(Sum\): node "i" \(Sum\): its input "nowhere" does not exist/,
    ],
    [
      "a subgraph that reads what comes later",
      {
        node: [
          node("a", ["x"], ["h"], { attribute: [body({ node: [node("i", ["y"], ["j"])] })] }),
          node("b", ["h"], ["y"]),
        ],
      },
      /its input "y" does not exist/,
    ],
    [
      "a domain in a subgraph that is not imported",
      { node: [node("a", ["x"], ["y"], { attribute: [body({ node: [node("i", ["x"], ["j"], { domain: "q" })] })] })] },
      /node "a" \(Sum\): node "i" \(q\.Sum\): its domain has no opset_import/,
    ],
    [
      "an output of a subgraph that nothing computes",
      { node: [node("a", ["x"], ["y"], { attribute: [body({ output: [{ name: "z" }] })] })] },
      /output "z": nothing computes it/,
    ],
  ])("%s", (_, parts, fault) => expect(refusal(graphBytes(parts)).message).toMatch(fault));

  it.each<[what: string, parts: ModelParts, fault: RegExp]>([
    ["no graph", {}, /there is no graph/],
    ["no operator set", { opsetImport: [], graph: graphOf() }, /no operator set is named/],
    [
      "ONNX's domain twice",
      { opsetImport: [{ version: 17n }, { domain: "ai.onnx", version: 18n }], graph: graphOf() },
      /opset_import "ai\.onnx": it stands there twice/,
    ],
    [
      "an operator set of the future",
      { opsetImport: [{ version: 99n }], graph: graphOf() },
      /operator set 99: readable are 1 to 26/,
    ],
    [
      "an operator set that is no version",
      { opsetImport: [{ version: -(2n ** 63n) }], graph: graphOf() },
      /version -9223372036854775808 is out of range/,
    ],
    [
      "another domain's set that is no version",
      { opsetImport: [{ version: 17n }, { domain: "d", version: 2n ** 40n }], graph: graphOf() },
      /opset_import "d": version 1099511627776 is out of range/,
    ],
    ["an IR version of the future", { irVersion: 99n, graph: graphOf() }, /IR version 99: readable are 1 to 14/],
    ["no IR version", { irVersion: 0n, graph: graphOf() }, /IR version 0/],
    [
      "a function whose node's domain it does not import",
      {
        graph: graphOf(),
        functions: [
          { name: "f", opsetImport: [{ version: 17n }], node: [{ opType: "A", domain: "d", output: ["o"] }] },
        ],
      },
      /function "f": node "o" \(d\.A\): its domain has no opset_import/,
    ],
  ])("%s", (_, parts, fault) => expect(refusal(modelBytes(parts)).message).toMatch(fault));

  it("lists all faults at once", () => {
    const { faults, message } = refusal(graphBytes({ node: [node("a", ["p"], ["q"]), node("b", ["r"], ["s"])] }));
    expect(faults.length).toBe(3);
    expect(message).toMatch(/^m\.onnx: 3 faults\n/);
    expect(message).toContain('"p"');
    expect(message).toContain('"r"');
    expect(message).toContain('output "y"');
  });

  it("reads optional inputs, names from outside, and subgraphs that hide one", () => {
    const inner = body({ node: [node("i", ["x", "h"], ["h2"])], output: [{ name: "h2" }] });
    const parts: GraphParts = {
      node: [node("a", ["x", ""], ["h"]), node("b", ["h"], ["y", ""], { attribute: [inner] })],
    };
    expect(readModel(graphBytes(parts)).graph.nodes[1]!.outputs).toEqual(["y", ""]);
  });
});

describe("files made to take forever", () => {
  it.each([
    ["nodes", 1],
    ["inputs", 11],
    ["initializers", 5],
  ])("a million empty %s in two megabytes", (_, field) => {
    const graph = new Uint8Array(2_000_000);
    for (let at = 0; at < graph.length; at += 2) graph[at] = (field << 3) | WireType.LengthDelimited;
    const bytes = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(graph).finish();
    const begin = performance.now();
    expect(refusal(bytes).message).toMatch(/made of more than \d+ messages, which no model of its size is/);
    expect(performance.now() - begin).toBeLessThan(2000);
  });

  it("two million 64-bit integers of a byte each", () => {
    const values = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(new Uint8Array(2_000_000)).finish();
    const graph = new BinaryWriter().tag(5, WireType.LengthDelimited).bytes(values).finish();
    const bytes = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(graph).finish();
    const before = process.memoryUsage().rss;
    expect(refusal(bytes).message).toMatch(/TensorProto\.int64_data: more than 1048576 integers in lists; save/);
    expect(process.memoryUsage().rss - before).toBeLessThan(10 * bytes.length + 16e6);
  });

  it("a tensor of a hundred thousand dimensions", () => {
    const dims = new Array<bigint>(100_000).fill(1n);
    const bytes = graphBytes({ initializer: [{ name: "w", dataType: 1, dims, rawData: new Uint8Array(4) }] });
    expect(refusal(bytes).message).toBe('m.onnx: initializer "w": float32: it has 100000 dimensions; readable are 64');
  });

  it("many subgraphs in a large graph", () => {
    const count = 20_000;
    const attribute: AttributeParts[] = [{ name: "body", type: Kind.GRAPH, g: { name: "b", output: [{ name: "x" }] } }];
    const nodes = Array.from(
      { length: count },
      (_, index): NodeParts => ({ opType: "If", input: ["x"], output: [`v${index}`], attribute }),
    );
    const bytes = graphBytes({ node: [...nodes, { opType: "Identity", input: ["x"], output: ["y"] }] });
    const begun = performance.now();
    expect(readModel(bytes).graph.nodes.length).toBe(count + 1);
    expect(performance.now() - begun).toBeLessThan(5000);
  });

  it("a Split in a thousand million parts", () => {
    const attribute: AttributeParts[] = [{ name: "num_outputs", type: Kind.INT, i: 1_000_000_000n }];
    const bytes = graphBytes({ node: [{ name: "s", opType: "Split", input: ["x"], output: ["y", "z"], attribute }] });
    expect(refusal(bytes).message).toBe(
      'm.onnx: node "s" (Split): num_outputs is 1000000000, expected as many as it has: 2',
    );
  });

  it("a rank that grows by one with each node", () => {
    const count = 2000;
    const axis: TensorParts = { name: "axis", dataType: 7, dims: [1n], rawData: new Uint8Array(8) };
    const chain = Array.from(
      { length: count },
      (_, index): NodeParts => ({
        opType: "Unsqueeze",
        input: [index === 0 ? "x" : `v${index}`, "axis"],
        output: [index === count - 1 ? "y" : `v${index + 1}`],
      }),
    );
    const { graph } = readModel(graphBytes({ node: chain, initializer: [axis] }));
    const ranks = [...inferShapes(graph).values()].map(({ shape }) => shape?.length ?? 0);
    expect(Math.max(...ranks)).toBe(64);
  });

  it("a chain of Identity nodes behind a weight", () => {
    const count = 30_000;
    const chain = Array.from(
      { length: count },
      (_, index): NodeParts => ({ opType: "Identity", input: [`v${index}`], output: [`v${index + 1}`] }),
    );
    const product: NodeParts = { name: "/fc/MatMul", opType: "MatMul", input: ["x", `v${count}`], output: ["y"] };
    const initializer: TensorParts[] = [{ name: "v0", dataType: 1, dims: [2n, 2n], rawData: new Uint8Array(16) }];
    const model = readModel(graphBytes({ node: [...chain, product], initializer }));
    expect(sites(model).map(({ modulePath, inFeatures }) => [modulePath, inFeatures])).toEqual([["fc", 2]]);
    expect(summary(model).parameters).toBe(4);
  });

  it("a rank of thousands of millions", () => {
    const reshape: NodeParts = { opType: "Reshape", input: ["x", "shape"], output: ["y"] };
    const shape = {
      name: "shape",
      type: {
        value: {
          case: "tensorType" as const,
          value: { elemType: 7, shape: { dim: [{ value: { case: "dimValue" as const, value: 2n ** 40n } }] } },
        },
      },
    };
    const output = [{ name: "y" }];
    expect(
      summary(readModel(graphBytes({ node: [reshape], input: [floats("x", 2), shape], output }))).rows[0]!.outputShape,
    ).toBeUndefined();
  });
});
