// Fresh adapters. One factor starts at zero, so that the adapted model starts as the base (Hu et al. 2021, section 4.1): B, or
// an Embedding's A, whose B is drawn from N(0, 1) whatever the method is (PEFT 0.21, reset_lora_parameters).
import { LowrankError } from "../errors.ts";
import { createRandom, type Random } from "../random.ts";
import { elementCount, type Tensor, zeros } from "../tensor.ts";
import type { AdaptedModel } from "./adapted.ts";
import type { Adapter } from "./config.ts";
import { factorDims } from "./factors.ts";

export interface InitOptions {
  /** Default 0. The same seed gives the same adapter. */
  readonly seed?: number;
  /** How A is drawn; by default what the configuration's initLoraWeights says. */
  readonly method?: InitMethod;
}

/** PEFT's true (A ~ U(-1/sqrt(in), 1/sqrt(in))) and "gaussian" (A ~ N(0, (1/r)^2)); "normal" is A ~ N(0, 1), as the study has it. */
export type InitMethod = true | "gaussian" | "normal";

/**
 * An adapter to start training from: A random, B zero; at an Embedding the other way round. What is trained beside A and B
 * starts as the base has it.
 *
 * @example const { adapter } = initAdapter(adapted, { seed: 1 });
 */
export function initAdapter(
  adapted: AdaptedModel,
  { seed = 0, method }: InitOptions = {},
): { adapted: AdaptedModel; adapter: Adapter } {
  const { config } = adapted;
  if (config === null) throw new LowrankError("config", "initAdapter: the model has no LoRA branches; use attachLora");
  const tensors = new Map<string, Tensor>();
  for (const { site, r, a, b } of adapted.sites) {
    // A stream for each module: adding a target never changes what the others start from.
    const random = createRandom(seed, `init ${a}`);
    const [A, B] = [zeros(factorDims(site, r).a), zeros(factorDims(site, r).b)];
    if (site.kind === "Embedding") fillNormal(B.data, random, 1);
    else fill(A.data, random, method ?? config.initLoraWeights, r, A.data.length / r);
    tensors.set(a, A);
    tensors.set(b, B);
  }
  for (const [key, start] of startsOf(adapted)) tensors.set(key, start);
  return { adapted, adapter: { config, tensors } };
}

function fill(values: Float32Array, random: Random, method: boolean | string, r: number, fanIn: number): void {
  if (method === true) fillUniform(values, random, 1 / Math.sqrt(fanIn));
  else if (method === "gaussian") fillNormal(values, random, 1 / r);
  else if (method === "normal") fillNormal(values, random, 1);
  else
    throw new LowrankError(
      "config",
      `initLoraWeights: expected true, "gaussian" or "normal", got ${JSON.stringify(method)}`,
    );
}

/** Uniform in [-bound, bound). */
export function fillUniform(values: Float32Array, random: Random, bound: number): void {
  for (let index = 0; index < values.length; index++) values[index] = (2 * random.uniform() - 1) * bound;
}

function fillNormal(values: Float32Array, random: Random, deviation: number): void {
  for (let index = 0; index < values.length; index++) values[index] = random.normal() * deviation;
}

/**
 * The adapter that changes nothing, for running an adapted model as its base: rank 0 at every site. A Conv without channels
 * is no Conv (the runtime leaves its output as the memory was), so that those get zeros of their least rank.
 */
export function disabledTensors(adapted: AdaptedModel): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const { site, a, b } of adapted.sites) {
    const dims = factorDims(site, site.kernel.length === 0 ? 0 : site.groups);
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
