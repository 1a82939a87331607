// adapter_config.json to and from AdapterConfig: PEFT's names and defaults, all that we do not interpret kept for writing,
// and what would change the mathematics refused by name. Reference: PEFT 0.21, tuners/lora/config.py and config.py.
import type { AdapterConfig } from "../lora/config.ts";
import { orderFree, patternFault } from "../lora/scale.ts";
import {
  compareCodePoints,
  decodeUtf8,
  describe,
  type JsonObject,
  type JsonValue,
  parseJson,
  pythonJson,
  quote,
  RawNumber,
  toPlain,
} from "./json.ts";

/** Real ones have about 1 KB; those with a rank for each module of a large model, tens. */
const maxConfigBytes = 4_000_000;

/** Every key that PEFT 0.21 writes for a LoRA and that AdapterConfig does not hold, with PEFT's default. */
const uninterpreted: Readonly<Record<string, unknown>> = {
  alora_invocation_tokens: null,
  arrow_config: null,
  auto_mapping: null,
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  inference_mode: true,
  kasa_config: null,
  layer_replication: null,
  loftq_config: {},
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  monteclora_config: null,
  peft_version: "0.21.0",
  qalora_group_size: 16,
  revision: null,
  target_parameters: null,
  use_bdlora: null,
  use_qalora: false,
  velora_config: null,
};

/** The keys that AdapterConfig holds. */
const interpreted: ReadonlySet<string> = new Set([
  ...[
    "alpha_pattern",
    "bias",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
  ],
  ...["peft_type", "r", "rank_pattern", "target_modules", "task_type", "use_rslora"],
  ...["trainable_token_indices", "use_dora"],
]);

/** Keys that change what the adapter computes, or what it stores, when they are neither null, false nor empty. */
const unsupported: readonly string[] = [
  ...["target_parameters", "layer_replication"],
  ...["use_qalora", "alora_invocation_tokens", "megatron_config", "arrow_config", "kasa_config", "monteclora_config"],
  ...["velora_config", "use_bdlora", "ensure_weight_tying"],
];

/**
 * Initialisations whose A and B are plain LoRA, or can be made it: EVA sets A from activations; the residual that "pissa" and
 * "olora" leave is computed again from the base (lora/residual.ts).
 */
const knownInitialisations: ReadonlySet<string> = new Set(["gaussian", "orthogonal", "eva", "pissa", "olora"]);

/** Initialisations that also change the base, in a way that cannot be computed again. */
const residualInitialisations = /^(?:pissa_niter_\d+|corda|loftq|lora_ga)$/;

/**
 * Reads adapter_config.json. Adds every fault to `faults`, and to `warnings` what PEFT 0.21 does not know. Returns null when
 * there were faults. `targetModules` is empty where the file names none. Ranks over `maxRank` are refused.
 */
