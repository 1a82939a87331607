// The router's model: from an image to the domain it is from. What the base's first layer says of the image, before its ReLU
// (which of the base's features tells domains apart best), standardized; one hidden layer; a logit for each domain.
import type { ImageSet } from "../../data/idx.ts";
import { gatherImages } from "../../data/preprocess.ts";
import { attachAll, currentWeights } from "../../lora/full.ts";
import { fillUniform } from "../../lora/init/random.ts";
import { createModel, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { type AdapterSession, createSession } from "../../train/infer.ts";
import { linear } from "../../train/schedules.ts";
import type { Batch } from "../../train/step.ts";
import { trainAll } from "../../train/train.ts";
import { range } from "../batches.ts";
import { layerSizes, linearModules } from "../network.ts";
import type { Voice } from "../voice.ts";
import type { Domain } from "./suite.ts";
import { domainImages, selected, type TuneContext } from "./tune.ts";

const [pixels, featureWidth] = layerSizes;
const hidden = 512;
/** Training images of each domain, at most. */
const perDomain = 6000;
const epochs = 6;
const batchSize = 256;
const learningRate = 0.003;
/** Batches from which the features' mean and deviation are taken. */
const statisticsBatches = 40;
const opset = 17;

/** Weights of the router by name: `hidden.weight` [hidden, features], `domain.weight` [domains, hidden], and biases. */
type Weights = ReadonlyMap<string, Tensor>;

export interface Router {
  /** x [batch, 784] -> logits [batch, domains]. */
  readonly model: Model;
  /** Beside the base's own first layer. */
  readonly parameters: number;
}

/** Trains the router on images of each domain; its logits are in the order of `domains`. Stops when the signal says so. */
export async function trainRouter(domains: readonly Domain[], context: TuneContext, voice: Voice): Promise<Router> {
  const { base, options, session, signal } = context;
  const reading = await createSession(firstLayer(base), session);
  try {
    const draw = imagesOf(domains, context);
    const scale = await statistics(reading, draw, domains.length);
    const network = headNetwork(domains.length, options.seed);
    const trainable = attachAll(network);
    const steps = epochs * Math.ceil(draw.total / batchSize);
    const progress = voice.progress("training the router", steps);
    const { tensors } = await trainAll(trainable, featureBatches(reading, draw, scale, options.seed), {
      ...session,
      learningRate: linear(learningRate, { steps }),
      signal,
      onStep: ({ step, loss }) => progress.update(step, { loss }),
    }).finally(() => {
      progress.clear();
      return trainable.dispose();
    });
    signal.throwIfAborted();
    const parameters = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    return { model: routerModel(base, folded(tensors, scale), domains.length), parameters };
  } finally {
    await reading.dispose();
  }
}

/** The base up to what its first layer says. */
function firstLayer(base: Model): Model {
  const { graph } = base;
  const shape = ["batch", featureWidth];
  return {
    ...base,
    graph: { ...graph, outputs: [{ ...graph.outputs[0]!, name: graph.nodes[0]!.outputs[0]!, shape }] },
  };
}

interface Drawing {
  /** Images of all domains: row = image * domains + domain. */
  readonly total: number;
  fill(row: number, into: Float32Array): void;
  domainOf(row: number): number;
}

/** Some training images, the same for each domain. */
function imagesOf(domains: readonly Domain[], { options: { seed }, train }: TuneContext): Drawing {
  const chosen = range(train.count);
  createRandom(seed, "router images").shuffle(chosen);
  const some = selected(train, chosen.subarray(0, perDomain));
  const sets: ImageSet[] = domains.map((domain) => domainImages(domain, some, "train", seed));
  return {
    total: domains.length * some.count,
    fill: (row, into) => gatherImages(sets[row % sets.length]!.images, [Math.floor(row / sets.length)], 0, 1, into),
    domainOf: (row) => row % sets.length,
  };
}

/** What the first layer says of these images: [rows, features]. */
async function featuresOf(reading: AdapterSession, draw: Drawing, rows: Int32Array): Promise<Float32Array> {
  const images = new Float32Array(rows.length * pixels);
  rows.forEach((row, at) => {
    draw.fill(row, images.subarray(at * pixels, (at + 1) * pixels));
  });
  const outputs = await reading.run({ x: tensor("float32", [rows.length, pixels], images) });
  return [...outputs.values()][0]!.data as Float32Array;
}

/** Of each feature: its mean, and the inverse of its deviation. */
interface Scale {
  readonly mean: Float64Array;
  readonly inverse: Float64Array;
}

async function statistics(reading: AdapterSession, draw: Drawing, domains: number): Promise<Scale> {
  const mean = new Float64Array(featureWidth);
  const square = new Float64Array(featureWidth);
  // The first images of every domain: as many of each.
  const rows = Math.min(draw.total, Math.ceil((statisticsBatches * batchSize) / domains) * domains);
  for (let start = 0; start < rows; start += batchSize) {
    const part = range(Math.min(batchSize, rows - start)).map((row) => row + start);
    const features = await featuresOf(reading, draw, part);
    features.forEach((value, at) => {
      mean[at % featureWidth]! += value / rows;
      square[at % featureWidth]! += (value * value) / rows;
    });
  }
  const inverse = square.map((value, at) => 1 / Math.sqrt(Math.max(value - mean[at]! ** 2, 1e-6)));
  return { mean, inverse };
}

/** Standardized features with the domains' numbers as labels; every epoch in another order. */
async function* featureBatches(
  reading: AdapterSession,
  draw: Drawing,
  { mean, inverse }: Scale,
  seed: number,
): AsyncGenerator<Batch> {
  const order = range(draw.total);
  const random = createRandom(seed, "router shuffle");
  for (let epoch = 0; epoch < epochs; epoch++) {
    random.shuffle(order);
    for (let start = 0; start < order.length; start += batchSize) {
      const part = order.subarray(start, start + batchSize);
      const x = await featuresOf(reading, draw, part);
      for (let row = 0, at = 0; row < part.length; row++)
        for (let j = 0; j < featureWidth; j++, at++) x[at] = (x[at]! - mean[j]!) * inverse[j]!;
      const labels = BigInt64Array.from(part, (row) => BigInt(draw.domainOf(row)));
      yield {
        inputs: { x: tensor("float32", [part.length, featureWidth], x) },
        labels: tensor("int64", [part.length], labels),
      };
    }
  }
}

/** standardized features [batch, 1000] -> logits [batch, domains], untrained. */
function headNetwork(domains: number, seed: number): Model {
  const uniform = (name: string, outFeatures: number, inFeatures: number): Tensor => {
    const values = new Float32Array(outFeatures * inFeatures);
    fillUniform(values, createRandom(seed, `router ${name}`), 1 / Math.sqrt(inFeatures));
    return tensor("float32", [outFeatures, inFeatures], values);
  };
  const weights = new Map([
    ["hidden.weight", uniform("hidden", hidden, featureWidth)],
    ["hidden.bias", tensor("float32", [hidden], new Float32Array(hidden))],
    ["domain.weight", uniform("domain", domains, hidden)],
    ["domain.bias", tensor("float32", [domains], new Float32Array(domains))],
  ]);
  const g = graphBuilder({ name: "router", opset });
  addHead(g, g.input("x", "float32", ["batch", featureWidth]), weights, domains);
  return createModel(g.build(), { opset });
}

type Builder = ReturnType<typeof graphBuilder>;

function addLinear(g: Builder, x: Value, module: string, weights: Weights, output?: string): Value {
  const inputs = [
    x,
    ...["weight", "bias"].map((part) => g.initializer(`${module}.${part}`, weights.get(`${module}.${part}`)!)),
  ];
  return g.op("Gemm", inputs, { transB: 1 }, { name: `/${module}/Gemm`, ...(output && { output }) });
}

function addHead(g: Builder, features: Value, weights: Weights, domains: number): void {
  const middle = g.op("Relu", [addLinear(g, features, "hidden", weights)]);
  g.output(addLinear(g, middle, "domain", weights, "logits"), "float32", ["batch", domains]);
}

/** The same head for features as they are: W (x - mean) / deviation + b = W' x + b'. */
function folded(weights: Weights, { mean, inverse }: Scale): Weights {
  const weight = (weights.get("hidden.weight")!.data as Float32Array).slice();
  const bias = (weights.get("hidden.bias")!.data as Float32Array).slice();
  for (let row = 0, at = 0; row < hidden; row++) {
    let shift = 0;
    for (let j = 0; j < featureWidth; j++, at++) {
      weight[at]! *= inverse[j]!;
      shift += weight[at]! * mean[j]!;
    }
    bias[row]! -= shift;
  }
  return new Map([
    ...weights,
    ["hidden.weight", tensor("float32", [hidden, featureWidth], weight)],
    ["hidden.bias", tensor("float32", [hidden], bias)],
  ]);
}

/** The base's first layer with the head behind it. */
function routerModel(base: Model, head: Weights, domains: number): Model {
  const g = graphBuilder({ name: "router", opset });
  const [first] = linearModules;
  const own = currentWeights(attachAll(base));
  const features = addLinear(g, g.input("x", "float32", ["batch", pixels]), first, own);
  addHead(g, features, head, domains);
  return createModel(g.build(), { opset });
}
