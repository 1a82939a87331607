// LoRA configuration and the adapter itself, in PEFT's words (camelCase). Method: Hu et al. 2021,
// "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
import { throwFaults } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { layerFaults } from "./layers.ts";

/** What to adapt and how. Names and defaults are those of PEFT's adapter_config.json; an adapter's config is one too. */
export interface LoraConfig {
  /** Rank of the update; default 8. */
  r?: number;
  /** The update is scaled by loraAlpha / r; default 8. */
  loraAlpha?: number;
  /** Module paths or their last segments, a regular expression matched in full (a string), or "all-linear" (default). */
  targetModules?: readonly string[] | string;
  /** Paths to leave out, read like targetModules. */
  excludeModules?: readonly string[] | string | null;
  /** Scale by loraAlpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732). Default false. */
  useRslora?: boolean;
  /** Rank by module path or pattern, over r. */
  rankPattern?: Readonly<Record<string, number>>;
  /** Alpha by module path or pattern, over loraAlpha. */
  alphaPattern?: Readonly<Record<string, number>>;
  /** The layers store their weights as [in, out] (Hugging Face Conv1D). Default: whether all targeted Linear layers do. */
  fanInFanOut?: boolean;
  /**
   * How A and B start. `true` (default): A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0; "gaussian": A ~ N(0, (1/r)^2), B = 0;
   * "orthogonal": both random, B A = 0; "pissa", "pissa_niter_<number>" and "olora" from the weights; "eva" from data
   * (`initEva`); "loftq" from what quantization lost (`initLoftq`); false: both random.
   */
  initLoraWeights?: boolean | string;
  /** Probability that a value of a layer's input is dropped before A, in training only; default 0. */
  loraDropout?: number;
  /** Only layers of these numbers: the first number in a module path behind the name of a container. Needs a list of targets. */
  layersToTransform?: number | readonly number[] | null;
  /** What the containers are called (`layers`, `h`), as regular expressions; default: any name. */
  layersPattern?: string | readonly string[] | null;
  /** Train each weight's magnitude apart from its direction (DoRA; Liu et al. 2024, arXiv:2402.09353). Default false. */
  useDora?: boolean;
  /** A bias behind B. Default false. */
  loraBias?: boolean;
  /** Biases that are trained too: "none" (default), those of the targets ("lora_only"), or "all". */
  bias?: "none" | "all" | "lora_only";
  /** Modules trained whole, such as a classification head: the ends of their names, or of the names of what they are in. */
  modulesToSave?: readonly string[] | null;
  /**
   * Rows of the input embedding that are trained, or those of embeddings and output layers by module path. An output layer with
   * the embedding's weight follows its rows, unless it is listed with rows of its own. PEFT asks the model's class about that,
   * which a model file does not tell of; an adapter file that names a class outside transformers (auto_mapping) follows none.
   */
  trainableTokenIndices?: readonly number[] | Readonly<Record<string, readonly number[]>> | null;
  /** What PEFT calls base_model_name_or_path. */
  baseModelNameOrPath?: string | null;
  taskType?: string | null;
  /** Further keys of adapter_config.json exactly as they were read (snake_case), kept for writing. */
  extra?: Readonly<Record<string, unknown>>;
}

/** A trained or fresh adapter: PEFT's configuration and its tensors, keyed as PEFT keys them in adapter_model.safetensors. */
export interface Adapter {
  readonly config: AdapterConfig;
  /** `base_model.model.<module path>.lora_A.weight` [r, in], `….lora_B.weight` [out, r], and what the variants add (keys.ts). */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /**
   * By key, the A0 and B0 that PiSSA or OLoRA started with: A and B belong to the residual W - s B0 A0 then. `plainAdapter`
   * gives what it is on the base itself.
   */
  readonly initial?: ReadonlyMap<string, Tensor>;
  /** The names of the classes that a head of its own (`withHead`) tells apart; a file `labels.json` beside PEFT's two. */
  readonly labels?: readonly string[];
  /** The type that a file holds a tensor in, by key, where that is not float32; memory has float32 all the same. */
  readonly storage?: ReadonlyMap<string, StorageType>;
}