export function readConfig(
  bytes: Uint8Array,
  maxRank: number,
  faults: string[],
  warnings: string[],
): AdapterConfig | null {
  const before = faults.length;
  const object = readObject(bytes, faults);
  if (object === null) return null;
  const peftType = object.get("peft_type");
  if (peftType !== "LORA")
    faults.push(`peft_type: expected "LORA", got ${describe(peftType)}; only LoRA adapters can be read`);
  checkFeatures(object, faults);
  const extra: [string, unknown][] = [];
  for (const [key, value] of object) {
    if (interpreted.has(key)) continue;
    if (!Object.hasOwn(uninterpreted, key))
      warnings.push(`key ${quote(key)} is not known: it is kept, and has no effect`);
    extra.push([key, toPlain(value)]);
  }
  // "0" and "1e-1" are numbers too, and are to be written as they were.
  const dropout = object.get("lora_dropout");
  if (dropout instanceof RawNumber) extra.push(["lora_dropout", dropout]);
  const rank: Read<number> = (value, where) => readRank(value, where, maxRank, faults);
  const finite: Read<number> = (value, where) => readFinite(value, where, faults);
  const given = (key: string): JsonValue => object.get(key) ?? (object.has(key) ? null : new RawNumber("8"));
  const config: AdapterConfig = {
    r: rank(given("r"), "r"),
    loraAlpha: finite(given("lora_alpha"), "lora_alpha"),
    targetModules: readModules(object, "target_modules", faults) ?? [],
    excludeModules: readModules(object, "exclude_modules", faults),
    useRslora: readBoolean(object, "use_rslora", faults),
    rankPattern: readPattern(object, "rank_pattern", rank, faults),
    alphaPattern: readPattern(object, "alpha_pattern", finite, faults),
    fanInFanOut: readBoolean(object, "fan_in_fan_out", faults),
    initLoraWeights: readInitialisation(object.get("init_lora_weights"), faults),
    loraDropout: readDropout(object, faults),
    layersToTransform: readLayers(object, faults),
    layersPattern: readModules(object, "layers_pattern", faults),
    useDora: readBoolean(object, "use_dora", faults),
    loraBias: readBoolean(object, "lora_bias", faults),
    bias: readBias(object.get("bias"), faults),
    modulesToSave: readNames(object, "modules_to_save", faults),
    trainableTokenIndices: readTokens(object.get("trainable_token_indices") ?? null, faults),
    baseModelNameOrPath: readText(object, "base_model_name_or_path", faults),
    taskType: readText(object, "task_type", faults),
    extra: Object.fromEntries(extra),
  };
  return faults.length === before ? config : null;
}

/**
 * The bytes of adapter_config.json, as PEFT writes it: every key of PEFT 0.21, sorted. `modules` are the adapted module
 * paths, which "all-linear" is expanded to.
 */
export function writeConfig(config: AdapterConfig, modules: readonly string[]): Uint8Array {
  const pattern = (keys: Readonly<Record<string, number>>, usual: number): Map<string, number> =>
    patternEntries(orderFree(keys, modules, usual, compareCodePoints));
  const object: Record<string, unknown> = {
    ...uninterpreted,
    ...config.extra,
    alpha_pattern: pattern(config.alphaPattern, config.loraAlpha),
    bias: config.bias,
    base_model_name_or_path: config.baseModelNameOrPath,
    exclude_modules: config.excludeModules,
    fan_in_fan_out: config.fanInFanOut,
    init_lora_weights: writtenStart(config),
    layers_pattern: config.layersPattern,
    layers_to_transform: config.layersToTransform,
    lora_alpha: config.loraAlpha,
    lora_dropout: writtenAs(config.extra.lora_dropout, config.loraDropout) ?? pythonFloat(config.loraDropout),
    lora_bias: config.loraBias,
    modules_to_save: config.modulesToSave,
    peft_type: "LORA",
    r: config.r,
    rank_pattern: pattern(config.rankPattern, config.r),
    target_modules: config.targetModules === "all-linear" ? modules : config.targetModules,
    task_type: config.taskType,
    trainable_token_indices: config.trainableTokenIndices,
    use_dora: config.useDora,
    use_rslora: config.useRslora,
  };
  return new TextEncoder().encode(pythonJson(object));
}

/**
 * How A and B started, where PEFT takes the name: it knows no "normal", which is the study's own, and of names none with
 * lora_bias. A directory is loaded over whatever it starts from.
 */
function writtenStart({ initLoraWeights, loraBias }: AdapterConfig): boolean | string {
  const isRefused = initLoraWeights === "normal" || (loraBias && typeof initLoraWeights === "string");
  return isRefused ? true : initLoraWeights;
}

function readObject(bytes: Uint8Array, faults: string[]): JsonObject | null {
  if (bytes.length > maxConfigBytes) {
    faults.push(`expected at most ${maxConfigBytes} bytes, got ${bytes.length}`);
    return null;
  }
  const text = decodeUtf8(bytes);
  if (text === null) {
    faults.push("expected UTF-8 text, got other bytes");
    return null;
  }
  try {
    const value = parseJson(text, faults);
    if (value instanceof Map) return value;
    faults.push(`expected a JSON object, got ${describe(value)}`);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    faults.push(`expected JSON: ${error.message}`);
  }
  return null;
}

