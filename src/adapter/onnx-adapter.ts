// Adapters as ONNX Runtime, Olive and GenAI take them: `.onnx_adapter` files, whose parameters have the names of the model's
// inputs. In Olive's layout A is [in, r] and B is [r, out] with the scale multiplied in; names are the module path and
// `.lora_A.weight`, or `.lora_A.quant.weight` and `.quant.scale` where it is quantized (Olive, passes/onnx/extract_adapters.py).
// An Embedding's are `.lora_embedding_A`; a Conv's factors, for which Olive has no layout, keep PEFT's. adapter-inputs.ts
// writes the model that takes them.
import { throwFaults } from "../errors.ts";
import type { Adapter, StorageType } from "../lora/config.ts";
import { type AdapterModule, adapterKeys, collectModules } from "../lora/keys.ts";
import { plainAdapter } from "../lora/residual.ts";
import { scaleOf } from "../lora/scale.ts";
import type { Model } from "../onnx/model.ts";
import { elementCount, type Tensor, type TensorType, tensor } from "../tensor.ts";
import { foreignConfig } from "./foreign-config.ts";
import { quote } from "./json.ts";
import { encodeOnnxAdapter, scanOnnxAdapter } from "./onnx-adapter-file.ts";
import { dequantizeRows, halved, quantizeRows, toFloat32 } from "./storage.ts";

/** Types that the parameters can have. */
export type ParameterType = "float32" | StorageType;

export interface OnnxAdapterOptions {
  /** The parameters' type; default float32. With int8, each A and B is int8 values and a float32 scale for each row. */
  readonly dtype?: ParameterType;
  /**
   * The model that the parameters are for (`withAdapterInputs`): they get its types, what it has no input for is refused, and
   * sites that the adapter leaves out get rank 0, since every input must be fed.
   */
  readonly model?: Model;
}

export interface WriteOnnxAdapterOptions extends OnnxAdapterOptions {
  /** Numbers of the caller's own, which ONNX Runtime hands on unread; default 1. */
  readonly adapterVersion?: number;
  readonly modelVersion?: number;
}

export interface ReadOnnxAdapterOptions {
  /** Ranks above this are refused; default 4096. */
  readonly maxRank?: number;
  /** Stands before each error message, such as the file's path; default "onnx_adapter". */
  readonly where?: string;
}

/**
 * The parameters of an adapter by the names of the inputs of its model: what JavaScript, whose bindings know no adapter files,
 * feeds beside the model's own inputs. null is no adapter: rank 0 at every site of `model`, and the base's own outputs.
 *
 * @throws LowrankError "adapter" that lists tensors other than A and B, values that the type cannot hold, and what the model
 * has no input for.
 * @example
 * const model = withAdapterInputs(base, adapter.config);
 * const session = await createSession(model);
 * await session.run({ x, ...Object.fromEntries(adapterParameters(adapter, { model })) });
 */
export function adapterParameters(adapter: Adapter | null, options: OnnxAdapterOptions = {}): Map<string, Tensor> {
  const faults: string[] = [];
  const wanted = options.model === undefined ? undefined : adapterInputs(options.model);
  const parameters = new Map<string, Tensor>();
  for (const factor of adapter === null ? [] : factorsOf(adapter, faults)) {
    const type = wanted === undefined ? (options.dtype ?? "float32") : typeOfInput(wanted, factor.stem);
    if (type === undefined) {
      faults.push(`${factor.stem}: the model has no input for it`);
      continue;
    }
    for (const [name, value] of encodeFactor(factor, type, faults)) parameters.set(name, value);
  }
  for (const [name, { type, dims }] of wanted ?? []) {
    const given = parameters.get(name);
    if (given === undefined) parameters.set(name, emptyParameter(type, dims));
    else if (!fits(given, dims))
      faults.push(`${name}: expected [${dims.map((dim) => dim ?? "r")}], got [${given.dims}]`);
  }
  throwFaults("adapter", "onnx_adapter", faults);
  return parameters;
}

/**
 * The bytes of an `.onnx_adapter` file.
 *
 * C++, C# and Python read it with `LoraAdapter` and run with it by `RunOptions.add_active_adapter`, on a model whose adapter
 * inputs are optional; GenAI by `Adapters.LoadAdapter`. null writes a file that switches `model` to its base.
 *
 * @throws LowrankError "adapter", as `adapterParameters` does.
 * @example
 * await writeFile("tuned.onnx_adapter", writeOnnxAdapter(adapter, { dtype: "float16" }));
 */
export function writeOnnxAdapter(adapter: Adapter | null, options: WriteOnnxAdapterOptions = {}): Uint8Array {
  return encodeOnnxAdapter({
    adapterVersion: options.adapterVersion ?? 1,
    modelVersion: options.modelVersion ?? 1,
    parameters: adapterParameters(adapter, options),
  });
}

/**
 * Reads an `.onnx_adapter` file in Olive's layout. The scale is in B already, so that every module has alpha = r. float16,
 * bfloat16 and int8 become float32 and are remembered in `storage`; parameters of rank 0 stand for nothing and are left out.
 *
 * @throws LowrankError "adapter" with every fault of the file.
 * @example
 * const adapter = readOnnxAdapter(await readFile("tuned.onnx_adapter"));
 */
