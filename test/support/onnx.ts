// ONNX files through the stock runtime alone, with none of our code between: what a user of the saved files would do.
import { InferenceSession, Tensor } from "onnxruntime-node";

/** Runs a model file on `x` [rows, columns] and returns its first output. */
export async function runOnnxFile(path: string, x: Float32Array, columns: number): Promise<Float32Array> {
  const session = await InferenceSession.create(path, { intraOpNumThreads: 1 });
  try {
    const feeds = { [session.inputNames[0]!]: new Tensor("float32", x, [x.length / columns, columns]) };
    const results = await session.run(feeds);
    return results[session.outputNames[0]!]!.data as Float32Array;
  } finally {
    await session.release();
  }
}

/** The largest |a - b|; infinite where lengths differ or a value is not a number. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  for (let index = 0; index < a.length; index++) {
    const difference = Math.abs(a[index]! - b[index]!);
    largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(largest, difference);
  }
  return largest;
}
