// Inputs of decoders that follow from the tokens, made where a batch leaves them out: positions from 0 on, as transformers counts
// them in training; a mask that hides nothing; an empty cache. They are kept, so that batches of one shape share them.
import { cacheInputs } from "../onnx/cache.ts";
import type { Graph, Model, ValueInfo } from "../onnx/model.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

export type Inputs = Readonly<Record<string, Tensor>>;

/**
 * A function that adds to the inputs of a run those of `wanted` that can be made from its tokens: `position_ids`, `attention_mask`
 * and caches, for models that are decoders (they have one of the first and the last, or give a cache back).
 *
 * @example const complete = inputDefaults(model, session.inputs); await session.run(new Map(Object.entries(complete({ input_ids }))));
 */
export function inputDefaults({ graph }: Model, wanted: readonly string[]): (inputs: Inputs) => Inputs {
  const makers = makersFor(graph, new Set(wanted));
  if (makers.size === 0) return (inputs) => inputs;
  let shape = "";
  let made = new Map<string, Tensor>();
  return (inputs) => {
    const missing = [...makers.keys()].filter((name) => inputs[name] === undefined);
    const tokens = missing.length === 0 ? undefined : tokensOf(inputs);
    if (tokens === undefined) return inputs;
    const [batch, length] = tokens;
    if (shape !== tokens.join()) made = new Map();
    shape = tokens.join();
    const completed: Record<string, Tensor> = { ...inputs };
    for (const name of missing) {
      const value = made.get(name) ?? makers.get(name)!(batch, length);
      made.set(name, value);
      completed[name] = value;
    }
    return completed;
  };
}

type Maker = (batch: number, length: number) => Tensor;

function makersFor(graph: Graph, wanted: ReadonlySet<string>): Map<string, Maker> {
  const makers = new Map<string, Maker>();
  const caches = cacheInputs(graph);
  const isDecoder =
    caches.length > 0 ||
    graph.inputs.some(({ name }) => name === "position_ids") ||
    graph.outputs.some(({ name }) => /^present[._]/.test(name));
  if (!isDecoder) return makers;
  for (const info of graph.inputs) {
    const { name, shape } = info;
    if (!wanted.has(name) || shape?.length !== 2) continue;
    if (name === "position_ids")
      makers.set(name, (batch, length) => integers(info, batch, length, (at) => at % length));
    if (name === "attention_mask") makers.set(name, (batch, length) => integers(info, batch, length, () => 1));
  }
  for (const { info, axis } of caches) {
    const { type, shape, name } = info;
    if (!wanted.has(name) || axis < 0) continue;
    makers.set(name, (batch) => {
      const dims = shape.map((dim, at) => (at === axis ? 0 : typeof dim === "number" ? dim : batch));
      return type === "float16" ? tensor(type, dims, new Uint16Array(0)) : tensor("float32", dims, new Float32Array(0));
    });
  }
  return makers;
}

/** Batch and length of the tokens that a run is given. */
function tokensOf(inputs: Inputs): [number, number] | undefined {
  const tokens = inputs.input_ids ?? inputs.inputs_embeds ?? inputs.decoder_input_ids;
  const [batch, length] = tokens?.dims ?? [];
  return batch === undefined || length === undefined ? undefined : [batch, length];
}

function integers({ type }: ValueInfo, batch: number, length: number, valueAt: (index: number) => number): Tensor {
  const dims = [batch, length];
  const values = Array.from({ length: elementCount(dims) }, (_, index) => valueAt(index));
  if (type === "int32") return tensor(type, dims, Int32Array.from(values));
  if (type === "float32") return tensor(type, dims, Float32Array.from(values));
  return type === "bool"
    ? tensor(type, dims, Uint8Array.from(values))
    : tensor("int64", dims, BigInt64Array.from(values, BigInt));
}
