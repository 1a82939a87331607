// The base: its model, its weights as numbers, and the digits that came with it.
import { type Model, readModel, readSafetensors, sites } from "lowrank";
import type { About, Digits, LayerInfo, LoadProgress } from "../protocol.ts";
import { fetchAbout, fetchKept, forgetOldFiles, unzipped } from "./fetch.ts";

export interface Base {
  readonly about: About;
  /** The file, as it can be taken home. */
  readonly bytes: Uint8Array;
  readonly model: Model;
  readonly layers: readonly LayerInfo[];
  readonly parameters: number;
  readonly kept: Digits;
  readonly misread: Digits;
  readonly replay: Digits;
}

/** The network's layers, by their module paths. */
export const layerPaths: readonly string[] = ["fc1", "fc2", "fc3"];

export async function loadBase(tell: (progress: LoadProgress) => void): Promise<Base> {
  const about = await fetchAbout();
  const digitBytes = fetchKept(about, "digits.safetensors.gz").then(unzipped);
  const bytes = await fetchKept(about, "base.onnx", tell);
  const model = readModel(bytes);
  const { tensors: digits } = readSafetensors(await digitBytes, "digits.safetensors");
  const set = (name: string): Digits => ({
    images: digits.get(`${name}.images`)!.data as Uint8Array,
    labels: digits.get(`${name}.labels`)!.data as Uint8Array,
  });
  const layers = sites(model).map(({ modulePath, inFeatures, outFeatures }) => ({
    ...{ path: modulePath, inFeatures, outFeatures },
    parameters: (inFeatures + 1) * outFeatures,
  }));
  void forgetOldFiles(about).catch(() => undefined);
  return {
    ...{ about, bytes, model, layers, kept: set("kept"), misread: set("misread"), replay: set("replay") },
    parameters: layers.reduce((sum, { parameters }) => sum + parameters, 0),
  };
}

const known = new WeakMap<Model, Map<string, Float32Array>>();

/** A layer's weight W [out, in], out of its int8 codes and the scale of each row. */
export function weightOf(model: Model, path: string): Float32Array {
  const weights = known.get(model) ?? new Map<string, Float32Array>();
  known.set(model, weights);
  let values = weights.get(path);
  if (values === undefined) {
    const codes = asInts(stored(model, `${path}.weight_quantized`));
    const scales = asFloats(stored(model, `${path}.weight_scale`));
    const width = codes.length / scales.length;
    values = Float32Array.from(codes, (code, index) => code * scales[Math.floor(index / width)]!);
    weights.set(path, values);
  }
  return values;
}

export function biasOf(model: Model, path: string): Float32Array {
  return asFloats(stored(model, `${path}.bias`));
}

function stored(model: Model, name: string): Uint8Array {
  const found = model.graph.initializers.get(name);
  if (found === undefined) throw new Error(`internal: the base has no ${name}`);
  return found.bytes;
}

function asInts(bytes: Uint8Array): Int8Array {
  return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A copy: a view of the file need not lie on a multiple of four. */
function asFloats(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}
