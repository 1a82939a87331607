// Where an adapter's tensors belong: PEFT's keys in adapter_model.safetensors, `base_model.model.<module path>.<suffix>`,
// to and from module paths (PEFT 0.21, utils/save_and_load.py). Plain LoRA on Linear layers; what else PEFT may store is
// refused by its name.
import { throwFaults } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { Adapter } from "./config.ts";

const prefix = "base_model.model.";
const suffixA = ".lora_A.weight";
const suffixB = ".lora_B.weight";

/** Real keys have fewer than 250 characters; patterns are matched against their module paths (see scale.ts). */
const maxKeyLength = 1024;

/** PEFT's keys of the A [r, in] and B [out, r] of one module. */
export interface AdapterKeys {
  readonly a: string;
  readonly b: string;
}

/** One adapted module: the update of its weight is scale * B A. */
export interface AdapterModule {
  /** What PyTorch calls the module: `bert.encoder.layer.0.attention.self.query`. */
  readonly path: string;
  readonly a: Tensor<"float32">; // [r, in]
  readonly b: Tensor<"float32">; // [out, r]
}

/**
 * PEFT's keys for a module path.
 *
 * @example
 * adapterKeys("fc1").a // "base_model.model.fc1.lora_A.weight"
 */
export function adapterKeys(modulePath: string): AdapterKeys {
  return { a: prefix + modulePath + suffixA, b: prefix + modulePath + suffixB };
}

/**
 * The adapted modules, in the order of their first tensors. Throws LowrankError "adapter" with every fault: tensors that
 * are no A or B of a Linear layer, one without the other, shapes that disagree.
 *
 * @example
 * for (const { path, a, b } of modulesOf(adapter)) console.log(path, a.dims, b.dims);
 */
export function modulesOf(adapter: Pick<Adapter, "tensors">): AdapterModule[] {
  const faults: string[] = [];
  const modules = collectModules(adapter.tensors, faults);
  throwFaults("adapter", "adapter", faults);
  return modules;
}

/** As `modulesOf`, but adds to `faults` instead of throwing; faulty modules are left out. */
export function collectModules(tensors: ReadonlyMap<string, Tensor>, faults: string[]): AdapterModule[] {
  const found = new Map<string, { a?: Tensor<"float32">; b?: Tensor<"float32"> }>();
  for (const [key, value] of tensors) {
    const place = readKey(key);
    if (typeof place === "string") {
      faults.push(place);
      continue;
    }
    const module = found.get(place.path) ?? {};
    found.set(place.path, module);
    if (value.type !== "float32") faults.push(`${show(key)}: expected a float32 tensor, got ${value.type}`);
    else module[place.matrix] = value;
  }
  const modules: AdapterModule[] = [];
  for (const [path, { a, b }] of found) {
    const keys = adapterKeys(path);
    // A tensor of a wrong type was reported above, and is there all the same.
    if (a === undefined && !tensors.has(keys.a))
      faults.push(`${show(keys.b)}: expected ${show(keys.a)} with it, got none`);
    if (b === undefined && !tensors.has(keys.b))
      faults.push(`${show(keys.a)}: expected ${show(keys.b)} with it, got none`);
    if (a === undefined || b === undefined) continue;
    const shapeFaults = checkShapes(keys, a.dims, b.dims);
    faults.push(...shapeFaults);
    if (shapeFaults.length === 0) modules.push({ path, a, b });
  }
  return modules;
}

/** The module and matrix that a key names, or the fault in it. */
function readKey(key: string): { path: string; matrix: "a" | "b" } | string {
  if (!key.startsWith(prefix)) return `${show(key)}: expected a key that starts with ${prefix}, got another`;
  if (key.length > maxKeyLength) return `${show(key)}: expected at most ${maxKeyLength} characters, got ${key.length}`;
  const matrix = key.endsWith(suffixA) ? "a" : key.endsWith(suffixB) ? "b" : null;
  const path = key.slice(prefix.length, -suffixA.length);
  if (matrix !== null && path !== "") return { path, matrix };
  const feature = features.find(([pattern]) => pattern.test(key))?.[1];
  if (feature !== undefined) return `${show(key)}: ${feature} is not supported; only LoRA on Linear layers is`;
  return `${show(key)}: expected a key ending in <module path>${suffixA} or <module path>${suffixB}, got another`;
}

/** What PEFT stores beside the A and B of Linear layers, by the end of its key. */
const features: readonly (readonly [RegExp, string])[] = [
  [/\.lora_magnitude_vector(\.weight)?$/, "DoRA's magnitude"],
  [/\.lora_embedding_[AB]$/, "LoRA on an embedding"],
  [/\.lora_B\.bias$/, "lora_bias"],
  [/\.base_layer\.bias$/, "a trained bias"],
  [/\.(trainable_tokens_delta|token_adapter\..*)$/, "trainable_token_indices"],
  [/^(?!.*\.lora_).*\.(weight|bias)$/, "a whole saved module (modules_to_save)"],
];

function checkShapes(keys: AdapterKeys, a: readonly number[], b: readonly number[]): string[] {
  const faults: string[] = [];
  for (const [key, dims, shape] of [
    [keys.a, a, "[r, in]"],
    [keys.b, b, "[out, r]"],
  ] as const) {
    const kind = dims.length > 2 ? "; LoRA on convolutions is not supported" : "";
    if (dims.length !== 2) faults.push(`${show(key)}: expected ${shape}, got [${dims.slice(0, 8).join(", ")}]${kind}`);
    else if (dims.includes(0))
      faults.push(`${show(key)}: expected ${shape} with no dimension of 0, got [${dims.join(", ")}]`);
  }
  if (faults.length === 0 && a[0] !== b[1]) {
    faults.push(`${show(keys.b)}: expected [out, ${a[0]}] as lora_A has rank ${a[0]}, got [${b.join(", ")}]`);
  }
  return faults;
}

/** A key as it is in a message: hostile files have names of megabytes. */
function show(key: string): string {
  const printable = JSON.stringify(key.slice(0, 200)).slice(1, -1);
  return key.length <= 200 ? printable : `${printable}…`;
}
