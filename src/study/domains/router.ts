// A router: says from the base's last hidden activations which domain an image is from, and so which adapter reads it. One
// hidden layer on frozen features, trained for a few epochs on some images of each domain.
import type { ImageSet } from "../../data/idx.ts";
import { gatherImages } from "../../data/preprocess.ts";
import type { Adapter } from "../../lora/config.ts";
import { attachAll, withWeights } from "../../lora/full.ts";
import { fillUniform } from "../../lora/init/random.ts";
import { createModel, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { tensor } from "../../tensor.ts";
import { createSession } from "../../train/infer.ts";
import type { Batch } from "../../train/step.ts";
import { trainAll } from "../../train/train.ts";
import { range } from "../batches.ts";
import { layerSizes } from "../network.ts";
import type { RouterResult } from "./result.ts";
import type { Domain } from "./suite.ts";
import { attachDomains, domainImages, selected, type TuneContext } from "./tune.ts";

const featureWidth = layerSizes[2];
const hidden = 128;
/** Training images of each domain, at most. */
const perDomain = 1000;
const epochs = 4;
const batchSize = 100;

/** The base up to its last hidden activations: what feeds the head. */
function featureModel(base: Model): Model {
  const { graph } = base;
  const head = graph.nodes.find((node) => node.outputs[0] === graph.outputs[0]!.name)!;
  return {
    ...base,
    graph: { ...graph, outputs: [{ ...graph.outputs[0]!, name: head.inputs[0]!, shape: ["batch", featureWidth] }] },
  };
}

/** features [batch, 2000] -> logits [batch, domains], untrained. */
function routerNetwork(domains: number, seed: number): Model {
  const opset = 17;
  const g = graphBuilder({ name: "router", opset });
  const layer = (x: Value, name: string, inFeatures: number, outFeatures: number, output?: string): Value => {
    const values = new Float32Array(outFeatures * inFeatures);
    fillUniform(values, createRandom(seed, `router ${name}`), 1 / Math.sqrt(inFeatures));
    const weight = g.initializer(`${name}.weight`, tensor("float32", [outFeatures, inFeatures], values));
    const bias = g.initializer(`${name}.bias`, tensor("float32", [outFeatures], new Float32Array(outFeatures)));
    return g.op("Gemm", [x, weight, bias], { transB: 1 }, { name: `/${name}/Gemm`, ...(output && { output }) });
  };
  const x = g.input("x", "float32", ["batch", featureWidth]);
  const middle = g.op("Relu", [layer(x, "hidden", featureWidth, hidden)]);
  g.output(layer(middle, "domain", hidden, domains, "logits"), "float32", ["batch", domains]);
  return createModel(g.build(), { opset });
}

/** Runs `images` through a model with one input x, in batches; calls `use` with each output and its first row. */
async function runAll(
  model: Model,
  set: ImageSet,
  context: TuneContext,
  use: (output: Float32Array, first: number) => void,
): Promise<void> {
  const session = await createSession(model, context.session);
  try {
    const order = range(set.count);
    for (let start = 0; start < set.count; start += batchSize) {
      context.signal.throwIfAborted();
      const count = Math.min(batchSize, set.count - start);
      const images = new Float32Array(count * layerSizes[0]);
      gatherImages(set.images, order, start, count, images);
      const outputs = await session.run({ x: tensor("float32", [count, layerSizes[0]], images) });
      use([...outputs.values()][0]!.data as Float32Array, start);
    }
  } finally {
    await session.dispose();
  }
}

/** Trains the router on some images of each domain, by their number in `domains`. */
async function trainRouter(domains: readonly Domain[], features: Model, context: TuneContext): Promise<Model> {
  const { seed } = context.options;
  const chosen = range(context.train.count);
  createRandom(seed, "router images").shuffle(chosen);
  const some = selected(context.train, chosen.subarray(0, Math.min(perDomain, chosen.length)));
  const rows = new Float32Array(domains.length * some.count * featureWidth);
  for (const [index, domain] of domains.entries()) {
    const images = domainImages(domain, some, "train", seed);
    await runAll(features, images, context, (output, first) => {
      rows.set(output, (index * some.count + first) * featureWidth);
    });
  }
  const network = routerNetwork(domains.length, seed);
  const trainable = attachAll(network);
  const batches = featureBatches(rows, some.count, domains.length, seed);
  const { tensors } = await trainAll(trainable, batches, {
    ...context.session,
    learningRate: 0.001,
    signal: context.signal,
  });
  await trainable.dispose();
  context.signal.throwIfAborted();
  return withWeights(network, tensors);
}

/** `rows` holds `each` rows of every domain, one domain after the other. */
function* featureBatches(rows: Float32Array, each: number, domains: number, seed: number): Generator<Batch> {
  const order = range(each * domains);
  const random = createRandom(seed, "router shuffle");
  for (let epoch = 0; epoch < epochs; epoch++) {
    random.shuffle(order);
    for (let start = 0; start < order.length; start += batchSize) {
      const part = order.subarray(start, start + batchSize);
      const x = new Float32Array(part.length * featureWidth);
      part.forEach((row, at) => {
        x.set(rows.subarray(row * featureWidth, (row + 1) * featureWidth), at * featureWidth);
      });
      const labels = BigInt64Array.from(part, (row) => BigInt(Math.floor(row / each)));
      yield {
        inputs: { x: tensor("float32", [part.length, featureWidth], x) },
        labels: tensor("int64", [part.length], labels),
      };
    }
  }
}

/** The place of the largest of `width` values from `start`. */
function largestAt(values: Float32Array, start: number, width: number): number {
  let best = 0;
  for (let at = 1; at < width; at++) if (values[start + at]! > values[start + best]!) best = at;
  return best;
}

/**
 * Trains a router over the plain digits (read by the base itself) and the given image domains, and tests the whole set as one
 * model: batches of images from all domains, each row with the adapter that the router picks.
 */
export async function routeDomains(
  domains: readonly Domain[],
  adapters: ReadonlyMap<string, Adapter>,
  context: TuneContext,
): Promise<RouterResult> {
  const { base, options, test, signal } = context;
  const all: readonly Domain[] = [{ name: "plain", transform: null, digit: null }, ...domains];
  const features = featureModel(base);
  const network = await trainRouter(all, features, context);
  const router = await createSession(network, context.session);
  const adapted = attachDomains(base, options);
  const reader = await createSession(adapted, context.session);
  for (const [name, adapter] of adapters) reader.load(name, adapter);
  const choices = all.map(({ name }) => (adapters.has(name) ? name : null));
  const reading = await createSession(features, context.session);
  const sets = all.map((domain) => domainImages(domain, test, "test", options.seed));
  let [named, routed, known] = [0, 0, 0];
  try {
    // Each batch has as many images of every domain as of the others: row = image * domains + domain.
    const total = all.length * test.count;
    for (let start = 0; start < total; start += batchSize) {
      signal.throwIfAborted();
      const count = Math.min(batchSize, total - start);
      const images = new Float32Array(count * layerSizes[0]);
      const own = Array.from({ length: count }, (_, row) => (start + row) % all.length);
      const labels = own.map((domain, row) => {
        const index = Math.floor((start + row) / all.length);
        gatherImages(sets[domain]!.images, [index], 0, 1, images.subarray(row * layerSizes[0]));
        return test.labels[index]!;
      });
      const x = tensor("float32", [count, layerSizes[0]], images);
      const hiddenValues = [...(await reading.run({ x })).values()][0]!;
      const scores = (await router.run({ x: hiddenValues })).get("logits")!.data as Float32Array;
      const picked = own.map((_, row) => largestAt(scores, row * all.length, all.length));
      const right = async (numbers: readonly number[]): Promise<number> => {
        const output = (await reader.run({ x }, { rows: numbers.map((number) => choices[number]!) })).get("logits")!;
        const logits = output.data as Float32Array;
        return labels.filter((label, row) => largestAt(logits, row * 10, 10) === label).length;
      };
      named += picked.filter((number, row) => number === own[row]).length;
      routed += await right(picked);
      known += await right(own);
    }
    const parameters = featureWidth * hidden + hidden + hidden * all.length + all.length;
    return {
      domains: all.length,
      accuracy: named / total,
      routed: routed / total,
      known: known / total,
      parameters,
    };
  } finally {
    await Promise.all([router.dispose(), reader.dispose(), reading.dispose()]);
    await adapted.dispose();
  }
}
