// Adapters whose base is not the original one: PiSSA and OLoRA take s B0 A0 out of the weights, and train B and A on what is
// left. On the original base, the same model is W + s (B A - B0 A0), which is plain LoRA of rank 2r with [A; A0] and [B, -B0]
// (PEFT 0.21, tuners/lora/model.py, subtract_mutated_init). FORMATS: an adapter directory holds plain LoRA only.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Model } from "../onnx/model.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor, zeros } from "../tensor.ts";
import { AdaptedModel, type AdaptedSite } from "./adapted.ts";
import { attachLora } from "./attach.ts";
import type { Adapter, AdapterConfig } from "./config.ts";
import { isReproducible, type PrincipalMethod, principalFactors, principalMethod } from "./init/principal.ts";
import { adapterKeys } from "./keys.ts";
import { type LinearWeight, readLinearWeight, weightMap, withLinearWeights, withoutUpdate } from "./linear-weights.ts";
import { rankOf, scaleOf } from "./scale.ts";

type Tensors = ReadonlyMap<string, Tensor>;
type Place = Pick<AdaptedSite, "site" | "r" | "scale" | "a" | "b">;

/**
 * A0 and B0 of each place, by key, from a model's weights.
 *
 * @throws LowrankError "config" for layers that are no Linear ones, as in PEFT; "model" for weights that are not stored as
 * float32.
 */
export function principalTensors(
  model: Model,
  places: readonly Place[],
  method: PrincipalMethod,
  seed: number,
): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const { weight, place } of weightsOf(model, places, method.kind)) {
    const { site, r, scale, a, b } = place;
    const [A, B] = [zeros([r, site.inFeatures]), zeros([site.outFeatures, r])];
    principalFactors(weightMap(weight), method, { r, scale, seed }, { A: A.data, B: B.data });
    tensors.set(a, A);
    tensors.set(b, B);
  }
  return tensors;
}

/** `adapted` over the residual of its base: what `initial` (A0 and B0 by key) is taken out of. */
export function onResidual(adapted: AdaptedModel, initial: Tensors): AdaptedModel {
  const { base, config } = adapted;
  if (config === null) throw new Error("internal: a model that is trained whole has no residual");
  const places = adapted.sites.filter(({ a }) => initial.has(a));
  const weights = weightsOf(base, places, "residual").map(({ weight, place: { scale, a, b } }): LinearWeight => {
    const [A, B] = [initial.get(a)!.data as Float32Array, initial.get(b)!.data as Float32Array];
    return { site: weight.site, values: withoutUpdate(weight, A, B, scale) };
  });
  const attached = attachLora(withLinearWeights(base, weights), config);
  const { model, parameters, sites: own } = attached;
  return new AdaptedModel({ base, model, parameters, sites: own, config, initial });
}

/** The base's weight at each place, with all that cannot be split reported at once. */
function weightsOf(
  model: Model,
  places: readonly Place[],
  what: string,
): { readonly weight: LinearWeight; readonly place: Place }[] {
  const kinds = places.filter(({ site }) => site.kind !== "Linear" && site.kind !== "Embedding");
  throwFaults(
    "config",
    `initLoraWeights ${JSON.stringify(what)}`,
    kinds.map(({ site: { modulePath, kind } }) => `${modulePath}: expected a Linear layer, got ${kind}; exclude it`),
  );
  const byPath = new Map<string, Site>(sites(model).map((site) => [site.modulePath, site]));
  const faults: string[] = [];
  const found = places.flatMap((place) => {
    if (place.site.kind !== "Linear") return [];
    const weight = readLinearWeight(model, byPath.get(place.site.modulePath) ?? place.site);
    if (typeof weight !== "string") return [{ weight, place }];
    faults.push(weight);
    return [];
  });
  throwFaults("model", `initLoraWeights ${JSON.stringify(what)}`, faults);
  return found;
}

/** Whether an adapter's A and B belong to the residual of its base. */
export function hasResidualBase({ config, initial }: Adapter): boolean {
  return initial !== undefined || residualNames.test(String(config.initLoraWeights));
}

const residualNames = /^(?:pissa(?:_niter_\d+)?|olora|corda|loftq|lora_ga)$/;

/**
 * The adapter as plain LoRA on the original base: of rank 2r where it was trained on a residual, else as it is. Without
 * `initial`, as PEFT saves them, PiSSA and OLoRA are computed again from `model`'s weights.
 *
 * @throws LowrankError "adapter" when the residual cannot be had: `pissa_niter_<number>` (its vectors were drawn), "corda",
 * "loftq" and "lora_ga" without `initial`, or no `model` where one is needed.
 * @example
 * const plain = plainAdapter(readAdapter(files), model); // W + s B A, whatever it was trained as
 */
