// mlx-lm's adapter directories: adapter_config.json and adapters.safetensors, with `<module path>.lora_a` [in, r] and `.lora_b`
// [r, out], and one rank and one scale for all modules, alpha / r (mlx-lm, tuner/lora.py and tuner/utils.py). Module paths are
// those of mlx-lm's models, which it keeps to Hugging Face's names. Linear and Embedding layers; Convs have no form there.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Adapter, StorageType } from "../lora/config.ts";
import { adapterKeys, collectModules } from "../lora/keys.ts";
import { plainAdapter } from "../lora/residual.ts";
import { scaleOf } from "../lora/scale.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { foreignConfig } from "./foreign-config.ts";
import { decodeUtf8, describe, type JsonObject, parseJson, pythonJson, quote, RawNumber } from "./json.ts";
import type { AdapterFiles } from "./peft.ts";
import { scanSafetensors, writeSafetensors } from "./safetensors.ts";
import { storedTensors, toFloat32 } from "./storage.ts";

const configName = "adapter_config.json";
const weightsName = "adapters.safetensors";
/** Real ones have a few KB. */
const maxConfigBytes = 4_000_000;

export interface ReadMlxOptions {
  /** Ranks above this are refused; default 4096. */
  readonly maxRank?: number;
  /** Stands before each error message; default "mlx adapter". */
  readonly where?: string;
  /** Which module paths are Embeddings, which the files do not say; by default those that end in an embedding's usual names. */
  readonly isEmbedding?: (modulePath: string) => boolean;
}

/**
 * Reads an adapter that mlx-lm trained (fine_tune_type "lora"). float16 and bfloat16 become float32, exactly, and are
 * remembered in `storage`.
 *
 * @throws LowrankError "adapter" with every fault of both files.
 * @example
 * const adapter = readMlxAdapter({ "adapter_config.json": json, "adapters.safetensors": weights });
 */
export function readMlxAdapter(files: AdapterFiles, options: ReadMlxOptions = {}): Adapter {
  const faults: string[] = [];
  const settings = readSettings(fileOf(files, configName), faults);
  const storage = new Map<string, StorageType>();
  const tensors = readTensors(fileOf(files, weightsName), options.isEmbedding ?? looksLikeEmbedding, storage, faults);
  const own: string[] = [];
  const modules = collectModules(tensors, own);
  const maxRank = options.maxRank ?? 4096;
  for (const { path, a } of modules) {
    if (a.dims[0]! > maxRank)
      own.push(`${quote(path)}: expected a rank of at most ${maxRank}, got ${a.dims[0]}; raise maxRank`);
  }
  faults.push(...own.map((fault) => `${weightsName}: ${fault}`));
  throwFaults("adapter", options.where ?? "mlx adapter", faults);
  const config = foreignConfig(
    modules.map(({ path, a }) => ({ path, rank: a.dims[0]! })),
    settings.scale,
    { baseModelNameOrPath: settings.model, loraDropout: settings.dropout },
  );
  return { config, tensors, ...(storage.size > 0 && { storage }) };
}

/**
 * The two files of an mlx-lm adapter directory. Smaller ranks are filled with zeros up to the largest; where scales differ,
 * they are multiplied into B. Every layer of the model gets the same modules, as mlx-lm has it: those without values of their
 * own stay as they are, since an untrained B is zero.
 *
 * @throws LowrankError "adapter" that lists what mlx-lm has no form for: Convs, int8, tensors other than A and B.
 * @example
 * for (const [name, bytes] of writeMlxAdapter(adapter)) await writeFile(join(directory, name), bytes);
 */
