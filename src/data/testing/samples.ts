// Small data sets in MNIST's format, and hostile files, for the tests of this room.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { onTestFinished } from "vitest";
import { type Catalogue, sha256Of } from "../files.ts";

/** An IDX file: two zeros, type, dimensions, values. */
export function idxFile(type: number, dims: readonly number[], values: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(4 + 4 * dims.length + values.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0, 0, type, dims.length]);
  for (const [i, dim] of dims.entries()) view.setUint32(4 + 4 * i, dim);
  bytes.set(values, 4 + 4 * dims.length);
  return bytes;
}

/** Images that can be told apart: pixel p of image i is (seed + 31 i + p) % 256. */
export function samplePixels(count: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: count * 784 }, (_, at) => (seed + 31 * Math.floor(at / 784) + (at % 784)) % 256);
}

export function sampleLabels(count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => i % 10);
}

/** A data set of 12 + 5 images: the unpacked files by name, and the catalogue that publishes them. */
export function sampleSet(seed = 0): { contents: Map<string, Uint8Array>; catalogue: Catalogue } {
  const contents = new Map([
    ["train-images-idx3-ubyte", idxFile(8, [12, 28, 28], samplePixels(12, seed))],
    ["train-labels-idx1-ubyte", idxFile(8, [12], sampleLabels(12))],
    ["t10k-images-idx3-ubyte", idxFile(8, [5, 28, 28], samplePixels(5, seed + 7))],
    ["t10k-labels-idx1-ubyte", idxFile(8, [5], sampleLabels(5))],
  ]);
  const publish = (name: string): Catalogue["trainImages"] => {
    const bytes = contents.get(name)!;
    return { name, bytes: bytes.length, sha256: sha256Of(bytes) };
  };
  const catalogue = {
    trainImages: publish("train-images-idx3-ubyte"),
    trainLabels: publish("train-labels-idx1-ubyte"),
    testImages: publish("t10k-images-idx3-ubyte"),
    testLabels: publish("t10k-labels-idx1-ubyte"),
  };
  return { contents, catalogue };
}

export function packed(contents: ReadonlyMap<string, Uint8Array>): Map<string, Uint8Array> {
  return new Map([...contents].map(([name, bytes]) => [`${name}.gz`, gzipSync(bytes)]));
}

/** A folder that goes when the test ends. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "lowrank-data-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** What `run` throws, or rejects with; fails when it does neither. */
export async function failure(run: () => unknown): Promise<{ code?: string; message: string; faults?: string[] }> {
  try {
    await run();
  } catch (error) {
    return error as { code?: string; message: string; faults?: string[] };
  }
  throw new Error("expected an error, got none");
}
