import { create, fromBinary, toBinary, toJson } from "@bufbuild/protobuf";
import ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { studyNetwork } from "../study/network.ts";
import { tensor } from "../tensor.ts";
import { createModel, float, graphBuilder, makeNode } from "./builder.ts";
import type { ElementType } from "./elements.ts";
import { type Attribute, type Model, toTensor } from "./model.ts";
import { readModel } from "./read.ts";
import { AttributeProto_AttributeType as Kind, ModelProtoSchema } from "./testing/gen/onnx_pb.js";
import {
  type GraphParts,
  goldenFile,
  goldenModels,
  graphBytes,
  graphOf,
  modelBytes,
  type TensorParts,
} from "./testing/protos.ts";
import { writeModel } from "./write.ts";

/** What a file says, without the difference between an empty text and none, which ONNX does not make. */
function content(bytes: Uint8Array<ArrayBuffer>): unknown {
  const json = toJson(ModelProtoSchema, fromBinary(ModelProtoSchema, bytes));
  return JSON.parse(JSON.stringify(json, (_, value) => (value === "" ? undefined : value)));
}

function initializer(parts: TensorParts): GraphParts {
  return { initializer: [{ name: "w", ...parts }] };
}

function readInitializer(parts: TensorParts) {
  return readModel(graphBytes(initializer(parts))).graph.initializers.get("w")!;
}

describe("files of others", () => {
  it.each(goldenModels)("%s is written again with every field as it was", (path) => {
    const bytes = goldenFile(path);
    const model = readModel(bytes, path);
    const written = new Uint8Array(writeModel(model));
    expect(content(written)).toEqual(content(bytes));
    expect(readModel(written)).toEqual(model);
    expect(writeModel(readModel(written))).toEqual(written);
  });

  it("keeps weights as views of the file's bytes", () => {
    const bytes = goldenFile("mlp/model.onnx");
    const weight = readModel(bytes).graph.initializers.get("fc1.weight")!;
    expect(weight.bytes.buffer).toBe(bytes.buffer);
    expect(weight.bytes.length).toBe(20 * 16 * 4);
  });

  it("reads a Buffer and a view into a larger array alike", () => {
    const bytes = goldenFile("reg/model.onnx");
    const shifted = new Uint8Array(bytes.length + 7);
    shifted.set(bytes, 3);
    const expected = readModel(bytes);
    expect(readModel(Buffer.from(bytes))).toEqual(expected);
    expect(readModel(shifted.subarray(3, 3 + bytes.length))).toEqual(expected);
  });

  it("keeps what only some files have", () => {
    const bytes = modelBytes({
      irVersion: 12n,
      producerName: "maker",
      producerVersion: "1.2",
      domain: "com.example",
      modelVersion: 2n ** 62n + 1n,
      docString: "a model",
      opsetImport: [{ version: 21n }, { domain: "com.microsoft", version: 1n }, { domain: "local", version: 3n }],
      metadataProps: [{ key: "k", value: "v" }],
      functions: [
        {
          name: "twice",
          domain: "local",
          input: ["a"],
          output: ["b"],
          opsetImport: [{ version: 21n }],
          node: [
            {
              opType: "Add",
              input: ["a", "a"],
              output: ["b"],
              attribute: [{ name: "k", type: Kind.INT, refAttrName: "outer" }],
            },
          ],
          attributeProto: [{ name: "outer", type: Kind.INT, i: 4n }],
        },
      ],
      graph: {
        ...graphOf(),
        docString: "a graph",
        metadataProps: [{ key: "g", value: "1" }],
        node: [
          {
            name: "n",
            opType: "twice",
            domain: "local",
            overload: "o",
            docString: "a node",
            input: ["x", "", "x"],
            output: ["y", "", "z"],
            metadataProps: [{ key: "n", value: "2" }],
            attribute: [
              { name: "f", type: Kind.FLOAT, f: 0.1 },
              { name: "i", type: Kind.INT, i: -(2n ** 63n) },
              { name: "s", type: Kind.STRING, s: Uint8Array.of(0xff, 0) },
              {
                name: "t",
                type: Kind.TENSOR,
                t: { name: "inner", dataType: 1, dims: [1n], rawData: new Uint8Array(4) },
              },
              { name: "g", type: Kind.GRAPH, g: { name: "body", output: [{ name: "x" }] } },
              { name: "tp", type: Kind.TYPE_PROTO, tp: { value: { case: "sequenceType", value: {} } } },
              { name: "fs", type: Kind.FLOATS, floats: [1, -0, Number.NaN] },
              { name: "is", type: Kind.INTS, ints: [1n, -(2n ** 62n)] },
              { name: "ss", type: Kind.STRINGS, strings: [Uint8Array.of(1), new Uint8Array(0)] },
              { name: "ts", type: Kind.TENSORS, tensors: [{ dataType: 7, dims: [], rawData: new Uint8Array(8) }] },
              { name: "gs", type: Kind.GRAPHS, graphs: [{ name: "other" }] },
              { name: "tps", type: Kind.TYPE_PROTOS, typeProtos: [{ denotation: "IMAGE" }] },
            ],
          },
        ],
        initializer: [
          {
            name: "w",
            dataType: 1,
            dims: [0n],
            docString: "none",
            metadataProps: [{ key: "w", value: "3" }],
            rawData: new Uint8Array(0),
          },
        ],
        input: [
          {
            name: "x",
            docString: "an input",
            metadataProps: [{ key: "x", value: "4" }],
            type: {
              denotation: "TENSOR",
              value: {
                case: "tensorType",
                value: {
                  elemType: 1,
                  shape: { dim: [{ denotation: "DATA_BATCH", value: { case: "dimParam", value: "n" } }, {}] },
                },
              },
            },
          },
        ],
        output: [{ name: "y" }],
        valueInfo: [{ name: "z", type: { value: { case: "optionalType", value: {} } } }],
        quantizationAnnotation: [{ tensorName: "w", quantParameterTensorNames: [{ key: "SCALE_TENSOR", value: "s" }] }],
      },
    });
    const model = readModel(bytes);
    expect(content(new Uint8Array(writeModel(model)))).toEqual(content(bytes));
    expect(readModel(writeModel(model))).toEqual(model);
    expect(model.modelVersion).toBe(2n ** 62n + 1n);
    expect(model.graph.inputs[0]!.shape).toEqual(["n", null]);
    const read = Object.fromEntries(model.graph.nodes[0]!.attributes) as Record<string, Attribute>;
    expect(read.f).toEqual({ kind: "float", value: Math.fround(0.1) });
    expect(read.i).toEqual({ kind: "int", value: -(2n ** 63n) });
    expect(read.is).toEqual({ kind: "ints", value: [1n, -(2n ** 62n)] });
  });

  it("takes ai.onnx for ONNX's own domain", () => {
    const node = [{ opType: "Identity", domain: "ai.onnx", input: ["x"], output: ["y"] }];
    const model = readModel(graphBytes({ node }, { opsetImport: [{ domain: "ai.onnx", version: 17n }] }));
    expect([...model.opsets]).toEqual([["", 17]]);
    expect(model.graph.nodes[0]!.domain).toBe("");
  });
});

