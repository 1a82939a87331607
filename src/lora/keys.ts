// Where an adapter's tensors belong: PEFT's keys in adapter_model.safetensors, `base_model.model.<module path>.<suffix>`,
// to and from module paths (PEFT 0.21, utils/save_and_load.py). Plain LoRA on Linear, Conv and Embedding layers; what else
// PEFT may store is refused by its name.
import { throwFaults } from "../errors.ts";
import type { SiteKind } from "../onnx/sites.ts";
import type { Tensor } from "../tensor.ts";
import type { Adapter } from "./config.ts";

const prefix = "base_model.model.";

/** How the keys of A and B end: an Embedding's are parameters, those of other layers are weights of modules. */
const suffixes = {
  layer: { a: ".lora_A.weight", b: ".lora_B.weight" },
  embedding: { a: ".lora_embedding_A", b: ".lora_embedding_B" },
} as const;
type Form = keyof typeof suffixes;

/** Real keys have fewer than 250 characters; patterns are matched against their module paths (see scale.ts). */
const maxKeyLength = 1024;

/** PEFT's keys of the A and B of one module. */
export interface AdapterKeys {
  readonly a: string;
  readonly b: string;
}

/** One adapted module: the update of its weight is scale * B A (factors.ts has the shapes of other layers than Linear). */
export interface AdapterModule {
  /** What PyTorch calls the module: `bert.encoder.layer.0.attention.self.query`. */
  readonly path: string;
  readonly keys: AdapterKeys;
  readonly a: Tensor<"float32">; // [r, in, ...kernel]
  readonly b: Tensor<"float32">; // [out, r / groups, 1, …]
}

/**
 * PEFT's keys for a module path, and the kind of its layer.
 *
 * @example
 * adapterKeys("fc1").a // "base_model.model.fc1.lora_A.weight"
 */
export function adapterKeys(modulePath: string, kind: SiteKind = "Linear"): AdapterKeys {
  return keysOf(modulePath, kind === "Embedding" ? "embedding" : "layer");
}

function keysOf(modulePath: string, form: Form): AdapterKeys {
  const { a, b } = suffixes[form];
  return { a: prefix + modulePath + a, b: prefix + modulePath + b };
}

/**
 * The adapted modules, in the order of their first tensors. Throws LowrankError "adapter" with every fault: tensors that
 * are no A or B of a layer, one without the other, shapes that disagree.
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
  const found = new Map<string, { path: string; form: Form; a?: Tensor<"float32">; b?: Tensor<"float32"> }>();
  for (const [key, value] of tensors) {
    const place = readKey(key);
    if (typeof place === "string") {
      faults.push(place);
      continue;
    }
    const { a: id } = keysOf(place.path, place.form);
    const module = found.get(id) ?? { path: place.path, form: place.form };
    found.set(id, module);
    if (value.type !== "float32") faults.push(`${show(key)}: expected a float32 tensor, got ${value.type}`);
    else module[place.matrix] = value;
  }
  const modules: AdapterModule[] = [];
  for (const { path, form, a, b } of found.values()) {
    const keys = keysOf(path, form);
    // A tensor of a wrong type was reported above, and is there all the same.
    if (a === undefined && !tensors.has(keys.a))
      faults.push(`${show(keys.b)}: expected ${show(keys.a)} with it, got none`);
    if (b === undefined && !tensors.has(keys.b))
      faults.push(`${show(keys.a)}: expected ${show(keys.b)} with it, got none`);
    if (a === undefined || b === undefined) continue;
    const shapeFaults = checkShapes(keys, form, a.dims, b.dims);
    faults.push(...shapeFaults);
    if (shapeFaults.length === 0) modules.push({ path, keys, a, b });
  }
  return modules;
}

/** The module and matrix that a key names, or the fault in it. */
function readKey(key: string): { path: string; form: Form; matrix: "a" | "b" } | string {
  if (!key.startsWith(prefix)) return `${show(key)}: expected a key that starts with ${prefix}, got another`;
  if (key.length > maxKeyLength) return `${show(key)}: expected at most ${maxKeyLength} characters, got ${key.length}`;
  for (const form of ["layer", "embedding"] as const) {
    for (const matrix of ["a", "b"] as const) {
      const suffix = suffixes[form][matrix];
      const path = key.slice(prefix.length, -suffix.length);
      if (key.endsWith(suffix) && path !== "") return { path, form, matrix };
    }
  }
  const feature = features.find(([pattern]) => pattern.test(key))?.[1];
  if (feature !== undefined)
    return `${show(key)}: ${feature} is not supported; only LoRA on Linear, Conv and Embedding layers is`;
  const { a, b } = suffixes.layer;
  return `${show(key)}: expected a key ending in <module path>${a} or <module path>${b}, got another`;
}

/** What PEFT stores beside the A and B of layers, by the end of its key. */
const features: readonly (readonly [RegExp, string])[] = [
  [/\.lora_magnitude_vector(\.weight)?$/, "DoRA's magnitude"],
  [/\.lora_B\.bias$/, "lora_bias"],
  [/\.base_layer\.bias$/, "a trained bias"],
  [/\.(trainable_tokens_delta|token_adapter\..*)$/, "trainable_token_indices"],
  [/^(?!.*\.lora_).*\.(weight|bias)$/, "a whole saved module (modules_to_save)"],
];

/** Linear and Embedding have matrices; a Conv's factors have its kernel behind them, and B's is 1x1. */
function checkShapes(keys: AdapterKeys, form: Form, a: readonly number[], b: readonly number[]): string[] {
  const faults: string[] = [];
  const isConv = form === "layer" && a.length >= 3 && a.length <= 5;
  const [shapeA, shapeB] = isConv ? ["[r, in, ...kernel]", "[out, r / groups, 1, …]"] : ["[r, in]", "[out, r]"];
  for (const [key, dims, shape] of [
    [keys.a, a, shapeA],
    [keys.b, b, shapeB],
  ] as const) {
    const isWrong =
      dims.length !== (isConv ? a.length : 2) || (key === keys.b && dims.slice(2).some((dim) => dim !== 1));
    if (isWrong) faults.push(`${show(key)}: expected ${shape}, got [${dims.slice(0, 8).join(", ")}]`);
    else if (dims.includes(0))
      faults.push(`${show(key)}: expected ${shape} with no dimension of 0, got [${dims.join(", ")}]`);
  }
  if (faults.length > 0) return faults;
  const [r, perGroup] = [a[0]!, b[1]!];
  // The base alone knows its groups; rank and output channels must at least divide by what they would be.
  const fits = isConv ? r % perGroup === 0 && b[0]! % (r / perGroup) === 0 : r === perGroup;
  return fits
    ? []
    : [
        `${show(keys.b)}: expected [out, ${r}${isConv ? " / groups, 1, …" : ""}] as lora_A has rank ${r}, got [${b.join(", ")}]`,
      ];
}

/** A key as it is in a message: hostile files have names of megabytes. */
function show(key: string): string {
  const printable = JSON.stringify(key.slice(0, 200)).slice(1, -1);
  return key.length <= 200 ? printable : `${printable}…`;
}
