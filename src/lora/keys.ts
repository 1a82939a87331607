// Where an adapter's tensors belong: PEFT's keys in adapter_model.safetensors, `base_model.model.<module path>.<suffix>`,
// to and from module paths (PEFT 0.21, utils/save_and_load.py): the A and B of Linear, Conv and Embedding layers with DoRA's
// magnitude and the bias of B, rows of an embedding, and what modules_to_save and bias store as it is.
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

/** What may stand beside A and B. */
const besides = { magnitude: ".lora_magnitude_vector", biasOfB: ".lora_B.bias" } as const;
type Beside = keyof typeof besides;

const tokensSuffix = ".token_adapter.trainable_tokens_delta";

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
  /** DoRA's m. */
  readonly magnitude?: Tensor<"float32">; // [out], a Conv's [1, out, 1, …]
  readonly biasOfB?: Tensor<"float32">; // [out]
}

/** A tensor that replaces one of the base: of a module that is saved whole, a bias, or rows of an embedding. */
export interface SavedTensor {
  readonly key: string;
  readonly path: string;
  /** "weight", "bias", another parameter's name, or "tokens" for rows of an embedding. */
  readonly name: string;
  /** The module is also adapted: PEFT calls the tensor `<path>.base_layer.<name>`. */
  readonly ofBase: boolean;
  readonly value: Tensor<"float32">;
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

/** The key of DoRA's magnitude, or of the bias of B. */
export function besideKey(modulePath: string, part: Beside): string {
  return prefix + modulePath + besides[part];
}

/** The key of a parameter of the base that is trained as it is. */
export function savedKey({ path, name, ofBase }: Pick<SavedTensor, "path" | "name" | "ofBase">): string {
  if (name === "tokens") return prefix + path + tokensSuffix;
  return `${prefix}${path}${ofBase ? ".base_layer" : ""}.${name}`;
}

function keysOf(modulePath: string, form: Form): AdapterKeys {
  const { a, b } = suffixes[form];
  return { a: prefix + modulePath + a, b: prefix + modulePath + b };
}

/**
 * The adapted modules, in the order of their first tensors. Throws LowrankError "adapter" with every fault: tensors that
 * have no place, one factor without the other, shapes that disagree.
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

/** The tensors beside the adapted modules, in their order; those whose keys say nothing are left out. */
export function savedOf(tensors: ReadonlyMap<string, Tensor>): SavedTensor[] {
  return [...tensors].flatMap(([key, value]): SavedTensor[] => {
    const place = readKey(key);
    if (typeof place === "string" || place.kind !== "saved" || value.type !== "float32") return [];
    return [{ key, path: place.path, name: place.name, ofBase: place.ofBase, value }];
  });
}

/** The module path in a key; undefined when it is no key of PEFT's. */
export function pathOf(key: string): string | undefined {
  const place = readKey(key);
  return typeof place === "string" ? undefined : place.path;
}

/** The same part of another module. */
export function renamedKey(key: string, from: string, to: string): string {
  return prefix + to + key.slice(prefix.length + from.length);
}

interface Found {
  path: string;
  form: Form;
  a?: Tensor<"float32">;
  b?: Tensor<"float32">;
}

/** As `modulesOf`, but adds to `faults` instead of throwing; faulty modules are left out. */
export function collectModules(tensors: ReadonlyMap<string, Tensor>, faults: string[]): AdapterModule[] {
  const found = new Map<string, Found>();
  const extras = new Map<string, { key: string; path: string; part: Beside; value: Tensor<"float32"> }>();
  for (const [key, value] of tensors) {
    const place = readKey(key);
    if (typeof place === "string") faults.push(place);
    else if (value.type !== "float32") faults.push(`${show(key)}: expected a float32 tensor, got ${value.type}`);
    else if (place.kind === "beside") extras.set(`${place.part} ${place.path}`, { key, ...place, value });
    if (typeof place === "string" || place.kind !== "factor") continue;
    const { a: id } = keysOf(place.path, place.form);
    const module = found.get(id) ?? { path: place.path, form: place.form };
    found.set(id, module);
    if (value.type === "float32") module[place.matrix] = value;
  }
  const modules = [...found.values()].flatMap((module) => {
    const whole = factorsOf(module, tensors, faults);
    return whole === undefined ? [] : [withExtras(whole, module.form, extras, faults)];
  });
  const paths = new Set([...found.values()].map(({ path }) => path));
  for (const { key, path } of extras.values()) {
    if (!paths.has(path)) faults.push(`${show(key)}: expected the lora_A and lora_B of its module with it, got none`);
  }
  return modules;
}

/** A and B of a module when both are there and agree. */
function factorsOf(
  { path, form, a, b }: Found,
  tensors: ReadonlyMap<string, Tensor>,
  faults: string[],
): AdapterModule | undefined {
  const keys = keysOf(path, form);
  // A tensor of a wrong type was reported before, and is there all the same.
  if (a === undefined && !tensors.has(keys.a))
    faults.push(`${show(keys.b)}: expected ${show(keys.a)} with it, got none`);
  if (b === undefined && !tensors.has(keys.b))
    faults.push(`${show(keys.a)}: expected ${show(keys.b)} with it, got none`);
  if (a === undefined || b === undefined) return undefined;
  const shapeFaults = checkShapes(keys, form, a.dims, b.dims);
  faults.push(...shapeFaults);
  return shapeFaults.length === 0 ? { path, keys, a, b } : undefined;
}

function withExtras(
  module: AdapterModule,
  form: Form,
  extras: ReadonlyMap<string, { key: string; part: Beside; value: Tensor<"float32"> }>,
  faults: string[],
): AdapterModule {
  const out = module.b.dims[0]!;
  const dims = { magnitude: magnitudeDims(out, module.a.dims.length - 2), biasOfB: [out] };
  const own = (["magnitude", "biasOfB"] as const).flatMap((part) => {
    const extra = extras.get(`${part} ${module.path}`);
    if (extra === undefined) return [];
    const { key, value } = extra;
    if (value.dims.join() !== dims[part].join())
      faults.push(`${show(key)}: expected [${dims[part].join(", ")}], got [${value.dims.slice(0, 8).join(", ")}]`);
    // PEFT has no such layer.
    if (part === "biasOfB" && form === "embedding")
      faults.push(`${show(key)}: expected no bias of B at an Embedding; remove it`);
    return [[part, value] as const];
  });
  return { ...module, ...Object.fromEntries(own) };
}

/** The shape of DoRA's magnitude: [out], and for a Conv [1, out, 1, …]. */
export function magnitudeDims(outFeatures: number, kernelAxes: number): readonly number[] {
  return kernelAxes === 0 ? [outFeatures] : [1, outFeatures, ...Array.from({ length: kernelAxes }, () => 1)];
}

type Place =
  | { kind: "factor"; path: string; form: Form; matrix: "a" | "b" }
  | { kind: "beside"; path: string; part: Beside }
  | { kind: "saved"; path: string; name: string; ofBase: boolean };

/** The module and part that a key names, or the fault in it. */
function readKey(key: string): Place | string {
  if (!key.startsWith(prefix)) return `${show(key)}: expected a key that starts with ${prefix}, got another`;
  if (key.length > maxKeyLength) return `${show(key)}: expected at most ${maxKeyLength} characters, got ${key.length}`;
  const pathBefore = (suffix: string): string | undefined => {
    const path = key.endsWith(suffix) ? key.slice(prefix.length, -suffix.length) : "";
    return path === "" ? undefined : path;
  };
  for (const form of ["layer", "embedding"] as const) {
    for (const matrix of ["a", "b"] as const) {
      const path = pathBefore(suffixes[form][matrix]);
      if (path !== undefined) return { kind: "factor", path, form, matrix };
    }
  }
  for (const part of ["magnitude", "biasOfB"] as const) {
    const path = pathBefore(besides[part]);
    if (path !== undefined) return { kind: "beside", path, part };
  }
  const ofTokens = pathBefore(tokensSuffix);
  if (ofTokens !== undefined) return { kind: "saved", path: ofTokens, name: "tokens", ofBase: false };
  const [, module, base, name] = /^(.+?)(\.base_layer)?\.(\w+)$/.exec(key.slice(prefix.length)) ?? [];
  if (module !== undefined && name !== undefined && !/(?:^|\.)lora_|token_adapter/.test(key.slice(prefix.length)))
    return { kind: "saved", path: module, name, ofBase: base !== undefined };
  const { a, b } = suffixes.layer;
  return `${show(key)}: expected a key ending in <module path>${a} or <module path>${b}, got another`;
}

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
