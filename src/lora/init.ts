// Fresh adapters. The adapted model starts as the base (Hu et al. 2021, section 4.1): one factor is zero (B, or an Embedding's A),
// or B A is, or what B A adds was taken out of the weights (PEFT 0.21, tuners/lora/layer.py). Methods: init/.
import { LowrankError, throwFaults } from "../errors.ts";
import { createRandom } from "../random.ts";
import { elementCount, type Tensor, zeros } from "../tensor.ts";
import type { AdaptedModel } from "./adapted.ts";
import type { Adapter } from "./config.ts";
import { factorDims } from "./factors.ts";
import { labelsOfModel } from "./head.ts";
import { principalMethod } from "./init/principal.ts";
import { drawFactors } from "./init/random.ts";
import { onResidual, principalTensors } from "./residual.ts";

export interface InitOptions {
  /** Default 0. The same seed gives the same adapter. */
  readonly seed?: number;
  /** How A is drawn; by default what the configuration's initLoraWeights says. */
  readonly method?: InitMethod;
}

/**
 * PEFT's init_lora_weights; "normal" is A ~ N(0, 1), as the study has it. "eva" and "loftq" need more than the model: see
 * `initEva` and `initLoftq`.
 */
export type InitMethod = boolean | "gaussian" | "normal" | "orthogonal" | "pissa" | `pissa_niter_${number}` | "olora";

/**
 * An adapter to start training from, as `method` or else the configuration's initLoraWeights says. PiSSA and OLoRA take the
 * adapter out of the weights: the `adapted` that comes back is over what is left, and computes what the base does.
 * What is trained beside A and B starts as the base has it.
 *
 * @throws LowrankError "config" for a method that is not known, an odd rank with "orthogonal", layers that are no Linear ones
 * with "pissa", "olora" or "orthogonal" (as in PEFT; Embeddings start as ever); "model" for weights that are not stored as
 * float32.
 * @example const { adapted: ready, adapter } = initAdapter(adapted, { method: "pissa" });
 */
export function initAdapter(
  adapted: AdaptedModel,
  { seed = 0, method }: InitOptions = {},
): { adapted: AdaptedModel; adapter: Adapter } {
  const { config } = adapted;
  if (config === null) throw new LowrankError("config", "initAdapter: the model has no LoRA branches; use attachLora");
  const chosen = method ?? config.initLoraWeights;
  const own = chosen === config.initLoraWeights ? config : { ...config, initLoraWeights: chosen };
  const principal = principalMethod(chosen);
  checkMethod(adapted, chosen);
  const initial = principal && principalTensors(adapted.base, adapted.sites, principal, seed);
  const tensors = new Map<string, Tensor>();
  for (const adaptedSite of adapted.sites) {
    const { site, r, a, b } = adaptedSite;
    // A stream for each module: adding a target never changes what the others start from.
    const random = createRandom(seed, `init ${a}`);
    const [A, B] = [zeros(factorDims(site, r).a), zeros(factorDims(site, r).b)];
    if (initial?.has(a)) {
      A.data.set(initial.get(a)!.data as Float32Array);
      B.data.set(initial.get(b)!.data as Float32Array);
    } else drawFactors(adaptedSite, principal === undefined ? chosen : true, random, { A: A.data, B: B.data });
    tensors.set(a, A);
    tensors.set(b, B);
  }
  for (const [key, start] of startsOf(adapted)) tensors.set(key, start);
  const names = config.modulesToSave === null ? null : labelsOfModel(adapted.base);
  const fresh = { config: own, tensors, ...(names && { labels: names }) };
  if (initial === undefined) return { adapted, adapter: fresh };
  return { adapted: onResidual(adapted, initial), adapter: { ...fresh, initial } };
}

/** Throws LowrankError "config" where a method cannot start this model, with all sites that are in the way. */
function checkMethod({ sites, initial, config }: AdaptedModel, method: boolean | string): void {
  if (initial !== null) {
    throw new LowrankError("config", "initAdapter: the model has an adapter taken out of it; start from attachLora");
  }
  if (method === "eva" || method === "loftq") {
    const call = method === "eva" ? "initEva(adapted, batches)" : "initLoftq(adapted, floatModel)";
    throw new LowrankError("config", `initLoraWeights: "${method}" needs more than the model; call ${call}`);
  }
  if (principalMethod(method) !== undefined && config?.useDora === true) {
    throw new LowrankError("config", `initLoraWeights ${JSON.stringify(method)}: not defined with useDora; use true`);
  }
  if (method !== "orthogonal") return;
  const faults = sites.flatMap(({ site: { kind, modulePath }, r }) => {
    if (kind === "Embedding") return [];
    if (kind !== "Linear") return [`${modulePath}: expected a Linear layer, got ${kind}; exclude it`];
    return r % 2 === 0 ? [] : [`${modulePath}: expected an even rank, got ${r}`];
  });
  throwFaults("config", 'initLoraWeights "orthogonal"', faults);
}

/**
 * The adapter that changes nothing, for running an adapted model as its base: rank 0 at every site. A Conv without channels
 * is no Conv (the runtime leaves its output as the memory was), so that those get zeros of their least rank; `withoutEmpty` does
 * so everywhere, for devices whose products of empty matrices fail.
 */
export function disabledTensors(
  adapted: AdaptedModel,
  { withoutEmpty = false }: { readonly withoutEmpty?: boolean } = {},
): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const { site, a, b } of adapted.sites) {
    const dims = factorDims(site, withoutEmpty || site.kernel.length > 0 ? site.groups : 0);
    tensors.set(a, zeros(dims.a));
    tensors.set(b, zeros(dims.b));
  }
  for (const [key, start] of startsOf(adapted)) tensors.set(key, start);
  return tensors;
}

/** The values with which what is trained beside A and B changes nothing. */
function startsOf({ parameters }: AdaptedModel): [string, Tensor][] {
  return parameters.flatMap(({ key, start }) => (start === undefined ? [] : [[key, start()] as [string, Tensor]]));
}

/** How many values an adapter trains. */
export function parameterCount(adapted: AdaptedModel): number {
  return adapted.parameters.reduce((sum, { dims }) => sum + elementCount(dims), 0);
}
