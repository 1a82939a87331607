import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { floatValues } from "../onnx/model.ts";
import {
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation,
  TensorProtoSchema,
  TypeProtoSchema,
  ValueInfoProtoSchema,
} from "../onnx/testing/gen/onnx_pb.js";
import { openSession } from "../runtime/session.ts";
import { tensor } from "../tensor.ts";
import { loadModel } from "./model-file.ts";

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-model-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const vector = (name: string) =>
  create(ValueInfoProtoSchema, {
    name,
    type: create(TypeProtoSchema, {
      value: {
        case: "tensorType",
        value: { elemType: 1, shape: { dim: [{ value: { case: "dimValue", value: 3n } }] } },
      },
    }),
  });

/** y = x + w, with w [3] outside; `entries` is its external_data. Returns the model's path. */
function modelWith(entries: Readonly<Record<string, string>>): string {
  const w = create(TensorProtoSchema, {
    name: "w",
    dims: [3n],
    dataType: 1,
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: Object.entries(entries).map(([key, value]) => create(StringStringEntryProtoSchema, { key, value })),
  });
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [create(OperatorSetIdProtoSchema, { version: 17n })],
    graph: create(GraphProtoSchema, {
      name: "sum",
      initializer: [w],
      input: [vector("x")],
      output: [vector("y")],
      node: [create(NodeProtoSchema, { opType: "Add", input: ["x", "w"], output: ["y"] })],
    }),
  });
  const path = join(folder, "model.onnx");
  writeFileSync(path, toBinary(ModelProtoSchema, model));
  return path;
}

const weights = new Uint8Array(Float32Array.of(9, 1, 2, 3, 9).buffer);

describe("loadModel", () => {
  it("reads weights from a file beside the model, at an offset", async () => {
    mkdirSync(join(folder, "data"));
    writeFileSync(join(folder, "data", "weights.bin"), weights);
    const model = await loadModel(modelWith({ location: "data/weights.bin", offset: "4", length: "12" }));
    expect([...floatValues("w", model.graph.initializers.get("w")!)]).toEqual([1, 2, 3]);
    const session = await openSession(model);
    const x = tensor("float32", [3], Float32Array.of(10, 20, 30));
    expect([...(await session.run(new Map([["x", x]]))).get("y")!.data]).toEqual([11, 22, 33]);
    await session.dispose();
  });

  it("takes as many bytes as the shape needs where the model gives no length", async () => {
    writeFileSync(join(folder, "weights.bin"), weights);
    const model = await loadModel(modelWith({ location: "weights.bin", offset: "8" }));
    expect([...floatValues("w", model.graph.initializers.get("w")!)]).toEqual([2, 3, 9]);
  });

  const hostile: [string, Record<string, string>, RegExp][] = [
    ["a missing file", { location: "nowhere.bin" }, /no such file/],
    ["no location", { offset: "0" }, /is empty/],
    ["an empty location", { location: "" }, /is empty/],
    ["an absolute location", { location: "/etc/passwd" }, /is absolute/],
    ["a drive", { location: "C:/weights.bin" }, /is absolute/],
    ["a way out", { location: "../weights.bin" }, /leaves the model's folder/],
    ["a way out in the middle", { location: "a/../../weights.bin" }, /leaves the model's folder/],
    ["a backslash", { location: "..\\weights.bin" }, /backslash/],
    ["a NUL", { location: "weights.bin\0.txt" }, /NUL/],
    ["the folder itself", { location: "." }, /no plain path/],
    ["a folder", { location: "folder" }, /expected a file/],
    ["a negative offset", { location: "weights.bin", offset: "-4" }, /whole number of bytes/],
    ["a fractional offset", { location: "weights.bin", offset: "1.5" }, /whole number of bytes/],
    ["a huge offset", { location: "weights.bin", offset: "99999999999999999999" }, /whole number of bytes/],
    ["an offset past the end", { location: "weights.bin", offset: "16" }, /got a file of 20/],
    ["another length", { location: "weights.bin", length: "16" }, /expected 12 bytes/],
    ["a length that is no number", { location: "weights.bin", length: "twelve" }, /whole number of bytes/],
    ["an unknown key", { location: "weights.bin", url: "x" }, /unknown key "url"/],
    ["a link that leads out", { location: "link.bin" }, /leads out/],
    ["a link to a folder that leads out", { location: "linked/passwd" }, /leads out/],
  ];
  it.each(hostile)("refuses %s", async (_, entries, message) => {
    writeFileSync(join(folder, "weights.bin"), weights);
    mkdirSync(join(folder, "folder"));
    symlinkSync("/etc/passwd", join(folder, "link.bin"));
    symlinkSync("/etc", join(folder, "linked"));
    const error = await loadModel(modelWith(entries)).then(
      () => null,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(LowrankError);
    expect(error.code).toBe("model");
    expect(error.message).toMatch(/initializer "w"/);
    expect(error.message).toMatch(message);
  });
});