export function writeMlxAdapter(given: Adapter): Map<string, Uint8Array> {
  const adapter = plainAdapter(given);
  const faults: string[] = [];
  const modules = collectModules(adapter.tensors, faults);
  const known = new Set(modules.flatMap(({ keys }) => [keys.a, keys.b]));
  if (faults.length === 0) {
    for (const key of adapter.tensors.keys())
      if (!known.has(key))
        faults.push(`${quote(key)}: mlx-lm's LoRA files hold A and B alone; merge this adapter instead`);
    if (modules.length === 0) faults.push("expected tensors, got none");
  }
  for (const { path, keys, a } of modules) {
    if (a.dims.length !== 2) faults.push(`${quote(path)}: mlx-lm has no LoRA for a Conv; leave it out, or merge it`);
    for (const key of [keys.a, keys.b]) {
      if (adapter.storage?.get(key) === "int8")
        faults.push(
          `${quote(key)}: expected float32, float16 or bfloat16, got int8; write an .onnx_adapter, or leave out storage`,
        );
      checkFinite(key, adapter.tensors.get(key)?.data, faults);
    }
  }
  throwFaults("adapter", "adapter to write", faults);

  const rank = Math.max(...modules.map(({ a }) => a.dims[0]!));
  const scales = new Set(modules.map(({ path }) => scaleOf(adapter.config, path)));
  const [common] = scales;
  const scale = scales.size === 1 && common! > 0 ? common! : 1;
  const tensors = new Map<string, Tensor>();
  const storage = new Map<string, StorageType>();
  for (const { path, keys, a, b } of modules) {
    const factor = scaleOf(adapter.config, path) / scale;
    const parts = [
      [`${path}.lora_a`, keys.a, transposedA(a, rank)],
      [`${path}.lora_b`, keys.b, transposedB(b, rank, factor)],
    ] as const;
    for (const [name, key, value] of parts) {
      tensors.set(name, value);
      const type = adapter.storage?.get(key);
      if (type !== undefined) storage.set(name, type);
    }
  }
  const config = {
    fine_tune_type: "lora",
    lora_parameters: {
      dropout: new RawNumber(pythonFloat(adapter.config.loraDropout)),
      keys: keysOf(modules.map(({ path }) => path)),
      rank,
      scale: new RawNumber(pythonFloat(scale)),
    },
    model: adapter.config.baseModelNameOrPath ?? "",
    num_layers: -1,
  };
  return new Map([
    [configName, new TextEncoder().encode(pythonJson(config))],
    [weightsName, writeSafetensors(storedTensors({ tensors, storage }), { format: "mlx" })],
  ]);
}

/** Whether the files are those of mlx-lm: its weights have a name of their own. */
export function isMlxAdapter(names: Iterable<string>): boolean {
  return [...names].includes(weightsName);
}

/** The files that an mlx-lm adapter is made of. */
export const mlxFiles: readonly string[] = [configName, weightsName];

interface Settings {
  readonly scale: number;
  readonly dropout: number;
  readonly model: string | null;
}

function readSettings(bytes: Uint8Array | undefined, faults: string[]): Settings {
  const own: string[] = [];
  const config = bytes === undefined ? null : readObject(bytes, own);
  if (bytes === undefined) own.push("expected this file, got none");
  const kind = config?.get("fine_tune_type") ?? "lora";
  if (kind !== "lora")
    own.push(`fine_tune_type: expected "lora", got ${describe(kind)}; only LoRA adapters can be read`);
  const parameters = config?.get("lora_parameters");
  const scale = readNumber(parameters instanceof Map ? parameters.get("scale") : undefined);
  if (config !== null) {
    if (!(parameters instanceof Map)) own.push(`lora_parameters: expected an object, got ${describe(parameters)}`);
    else if (scale === null || scale <= 0)
      own.push(`lora_parameters scale: expected a number above 0, got ${describe(parameters.get("scale"))}`);
  }
  const dropout = readNumber(parameters instanceof Map ? parameters.get("dropout") : undefined);
  const model = config?.get("model");
  faults.push(...own.map((fault) => `${configName}: ${fault}`));
  return { scale: scale ?? 1, dropout: dropout ?? 0, model: typeof model === "string" && model !== "" ? model : null };
}

