// PEFT adapter directories: adapter_config.json and adapter_model.safetensors, read and written so that PEFT opens ours
// and we open PEFT's, byte for byte where nothing was changed (PEFT 0.21). Files are bytes: no file system here.
// Everything that is wrong with both files is reported at once, and nothing is returned when anything was.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Adapter, AdapterConfig, StorageType } from "../lora/config.ts";
import { type AdapterModule, collectModules } from "../lora/keys.ts";
import { plainAdapter } from "../lora/residual.ts";
import { isSaved } from "../lora/saved.ts";
import { rankOf } from "../lora/scale.ts";
import type { Tensor } from "../tensor.ts";
import { readConfig, writeConfig } from "./config-file.ts";
import { quote } from "./json.ts";
import { isCopy, variantFaults, variantWarnings } from "./peft-variants.ts";
import { scanSafetensors, writeSafetensors } from "./safetensors.ts";
import { storedTensors, toFloat32 } from "./storage.ts";

const configName = "adapter_config.json";
const weightsName = "adapter_model.safetensors";
const labelsName = "labels.json";
const maxLabelBytes = 10_000_000;

/** An adapter directory's files by name; others than the two are left alone. */
export type AdapterFiles = ReadonlyMap<string, Uint8Array> | Readonly<Record<string, Uint8Array>>;

export interface ReadAdapterOptions {
  /** Ranks above this are refused; default 4096. */
  readonly maxRank?: number;
  /** Stands before each error message, such as the directory's path; default "adapter". */
  readonly where?: string;
  /** Told of what is strange but harmless: unknown keys, tensors that PEFT would not load. */
  readonly onWarning?: (message: string) => void;
}

/** A person reads the first few faults of a damaged adapter. */
const maxFaults = 50;

/**
 * Reads a PEFT adapter: LoRA, rsLoRA or DoRA on Linear (Hugging Face's Conv1D too), Conv and Embedding layers, with what
 * lora_bias, bias, modules_to_save and trainable_token_indices store beside it. float16 and bfloat16
 * become float32, exactly, and are remembered in `storage`. Throws LowrankError "adapter" with every fault of both files.
 *
 * @example
 * const adapter = readAdapter(new Map([["adapter_config.json", json], ["adapter_model.safetensors", weights]]));
 */
export function readAdapter(files: AdapterFiles, options: ReadAdapterOptions = {}): Adapter {
  const faults: string[] = [];
  const warnings: string[] = [];
  const storage = new Map<string, StorageType>();
  const config = readPart(files, configName, faults, (bytes, own) =>
    readConfig(bytes, options.maxRank ?? 4096, own, warnings),
  );
  const tensors = readPart(files, weightsName, faults, (bytes, own) => readTensors(bytes, own, warnings, storage));
  if (tensors !== null) {
    const own: string[] = [];
    const modules = collectModules(tensors, own);
    if (config !== null) {
      checkRanks(config, modules, own);
      own.push(...variantFaults(config, tensors, modules));
    }
    faults.push(...own.map((fault) => `${weightsName}: ${fault}`));
    if (config !== null && faults.length === 0)
      warnings.push(...unplaced(config, modules), ...variantWarnings(config, tensors));
  }
  const labels = getFile(files, labelsName) === undefined ? null : readPart(files, labelsName, faults, readLabels);
  throwFaults("adapter", options.where ?? "adapter", limit(faults));
  if (config === null || tensors === null) throw new Error("internal: an adapter without faults was not read");
  for (const warning of warnings) options.onWarning?.(`${options.where ?? "adapter"}: ${warning}`);
  return {
    config: withTargets(config, tensors),
    tensors,
    ...(labels && { labels }),
    ...(storage.size > 0 && { storage }),
  };
}

/** The names of a head's classes: a JSON list of text. */
function readLabels(bytes: Uint8Array, faults: string[]): readonly string[] | null {
  const value = bytes.length > maxLabelBytes ? undefined : parseLabels(bytes);
  if (Array.isArray(value) && value.every((label) => typeof label === "string")) return value;
  faults.push(`expected a JSON list of names in at most ${maxLabelBytes} bytes, got another content`);
  return null;
}

function parseLabels(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}

/**
 * The two files of a PEFT adapter directory, and `labels.json` where a head has names for its classes. An adapter that was read and not changed gives the same bytes again; one that was
 * trained on a residual (PiSSA, OLoRA) is written as plain LoRA of twice the rank, which fits the base itself. Tensors of
 * a stored type that no longer holds their values exactly are written as float32. Throws LowrankError "adapter" for what
 * `readAdapter` would refuse (NaN, infinity, shapes that disagree), and for int8, which these files cannot hold.
 *
 * @example
 * for (const [name, bytes] of writeAdapter(adapter)) await writeFile(join(directory, name), bytes);
 */
