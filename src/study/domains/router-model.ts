// The router's model: from an image to the domain it is from. What the base's first layer says of the image, before its ReLU
// (which of the base's features tells domains apart best), standardized; one hidden layer; a logit for each domain. Only what
// is behind the features is trained; it is one graph all the same, since two sessions that take turns wait for each other's
// threads.
import { merge } from "../../adapter/merge.ts";
import { type ImageSet, imagePixels } from "../../data/idx.ts";
import { attachLora } from "../../lora/attach.ts";
import { attachAll, currentWeights } from "../../lora/full.ts";
import { fillUniform } from "../../lora/init/random.ts";
import { parameterCount } from "../../lora/init.ts";
import { createModel, float, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { createSession } from "../../train/infer.ts";
import { linear } from "../../train/schedules.ts";
import { train } from "../../train/train.ts";
import { epochBatches, range } from "../batches.ts";
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
/** Batches from which the features' mean and variance are taken. */
const statisticsBatches = 40;
/** Added to a variance. */
const epsilon = 1e-6;
const opset = 17;

/** Layers that are trained. */
const headModules = ["hidden", "domain"];

/** Weights by name: `fc1.weight` [features, pixels], `hidden.weight` [512, features], `domain.weight` [domains, 512], and biases. */
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
  const { images, order } = imagesOf(domains, context);
  const weights = startingWeights(base, domains.length, options.seed);
  const rows = Math.min(images.count, Math.ceil((statisticsBatches * batchSize) / domains.length) * domains.length);
  // The first images of every domain: as many of each.
  const scale = await statistics(featureModel(weights), images, order.subarray(0, rows), context);
  const network = routerModel(weights, scale, domains.length);
  // Modules to save are trained whole.
  const adapted = attachLora(network, { targetModules: headModules, modulesToSave: headModules });
  const steps = epochs * Math.ceil(images.count / batchSize);
  const progress = voice.progress("training the router", steps);
  const batches = epochBatches(images, order, batchSize, epochs, createRandom(options.seed, "router shuffle"));
  const { adapter } = await train(adapted, batches, {
    ...session,
    learningRate: linear(learningRate, { steps }),
    signal,
    onStep: ({ step, loss }) => progress.update(step, { loss }),
  }).finally(() => {
    progress.clear();
    return adapted.dispose();
  });
  signal.throwIfAborted();
  return { model: merge(network, adapter), parameters: parameterCount(adapted) };
}

/** Some training images, the same for each domain, with the domains' numbers as labels; and an order in which domains take turns. */
function imagesOf(
  domains: readonly Domain[],
  { options: { seed }, train }: TuneContext,
): { readonly images: ImageSet; readonly order: Int32Array } {
  const chosen = range(train.count);
  createRandom(seed, "router images").shuffle(chosen);
  const some = selected(train, chosen.subarray(0, perDomain));
  const count = domains.length * some.count;
  const images = { images: new Uint8Array(count * imagePixels), labels: new Uint8Array(count), count };
  domains.forEach((domain, number) => {
    images.images.set(domainImages(domain, some, "train", seed).images, number * some.count * imagePixels);
    images.labels.fill(number, number * some.count, (number + 1) * some.count);
  });
  const order = range(count).map((row) => (row % domains.length) * some.count + Math.floor(row / domains.length));
  return { images, order };
}

/** The base's first layer, and an untrained head. */
function startingWeights(base: Model, domains: number, seed: number): Weights {
  const own = currentWeights(attachAll(base));
  const [first] = linearModules;
  const uniform = (module: string, outFeatures: number, inFeatures: number): [string, Tensor][] => {
    const values = new Float32Array(outFeatures * inFeatures);
    fillUniform(values, createRandom(seed, `router ${module}`), 1 / Math.sqrt(inFeatures));
    return [
      [`${module}.weight`, tensor("float32", [outFeatures, inFeatures], values)],
      [`${module}.bias`, tensor("float32", [outFeatures], new Float32Array(outFeatures))],
    ];
  };
  return new Map([
    ...["weight", "bias"].map((part) => [`${first}.${part}`, own.get(`${first}.${part}`)!] as const),
    ...uniform("hidden", hidden, featureWidth),
    ...uniform("domain", domains, hidden),
  ]);
}

/** Of each feature, [features]. */
interface Scale {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

async function statistics(
  model: Model,
  images: ImageSet,
  rows: Int32Array,
  { session: options }: TuneContext,
): Promise<Scale> {
  const mean = new Float64Array(featureWidth);
  const square = new Float64Array(featureWidth);
  const session = await createSession(model, options);
  try {
    for (const { inputs } of epochBatches(images, rows, batchSize, 1, createRandom(0))) {
      const { features } = Object.fromEntries(await session.run(inputs));
      (features!.data as Float32Array).forEach((value, at) => {
        mean[at % featureWidth]! += value / rows.length;
        square[at % featureWidth]! += (value * value) / rows.length;
      });
    }
  } finally {
    await session.dispose();
  }
  const variance = square.map((value, at) => Math.max(0, value - mean[at]! ** 2));
  const floats = (values: Float64Array): Tensor => tensor("float32", [featureWidth], Float32Array.from(values));
  return { mean: floats(mean), variance: floats(variance) };
}

/** x [batch, 784] -> features [batch, 1000]. */
function featureModel(weights: Weights): Model {
  const g = graphBuilder({ name: "features", opset });
  const features = addLinear(g, g.input("x", "float32", ["batch", pixels]), linearModules[0], weights, "features");
  g.output(features, "float32", ["batch", featureWidth]);
  return createModel(g.build(), { opset });
}

/** x [batch, 784] -> logits [batch, domains]. */
function routerModel(weights: Weights, { mean, variance }: Scale, domains: number): Model {
  const g = graphBuilder({ name: "router", opset });
  const features = addLinear(g, g.input("x", "float32", ["batch", pixels]), linearModules[0], weights);
  const filled = (name: string, value: number): Value =>
    g.initializer(`features.${name}`, tensor("float32", [featureWidth], new Float32Array(featureWidth).fill(value)));
  const standardized = g.op(
    "BatchNormalization",
    [
      features,
      filled("scale", 1),
      filled("shift", 0),
      g.initializer("features.mean", mean),
      g.initializer("features.variance", variance),
    ],
    { epsilon: float(epsilon) },
  );
  const middle = g.op("Relu", [addLinear(g, standardized, "hidden", weights)]);
  g.output(addLinear(g, middle, "domain", weights, "logits"), "float32", ["batch", domains]);
  return createModel(g.build(), { opset });
}

function addLinear(
  g: ReturnType<typeof graphBuilder>,
  x: Value,
  module: string,
  weights: Weights,
  output?: string,
): Value {
  const inputs = [
    x,
    ...["weight", "bias"].map((part) => g.initializer(`${module}.${part}`, weights.get(`${module}.${part}`)!)),
  ];
  return g.op("Gemm", inputs, { transB: 1 }, { name: `/${module}/Gemm`, ...(output && { output }) });
}