function checkFeatures(object: JsonObject, faults: string[]): void {
  for (const key of unsupported) {
    const value = object.get(key) ?? null;
    if (value === null || value === false || (Array.isArray(value) && value.length === 0)) continue;
    faults.push(`${key}: not supported, got ${describe(value)}; save the adapter without it`);
  }
  if (object.get("use_dora") === true && object.get("lora_bias") === true)
    faults.push("lora_bias: expected false with use_dora, got true");
}

type Read<T> = (value: JsonValue, where: string) => T;

function readRank(value: JsonValue, where: string, maxRank: number, faults: string[]): number {
  const rank = value instanceof RawNumber && /^\d+$/.test(value.text) ? value.valueOf() : 0;
  if (rank < 1) faults.push(`${where}: expected a positive whole number, got ${describe(value)}`);
  else if (rank > maxRank)
    faults.push(`${where}: expected a rank of at most ${maxRank}, got ${describe(value)}; raise maxRank`);
  return rank;
}

function readFinite(value: JsonValue, where: string, faults: string[]): number {
  if (value instanceof RawNumber && Number.isFinite(value.valueOf())) return value.valueOf();
  faults.push(`${where}: expected a finite number, got ${describe(value)}`);
  return 0;
}

/** Absent and null are false, as they are to PEFT. */
function readBoolean(object: JsonObject, key: string, faults: string[]): boolean {
  const value = object.get(key) ?? false;
  if (typeof value === "boolean") return value;
  faults.push(`${key}: expected true or false, got ${describe(value)}`);
  return false;
}

/** A number as it stood in the file, where it still says the same. */
function writtenAs(kept: unknown, value: number): RawNumber | undefined {
  return kept instanceof RawNumber && kept.valueOf() === value ? kept : undefined;
}

/** PEFT's default is 0.0; a whole number is written with its point, as Python writes floats. */
function pythonFloat(value: number): unknown {
  return Number.isInteger(value) ? new RawNumber(`${value}.0`) : value;
}

function readDropout(object: JsonObject, faults: string[]): number {
  const value = object.get("lora_dropout") ?? new RawNumber("0.0");
  const rate = value instanceof RawNumber ? value.valueOf() : Number.NaN;
  if (rate >= 0 && rate < 1) return rate;
  faults.push(`lora_dropout: expected a number of at least 0 and below 1, got ${describe(value)}`);
  return 0;
}

function readLayers(object: JsonObject, faults: string[]): number | readonly number[] | null {
  const value = object.get("layers_to_transform") ?? null;
  const isLayer = (item: JsonValue): item is RawNumber => item instanceof RawNumber && /^\d+$/.test(item.text);
  if (value === null) return null;
  if (isLayer(value)) return value.valueOf();
  if (Array.isArray(value) && value.every(isLayer)) return value.map((item) => item.valueOf());
  faults.push(`layers_to_transform: expected a number, a list of numbers or null, got ${describe(value)}`);
  return null;
}

function readBias(value: JsonValue | undefined, faults: string[]): AdapterConfig["bias"] {
  if (value === undefined || value === "none" || value === "all" || value === "lora_only") return value ?? "none";
  faults.push(`bias: expected "none", "all" or "lora_only", got ${describe(value)}`);
  return "none";
}

function readNames(object: JsonObject, key: string, faults: string[]): readonly string[] | null {
  const value = object.get(key) ?? null;
  if (value === null) return null;
  if (Array.isArray(value) && value.every((item) => typeof item === "string" && item !== "")) return value as string[];
  faults.push(`${key}: expected a list of names or null, got ${describe(value)}`);
  return null;
}