export function readOnnxAdapter(bytes: Uint8Array, options: ReadOnnxAdapterOptions = {}): Adapter {
  const faults: string[] = [];
  const file = scanOnnxAdapter(bytes, faults);
  const tensors = new Map<string, Tensor>();
  const storage = new Map<string, StorageType>();
  for (const [stem, parts] of groupParameters(file?.parameters ?? new Map(), faults)) {
    const factor = decodeFactor(stem, parts, faults);
    if (factor === null || factor.value.dims.includes(0)) continue;
    tensors.set(factor.key, factor.value);
    if (factor.type !== "float32") storage.set(factor.key, factor.type);
  }
  const modules = collectModules(tensors, faults);
  const maxRank = options.maxRank ?? 4096;
  for (const { path, a } of modules) {
    if (a.dims[0]! > maxRank)
      faults.push(`${quote(path)}: expected a rank of at most ${maxRank}, got ${a.dims[0]}; raise maxRank`);
  }
  if (faults.length === 0 && modules.length === 0) faults.push("expected parameters of a rank above 0, got none");
  throwFaults("adapter", options.where ?? "onnx_adapter", faults);
  const config = foreignConfig(
    modules.map(({ path, a }) => ({ path, rank: a.dims[0]! })),
    1,
  );
  return { config, tensors, ...(storage.size > 0 && { storage }) };
}

/** A or B of a module as the file has it, before its type is chosen. */
interface Factor {
  /** What its names begin with: `<module path>.lora_A`. */
  readonly stem: string;
  /** PEFT's layout, the scale multiplied into B. */
  readonly value: Tensor<"float32">;
}

function factorsOf(given: Adapter, faults: string[]): Factor[] {
  const adapter = plainAdapter(given);
  const modules = collectModules(adapter.tensors, faults);
  const known = new Set(modules.flatMap(({ keys }) => [keys.a, keys.b]));
  if (faults.length === 0) {
    for (const key of adapter.tensors.keys()) {
      if (!known.has(key))
        faults.push(`${quote(key)}: an .onnx_adapter holds A and B alone; merge this adapter instead`);
    }
  }
  return modules.flatMap((module): Factor[] => {
    const { a, b, path, keys } = module;
    for (const [key, { data }] of [[keys.a, a] as const, [keys.b, b] as const]) {
      const at = data.findIndex((value) => !Number.isFinite(value));
      if (at >= 0) faults.push(`${quote(key)}: expected finite values, got ${data[at]} at ${at}`);
    }
    const [stemA, stemB] = stemsOf(module);
    const scale = scaleOf(adapter.config, path);
    const scaled =
      scale === 1
        ? b
        : tensor(
            "float32",
            b.dims,
            b.data.map((value) => value * scale),
          );
    return [
      { stem: stemA, value: a },
      { stem: stemB, value: scaled },
    ];
  });
}

function stemsOf({ path, keys }: AdapterModule): [a: string, b: string] {
  const middle = keys.a === adapterKeys(path, "Embedding").a ? "lora_embedding_" : "lora_";
  return [`${path}.${middle}A`, `${path}.${middle}B`];
}

/** The name of a parameter that is not quantized: PEFT's own ending. */
export function plainName(stem: string): string {
  return /\.lora_embedding_[AB]$/.test(stem) ? stem : `${stem}.weight`;
}

/** The names of a quantized parameter's values and scales. */
export function quantizedNames(stem: string): { readonly values: string; readonly scales: string } {
  return { values: `${stem}.quant.weight`, scales: `${stem}.quant.scale` };
}

/** The parameters that hold one factor in a type. */
function encodeFactor({ stem, value }: Factor, type: ParameterType, faults: string[]): [string, Tensor][] {
  const { dims, data } = value;
  if (type === "int8") {
    const { values, scales } = quantizeRows(data, dims[0]!);
    const names = quantizedNames(stem);
    return [
      [names.values, transposed(tensor("int8", dims, values))],
      [names.scales, tensor("float32", [dims[0]!], scales)],
    ];
  }
  const stored = type === "float32" ? value : halved(value, type);
  const at = toFloat32(stored)!.data.findIndex((x, i) => !Number.isFinite(x) && Number.isFinite(data[i]!));
  if (at >= 0) faults.push(`${stem}: expected values that ${type} can hold, got ${data[at]} at ${at}`);
  return [[plainName(stem), transposed(stored)]];
}

/** Matrices change their layout between PEFT's and Olive's; a Conv's factors keep theirs. */
function transposed<T extends Tensor>({ type, dims, data }: T): T {
  if (dims.length !== 2) return { type, dims, data } as T;
  const [rows, columns] = [dims[0]!, dims[1]!];
  const out = data.slice();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) out[column * rows + row] = data[row * columns + column]!;
  }
  return { type, dims: [columns, rows], data: out } as unknown as T;
}

