// Typed model -> ONNX bytes.
import { LowrankError } from "../errors.ts";
import { elementCount } from "../tensor.ts";
import { elementCode, rawByteLength } from "./elements.ts";
import { filePlaceOf } from "./external.ts";
import type { Attribute, Dim, Graph, Model, Node, StoredTensor, ValueInfo } from "./model.ts";
import { externalLocation, attributeKinds as Kind, type Parts } from "./proto.ts";
import { encode } from "./wire.ts";

/** protobuf's own limit for one message. */
const maxBytes = 2 ** 31 - 1;

/**
 * A model as the bytes of an .onnx file. The same model gives the same bytes.
 *
 * @throws LowrankError "model" when its weights do not fit into one file of 2 GiB; `saveModel` writes such beside it.
 * @example await fs.writeFile("model.onnx", writeModel(model));
 */
export function writeModel(model: Model): Uint8Array {
  const size = weightBytes(model);
  if (size > maxBytes) {
    throw new LowrankError(
      "model",
      `weights of ${size} bytes: one protobuf holds at most 2 GiB; write them beside the model (saveModel in Node.js)`,
    );
  }
  return encode("ModelProto", modelProto(model));
}

/** How many bytes a model's weights take; nothing is read for it. */
export function weightBytes({ graph }: Model): number {
  return [...graph.initializers.values()].reduce((sum, stored) => sum + byteLength(stored), 0);
}

/** A model whose large weights stand outside its bytes. */
export interface ModelParts {
  /** An .onnx file that names its weights as external data. */
  readonly bytes: Uint8Array;
  /** The external data, by location: views of the memory that the weights are in, not copies. */
  readonly data: ReadonlyMap<string, Uint8Array>;
  /** Where the files are that `bytes` names besides: those of weights that were left there when the model was loaded. */
  readonly folder: string | undefined;
}

/** Weights from this size on stand outside; shapes and other small constants, which the runtime must see early, never do. */
const leastExternalBytes = 4096;

/** Weights that are copied into a protobuf, which ends at 2 GiB. */
const mostInlineBytes = 2 ** 30;

/**
 * A model for a runtime that takes weights from memory or from files: nothing large is copied, so that a model whose weights are
 * views of a file's bytes costs that file's bytes once, and one whose weights were left in a file beside it nothing here. The
 * runtime takes one or the other: beside weights in files, those in memory stand in `bytes` while they are moderately many.
 */
export function writeModelParts(model: Model): ModelParts {
  const { proto, large } = withoutLargeWeights(model);
  const folder = large.flatMap(({ stored }) => filePlaceOf(stored) ?? [])[0]?.folder;
  const isElsewhere = ({ stored }: Large): boolean => folder === undefined || filePlaceOf(stored)?.folder !== folder;
  const inMemory = large.filter(isElsewhere);
  if (folder !== undefined && inMemory.reduce((sum, { stored }) => sum + byteLength(stored), 0) <= mostInlineBytes) {
    for (const { stored, tensor } of large) {
      const place = filePlaceOf(stored);
      if (place?.folder === folder) refer(tensor, place.location, place.offset, place.length);
      else tensor.rawData = stored.bytes;
    }
    return { bytes: encode("ModelProto", proto), data: new Map(), folder };
  }
  const locations = new Map<ArrayBufferLike, string>();
  for (const { stored, tensor } of large) {
    const { buffer, byteOffset, length } = stored.bytes;
    const location = locations.get(buffer) ?? `weights_${locations.size}`;
    locations.set(buffer, location);
    refer(tensor, location, byteOffset, length);
  }
  const data = new Map([...locations].map(([buffer, location]) => [location, new Uint8Array(buffer)]));
  return { bytes: encode("ModelProto", proto), data, folder: undefined };
}

/** A weight in a file of weights. */
export interface PlacedWeight {
  readonly stored: StoredTensor;
  readonly offset: number;
}

/** Weights start at such multiples, so that a file of them can be mapped into memory page by page. */
const pageBytes = 4096;

/** A model whose large weights go to one file beside it, called `location`: its bytes, and where each weight goes. */
export function writeModelBeside(model: Model, location: string): { bytes: Uint8Array; weights: PlacedWeight[] } {
  const { proto, large } = withoutLargeWeights(model);
  let end = 0;
  const weights = large.map(({ stored, tensor }): PlacedWeight => {
    const offset = Math.ceil(end / pageBytes) * pageBytes;
    end = offset + byteLength(stored);
    refer(tensor, location, offset, byteLength(stored));
    return { stored, offset };
  });
  return { bytes: encode("ModelProto", proto), weights };
}

interface Large {
  readonly stored: StoredTensor;
  readonly tensor: Parts<"TensorProto">;
}

/** The model's protobuf with its large weights left out, and those. */
function withoutLargeWeights(model: Model): { proto: Parts<"ModelProto">; large: Large[] } {
  const stubs = new Map<string, StoredTensor>();
  for (const [name, stored] of model.graph.initializers) {
    const isLarge = byteLength(stored) >= leastExternalBytes;
    stubs.set(name, isLarge ? { ...described(stored), bytes: new Uint8Array(0) } : stored);
  }
  const proto = modelProto({ ...model, graph: { ...model.graph, initializers: stubs } });
  const large = (proto.graph?.initializer ?? []).flatMap((tensor) => {
    const stored = model.graph.initializers.get(tensor.name ?? "")!;
    return stubs.get(tensor.name ?? "") === stored ? [] : [{ stored, tensor }];
  });
  return { proto, large };
}

