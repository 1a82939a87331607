// Made-up inputs for a model, from what it says of them: small sizes for symbols, indices that the tables they are looked up in
// have, masks that hide nothing. For checks that need some point, not a meaningful one.
import { LowrankError, throwFaults } from "../errors.ts";
import { isTensorType } from "../onnx/elements.ts";
import { consumers } from "../onnx/graph.ts";
import type { Dim, Graph, Model, Node, ValueInfo } from "../onnx/model.ts";
import { intAttribute } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { createRandom, type Random } from "../random.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

/** Sizes of unknown axes: the first one of an input, those of images, all others. */
const small = { batch: 2, image: 32, other: 4 } as const;

/** Integers that are looked up nowhere are 0 or 1. */
const defaultLimit = 2;

/**
 * A value for each of a model's inputs. Equal symbols get equal sizes; a size called past is 0, as of an empty cache.
 *
 * @throws LowrankError "model" that lists the inputs that no value can be made for.
 * @example const inputs = randomInputs(model, { seed: 1 });
 */
export function randomInputs({ graph }: Model, { seed = 0 }: { readonly seed?: number } = {}): Record<string, Tensor> {
  const limits = indexLimits(graph);
  const symbols = new Map<string, number>();
  const faults: string[] = [];
  const inputs: Record<string, Tensor> = {};
  for (const info of graph.inputs) {
    if (graph.initializers.has(info.name)) continue;
    const value = valueFor(info, symbols, limits.get(info.name), createRandom(seed, `input ${info.name}`));
    if (typeof value === "string") faults.push(`input ${info.name}: ${value}`);
    else inputs[info.name] = value;
  }
  throwFaults("model", "random inputs", faults);
  return inputs;
}

function valueFor(
  { name, type, shape }: ValueInfo,
  symbols: Map<string, number>,
  limit: number = defaultLimit,
  random: Random,
): Tensor | string {
  if (type === undefined || shape === undefined) return "its type or rank is unknown; give inputs in a file";
  const dims = shape.map((dim, axis) => sizeOf(dim, axis, shape.length, symbols));
  const draw = <T>(make: () => T): T[] => Array.from({ length: elementCount(dims) }, make);
  const isMask = /mask/i.test(name);
  const integer = (): number => (isMask ? 1 : Math.floor(random.uniform() * limit));
  if (!isTensorType(type)) return `a random ${type} cannot be made; give inputs in a file`;
  switch (type) {
    case "float32":
      return tensor(type, dims, Float32Array.from(draw(() => (isMask ? 1 : random.normal()))));
    case "float64":
      return tensor(type, dims, Float64Array.from(draw(() => (isMask ? 1 : random.normal()))));
    case "int64":
      return tensor(type, dims, BigInt64Array.from(draw(() => BigInt(integer()))));
    case "int32":
      return tensor(type, dims, Int32Array.from(draw(integer)));
    case "bool":
      return tensor(type, dims, Uint8Array.from(draw(() => 1)));
    default:
      return `a random ${type} cannot be made; give inputs in a file`;
  }
}

function sizeOf(dim: Dim, axis: number, rank: number, symbols: Map<string, number>): number {
  if (typeof dim === "number") return dim;
  const fresh = axis === 0 ? small.batch : rank === 4 && axis >= 2 ? small.image : small.other;
  if (dim === null) return fresh;
  const known = symbols.get(dim);
  if (known !== undefined) return known;
  const size = /past/i.test(dim) && !/total|\+/.test(dim) ? 0 : fresh;
  symbols.set(dim, size);
  return size;
}

/** Operators that hand indices on as they are. */
const passing = new Set("Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Slice Concat".split(" "));

/** For inputs that are indices: the size of the smallest table that they are looked up in. */
function indexLimits(graph: Graph): ReadonlyMap<string, number> {
  const readers = consumers(graph);
  const shapes = inferShapes(graph);
  const limits = new Map<string, number>();
  for (const { name } of graph.inputs) {
    const reached = new Set([name]);
    for (const value of reached) {
      for (const node of readers.get(value) ?? []) {
        const axis = lookedUp(node, value);
        const size = axis === undefined ? undefined : shapes.get(axis.table)?.shape?.at(axis.axis);
        if (typeof size === "number") limits.set(name, Math.min(size, limits.get(name) ?? size));
        if (passing.has(node.op) && node.inputs[0] === value) for (const output of node.outputs) reached.add(output);
      }
    }
  }
  return limits;
}

/** The table, and its axis, that a node reads at the indices in `value`. */
function lookedUp(node: Node, value: string): { table: string; axis: number } | undefined {
  if (node.op === "Gather" && node.inputs[1] === value) {
    return { table: node.inputs[0]!, axis: intAttribute(node, "axis", 0) };
  }
  // com.microsoft's: ids, segment ids, then the tables of words, positions and segments
  if (node.op === "EmbedLayerNormalization") {
    const table = value === node.inputs[0] ? node.inputs[2] : value === node.inputs[1] ? node.inputs[4] : undefined;
    if (table) return { table, axis: 0 };
  }
  return undefined;
}

/** Those of `tensors` that the model has inputs for. Throws LowrankError "data" that names the inputs without one. */
export function inputsFrom({ graph }: Model, tensors: ReadonlyMap<string, Tensor>): Record<string, Tensor> {
  const names = graph.inputs.map(({ name }) => name).filter((name) => !graph.initializers.has(name));
  const missing = names.filter((name) => !tensors.has(name));
  if (missing.length > 0) {
    const got = [...tensors.keys()].slice(0, 10).join(", ");
    throw new LowrankError(
      "data",
      `inputs: expected tensors ${names.join(", ")}, got ${got}; missing: ${missing.join(", ")}`,
    );
  }
  return Object.fromEntries(names.map((name) => [name, tensors.get(name)!]));
}
