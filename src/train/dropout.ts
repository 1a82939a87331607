// Dropout of adapters in training (Hu et al. 2021, Table 11; PEFT's lora_dropout): A reads x * mask, with a mask of 0 and
// 1 / (1 - p) that is an input of the training graph. What is run otherwise has none. Masks are drawn here, each from a stream
// of its own (seed, step, module), so that a run that was resumed draws what it would have drawn.
import { LowrankError, throwFaults } from "../errors.ts";
import { AdaptedModel, type AdaptedSite } from "../lora/adapted.ts";
import { graphBuilder, type Value } from "../onnx/builder.ts";
import { prune, reads } from "../onnx/graph.ts";
import type { Dim, Graph, Model, Node } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { createRandom } from "../random.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

/** The mask of one site. */
export interface DropoutMask {
  readonly modulePath: string;
  /** The graph's input. */
  readonly input: string;
  /** What it is multiplied with, and has the shape of. */
  readonly source: Value;
}

/** A model with masks at its branches. */
export interface DroppedModel {
  readonly adapted: AdaptedModel;
  readonly masks: readonly DropoutMask[];
}

type Inputs = Readonly<Record<string, Tensor>>;

/**
 * The model with `<module path>/lora/mask` as further inputs: every node of a branch that reads the layer's input reads its
 * product with the mask. Embeddings have no dropout, as in PEFT.
 *
 * @throws LowrankError "model" when a layer's input is of unknown rank.
 */
export function withDropout(adapted: AdaptedModel): DroppedModel {
  const { model, parameters, sites } = adapted;
  const infos = inferShapes(model.graph);
  const dropped = sites.filter(({ site }) => site.kind !== "Embedding");
  const faults = dropped.filter(({ site }) => infos.get(site.node.inputs[0]!)?.shape === undefined);
  throwFaults(
    "model",
    "loraDropout",
    faults.map(({ site: { modulePath } }) => `${modulePath}: the rank of its input is unknown; train without dropout`),
  );
  const g = graphBuilder({
    opset: model.opsets.get("") ?? 0,
    from: { ...model.graph, nodes: [] },
    reserved: model.graph.nodes.flatMap((node) => [node.name, ...node.outputs]),
  });
  const masks = dropped.map(({ site }): DropoutMask => {
    const source = site.node.inputs[0]!;
    const input = g.input(`${site.modulePath}/lora/mask`, "float32", infos.get(source)!.shape!);
    return { modulePath: site.modulePath, input, source };
  });
  const branches = branchNodes(model.graph, dropped);
  const products = new Map<DropoutMask, Value>();
  for (const node of model.graph.nodes) {
    const mask = masks.find(({ modulePath }) => modulePath === branches.get(node));
    if (mask === undefined || !node.inputs.includes(mask.source)) {
      g.node(node);
      continue;
    }
    const product =
      products.get(mask) ?? g.op("Mul", [mask.source, mask.input], {}, { name: `${mask.modulePath}/lora/dropout` });
    products.set(mask, product);
    g.node({ ...node, inputs: node.inputs.map((name) => (name === mask.source ? product : name)) });
  }
  const graph = g.build();
  return { adapted: new AdaptedModel({ ...partsOf(adapted), model: { ...model, graph }, parameters }), masks };
}

function partsOf({
  base,
  sites,
  config,
  initial,
}: AdaptedModel): Pick<AdaptedModel, "base" | "sites" | "config" | "initial"> {
  return { base, sites, config, initial };
}

/** The module path of each node that a branch was written with. */
export function branchNodes(graph: Graph, sites: readonly AdaptedSite[]): ReadonlyMap<Node, string> {
  const paths = new Set(sites.map(({ site }) => site.modulePath));
  const found = new Map<Node, string>();
  for (const node of graph.nodes) {
    const end = node.name.lastIndexOf("/lora/");
    const path = end < 0 ? "" : node.name.slice(0, end);
    if (paths.has(path)) found.set(node, path);
  }
  return found;
}

/** Draws the masks of a training run. */
export interface MaskDrawer {
  /** The mask of each site for a batch, by the graph's input; the buffers are filled again by the next call. */
  draw(inputs: Inputs, step: number): Promise<ReadonlyMap<string, Tensor>>;
  dispose(): Promise<void>;
}

/**
 * Masks for batches of any shape. Their sizes follow from the batch's by shape inference; where that does not reach, the model
 * is run once for each new shape of a batch, up to what the sizes depend on.
 *
 * @param rate the probability p of a zero, at least 0 and below 1.
 * @throws LowrankError "config" for another rate.
 */
