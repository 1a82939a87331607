// LoRA configuration and the adapter itself, in PEFT's words (camelCase). Method: Hu et al. 2021,
// "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
import { throwFaults } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

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
  /** The layer stores its weight as [in, out] (Hugging Face Conv1D). Default false. */
  fanInFanOut?: boolean;
  /** How A starts; B starts at zero. `true` (default) is U(-1/sqrt(in), 1/sqrt(in)); "gaussian" is N(0, (1/r)^2). */
  initLoraWeights?: boolean | string;
  /** What PEFT calls base_model_name_or_path. */
  baseModelNameOrPath?: string | null;
  taskType?: string | null;
  /** Further keys of adapter_config.json exactly as they were read (snake_case), kept for writing. */
  extra?: Readonly<Record<string, unknown>>;
}

/** A trained or fresh adapter: PEFT's configuration and its tensors, keyed as PEFT keys them in adapter_model.safetensors. */
export interface Adapter {
  readonly config: AdapterConfig;
  /** `base_model.model.<module path>.lora_A.weight` [r, in] and `….lora_B.weight` [out, r]. */
  readonly tensors: ReadonlyMap<string, Tensor>;
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
  throwFaults("config", "LoRA configuration", faults);
  return resolved;
}