function readObject(bytes: Uint8Array, faults: string[]): JsonObject | null {
  const text = bytes.length <= maxConfigBytes ? decodeUtf8(bytes) : null;
  if (text === null) {
    faults.push(`expected UTF-8 text of at most ${maxConfigBytes} bytes, got ${bytes.length} bytes`);
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

function readNumber(value: unknown): number | null {
  return value instanceof RawNumber && Number.isFinite(value.valueOf()) ? value.valueOf() : null;
}

/** PEFT's keys and layout. */
function readTensors(
  bytes: Uint8Array | undefined,
  isEmbedding: (modulePath: string) => boolean,
  storage: Map<string, StorageType>,
  faults: string[],
): Map<string, Tensor> {
  const own: string[] = [];
  const tensors = new Map<string, Tensor>();
  const file = bytes === undefined ? undefined : scanSafetensors(bytes, own);
  if (file === undefined) own.push("expected this file, got none");
  else if (own.length === 0 && file.tensors.size === 0) own.push("expected tensors, got none");
  for (const [name, stored] of file?.tensors ?? []) {
    const [, path, matrix] = /^(.+)\.lora_([ab])$/s.exec(name) ?? [];
    const value = toFloat32(stored);
    if (path === undefined)
      own.push(`${quote(name)}: expected a name ending in .lora_a or .lora_b, got ${whatIs(name)}`);
    else if (value === null) own.push(`${quote(name)}: expected float32, float16 or bfloat16, got ${stored.type}`);
    else if (value.dims.length !== 2) {
      const experts = value.dims.length === 3 ? " (the layers of a mixture of experts are not supported)" : "";
      own.push(`${quote(name)}: expected a matrix, got [${value.dims.slice(0, 8)}]${experts}`);
    } else {
      checkFinite(name, value.data, own);
      const keys = adapterKeys(path, isEmbedding(path) ? "Embedding" : "Linear");
      const key = matrix === "a" ? keys.a : keys.b;
      tensors.set(key, transposed(value));
      if (stored.type === "float16" || stored.type === "bfloat16") storage.set(key, stored.type);
    }
  }
  faults.push(...own.map((fault) => `${weightsName}: ${fault}`));
  return tensors;
}

function whatIs(name: string): string {
  if (name.endsWith(".m")) return "DoRA's magnitude, which is not supported";
  return /\.lora_[ab]_(scales|biases)$/.test(name) ? "a quantized adapter, which is not supported" : "another";
}

function checkFinite(name: string, data: ArrayLike<number | bigint> | undefined, faults: string[]): void {
  if (!(data instanceof Float32Array)) return;
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at >= 0) faults.push(`${quote(name)}: expected finite values, got ${data[at]} at ${at}`);
}

/** PyTorch's and Hugging Face's names of input embeddings. */
function looksLikeEmbedding(modulePath: string): boolean {
  return /(?:^|\.)(?:embed_tokens|embed_in|wte|wpe|(?:tok|word|position|token_type)_embeddings?|embeddings?)$/.test(
    modulePath,
  );
}

function transposed({ dims, data }: Tensor<"float32">): Tensor<"float32"> {
  const [rows, columns] = [dims[0]!, dims[1]!];
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) out[column * rows + row] = data[row * columns + column]!;
  }
  return tensor("float32", [columns, rows], out);
}

/** A^T [in, rank] with columns of zeros behind its own. */
function transposedA({ dims, data }: Tensor<"float32">, rank: number): Tensor<"float32"> {
  const padded = new Float32Array(rank * dims[1]!);
  padded.set(data);
  return transposed(tensor("float32", [rank, dims[1]!], padded));
}

/** B^T [rank, out] times a factor, with rows of zeros behind its own. */
function transposedB(b: Tensor<"float32">, rank: number, factor: number): Tensor<"float32"> {
  const padded = new Float32Array(rank * b.dims[0]!);
  padded.set(factor === 1 ? transposed(b).data : transposed(b).data.map((value) => value * factor));
  return tensor("float32", [rank, b.dims[0]!], padded);
}

/** mlx-lm looks for these below each layer (`self_attn.q_proj` of `model.layers.3.self_attn.q_proj`) and in the whole model. */
function keysOf(paths: readonly string[]): string[] {
  return [...new Set(paths.map((path) => path.replace(/^(?:.*?\.)??\d+\.(?=.)/, "")))].sort();
}

/** A number as Python prints a float. */
function pythonFloat(value: number): string {
  if (!Number.isFinite(value)) throw new LowrankError("adapter", `expected a finite number, got ${value}`);
  const text = pythonJson(value);
  return /^-?\d+$/.test(text) ? `${text}.0` : text;
}

function fileOf(files: AdapterFiles, name: string): Uint8Array | undefined {
  if (files instanceof Map) return files.get(name);
  return Object.entries(files).find(([key]) => key === name)?.[1];
}