export function maskDrawer(
  { adapted, masks }: DroppedModel,
  rate: number,
  seed: number,
  options: SessionOptions = {},
): MaskDrawer {
  if (!(rate >= 0 && rate < 1)) {
    throw new LowrankError("config", `loraDropout: expected a number of at least 0 and below 1, got ${rate}`);
  }
  const known = new Map<string, readonly (readonly number[])[]>();
  const buffers = new Map<string, Tensor<"float32">>();
  return {
    async draw(inputs, step) {
      const key = Object.entries(inputs)
        .map(([name, { dims }]) => `${name}:${dims}`)
        .sort()
        .join(";");
      let sizes = known.get(key);
      if (sizes === undefined) {
        sizes = inferredSizes(adapted, masks, inputs) ?? (await measuredSizes(adapted, masks, inputs, options));
        known.set(key, sizes);
      }
      masks.forEach(({ input, modulePath }, index) => {
        const dims = sizes[index]!;
        let buffer = buffers.get(input);
        if (buffer?.dims.join() !== dims.join()) {
          buffer = tensor("float32", dims, new Float32Array(elementCount(dims)));
          buffers.set(input, buffer);
        }
        fillMask(buffer!.data, rate, seed, `dropout ${step} ${modulePath}`);
      });
      return buffers;
    },
    dispose: async () => known.clear(),
  };
}

/** Each value is 0 with probability `rate`, in steps of 2^-16 (two values for each number drawn), else 1 / (1 - rate). */
export function fillMask(values: Float32Array, rate: number, seed: number, stream: string): void {
  const random = createRandom(seed, stream);
  const limit = Math.round(rate * 65_536);
  const kept = 1 / (1 - rate);
  for (let i = 0; i < values.length; i += 2) {
    const bits = random.uint32();
    values[i] = (bits & 0xffff) < limit ? 0 : kept;
    if (i + 1 < values.length) values[i + 1] = bits >>> 16 < limit ? 0 : kept;
  }
}

/** The graph with the sizes of a batch and of the adapter in place of symbols. */
function withSizes({ model: { graph }, parameters }: AdaptedModel, inputs: Inputs): Graph {
  const ranks = new Map(parameters.map(({ key, dims }) => [key, dims]));
  const sized = graph.inputs.map((info) => {
    const dims: readonly Dim[] | undefined = inputs[info.name]?.dims ?? ranks.get(info.name);
    return dims === undefined ? info : { ...info, shape: dims };
  });
  // What the file states of other values speaks of symbols.
  return { ...graph, inputs: sized, values: [], outputs: [] };
}

function inferredSizes(
  adapted: AdaptedModel,
  masks: readonly DropoutMask[],
  inputs: Inputs,
): readonly (readonly number[])[] | undefined {
  const infos = inferShapes(withSizes(adapted, inputs));
  const shapes = masks.map(({ source }) => infos.get(source)?.shape);
  const isKnown = shapes.every((shape) => shape?.every((dim) => typeof dim === "number"));
  return isKnown ? (shapes as readonly (readonly number[])[]) : undefined;
}

/** The base runs once, without its branches, for the sizes of what the masks are multiplied with. */
async function measuredSizes(
  adapted: AdaptedModel,
  masks: readonly DropoutMask[],
  inputs: Inputs,
  options: SessionOptions,
): Promise<readonly (readonly number[])[]> {
  const feeds = new Map<string, Tensor>(Object.entries(inputs));
  for (const { key, dims, type } of adapted.parameters) {
    if (type === "float32") feeds.set(key, tensor("float32", dims, new Float32Array(elementCount(dims))));
  }
  // The masks themselves are unknown yet: what is behind them is cut off by reading the branch's input without its product.
  const { model, names } = shapesModel(withoutMasks(adapted.model, masks), masks);
  const session = await openSession(model, options);
  try {
    const wanted = new Set(session.inputs);
    const results = await session.run(new Map([...feeds].filter(([name]) => wanted.has(name))));
    return names.map((name) => Array.from(results.get(name)!.data as BigInt64Array, Number));
  } finally {
    await session.dispose();
  }
}

function withoutMasks(model: Model, masks: readonly DropoutMask[]): Model {
  const sources = new Map(masks.map(({ input, source }) => [input, source]));
  const nodes = model.graph.nodes.map((node) => {
    const source = node.op === "Mul" ? sources.get(node.inputs[1] ?? "") : undefined;
    return source === undefined ? node : { ...node, op: "Identity", inputs: [source] };
  });
  const inputs = model.graph.inputs.filter(({ name }) => !sources.has(name));
  return { ...model, graph: { ...model.graph, nodes, inputs } };
}

/** The model with nothing but the sizes of the masks' sources as outputs, and what those need. */
function shapesModel(model: Model, masks: readonly DropoutMask[]): { model: Model; names: readonly string[] } {
  const g = graphBuilder({ opset: model.opsets.get("") ?? 0, from: model.graph, scope: "sizes/" });
  const names = masks.map(({ source }) => g.op("Shape", [source]));
  for (const name of names) g.output(name, "int64", [null]);
  const graph = prune(g.build());
  const read = new Set(graph.nodes.flatMap(reads));
  return { model: { ...model, graph: { ...graph, inputs: graph.inputs.filter(({ name }) => read.has(name)) } }, names };
}