describe("weights in typed fields", () => {
  const half = [0x3c00, 0xc000]; // 1, -2 in binary16
  it.each<[type: ElementType, parts: TensorParts, data: (number | bigint)[]]>([
    ["float32", { dataType: 1, dims: [2n], floatData: [0.5, -3] }, [0.5, -3]],
    ["float64", { dataType: 11, dims: [2n], doubleData: [0.1, -1e300] }, [0.1, -1e300]],
    ["float16", { dataType: 10, dims: [2n], int32Data: half }, half],
    ["bfloat16", { dataType: 16, dims: [2n], int32Data: [0x3f80, 0xbf80] }, [0x3f80, 0xbf80]],
    ["bool", { dataType: 9, dims: [3n], int32Data: [1, 0, 1] }, [1, 0, 1]],
    ["int8", { dataType: 3, dims: [2n], int32Data: [-128, 127] }, [-128, 127]],
    ["uint8", { dataType: 2, dims: [2n], int32Data: [0, 255] }, [0, 255]],
    ["int16", { dataType: 5, dims: [2n], int32Data: [-32768, 32767] }, [-32768, 32767]],
    ["uint16", { dataType: 4, dims: [2n], int32Data: [0, 65535] }, [0, 65535]],
    ["int32", { dataType: 6, dims: [2n], int32Data: [-(2 ** 31), 2 ** 31 - 1] }, [-(2 ** 31), 2 ** 31 - 1]],
    ["int64", { dataType: 7, dims: [2n], int64Data: [-(2n ** 63n), 2n ** 63n - 1n] }, [-(2n ** 63n), 2n ** 63n - 1n]],
    ["uint32", { dataType: 12, dims: [2n], uint64Data: [0n, 2n ** 32n - 1n] }, [0, 2 ** 32 - 1]],
    ["uint64", { dataType: 13, dims: [2n], uint64Data: [1n, 2n ** 64n - 1n] }, [1n, 2n ** 64n - 1n]],
  ])("%s", (type, parts, data) => {
    const stored = readInitializer(parts);
    expect(stored.type).toBe(type);
    expect([...toTensor(stored).data]).toEqual(data);
    // Written as raw data, and the same when read again.
    const again = readModel(writeModel(readModel(graphBytes(initializer(parts)))));
    expect(again.graph.initializers.get("w")).toEqual(stored);
  });

  it.each<[type: string, parts: TensorParts, bytes: number[]]>([
    ["int4, two in a byte", { dataType: 22, dims: [3n], int32Data: [0x21, 0x0f] }, [0x21, 0x0f]],
    ["uint2, four in a byte", { dataType: 25, dims: [5n], int32Data: [0xe4, 1] }, [0xe4, 1]],
    ["float8e4m3fn", { dataType: 17, dims: [2n], int32Data: [0x38, 0xb8] }, [0x38, 0xb8]],
    ["complex64", { dataType: 14, dims: [1n], floatData: [1, -1] }, [0, 0, 0x80, 0x3f, 0, 0, 0x80, 0xbf]],
  ])("%s", (_, parts, bytes) => {
    expect([...readInitializer(parts).bytes]).toEqual(bytes);
  });

  it("strings", () => {
    const stringData = [new TextEncoder().encode("a"), new TextEncoder().encode("é")];
    const stored = readInitializer({ dataType: 8, dims: [2n], stringData });
    expect(stored.strings).toEqual(stringData);
    const again = readModel(writeModel(readModel(graphBytes(initializer({ dataType: 8, dims: [2n], stringData })))));
    expect(again.graph.initializers.get("w")).toEqual(stored);
  });

  it("a scalar has one value, and an empty tensor none", () => {
    expect(readInitializer({ dataType: 1, dims: [], floatData: [7] })).toMatchObject({ dims: [] });
    expect(readInitializer({ dataType: 1, dims: [3n, 0n] }).bytes.length).toBe(0);
  });
});