/** Row numbers, or lists of them by module path. */
function readTokens(value: JsonValue, faults: string[]): AdapterConfig["trainableTokenIndices"] {
  const where = "trainable_token_indices";
  if (value === null) return null;
  if (!(value instanceof Map)) return readRows(value, where, faults);
  const entries = [...value].map(([path, rows]) => [path, readRows(rows, `${where} ${quote(path)}`, faults)] as const);
  if (entries.some(([path]) => path === "__proto__"))
    faults.push(`${where}: expected names of modules, got "__proto__"`);
  return Object.fromEntries(entries);
}

function readRows(value: JsonValue, where: string, faults: string[]): readonly number[] {
  const rows = Array.isArray(value)
    ? value.map((item) => (item instanceof RawNumber && /^\d{1,15}$/.test(item.text) ? item.valueOf() : -1))
    : [];
  if (rows.length > 0 && !rows.includes(-1) && new Set(rows).size === rows.length) return rows;
  faults.push(`${where}: expected a list of distinct row numbers, got ${describe(value)}`);
  return [];
}

function readText(object: JsonObject, key: string, faults: string[]): string | null {
  const value = object.get(key) ?? null;
  if (value === null || typeof value === "string") return value;
  faults.push(`${key}: expected a string or null, got ${describe(value)}`);
  return null;
}

function readModules(object: JsonObject, key: string, faults: string[]): readonly string[] | string | null {
  const value = object.get(key) ?? null;
  if (value === null || typeof value === "string") return value;
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  faults.push(`${key}: expected a list of names, a regular expression or null, got ${describe(value)}`);
  return null;
}

function readInitialisation(value: JsonValue | undefined, faults: string[]): boolean | string {
  if (value === undefined) return true;
  if (value === null) return false;
  if (typeof value === "boolean") return value;
  if (typeof value === "string" && knownInitialisations.has(value)) return value;
  const residual = typeof value === "string" && residualInitialisations.test(value);
  faults.push(
    residual
      ? `init_lora_weights: ${describe(value)} is not supported, as its base model is not the original one; save it with PEFT as plain LoRA (path_initial_model_for_weight_conversion)`
      : `init_lora_weights: expected true, false, "gaussian", "orthogonal", "eva", "pissa" or "olora", got ${describe(value)}`,
  );
  return true;
}

function readPattern(object: JsonObject, key: string, read: Read<number>, faults: string[]): Record<string, number> {
  const value = object.get(key) ?? null;
  if (value === null) return {};
  if (!(value instanceof Map)) {
    faults.push(`${key}: expected an object, got ${describe(value)}`);
    return {};
  }
  const entries: [string, number][] = [];
  for (const [pattern, item] of value) {
    const where = `${key} ${quote(pattern)}`;
    const fault = patternFault(pattern);
    if (fault !== null) faults.push(`${where}: ${fault}`);
    entries.push([keepPlace(pattern, entries), read(item, where)]);
  }
  return Object.fromEntries(entries);
}

/** A whole number as a key: JavaScript objects list these first and by value, wherever they were put. */
const wholeNumber = /^(?:0|[1-9]\d*)$/;

/**
 * The first matching pattern wins, so that the order is part of the meaning. A whole number that stands behind another
 * kind of pattern is wrapped in a group, which means the same and stays in its place.
 */
function keepPlace(pattern: string, before: readonly (readonly [string, number])[]): string {
  const moves = wholeNumber.test(pattern) && before.some(([other]) => !wholeNumber.test(other));
  return moves ? `(?:${pattern})` : pattern;
}

/** In the object's order, but whole numbers (of which no two match one path) as PEFT sorts them: "10" before "2". */
function patternEntries(pattern: Readonly<Record<string, number>>): Map<string, number> {
  const entries = Object.entries(pattern);
  const numbers = entries.filter(([key]) => wholeNumber.test(key)).sort(([a], [b]) => compareCodePoints(a, b));
  return new Map([...numbers, ...entries.filter(([key]) => !wholeNumber.test(key))]);
}