/** All but the bytes, without reading them. */
function described({ type, dims, doc, metadata }: StoredTensor): Omit<StoredTensor, "bytes"> {
  return { type, dims, ...(doc !== undefined && { doc }), ...(metadata !== undefined && { metadata }) };
}

/** How many bytes a tensor takes, from its type and shape; 0 for text. */
function byteLength({ type, dims, strings }: StoredTensor): number {
  return strings ? 0 : rawByteLength(type, elementCount(dims));
}

function refer(tensor: Parts<"TensorProto">, location: string, offset: number, length: number): void {
  tensor.dataLocation = externalLocation;
  tensor.externalData = entries(
    new Map([
      ["location", location],
      ["offset", String(offset)],
      ["length", String(length)],
    ]),
  );
}

function modelProto(model: Model): Parts<"ModelProto"> {
  const proto: Parts<"ModelProto"> = {
    irVersion: BigInt(model.irVersion),
    opsetImport: [...model.opsets].map(([domain, version]) => ({ domain, version: BigInt(version) })),
    graph: graphProto(model.graph),
    metadataProps: entries(model.metadata),
    functions: model.functions,
  };
  setText(proto, { producerName: model.producer.name, producerVersion: model.producer.version });
  setText(proto, { domain: model.domain, docString: model.doc });
  if (model.modelVersion !== 0n) proto.modelVersion = model.modelVersion;
  return proto;
}

// Proto2 tells an empty string from an absent one; files that others write leave the absent ones out.
function setText<T extends object>(target: T, texts: Partial<T>): void {
  for (const [key, text] of Object.entries(texts)) if (text !== "") Object.assign(target, { [key]: text });
}

function graphProto(graph: Graph): Parts<"GraphProto"> {
  const proto: Parts<"GraphProto"> = {
    name: graph.name,
    node: graph.nodes.map(nodeProto),
    initializer: [...graph.initializers].map(([name, stored]) => tensorProto(name, stored)),
    input: graph.inputs.map(valueInfoProto),
    output: graph.outputs.map(valueInfoProto),
    valueInfo: graph.values.map(valueInfoProto),
    quantizationAnnotation: graph.quantization,
    metadataProps: entries(graph.metadata),
  };
  setText(proto, { docString: graph.doc });
  return proto;
}

function nodeProto(node: Node): Parts<"NodeProto"> {
  const proto: Parts<"NodeProto"> = {
    input: node.inputs,
    output: node.outputs,
    opType: node.op,
    attribute: [...node.attributes].map(([name, attribute]) => attributeProto(name, attribute)),
    metadataProps: entries(node.metadata),
  };
  setText(proto, { name: node.name, domain: node.domain, docString: node.doc, overload: node.overload });
  return proto;
}

function valueInfoProto(info: ValueInfo): Parts<"ValueInfoProto"> {
  const proto: Parts<"ValueInfoProto"> = { name: info.name };
  const type = info.proto ?? tensorType(info);
  if (type !== undefined) proto.type = type;
  if (info.metadata !== undefined) proto.metadataProps = entries(info.metadata);
  setText(proto, { docString: info.doc });
  return proto;
}

function tensorType({ type, shape }: ValueInfo): Parts<"TypeProto"> | undefined {
  if (type === undefined) return undefined;
  return { tensorType: { elemType: elementCode(type), ...(shape && { shape: { dim: shape.map(dimProto) } }) } };
}

function dimProto(dim: Dim): Parts<"TensorShapeProto.Dimension"> {
  if (dim === null) return {};
  return typeof dim === "number" ? { dimValue: BigInt(dim) } : { dimParam: dim };
}

function tensorProto(name: string, stored: StoredTensor): Parts<"TensorProto"> {
  const proto: Parts<"TensorProto"> = {
    dims: stored.dims.map(BigInt),
    dataType: elementCode(stored.type),
  };
  if (stored.metadata !== undefined) proto.metadataProps = entries(stored.metadata);
  setText(proto, { name, docString: stored.doc ?? "" });
  if (stored.strings) proto.stringData = stored.strings;
  else proto.rawData = stored.bytes;
  return proto;
}

function attributeProto(name: string, attribute: Attribute): Parts<"AttributeProto"> {
  switch (attribute.kind) {
    case "float":
      return { name, type: Kind.FLOAT, f: attribute.value };
    case "int":
      return { name, type: Kind.INT, i: attribute.value };
    case "string":
      return { name, type: Kind.STRING, s: attribute.value };
    case "tensor":
      return { name, type: Kind.TENSOR, t: tensorProto(attribute.value.name ?? "", attribute.value) };
    case "graph":
      return { name, type: Kind.GRAPH, g: graphProto(attribute.value) };
    case "type":
      return { name, type: Kind.TYPE_PROTO, tp: attribute.value };
    case "floats":
      return { name, type: Kind.FLOATS, floats: attribute.value };
    case "ints":
      return { name, type: Kind.INTS, ints: attribute.value };
    case "strings":
      return { name, type: Kind.STRINGS, strings: attribute.value };
    case "tensors":
      return {
        name,
        type: Kind.TENSORS,
        tensors: attribute.value.map((value) => tensorProto(value.name ?? "", value)),
      };
    case "graphs":
      return { name, type: Kind.GRAPHS, graphs: attribute.value.map(graphProto) };
    case "types":
      return { name, type: Kind.TYPE_PROTOS, typeProtos: attribute.value };
    case "reference":
      return { name, type: attribute.type, refAttrName: attribute.value };
  }
}

function entries(map: ReadonlyMap<string, string>): Parts<"StringStringEntryProto">[] {
  return [...map].map(([key, value]) => ({ key, value }));
}