export function writeAdapter(given: Adapter): Map<string, Uint8Array> {
  const adapter = given.initial === undefined ? given : plainAdapter(given);
  const faults: string[] = [];
  const modules = collectModules(adapter.tensors, faults);
  if (adapter.tensors.size === 0) faults.push("expected tensors, got none");
  checkNumbers(adapter.config, faults);
  checkRanks(adapter.config, modules, faults);
  faults.push(...variantFaults(adapter.config, adapter.tensors, modules));
  for (const [key, { data }] of adapter.tensors) {
    if (data instanceof Float32Array) checkFinite(key, data, faults);
    if (adapter.storage?.get(key) === "int8")
      faults.push(
        `${quote(key)}: expected float32, float16 or bfloat16, got int8, which PEFT's files cannot hold; write an .onnx_adapter, or leave out storage`,
      );
  }
  throwFaults("adapter", "adapter to write", limit(faults));
  const paths = modules.map(({ path }) => path);
  return new Map([
    [configName, writeConfig(adapter.config, paths)],
    [weightsName, writeSafetensors(storedTensors(adapter), { format: "pt" })],
    ...(adapter.labels === undefined ? [] : [[labelsName, writeLabels(adapter.labels)] as const]),
  ]);
}

function writeLabels(labels: readonly string[]): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(labels, null, 2)}\n`);
}

/**
 * Every adapter of a directory that PEFT saved several in: the one called default lies on top, each other one in a folder of
 * its name. `files` has their paths from the directory, with slashes.
 *
 * @throws LowrankError "adapter" as readAdapter does, and when there is none.
 * @example const { other } = Object.fromEntries(readAdapters(files));
 */
export function readAdapters(files: AdapterFiles, options: ReadAdapterOptions = {}): Map<string, Adapter> {
  const paths = [...(files instanceof Map ? files.keys() : Object.keys(files))] as string[];
  const found = new Map<string, Adapter>();
  const faults: string[] = [];
  for (const path of paths) {
    if (path !== configName && !path.endsWith(`/${configName}`)) continue;
    const folder = path.slice(0, -configName.length);
    const own = new Map(
      paths.flatMap((name) => {
        const bytes = name.startsWith(folder) ? getFile(files, name) : undefined;
        return bytes === undefined ? [] : [[name.slice(folder.length), bytes] as const];
      }),
    );
    try {
      found.set(folder.slice(0, -1) || "default", readAdapter(own, options));
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      faults.push(...error.faults.map((fault) => `${folder}${fault}`));
    }
  }
  if (found.size === 0 && faults.length === 0) faults.push(`expected ${configName}, got no file of that name`);
  throwFaults("adapter", options.where ?? "adapter", limit(faults));
  return found;
}

/**
 * The files of a directory that holds several adapters, by their paths, as PEFT saves them: the one called default on top, each
 * other one in a folder of its name.
 *
 * @throws LowrankError "adapter" as writeAdapter does, with the faults of all, and for names that are no names of folders.
 * @example const files = writeAdapters(new Map([["default", first], ["other", second]]));
 */
export function writeAdapters(adapters: ReadonlyMap<string, Adapter>): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  const faults: string[] = [];
  if (adapters.size === 0) faults.push("expected adapters, got none");
  for (const [name, adapter] of adapters) {
    if (!isFolderName(name)) {
      faults.push(`${quote(name)}: expected the name of a folder, got another`);
      continue;
    }
    const folder = name === "default" ? "" : `${name}/`;
    try {
      for (const [file, bytes] of writeAdapter(adapter)) files.set(folder + file, bytes);
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      faults.push(...error.faults.map((fault) => `${folder}${fault}`));
    }
  }
  throwFaults("adapter", "adapters to write", limit(faults));
  return files;
}

/** One that is a folder on every system, and none of the files on top. */
function isFolderName(name: string): boolean {
  const files = [configName, weightsName, labelsName];
  return /^[^\\/:*?"<>|\p{Cc}]{1,200}$/u.test(name) && !/^\.+$|[. ]$/.test(name) && !files.includes(name);
}

/** One file, read by `read`, with its name before each of its faults; null when it is not there or had faults. */
function readPart<T>(
  files: AdapterFiles,
  name: string,
  faults: string[],
  read: (bytes: Uint8Array, faults: string[]) => T | null,
): T | null {
  const bytes = getFile(files, name);
  if (bytes === undefined) {
    const pickled = name === weightsName && getFile(files, "adapter_model.bin") !== undefined;
    faults.push(
      pickled
        ? `${name}: expected this file, got adapter_model.bin, which can run code; save it with safe_serialization=True`
        : `${name}: expected this file, got none`,
    );
    return null;
  }
  const own: string[] = [];
  const part = read(bytes, own);
  faults.push(...own.map((fault) => `${name}: ${fault}`));
  return own.length === 0 ? part : null;
}

function getFile(files: AdapterFiles, name: string): Uint8Array | undefined {
  if (files instanceof Map) return files.get(name);
  return Object.entries(files).find(([key]) => key === name)?.[1];
}

function readTensors(
  bytes: Uint8Array,
  faults: string[],
  warnings: string[],
  storage: Map<string, StorageType>,
): Map<string, Tensor> | null {
  const { metadata, tensors } = scanSafetensors(bytes, faults);
  if (faults.length > 0) return null;
  if (tensors.size === 0) faults.push("expected tensors, got none");
  for (const key of metadata.keys()) {
    if (key !== "format") warnings.push(`${weightsName}: metadata ${quote(key)} is not kept`);
  }
  const converted = new Map<string, Tensor>();
  for (const [key, value] of tensors) {
    if (isCopy(key)) {
      warnings.push(`${quote(key)} is a copy that PEFT keeps beside a saved module: it is left out`);
      continue;
    }
    const float32 = toFloat32(value);
    if (float32 === null)
      faults.push(`${quote(key)}: expected float32, float16 or bfloat16, got ${value.type}; convert it`);
    else {
      checkFinite(key, float32.data, faults);
      converted.set(key, float32);
      if (value.type === "float16" || value.type === "bfloat16") storage.set(key, value.type);
    }
  }
  return converted;
}

function checkFinite(key: string, data: Float32Array, faults: string[]): void {
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at >= 0)
    faults.push(`${quote(key)}: expected finite values, got ${data[at]} at ${at}; the training may have diverged`);
}

/** JSON has no NaN and no infinity. */
function checkNumbers({ r, loraAlpha, rankPattern, alphaPattern }: AdapterConfig, faults: string[]): void {
  const numbers = Object.entries({ r, loraAlpha }).concat(Object.entries(rankPattern), Object.entries(alphaPattern));
  for (const [name, value] of numbers) {
    if (!Number.isFinite(value)) faults.push(`${quote(name)}: expected a finite number, got ${value}`);
  }
}

function checkRanks(config: AdapterConfig, modules: readonly AdapterModule[], faults: string[]): void {
  for (const { path, keys, a } of modules) {
    const key = quote(keys.a);
    try {
      const rank = rankOf(config, path);
      if (a.dims[0] === rank) continue;
      faults.push(`${key}: expected rank ${rank} as r and rank_pattern have it, got shape [${a.dims.join(", ")}]`);
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      faults.push(`${key}: ${error.message}`); // a pattern that cannot be matched against this path
    }
  }
}

/** PEFT loads an adapter without a word when its tensors and the modules that its configuration names differ. */
function unplaced(config: AdapterConfig, modules: readonly AdapterModule[]): string[] {
  const targets = config.targetModules;
  if (typeof targets === "string") return [];
  if (targets.length === 0)
    return [`${configName}: target_modules names nothing; the modules of ${weightsName} are taken`];
  const names = (target: string, path: string): boolean => path === target || path.endsWith(`.${target}`);
  const unnamed = modules.filter(({ path }) => !targets.some((target) => names(target, path)));
  // PEFT's expanded "all-linear" also lists what is left out, or saved whole.
  const mayBeEmpty = (target: string): boolean =>
    config.excludeModules !== null || isSaved(target, config.modulesToSave);
  const empty = targets.filter((target) => !mayBeEmpty(target) && !modules.some(({ path }) => names(target, path)));
  return [
    ...unnamed.map(
      ({ path }) => `${quote(path)} has tensors, but target_modules does not name it: PEFT would not load them`,
    ),
    ...empty.map(
      (target) => `target_modules names ${quote(target)}, which has no tensors: it stays as the base has it`,
    ),
  ];
}

function withTargets(config: AdapterConfig, tensors: ReadonlyMap<string, Tensor>): AdapterConfig {
  if (config.targetModules.length > 0) return config;
  return { ...config, targetModules: collectModules(tensors, []).map(({ path }) => path) };
}

function limit(faults: readonly string[]): readonly string[] {
  return faults.length <= maxFaults ? faults : [...faults.slice(0, maxFaults), `and ${faults.length - maxFaults} more`];
}