/** Types that adapter files hold tensors in beside float32; int8 is symmetric, with one scale for each row. */
export type StorageType = "float16" | "bfloat16" | "int8";

/** A LoraConfig with every default filled in. */
export type AdapterConfig = Readonly<Required<LoraConfig>>;

/** The configuration with PEFT's defaults filled in. Throws LowrankError "config" that lists every faulty value. */
export function resolveConfig(config: LoraConfig): AdapterConfig {
  const resolved: AdapterConfig = {
    r: config.r ?? 8,
    loraAlpha: config.loraAlpha ?? 8,
    targetModules: config.targetModules ?? "all-linear",
    excludeModules: config.excludeModules ?? null,
    useRslora: config.useRslora ?? false,
    rankPattern: config.rankPattern ?? {},
    alphaPattern: config.alphaPattern ?? {},
    fanInFanOut: config.fanInFanOut ?? false,
    initLoraWeights: config.initLoraWeights ?? true,
    loraDropout: config.loraDropout ?? 0,
    layersToTransform: config.layersToTransform ?? null,
    layersPattern: config.layersPattern ?? null,
    useDora: config.useDora ?? false,
    loraBias: config.loraBias ?? false,
    bias: config.bias ?? "none",
    modulesToSave: config.modulesToSave ?? null,
    trainableTokenIndices: config.trainableTokenIndices ?? null,
    baseModelNameOrPath: config.baseModelNameOrPath ?? null,
    taskType: config.taskType ?? null,
    extra: config.extra ?? {},
  };
  const faults: string[] = [];
  const checkRank = (name: string, r: number): void => {
    if (!Number.isInteger(r) || r < 1) faults.push(`${name}: expected a whole number of 1 or more, got ${r}`);
  };
  const checkAlpha = (name: string, alpha: number): void => {
    if (!Number.isFinite(alpha) || alpha <= 0) faults.push(`${name}: expected a number above 0, got ${alpha}`);
  };
  checkRank("r", resolved.r);
  checkAlpha("loraAlpha", resolved.loraAlpha);
  for (const [path, r] of Object.entries(resolved.rankPattern)) checkRank(`rankPattern ${JSON.stringify(path)}`, r);
  for (const [path, alpha] of Object.entries(resolved.alphaPattern))
    checkAlpha(`alphaPattern ${JSON.stringify(path)}`, alpha);
  if (!(resolved.loraDropout >= 0 && resolved.loraDropout < 1)) {
    faults.push(`loraDropout: expected a number of at least 0 and below 1, got ${resolved.loraDropout}`);
  }
  if (!biases.includes(resolved.bias))
    faults.push(`bias: expected ${biases.join(", ")}, got ${JSON.stringify(resolved.bias)}`);
  // PEFT refuses the pair too: the bias would have to be scaled with the direction.
  if (resolved.useDora && resolved.loraBias)
    faults.push("loraBias: expected false with useDora, got true; use one of them");
  if (resolved.modulesToSave?.some((entry) => entry === ""))
    faults.push('modulesToSave: expected the ends of module names, got ""');
  for (const [path, indices] of tokenEntries(resolved.trainableTokenIndices)) {
    const isList = indices.length > 0 && indices.every((index) => Number.isInteger(index) && index >= 0);
    if (!isList || new Set(indices).size < indices.length)
      faults.push(
        `trainableTokenIndices${path === null ? "" : ` ${JSON.stringify(path)}`}: expected distinct row numbers`,
      );
  }
  throwFaults("config", "LoRA configuration", [...faults, ...layerFaults(resolved)]);
  return resolved;
}

/** What `bias` can be. */
export const biases: readonly string[] = ["none", "all", "lora_only"];

/** Trained rows by the path of their embedding; null stands for the input embedding. */
export function tokenEntries(
  tokens: AdapterConfig["trainableTokenIndices"],
): (readonly [path: string | null, indices: readonly number[]])[] {
  if (tokens === null) return [];
  return Array.isArray(tokens) ? [[null, tokens as readonly number[]]] : Object.entries(tokens);
}
