// ONNX bytes -> typed model. Everything is checked on the way in, and all faults are reported at once: the runtime must
// never be the first to look at a hostile file. Weights stay views of the given bytes.
import { LowrankError, throwFaults } from "../errors.ts";
import { checkModel, domainFaults } from "./check.ts";
import { elementType } from "./elements.ts";
import type { ExternalReader } from "./external.ts";
import type { Attribute, Dim, Graph, Model, Node, StoredTensor, ValueInfo } from "./model.ts";
import { attributeKinds as Kind, type Message } from "./proto.ts";
import { readStoredTensor } from "./stored-tensor.ts";
import { decode } from "./wire.ts";

/** IR_VERSION in onnx.proto. */
const newestIrVersion = 14n;

/** Versions of operator sets are small numbers; onnx.proto gives them 64 bits. */
const maxOpset = 2n ** 31n - 1n;

/** protobuf's own limit for one message; larger models keep their weights in external files. */
const maxBytes = 2 ** 31 - 1;

export interface ReadOptions {
  /** Reads weights from files beside the model; without it a model that has such is refused. */
  readonly external?: ExternalReader;
}

/**
 * Reads an .onnx file's bytes. Weights are views of `bytes`: do not change them afterwards. Everything in the file is kept
 * but doc strings of attributes and hints for running on several devices.
 *
 * @param name how to call the file in errors.
 * @throws LowrankError "model" that lists every fault: damaged protobuf, external data (unless `options.external` reads it),
 * tensors whose shape and data disagree, cycles, duplicate or dangling values, missing operator sets.
 * @example const model = readModel(await fs.readFile("model.onnx"), "model.onnx");
 */
export function readModel(bytes: Uint8Array, name = "model", options: ReadOptions = {}): Model {
  const proto = modelProto(bytes, name);
  const faults: string[] = [];
  const model = new Reader(faults, options.external).model(proto);
  throwFaults("model", name, faults);
  throwFaults("model", name, checkModel(model));
  return model;
}