export function plainAdapter(adapter: Adapter, model?: Model): Adapter {
  if (!hasResidualBase(adapter)) return adapter;
  const initial = adapter.initial ?? recomputed(adapter, model);
  const tensors = new Map<string, Tensor>();
  const faults = [...initial.keys()].filter((key) => !adapter.tensors.has(key)).map((key) => `${key}: missing`);
  for (const [key, trained] of adapter.tensors) {
    const part = partOf(key);
    // An Embedding has no residual: its rank grows with the others', by zeros.
    const first = initial.get(key) ?? (part === undefined ? trained : zeros(trained.dims));
    if (trained.type !== "float32" || first.type !== "float32" || trained.dims.join() !== first.dims.join()) {
      faults.push(`${key}: expected ${first.type} [${first.dims}], got ${trained.type} [${trained.dims}]`);
    } else if (part === undefined) tensors.set(key, trained);
    else tensors.set(key, part === "A" ? stackRows(trained, first, 1) : besideColumns(trained, first, -1));
  }
  throwFaults("adapter", "adapter: it does not fit the residual that it was trained on", faults);
  return { config: doubled(adapter.config), tensors };
}

/** Which factor a key names; undefined for what is none (biases, magnitudes, whole modules). */
function partOf(key: string): "A" | "B" | undefined {
  const end = /\.lora_(?:embedding_([AB])|([AB])\.weight)$/.exec(key);
  return (end?.[1] ?? end?.[2]) as "A" | "B" | undefined;
}

/** [top; factor * bottom], of one width. */
export function stackRows(top: Tensor<"float32">, bottom: Tensor<"float32">, factor: number): Tensor<"float32"> {
  const dims = [top.dims[0]! + bottom.dims[0]!, ...top.dims.slice(1)];
  const data = new Float32Array(elementCount(dims));
  data.set(top.data);
  for (let i = 0; i < bottom.data.length; i++) data[top.data.length + i] = factor * bottom.data[i]!;
  return tensor("float32", dims, data);
}

/** [left, factor * right], of one height. */
export function besideColumns(left: Tensor<"float32">, right: Tensor<"float32">, factor: number): Tensor<"float32"> {
  const [rows, before] = left.dims as [number, number];
  const after = right.dims[1]!;
  const data = new Float32Array(rows * (before + after));
  for (let i = 0; i < rows; i++) {
    data.set(left.data.subarray(i * before, (i + 1) * before), i * (before + after));
    for (let j = 0; j < after; j++) data[i * (before + after) + before + j] = factor * right.data[i * after + j]!;
  }
  return tensor("float32", [rows, before + after], data);
}

/** Twice the rank at the same scale: alpha grows with r, or with its root under rsLoRA. */
function doubled(config: AdapterConfig): AdapterConfig {
  const factor = config.useRslora ? Math.SQRT2 : 2;
  const each = (pattern: Readonly<Record<string, number>>, by: number): Record<string, number> =>
    Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, value * by]));
  return {
    ...config,
    r: config.r * 2,
    loraAlpha: config.loraAlpha * factor,
    rankPattern: each(config.rankPattern, 2),
    alphaPattern: each(config.alphaPattern, factor),
    initLoraWeights: true,
  };
}

/**
 * What training of `adapter` goes on from: the model over the residual that its A and B belong to, and the adapter with what was
 * taken out.
 *
 * @throws LowrankError "config" when `adapted` is over another adapter's residual; "adapter" as `plainAdapter`.
 */
export function resumeFrom(adapted: AdaptedModel, adapter: Adapter): { adapted: AdaptedModel; adapter: Adapter } {
  const initial = hasResidualBase(adapter) ? (adapter.initial ?? recomputed(adapter, adapted.base)) : null;
  if (initial === adapted.initial) return { adapted, adapter };
  if (adapted.initial !== null || initial === null) {
    throw new LowrankError(
      "config",
      "the model is over the residual of another adapter; start again from attachLora(model, config)",
    );
  }
  return { adapted: onResidual(adapted, initial), adapter: { ...adapter, initial } };
}

/** A0 and B0 of an adapter that came without them. */
function recomputed({ config, tensors }: Adapter, model: Model | undefined): Map<string, Tensor> {
  const name = JSON.stringify(config.initLoraWeights);
  const method = principalMethod(config.initLoraWeights);
  if (method === undefined || !isReproducible(method)) {
    throw new LowrankError(
      "adapter",
      `initLoraWeights ${name}: the base that it was trained on cannot be computed again; save it with PEFT as plain LoRA (path_initial_model_for_weight_conversion)`,
    );
  }
  if (model === undefined) {
    throw new LowrankError(
      "adapter",
      `initLoraWeights ${name}: expected the base model with it, got none; pass the model`,
    );
  }
  const places = sites(model).flatMap((site): Place[] => {
    const { a, b } = adapterKeys(site.modulePath, site.kind);
    if (!tensors.has(a)) return [];
    return [{ site, r: rankOf(config, site.modulePath), scale: scaleOf(config, site.modulePath), a, b }];
  });
  return principalTensors(model, places, method, 0);
}
