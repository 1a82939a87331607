// An ONNX model written to a path, with its weights in a file beside it where one protobuf would not hold them. The file of weights
// is complete, under a name made of its content, before the model that refers to it takes its place: whoever reads the
// path finds the old model or the whole new one.
import { createHash } from "node:crypto";
import { basename, dirname, join } from "node:path";
import type { Model } from "../onnx/model.ts";
import { type PlacedWeight, weightBytes, writeModel, writeModelBeside } from "../onnx/write.ts";
import { assertPlainName, writeFileAtomic } from "./files.ts";

export interface SaveOptions {
  /**
   * Whether the weights go to a file of their own, `NAME.<8 digits>.data` in the same folder. By default they do from 1 GiB on: a
   * protobuf ends at 2.
   */
  readonly external?: boolean;
}

const leastExternalBytes = 2 ** 30;

/** Weights are copied in pieces of this size, so that a file of them is never in memory as a whole. */
const pieceBytes = 2 ** 26;

/**
 * Writes a model, and its weights beside it where they are many. What an earlier model of that name left beside it stays: other
 * copies may refer to it.
 *
 * @returns the paths of the files written, the model's first.
 * @throws LowrankError "file" when the system refuses; "model" when weights that were left in a file cannot be read from it.
 * @example await saveModel(merge(await loadModel("base.onnx"), adapter), "merged.onnx");
 */
export async function saveModel(model: Model, path: string, options: SaveOptions = {}): Promise<string[]> {
  const { external = weightBytes(model) >= leastExternalBytes } = options;
  if (!external) {
    await writeFileAtomic(path, writeModel(model));
    return [path];
  }
  const { weights } = writeModelBeside(model, "weights");
  const hash = createHash("sha256");
  for (const piece of pieces(weights)) hash.update(piece);
  const location = `${basename(path)}.${hash.digest("hex").slice(0, 8)}.data`;
  assertPlainName(location);
  const data = join(dirname(path), location);
  await writeFileAtomic(data, pieces(weights));
  await writeFileAtomic(path, writeModelBeside(model, location).bytes);
  return [path, data];
}

/** The content of the file of weights: each at its offset, zeros between them. */
function* pieces(weights: readonly PlacedWeight[]): Generator<Uint8Array> {
  let at = 0;
  for (const { stored, offset } of weights) {
    if (offset > at) yield new Uint8Array(offset - at);
    const { bytes } = stored;
    for (let from = 0; from < bytes.length; from += pieceBytes) yield bytes.subarray(from, from + pieceBytes);
    at = offset + bytes.length;
  }
}
