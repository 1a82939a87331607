// The curve of size against accuracy: the trained base made smaller in several ways, none of which trains anything, each read
// on all test images. Sizes are those of the files.
import { compressWith } from "../compress/compress.ts";
import type { CompressOptions } from "../compress/options.ts";
import { imagePixels } from "../data/idx.ts";
import { gatherImages } from "../data/preprocess.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import { range } from "./batches.ts";
import type { StudyContext } from "./context.ts";
import { evaluationOf, readDigits } from "./evaluate.ts";
import { linearModules } from "./network.ts";
import type { CompressionPoint } from "./result.ts";

/** The layer that has most of the weights: 1000 -> 2000. */
const largestLayer = linearModules[1];

/** Training images that errors are weighed with. */
const sampleImages = 512;

type Way = Pick<CompressionPoint, "rank" | "weighedWithData" | "quantized">;

const ways: readonly Way[] = [
  ...[256, 64, 8].map((rank): Way => ({ rank, weighedWithData: false, quantized: null })),
  ...[256, 64, 8].map((rank): Way => ({ rank, weighedWithData: true, quantized: null })),
  { rank: null, weighedWithData: false, quantized: "int8" },
  { rank: null, weighedWithData: false, quantized: "int4" },
  { rank: 64, weighedWithData: true, quantized: "int8" },
  { rank: 64, weighedWithData: true, quantized: "int4" },
];

/** Compresses the base in each way and reads the test images with it. Throws the signal's reason when it is aborted. */
export async function compressionCurve(base: Model, context: StudyContext): Promise<CompressionPoint[]> {
  const { signal, session, voice } = context;
  const progress = voice.progress("compressing the base", ways.length, "models");
  const samples = [{ inputs: { x: sampleOf(context) } }];
  const points: CompressionPoint[] = [];
  try {
    for (const way of ways) {
      signal.throwIfAborted();
      const data = way.weighedWithData ? samples : null;
      let small = (await compressWith(base, data, { ...session, ...factorized(way) })).model;
      // Factors of the largest layer, and then all weights in fewer bits.
      if (way.rank !== null && way.quantized !== null)
        small = (await compressWith(small, null, { ...session, quantize: way.quantized })).model;
      points.push({ ...way, bytes: writeModel(small).length, accuracy: await accuracyOf(small, context) });
      progress.update(points.length);
    }
  } finally {
    progress.clear();
  }
  return points;
}

function factorized({ rank, quantized }: Way): CompressOptions {
  return rank === null ? { quantize: quantized! } : { rank, targetModules: [largestLayer] };
}

async function accuracyOf(model: Model, { session, test, signal }: StudyContext): Promise<number> {
  const opened = await createSession(model, session);
  try {
    return evaluationOf((await readDigits(opened, test, null, signal)).predictions, test.labels).accuracy;
  } finally {
    await opened.dispose();
  }
}

/** x [images, 784]: some training images, as the network reads them. */
function sampleOf({ train, options }: StudyContext): ReturnType<typeof tensor<"float32">> {
  const order = range(train.count);
  createRandom(options.seed, "compression").shuffle(order);
  const count = Math.min(sampleImages, train.count);
  const pixels = new Float32Array(count * imagePixels);
  gatherImages(train.images, order, 0, count, pixels);
  return tensor("float32", [count, imagePixels], pixels);
}
