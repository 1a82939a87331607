// An ONNX model as immutable plain data: what onnx.proto says, with names resolved to maps, integers kept exact, and
// weights as views of the file's bytes. Transforms return new models; nothing here is ever changed in place.
import { LowrankError } from "../errors.ts";
import { elementBytes, elementCount, fromBytes, type Tensor, type TensorType, tensor, toBytes } from "../tensor.ts";
import { type ElementType, isTensorType } from "./elements.ts";
import type { Message } from "./proto.ts";

export interface Model {
  readonly irVersion: number;
  /** Operator set version by domain; "" is ONNX's own. */
  readonly opsets: ReadonlyMap<string, number>;
  readonly producer: { readonly name: string; readonly version: string };
  readonly domain: string;
  readonly modelVersion: bigint;
  readonly doc: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly graph: Graph;
  /** Model-local functions, as they came. */
  readonly functions: readonly Message<"FunctionProto">[];
}

export interface Graph {
  readonly name: string;
  readonly doc: string;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  /** Types that the file states for values in between. */
  readonly values: readonly ValueInfo[];
  readonly initializers: ReadonlyMap<string, StoredTensor>;
  /** In topological order. */
  readonly nodes: readonly Node[];
  readonly quantization: readonly Message<"TensorAnnotation">[];
  readonly metadata: ReadonlyMap<string, string>;
}

export interface Node {
  readonly op: string;
  readonly domain: string;
  readonly name: string;
  /** Value names; "" where an optional input is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, Attribute>;
  readonly doc: string;
  readonly overload: string;
  readonly metadata: ReadonlyMap<string, string>;
}

/** A dimension: a size, a symbol that stands for one, or null where nothing is known. */
export type Dim = number | string | null;

export interface ValueInfo {
  readonly name: string;
  /** Undefined for values that are no tensors (sequences, maps, optionals), kept in `proto`. */
  readonly type: ElementType | undefined;
  /** Undefined when not even the rank is known. */
  readonly shape: readonly Dim[] | undefined;
  readonly doc: string;
  /** The type as it came, for what a tensor type cannot say (other kinds of value, denotations). */
  readonly proto?: Message<"TypeProto">;
  readonly metadata?: ReadonlyMap<string, string>;
}

/** A weight: an initializer, or the value of an attribute. `bytes` is little-endian raw data, a view where it can be. */
export interface StoredTensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly bytes: Uint8Array;
  /** For element type string; `bytes` is empty then. */
  readonly strings?: readonly Uint8Array[];
  /** The name that a tensor in an attribute has, if any; an initializer is called by its key. */
  readonly name?: string;
  readonly doc?: string;
  readonly metadata?: ReadonlyMap<string, string>;
}

export type Attribute =
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "int"; readonly value: bigint }
  | { readonly kind: "string"; readonly value: Uint8Array }
  | { readonly kind: "tensor"; readonly value: StoredTensor }
  | { readonly kind: "graph"; readonly value: Graph }
  | { readonly kind: "type"; readonly value: Message<"TypeProto"> }
  | { readonly kind: "floats"; readonly value: readonly number[] }
  | { readonly kind: "ints"; readonly value: readonly bigint[] }
  | { readonly kind: "strings"; readonly value: readonly Uint8Array[] }
  | { readonly kind: "tensors"; readonly value: readonly StoredTensor[] }
  | { readonly kind: "graphs"; readonly value: readonly Graph[] }
  | { readonly kind: "types"; readonly value: readonly Message<"TypeProto">[] }
  /** Inside a model-local function: the function's attribute of that name. */
  | { readonly kind: "reference"; readonly value: string; readonly type: number };

/** How a node is named in messages: its name, operator and, where it has none, its first output. */
export function describeNode(node: Node): string {
  const operator = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
  return `node ${JSON.stringify(node.name || node.outputs.find((name) => name !== "") || "")} (${operator})`;
}

/** An integer attribute, or `fallback` when it is absent. Throws when it is of another kind or over 2^53. */
export function intAttribute(node: Node, name: string, fallback: number): number {
  const attribute = node.attributes.get(name);
  if (attribute === undefined) return fallback;
  return safeInteger(node, name, expectKind(node, name, attribute, "int").value);
}

/** A list of integers, or undefined when it is absent. */
export function intsAttribute(node: Node, name: string): number[] | undefined {
  const attribute = node.attributes.get(name);
  if (attribute === undefined) return undefined;
  return expectKind(node, name, attribute, "ints").value.map((value) => safeInteger(node, name, value));
}

/** A float attribute, or `fallback` when it is absent. */
export function floatAttribute(node: Node, name: string, fallback: number): number {
  const attribute = node.attributes.get(name);
  return attribute === undefined ? fallback : expectKind(node, name, attribute, "float").value;
}

/** A string attribute, or `fallback` when it is absent. */
export function stringAttribute(node: Node, name: string, fallback: string): string {
  const attribute = node.attributes.get(name);
  return attribute === undefined
    ? fallback
    : new TextDecoder().decode(expectKind(node, name, attribute, "string").value);
}

function expectKind<K extends Attribute["kind"]>(
  node: Node,
  name: string,
  attribute: Attribute,
  kind: K,
): Extract<Attribute, { kind: K }> {
  if (attribute.kind !== kind) {
    throw new LowrankError(
      "model",
      `${describeNode(node)}: attribute ${name}: expected ${kind}, got ${attribute.kind}`,
    );
  }
  return attribute as Extract<Attribute, { kind: K }>;
}

function safeInteger(node: Node, name: string, value: bigint): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new LowrankError("model", `${describeNode(node)}: attribute ${name}: ${value} is past 2^53`);
}

/** A stored tensor as typed values: a view where alignment allows. Throws for types without a typed array. */
export function toTensor(stored: StoredTensor): Tensor {
  if (!isTensorType(stored.type)) {
    throw new LowrankError("model", `a tensor of ${stored.type}: expected a type that JavaScript has an array for`);
  }
  return viewAs(stored.type, stored);
}

function viewAs<T extends TensorType>(type: T, stored: StoredTensor): Tensor<T> {
  return tensor(type, stored.dims, fromBytes(type, stored.bytes));
}

/** The float32 values of a stored tensor; throws when it is of another type. */
export function floatValues(name: string, stored: StoredTensor): Float32Array {
  if (stored.type !== "float32") {
    throw new LowrankError("model", `${name}: expected float32 values, got ${stored.type}`);
  }
  return fromBytes("float32", stored.bytes);
}

/** Typed values as a stored tensor, over the same memory. */
export function fromTensor(value: Tensor): StoredTensor {
  if (value.data.length !== elementCount(value.dims)) {
    throw new Error(`internal: ${value.data.length} values for dims [${value.dims}]`);
  }
  if (value.data.BYTES_PER_ELEMENT !== elementBytes(value.type))
    throw new Error(`internal: wrong array for ${value.type}`);
  return { type: value.type, dims: value.dims, bytes: toBytes(value.data) };
}