interface Parts {
  plain?: Tensor;
  values?: Tensor;
  scales?: Tensor;
}

/** Parameters of one factor, together; names that are none of an adapter's are faults. */
function groupParameters(parameters: ReadonlyMap<string, Tensor>, faults: string[]): Map<string, Parts> {
  const groups = new Map<string, Parts>();
  for (const [name, value] of parameters) {
    const place = parseName(name);
    if (place === null) {
      faults.push(`${quote(name)}: expected a name ending in .lora_A.weight or .lora_B.weight, got another`);
      continue;
    }
    const parts = groups.get(place.stem) ?? {};
    parts[place.part] = value;
    groups.set(place.stem, parts);
  }
  return groups;
}

function parseName(name: string): { stem: string; part: keyof Parts } | null {
  const match =
    /^(.+\.(?:lora_[AB](?=\.(?:weight|quant))|lora_embedding_[AB]))(\.weight|\.quant\.weight|\.quant\.scale)?$/s.exec(
      name,
    );
  if (match === null) return null;
  const [, stem = "", ending = ""] = match;
  if (ending === ".quant.weight") return { stem, part: "values" };
  if (ending === ".quant.scale") return { stem, part: "scales" };
  return plainName(stem) === name ? { stem, part: "plain" } : null;
}

function decodeFactor(
  stem: string,
  { plain, values, scales }: Parts,
  faults: string[],
): { key: string; value: Tensor<"float32">; type: ParameterType } | null {
  const [, path = "", embedding = "", matrix] = /^(.+)\.lora_(embedding_)?([AB])$/s.exec(stem) ?? [];
  const keys = adapterKeys(path, embedding === "" ? "Linear" : "Embedding");
  const key = matrix === "A" ? keys.a : keys.b;
  const quantized = values !== undefined || scales !== undefined;
  const type = quantized ? "int8" : plain?.type;
  if (plain !== undefined && quantized) faults.push(`${quote(stem)}: expected .weight or .quant.weight, got both`);
  else if (type !== "int8" && type !== "float32" && type !== "float16" && type !== "bfloat16")
    faults.push(`${quote(stem)}: expected float32, float16, bfloat16 or quantized int8, got ${type}`);
  else {
    const value = quantized ? dequantized(stem, values, scales, faults) : toFloat32(transposed(plain!));
    const at = value?.data.findIndex((x) => !Number.isFinite(x)) ?? -1;
    if (at >= 0) faults.push(`${quote(stem)}: expected finite values, got ${value?.data[at]} at ${at}`);
    else if (value !== null) return { key, value, type };
  }
  return null;
}

function dequantized(
  stem: string,
  values: Tensor | undefined,
  scales: Tensor | undefined,
  faults: string[],
): Tensor<"float32"> | null {
  const stored = values === undefined ? undefined : transposed(values);
  if (stored?.type === "int8" && scales?.type === "float32" && scales.dims.length === 1) {
    if (stored.dims.length >= 2 && stored.dims[0] === scales.dims[0])
      return tensor("float32", stored.dims, dequantizeRows({ values: stored.data, scales: scales.data }));
  }
  const show = (value: Tensor | undefined): string => (value === undefined ? "none" : `${value.type} [${value.dims}]`);
  const expected = "expected int8 .quant.weight [columns, rows] and float32 .quant.scale [rows]";
  faults.push(`${quote(stem)}: ${expected}, got ${show(values)} and ${show(scales)}`);
  return null;
}

// --- a model's adapter inputs ------------------------------------------------------------------------------------------

type AdapterInputs = ReadonlyMap<string, { readonly type: TensorType; readonly dims: readonly (number | null)[] }>;

/** The inputs of a model that adapters feed; ranks are null. */
function adapterInputs({ graph }: Model): AdapterInputs {
  const found = new Map<string, { type: TensorType; dims: (number | null)[] }>();
  for (const { name, type, shape } of graph.inputs) {
    if (parseName(name) === null || shape === undefined) continue;
    found.set(name, {
      type: type as TensorType,
      dims: shape.map((dim) => (typeof dim === "number" ? dim : null)),
    });
  }
  return found;
}

function typeOfInput(inputs: AdapterInputs, stem: string): ParameterType | undefined {
  if (inputs.has(quantizedNames(stem).values)) return "int8";
  return inputs.get(plainName(stem))?.type as ParameterType | undefined;
}

/** What stands for no adapter: zeros where the rank is not among the sizes (scales of B's rows), else nothing at all. */
export function emptyParameter(type: TensorType, dims: readonly (number | string | null)[]): Tensor {
  const shape = dims.map((dim) => (typeof dim === "number" ? dim : 0));
  const count = elementCount(shape);
  if (type === "int8") return tensor("int8", shape, new Int8Array(count));
  if (type === "float16" || type === "bfloat16") return tensor(type, shape, new Uint16Array(count));
  return tensor("float32", shape, new Float32Array(count));
}

function fits({ dims }: Tensor, expected: readonly (number | null)[]): boolean {
  return dims.length === expected.length && expected.every((dim, axis) => dim === null || dim === dims[axis]);
}
