// LoRA configuration and the adapter itself, in PEFT's words (camelCase). Method: Hu et al. 2021,
// "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
import { throwFaults } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/** How A starts; B starts at zero. `true` is PEFT's default, U(-1/sqrt(in), 1/sqrt(in)); "gaussian" is N(0, (1/r)^2). */
export type InitLoraWeights = true | "gaussian";

/** What to adapt and how. Names and defaults are those of PEFT's adapter_config.json. */
export interface LoraConfig {
  /** Rank of the update; default 8. */
  r?: number;
  /** The update is scaled by loraAlpha / r; default 8. */
  loraAlpha?: number;
  /** Module paths or their last segments, a regular expression matched in full (a string), or "all-linear" (default). */
  targetModules?: readonly string[] | string;
  /** Paths to leave out, read like targetModules. */
  excludeModules?: readonly string[] | string;
  /** Scale by loraAlpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732). Default false. */
  useRslora?: boolean;
  /** Rank by module path or pattern, over r. */
  rankPattern?: Readonly<Record<string, number>>;
  /** Alpha by module path or pattern, over loraAlpha. */
  alphaPattern?: Readonly<Record<string, number>>;
  /** The layer stores its weight as [in, out] (Hugging Face Conv1D). Default false. */
  fanInFanOut?: boolean;
  initLoraWeights?: InitLoraWeights;
  /** What PEFT calls base_model_name_or_path. */
  baseModelNameOrPath?: string;
  taskType?: string;
}

/** A trained or fresh adapter: PEFT's configuration and its tensors, keyed as PEFT keys them in adapter_model.safetensors. */
export interface Adapter {
  readonly config: AdapterConfig;
  /** `base_model.model.<module path>.lora_A.weight` [r, in] and `….lora_B.weight` [out, r]. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** A LoraConfig with every default filled in, and the keys of a read file that we do not interpret, kept for writing. */
export interface AdapterConfig
  extends Required<Omit<LoraConfig, "excludeModules" | "baseModelNameOrPath" | "taskType" | "initLoraWeights">> {
  readonly excludeModules: readonly string[] | string | null;
  readonly baseModelNameOrPath: string | null;
  readonly taskType: string | null;
  /** As in the file: true, false, "gaussian", or another of PEFT's names. */
  readonly initLoraWeights: boolean | string;
  /** Further keys of adapter_config.json exactly as they were read (snake_case). */
  readonly extra: Readonly<Record<string, unknown>>;
}

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
    extra: {},
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