function modelProto(bytes: Uint8Array, name: string): Message<"ModelProto"> {
  if (bytes.length === 0) throw new LowrankError("model", `${name}: expected an ONNX model, got an empty file`);
  if (bytes.length > maxBytes) {
    throw new LowrankError(
      "model",
      `${name}: ${bytes.length} bytes; one protobuf holds at most 2 GiB: store the weights as external data`,
    );
  }
  try {
    // A plain Uint8Array, also when a Node Buffer came: its views must behave alike everywhere.
    return decode("ModelProto", new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowrankError("model", `${name}: not an ONNX model, or a damaged one (${reason})`, { cause });
  }
}

class Reader {
  readonly #faults: string[];
  readonly #external: ExternalReader | undefined;

  constructor(faults: string[], external: ExternalReader | undefined) {
    this.#faults = faults;
    this.#external = external;
  }

  model(proto: Message<"ModelProto">): Model {
    if (proto.trainingInfo.length > 0)
      this.#faults.push("training_info is not supported: export the model for inference");
    if (proto.graph === undefined) this.#faults.push("there is no graph: not an ONNX model, or a truncated one");
    const opsets = this.opsets(proto.opsetImport, "");
    if (!(proto.irVersion >= 1n && proto.irVersion <= newestIrVersion)) {
      this.#faults.push(`IR version ${proto.irVersion}: readable are 1 to ${newestIrVersion}`);
    }
    for (const fn of proto.functions) this.function(fn);
    return {
      irVersion: Number(proto.irVersion),
      opsets,
      producer: { name: proto.producerName, version: proto.producerVersion },
      domain: proto.domain,
      modelVersion: proto.modelVersion,
      doc: proto.docString,
      metadata: entryMap(proto.metadataProps),
      graph: this.graph(proto.graph ?? decode("GraphProto", new Uint8Array(0)), ""),
      functions: proto.functions,
    };
  }

  opsets(imports: readonly Message<"OperatorSetIdProto">[], where: string): Map<string, number> {
    const opsets = new Map<string, number>();
    for (const { domain, version } of imports) {
      const key = standardDomain(domain);
      const label = `${where}opset_import ${JSON.stringify(domain)}`;
      if (opsets.has(key)) this.#faults.push(`${label}: it stands there twice`);
      if (version < 1n || version > maxOpset) this.#faults.push(`${label}: version ${version} is out of range`);
      opsets.set(key, Number(version));
    }
    return opsets;
  }

  /** A model-local function is kept as it came, so everything in it is looked at here. */
  function(proto: Message<"FunctionProto">): void {
    const where = `function ${JSON.stringify(proto.name)}: `;
    const opsets = this.opsets(proto.opsetImport, where);
    for (const attribute of proto.attributeProto) this.attribute(attribute, `${where}attribute ${attribute.name}: `);
    const nodes = proto.node.map((node) => this.node(node, where));
    for (const fault of domainFaults(nodes, opsets, where)) this.#faults.push(fault);
  }

  graph(proto: Message<"GraphProto">, where: string): Graph {
    const initializers = new Map<string, StoredTensor>();
    for (const tensor of proto.initializer) {
      const label = `${where}initializer ${JSON.stringify(tensor.name)}`;
      if (tensor.name === "") this.#faults.push(`${label}: a name is missing`);
      if (initializers.has(tensor.name)) this.#faults.push(`${label}: there are two of that name`);
      initializers.set(tensor.name, readStoredTensor(tensor, label, this.#faults, this.#external));
    }
    for (const sparse of proto.sparseInitializer) {
      this.#faults.push(
        `${where}initializer ${JSON.stringify(sparse.values?.name ?? "")}: sparse tensors are not supported; store it dense`,
      );
    }
    return {
      name: proto.name,
      doc: proto.docString,
      inputs: proto.input.map((info) => this.valueInfo(info, where)),
      outputs: proto.output.map((info) => this.valueInfo(info, where)),
      values: proto.valueInfo.map((info) => this.valueInfo(info, where)),
      initializers,
      nodes: proto.node.map((node) => this.node(node, where)),
      quantization: proto.quantizationAnnotation,
      metadata: entryMap(proto.metadataProps),
    };
  }

  node(proto: Message<"NodeProto">, where: string): Node {
    const label = `${where}node ${JSON.stringify(proto.name || proto.output[0] || "")} (${proto.opType})`;
    const attributes = new Map<string, Attribute>();
    for (const attribute of proto.attribute) {
      if (attributes.has(attribute.name)) this.#faults.push(`${label}: attribute ${attribute.name} stands there twice`);
      const read = this.attribute(attribute, `${label}: attribute ${attribute.name}: `);
      if (read !== undefined) attributes.set(attribute.name, read);
    }
    if (proto.opType === "") this.#faults.push(`${label}: the operator's name is missing`);
    return {
      op: proto.opType,
      domain: standardDomain(proto.domain),
      name: proto.name,
      inputs: proto.input,
      outputs: proto.output,
      attributes,
      doc: proto.docString,
      overload: proto.overload,
      metadata: entryMap(proto.metadataProps),
    };
  }

  attribute(proto: Message<"AttributeProto">, where: string): Attribute | undefined {
    const type = proto.refAttrName === "" ? proto.type : Kind.UNDEFINED;
    for (const [kind, field] of tensorFields) {
      const value = proto[field];
      const isFilled = Array.isArray(value) ? value.length > 0 : value !== undefined;
      if (isFilled && kind !== type) return this.#fault(`${where}${field} is filled, and its type says otherwise`);
    }
    if (proto.refAttrName !== "") return { kind: "reference", value: proto.refAttrName, type: proto.type };
    const stored = (tensor: Message<"TensorProto">): StoredTensor => ({
      ...readStoredTensor(tensor, `${where}tensor`, this.#faults),
      ...(tensor.name !== "" && { name: tensor.name }),
    });
    switch (proto.type) {
      case Kind.FLOAT:
        return { kind: "float", value: proto.f };
      case Kind.INT:
        return { kind: "int", value: proto.i };
      case Kind.STRING:
        return { kind: "string", value: proto.s };
      case Kind.FLOATS:
        return { kind: "floats", value: proto.floats };
      case Kind.INTS:
        return { kind: "ints", value: proto.ints };
      case Kind.STRINGS:
        return { kind: "strings", value: proto.strings };
      case Kind.TENSOR:
        return proto.t ? { kind: "tensor", value: stored(proto.t) } : this.#fault(`${where}its tensor is missing`);
      case Kind.TENSORS:
        return { kind: "tensors", value: proto.tensors.map(stored) };
      case Kind.GRAPH:
        return proto.g
          ? { kind: "graph", value: this.graph(proto.g, where) }
          : this.#fault(`${where}its graph is missing`);
      case Kind.GRAPHS:
        return { kind: "graphs", value: proto.graphs.map((graph) => this.graph(graph, where)) };
      case Kind.TYPE_PROTO:
        return proto.tp ? { kind: "type", value: proto.tp } : this.#fault(`${where}its type is missing`);
      case Kind.TYPE_PROTOS:
        return { kind: "types", value: proto.typeProtos };
      case Kind.SPARSE_TENSOR:
      case Kind.SPARSE_TENSORS:
        return this.#fault(`${where}sparse tensors are not supported; store it dense`);
      default:
        return this.#fault(`${where}its type is missing or unknown (${proto.type})`);
    }
  }

  valueInfo(proto: Message<"ValueInfoProto">, where: string): ValueInfo {
    const base = {
      name: proto.name,
      doc: proto.docString,
      ...(proto.metadataProps.length > 0 && { metadata: entryMap(proto.metadataProps) }),
    };
    if (proto.type?.tensorType === undefined) {
      return { ...base, type: undefined, shape: undefined, ...(proto.type && { proto: proto.type }) };
    }
    const { elemType, shape } = proto.type.tensorType;
    const type = elementType(elemType);
    if (type === undefined)
      this.#faults.push(`${where}value ${JSON.stringify(proto.name)}: unknown element type ${elemType}`);
    const dims = shape?.dim.map(({ dimParam, dimValue }): Dim => {
      if (dimValue === undefined) return dimParam || null;
      const size = Number(dimValue);
      if (!Number.isSafeInteger(size))
        this.#faults.push(`${where}value ${JSON.stringify(proto.name)}: dimension ${dimValue} is out of range`);
      // Some exporters write -1 where they mean "any".
      return size < 0 ? null : size;
    });
    const isDenoted = proto.type.denotation !== "" || shape?.dim.some(({ denotation }) => denotation !== "");
    return { ...base, type, shape: dims, ...(isDenoted && { proto: proto.type }) };
  }

  #fault(fault: string): undefined {
    this.#faults.push(fault);
  }
}

/** The fields of an attribute that can hold tensors. In one that its type does not name, some readers would not look. */
const tensorFields = [
  [Kind.TENSOR, "t"],
  [Kind.GRAPH, "g"],
  [Kind.SPARSE_TENSOR, "sparseTensor"],
  [Kind.TENSORS, "tensors"],
  [Kind.GRAPHS, "graphs"],
  [Kind.SPARSE_TENSORS, "sparseTensors"],
] as const;

/** ONNX's own operators go by two names. */
function standardDomain(domain: string): string {
  return domain === "ai.onnx" ? "" : domain;
}

function entryMap(entries: readonly Message<"StringStringEntryProto">[]): ReadonlyMap<string, string> {
  return new Map(entries.map(({ key, value }) => [key, value]));
}
