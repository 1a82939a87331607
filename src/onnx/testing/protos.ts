// ONNX files as tests need them: small protobuf messages with whatever is asked for, right or wrong.
import { readFileSync } from "node:fs";
import { create, type DescMessage, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type AttributeProtoSchema,
  type GraphProtoSchema,
  AttributeProto_AttributeType as Kind,
  ModelProtoSchema,
  type NodeProtoSchema,
  type TensorProtoSchema,
  type ValueInfoProtoSchema,
} from "./gen/onnx_pb.js";

/** A message as plain values, not one that was made before: it may be spread. */
type Parts<S extends DescMessage> = Exclude<MessageInitShape<S>, Message>;

export type ModelParts = Parts<typeof ModelProtoSchema>;
export type GraphParts = Parts<typeof GraphProtoSchema>;
export type NodeParts = Parts<typeof NodeProtoSchema>;
export type TensorParts = Parts<typeof TensorProtoSchema>;
export type AttributeParts = Parts<typeof AttributeProtoSchema>;
export type ValueParts = Parts<typeof ValueInfoProtoSchema>;

/** The bytes of a model: opset 17 and IR version 8, unless `parts` says otherwise. */
export function modelBytes(parts: ModelParts): Uint8Array<ArrayBuffer> {
  const defaults: ModelParts = { irVersion: 8n, opsetImport: [{ version: 17n }] };
  return toBinary(ModelProtoSchema, create(ModelProtoSchema, { ...defaults, ...parts }));
}

/** A value of float32 numbers. */
export function floats(name: string, ...dims: (number | string)[]): ValueParts {
  const dim = dims.map((size) => ({
    value:
      typeof size === "number"
        ? ({ case: "dimValue", value: BigInt(size) } as const)
        : ({ case: "dimParam", value: size } as const),
  }));
  return { name, type: { value: { case: "tensorType", value: { elemType: 1, shape: { dim } } } } };
}

/** A graph of x [2] -> y [2] with these nodes (by default y = x) and whatever else is given. */
export function graphOf(parts: GraphParts = {}): GraphParts {
  const identity: NodeParts = { name: "copy", opType: "Identity", input: ["x"], output: ["y"] };
  return { name: "g", node: [identity], input: [floats("x", 2)], output: [floats("y", 2)], ...parts };
}

/** The bytes of a model with that graph. */
export function graphBytes(parts: GraphParts = {}, model: ModelParts = {}): Uint8Array<ArrayBuffer> {
  return modelBytes({ ...model, graph: graphOf(parts) });
}

/** A TENSOR attribute. */
export function tensorAttribute(name: string, t: TensorParts): AttributeParts {
  return { name, type: Kind.TENSOR, t };
}

/** A file of test/fixtures/golden, as a plain Uint8Array. */
export function goldenFile(path: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(new URL(`../../../test/fixtures/golden/${path}`, import.meta.url)));
}

/** Every ONNX file of test/fixtures/golden. */
export const goldenModels = [
  "mlp/model.onnx",
  "reg/model.onnx",
  "cnn/model.onnx",
  "gpt2/base.onnx",
  "distilbert/base.onnx",
  "distilbert/base.legacy.onnx",
] as const;
