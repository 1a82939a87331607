// Random adapters for tests, over every kind of layer, and their updates.

import { type Adapter, type LoraConfig, resolveConfig } from "../../lora/config.ts";
import { adapterKeys } from "../../lora/keys.ts";
import { createRandom } from "../../random.ts";
import { elementCount, type Tensor, tensor } from "../../tensor.ts";
import { deltaOf, thinModules } from "../thin.ts";

/** A layer to adapt: sizes as a site has them. */
export interface Layer {
  readonly path: string;
  readonly kind?: "Linear" | "Conv2d" | "Embedding";
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly kernel?: readonly number[];
  readonly groups?: number;
  readonly r: number;
}

export const layers: readonly Layer[] = [
  { path: "emb", kind: "Embedding", inFeatures: 9, outFeatures: 6, r: 4 },
  { path: "enc.conv", kind: "Conv2d", inFeatures: 4, outFeatures: 6, kernel: [2, 3], r: 4 },
  { path: "enc.grouped", kind: "Conv2d", inFeatures: 4, outFeatures: 6, kernel: [3, 1], groups: 2, r: 4 },
  { path: "fc", inFeatures: 7, outFeatures: 5, r: 2 },
  { path: "enc.fc", inFeatures: 5, outFeatures: 8, r: 4 },
];

/** A and B in [-1, 1) for each layer, alpha 6 (1.5 for `fc`). */
export function randomAdapter(seed: number, config: LoraConfig = {}, chosen: readonly Layer[] = layers): Adapter {
  const random = createRandom(seed, "adapter");
  const draw = (dims: readonly number[]): Tensor<"float32"> =>
    tensor(
      "float32",
      dims,
      Float32Array.from({ length: elementCount(dims) }, () => 2 * random.uniform() - 1),
    );
  const tensors = chosen.flatMap(
    ({ path, kind, inFeatures, outFeatures, kernel = [], groups = 1, r }): [string, Tensor][] => {
      const keys = adapterKeys(path, kind ?? "Linear");
      return [
        [keys.a, draw([r, inFeatures, ...kernel])],
        [keys.b, draw([outFeatures, r / groups, ...kernel.map(() => 1)])],
      ];
    },
  );
  const rankPattern = Object.fromEntries(chosen.filter(({ r }) => r !== 4).map(({ path, r }) => [`^${path}`, r]));
  const resolved = resolveConfig({
    ...{ r: 4, loraAlpha: 6, alphaPattern: { "^fc": 1.5 }, rankPattern },
    targetModules: chosen.map(({ path }) => path),
    ...config,
  });
  return { config: resolved, tensors: new Map(tensors) };
}

/** Every update s B A, by path. */
export function deltas(adapter: Adapter): Map<string, Float64Array> {
  return new Map(thinModules(adapter, "test").map((module) => [module.path, deltaOf(module).data]));
}

/** The largest difference of two adapters' updates, relative to the largest value; modules that one lacks count as zero. */
export function difference(a: Adapter, b: Adapter): number {
  return relativeDifference(deltas(a), deltas(b));
}

export function relativeDifference(
  a: ReadonlyMap<string, ArrayLike<number>>,
  b: ReadonlyMap<string, ArrayLike<number>>,
): number {
  let [worst, largest] = [0, 0];
  for (const path of new Set([...a.keys(), ...b.keys()])) {
    const [x, y] = [a.get(path) ?? [], b.get(path) ?? []];
    for (let i = 0; i < Math.max(x.length, y.length); i++) {
      worst = Math.max(worst, Math.abs((x[i] ?? 0) - (y[i] ?? 0)));
      largest = Math.max(largest, Math.abs(x[i] ?? 0), Math.abs(y[i] ?? 0));
    }
  }
  return largest === 0 ? 0 : worst / largest;
}