describe("a model of the builder", () => {
  /** y = relu(x W^T + b) * 0.5 with W = [[1, 2, 3], [-4, 5, -6]]. */
  function smallModel(): Model {
    const g = graphBuilder({ name: "small", opset: 17 });
    const x = g.input("x", "float32", ["batch", 3]);
    const weight = g.initializer("fc.weight", tensor("float32", [2, 3], Float32Array.of(1, 2, 3, -4, 5, -6)));
    const bias = g.initializer("fc.bias", tensor("float32", [2], Float32Array.of(10, 20)));
    const h = g.op("Gemm", [x, weight, bias], { transB: 1, alpha: float(1) }, { name: "/fc/Gemm" });
    const y = g.op("Mul", [g.op("Relu", [h]), g.constant("float32", 0.5)], {}, { output: "y" });
    g.output(y, "float32", ["batch", 2]);
    return createModel(g.build(), { opset: 17 });
  }

  it("gives the same bytes each time", () => {
    expect(writeModel(smallModel())).toEqual(writeModel(smallModel()));
    // The study's network has 11 MB: compared as a whole, not value by value.
    const study = () => Buffer.from(writeModel(studyNetwork("relu", 3)));
    expect(study().equals(study())).toBe(true);
  });

  it("is read back as it was", () => {
    const model = smallModel();
    expect(readModel(writeModel(model))).toEqual(model);
  });

  it("runs in ONNX Runtime, with the right numbers", async () => {
    const session = await ort.InferenceSession.create(writeModel(smallModel()));
    const x = new ort.Tensor("float32", Float32Array.of(1, 1, 1, 0, -8, 0), [2, 3]);
    const { y } = await session.run({ x });
    expect(y!.dims).toEqual([2, 2]);
    // Rows: (6 + 10, -5 + 20) / 2 and (-16 + 10, -40 + 20) cut off at 0.
    expect([...(y!.data as Float32Array)]).toEqual([8, 7.5, 0, 0]);
    await session.release();
  });

  it("names the IR version that goes with its operator set", () => {
    const graph = graphBuilder({ opset: 17 }).build();
    const versions = [17, 18, 19, 20, 21, 23].map((opset) => createModel(graph, { opset }).irVersion);
    expect(versions).toEqual([8, 8, 9, 9, 10, 11]);
  });

  it("leaves out what is empty", () => {
    const graph = {
      ...graphBuilder({ name: "g", opset: 17 }).build(),
      nodes: [makeNode({ op: "Foo", inputs: [], outputs: ["y"] })],
    };
    const bytes = writeModel(createModel(graph, { opset: 17, producer: "p" }));
    const expected = create(ModelProtoSchema, {
      irVersion: 8n,
      producerName: "p",
      opsetImport: [{ domain: "", version: 17n }],
      graph: { name: "g", node: [{ opType: "Foo", output: ["y"] }] },
    });
    expect(bytes).toEqual(toBinary(ModelProtoSchema, expected));
  });
});
