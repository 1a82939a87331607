// The second moments X^T X of what layers are given on a sample of data: the model is run with their inputs as outputs.
import { LowrankError } from "../errors.ts";
import { denseMap } from "../linalg/linear-map.ts";
import { type Matrix, transpose } from "../linalg/matrix.ts";
import type { Model } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { openActivations } from "../train/activations.ts";
import type { Batch } from "../train/step.ts";

/** Batches of inputs; labels are not read. */
export type Samples = Iterable<Pick<Batch, "inputs">> | AsyncIterable<Pick<Batch, "inputs">>;

/**
 * For each layer the sum of x x^T over all rows x of all its calls, [in, in].
 *
 * @throws LowrankError "data" for no batches, "model" for activations that are no float32.
 */
export async function inputMoments(
  model: Model,
  layers: readonly Site[],
  samples: Samples,
  options: SessionOptions,
): Promise<ReadonlyMap<Site, Matrix>> {
  const sums = new Map(layers.map((site) => [site, square(site.inFeatures)]));
  if (layers.length === 0) return sums;
  const calls = layers.flatMap((site) => site.calls.map((call): Site => ({ ...site, ...call })));
  const activations = await openActivations(model, calls, options);
  let count = 0;
  try {
    for await (const { inputs } of samples) {
      const values = await activations.run(inputs);
      // Layers that read the same value have the same moments.
      const made = new Map<string, Matrix>();
      for (const [site, sum] of sums) {
        for (const { input } of site.calls) {
          const own = made.get(input) ?? momentsOf(site, values.get(input));
          made.set(input, own);
          own.data.forEach((value, index) => {
            sum.data[index] = sum.data[index]! + value;
          });
        }
      }
      count++;
    }
  } finally {
    await activations.dispose();
  }
  if (count === 0) throw new LowrankError("data", "compressWith: expected batches, got none");
  return sums;
}

function momentsOf({ modulePath, inFeatures }: Site, value: Tensor | undefined): Matrix {
  if (value?.type !== "float32") {
    const what = value === undefined ? "nothing" : value.type;
    throw new LowrankError("model", `${modulePath}: expected float32 inputs, got ${what}; compress without data`);
  }
  const rows = value.data.length / inFeatures;
  const x = transpose({ rows, columns: inFeatures, data: Float64Array.from(value.data) });
  const moments = denseMap(inFeatures, rows, Float32Array.from(x.data)).apply(x);
  if (moments.data.every(Number.isFinite)) return moments;
  throw new LowrankError("data", `${modulePath}: expected finite inputs, got NaN or infinity; check the batches`);
}

function square(n: number): Matrix {
  return { rows: n, columns: n, data: new Float64Array(n * n) };
}
