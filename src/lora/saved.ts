// Parameters of the base that are trained as they are: modules trained whole (modules_to_save), biases (bias) and rows of
// an embedding (trainable_token_indices), found as PEFT 0.21 finds them (utils/other.py, tuners/tuners_utils.py). How
// they are written into the graph: stages.ts.
import { consumers, follower, producers, storedValue } from "../onnx/graph.ts";
import type { Graph, Node } from "../onnx/model.ts";
import { saysBias, scopePath } from "../onnx/module-path.ts";
import { transposed } from "../onnx/sites/dense.ts";
import type { Site } from "../onnx/sites.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import type { Parameter } from "./adapted.ts";
import { type AdapterConfig, tokenEntries } from "./config.ts";
import { savedKey } from "./keys.ts";
import { isStored, valuesOf } from "./weights.ts";

/** A parameter of a PyTorch module, and where the graph uses it. */
export interface ModuleParameter {
  readonly path: string;
  /** "weight" or "bias"; other parameters by their names. */
  readonly name: string;
  /** PyTorch's shape. */
  readonly dims: readonly number[];
  /** The stored value that it is read from; "" for a bias that the exporter dropped. */
  readonly stored: string;
  readonly uses: readonly Use[];
  /** What the base has, in that shape; zeros for a bias that the exporter dropped. */
  values(): Tensor<"float32">;
}

/** A layer's weight or bias, or the input of another node. */
export type Use =
  | { readonly kind: "weight" | "bias"; readonly node: Node; readonly site: Site; readonly isTransposed: boolean }
  | { readonly kind: "input"; readonly node: Node; readonly index: number };

/** A parameter of the base that an adapter trains. */
export interface SavedParameter {
  readonly key: string;
  readonly dims: readonly number[];
  readonly start: () => Tensor<"float32">;
  readonly parameter: ModuleParameter;
  /** For rows of an embedding: which. */
  readonly rows?: readonly number[];
  /** For rows of an embedding: the output layers that are tied to it, and follow it. */
  readonly tied?: readonly Site[];
}

/** Every parameter that the modules of a model have, by `<path>.<name>`. */
export function moduleParameters(graph: Graph, all: readonly Site[]): Map<string, ModuleParameter> {
  const found = new Map<string, ModuleParameter>();
  const add = (one: ModuleParameter): void => {
    const id = `${one.path}.${one.name}`;
    const before = found.get(id);
    // A bias that was fused into a later node (BiasGelu, SkipLayerNormalization) was not dropped.
    if (before === undefined || (isMadeUp(before) && !isMadeUp(one))) found.set(id, one);
    // A layer that is called twice has its parameters at two nodes.
    else if (before.dims.join() === one.dims.join()) found.set(id, { ...before, uses: [...before.uses, ...one.uses] });
  };
  const places = placesOf(graph);
  // The rows of a packed layer have no parameters of their own.
  const layers = all.filter(({ part }) => part === undefined);
  for (const site of layers.flatMap(atCalls)) for (const one of siteParameters(site, places)) add(one);
  const taken = new Set(layers.flatMap(atCalls).flatMap(({ node, bias }) => [node, ...places.addsOf(node, bias)]));
  for (const node of graph.nodes) if (!taken.has(node)) for (const one of nodeParameters(node, places)) add(one);
  return found;
}

/** The zeros that stand for a bias which the exporter dropped. */
function isMadeUp({ uses }: ModuleParameter): boolean {
  return uses.every((use) => use.kind === "bias" && use.site.bias === undefined);
}

/** A site at each of its calls. */
function atCalls(site: Site): Site[] {
  return site.calls.map((call) => ({ ...site, ...call }));
}

interface Places {
  readonly graph: Graph;
  readonly values: ReturnType<typeof valuesOf>;
  readonly made: ReadonlyMap<string, Node>;
  /** The name that a value is stored under: behind copies, conversions and the transposition of a matrix. */
  storedBehind(name: string): string;
  /** The Add behind a MatMul that adds its bias. */
  addsOf(node: Node, bias: string | undefined): readonly Node[];
}

function placesOf(graph: Graph): Places {
  const [readers, made] = [consumers(graph), producers(graph)];
  return {
    graph,
    values: valuesOf(graph),
    made,
    storedBehind: follower(made, ({ op }) => ["Identity", "Cast", "Transpose"].includes(op)),
    addsOf: (node, bias) =>
      bias === undefined || node.op !== "MatMul"
        ? []
        : (readers.get(node.outputs[0]!) ?? []).filter((next) => next.op === "Add" && next.inputs.includes(bias)),
  };
}

function siteParameters(site: Site, { graph, values, made, storedBehind }: Places): ModuleParameter[] {
  const { modulePath: path, node, weight, bias, kind, layout, outFeatures } = site;
  const isOwnLayout = kind !== "Linear" || layout === "out,in" || isConv1D(graph, site);
  const stored = isStored(graph, made, weight);
  const found: ModuleParameter[] = [];
  if (stored) {
    const use: Use =
      kind === "Embedding"
        ? { kind: "input", node, index: site.weightInput }
        : { kind: "weight", node, site, isTransposed: !isOwnLayout };
    const dims = isOwnLayout ? weightDims(site) : [outFeatures, site.inFeatures];
    const read = (): Tensor<"float32"> => (isOwnLayout ? values(weight)! : transposed(values(weight)!));
    found.push({ path, name: "weight", dims, stored: storedBehind(weight), uses: [use], values: read });
  }
  const hasBias = bias !== undefined ? isStored(graph, made, bias) : kind !== "Embedding" && saysBias(node);
  if (hasBias && (node.inputs[2] ?? "") === (node.op === "MatMul" ? "" : (bias ?? ""))) {
    const read = (): Tensor<"float32"> => (bias === undefined ? zeros([outFeatures]) : values(bias)!);
    const use: Use = { kind: "bias", node, site, isTransposed: false };
    const behind = bias === undefined ? "" : storedBehind(bias);
    found.push({ path, name: "bias", dims: [outFeatures], stored: behind, uses: [use], values: read });
  }
  return found;
}

/** Whether a layer is Hugging Face's Conv1D, whose weight is [in, out]: what an exporter turned it calls by a made-up name. */
export function isConv1D({ initializers }: Graph, { kind, layout, weight }: Site): boolean {
  return kind === "Linear" && layout === "in,out" && initializers.has(weight) && weight.endsWith(".weight");
}

/** What PEFT's fan_in_fan_out is for these layers, with one value for all: whether every Linear among them is a Conv1D. */
export function storesFanInFirst(graph: Graph, all: readonly Site[]): boolean {
  const linear = all.filter(({ kind }) => kind === "Linear");
  return linear.length > 0 && linear.every((site) => isConv1D(graph, site));
}

function weightDims({ layout, inFeatures, outFeatures, kernel, groups }: Site): readonly number[] {
  return layout === "in,out" ? [inFeatures, outFeatures] : [outFeatures, inFeatures / groups, ...kernel];
}

/** Operators whose second and third input PyTorch calls weight and bias. */
const norms = new Set(
  "LayerNormalization InstanceNormalization GroupNormalization BatchNormalization RMSNormalization".split(" "),
);

/** Parameters of nodes that are no layers: named as PyTorch names them, or inputs of a normalization in a named scope. */
function nodeParameters(node: Node, { graph, values, made, storedBehind }: Places): ModuleParameter[] {
  // What only hands a parameter on (shared through Identity, turned by Transpose) is no module.
  if (node.inputs.every((input) => input === "" || graph.initializers.has(input))) return [];
  const scope = scopePath(node);
  return node.inputs.flatMap((input, index): ModuleParameter[] => {
    const dims = storedValue(graph, made, input)?.dims;
    if (dims === undefined || dims.length === 0 || !isStored(graph, made, input)) return [];
    const [, module, last] = /^((?:[\w-]+\.)*[\w-]+)\.(\w+)$/.exec(input) ?? [];
    const name = norms.has(node.op) ? [undefined, "weight", "bias"][index] : last;
    // Equal parameters of several modules are one initializer in torch.export: the scope knows whose this is.
    const path = scope ?? module;
    if (name === undefined || path === undefined) return [];
    const stored = storedBehind(input);
    return [{ path, name, dims, stored, uses: [{ kind: "input", node, index }], values: () => values(input)! }];
  });
}

/** The heads that PEFT names for every model of a task, though it has only one of them. */
const headNames = new Set(["classifier", "score", "qa_outputs"]);

/** Whether a module path lies in a module whose name ends in one of `entries`, as PEFT has it: without regard to dots. */
export function isSaved(path: string, entries: readonly string[] | null): boolean {
  if (entries === null || entries.length === 0) return false;
  const segments = path.split(".");
  return segments.some((_, end) =>
    entries.some((entry) =>
      segments
        .slice(0, end + 1)
        .join(".")
        .endsWith(entry),
    ),
  );
}

/** Whether LoRA leaves a path alone because it is trained whole (PEFT, check_target_module_exists). */
export function isKeptWhole(path: string, entries: readonly string[] | null): boolean {
  const inside = `.${path}.`;
  return entries?.some((entry) => inside.includes(`.${entry}.`)) ?? false;
}

/**
 * What a configuration trains of the base itself, in graph order. Adds to `faults` what is not there or cannot be trained.
 *
 * @param targets the module paths that have a LoRA branch.
 */
export function savedParameters(
  config: Pick<AdapterConfig, "modulesToSave" | "bias" | "trainableTokenIndices" | "extra">,
  graph: Graph,
  all: readonly Site[],
  targets: ReadonlySet<string>,
  faults: string[],
): SavedParameter[] {
  const { modulesToSave, bias, trainableTokenIndices: tokens } = config;
  if ((modulesToSave ?? []).length === 0 && bias === "none" && tokens === null) return [];
  const parameters = moduleParameters(graph, all);
  const list = [...parameters.values()];
  const saved = list.flatMap((parameter): SavedParameter[] => {
    const { path, name, dims, values } = parameter;
    const whole = isSaved(path, modulesToSave) && !targets.has(path);
    const ofBase = targets.has(path);
    const trained = whole || (name === "bias" && (bias === "all" || (bias === "lora_only" && ofBase)));
    return trained ? [{ key: savedKey({ path, name, ofBase }), dims, start: values, parameter }] : [];
  });
  faults.push(...wholeFaults(modulesToSave ?? [], list, all));
  return [...saved, ...tokenRows(config, all, parameters, faults)];
}

function wholeFaults(entries: readonly string[], list: readonly ModuleParameter[], all: readonly Site[]): string[] {
  const paths = list.map(({ path }) => path);
  const found = entries.filter((entry) => paths.some((path) => isSaved(path, [entry])));
  const missing = entries.filter((entry) => !found.includes(entry) && (found.length === 0 || !headNames.has(entry)));
  const weighty = new Set(list.flatMap(({ path, name }) => (name === "weight" ? [path] : [])));
  const computed = all.filter(({ modulePath }) => isSaved(modulePath, entries) && !weighty.has(modulePath));
  const statistics = list.filter(
    ({ path, uses }) => isSaved(path, entries) && uses.some(({ node }) => node.op === "BatchNormalization"),
  );
  return [
    ...missing.map((entry) => `modulesToSave: ${JSON.stringify(entry)} matches no module with parameters`),
    ...computed.map(
      ({ modulePath }) => `modulesToSave: ${modulePath}: expected float32 weights that are stored; exclude it`,
    ),
    ...new Set(
      statistics.map(
        ({ path }) => `modulesToSave: ${path} is a BatchNorm, whose statistics are no parameters; exclude it`,
      ),
    ),
  ];
}

/** Last path segments of the input embedding in language models. */
const inputEmbeddings = new Set(["embed_tokens", "wte", "word_embeddings", "tok_embeddings"]);

type TokenConfig = Pick<AdapterConfig, "trainableTokenIndices" | "extra">;

function tokenRows(
  config: TokenConfig,
  all: readonly Site[],
  parameters: ReadonlyMap<string, ModuleParameter>,
  faults: string[],
): SavedParameter[] {
  const found = tokenEntries(config.trainableTokenIndices).flatMap(([wanted, rows]) => {
    const where = `trainableTokenIndices${wanted === null ? "" : ` ${JSON.stringify(wanted)}`}`;
    const site = tokenLayer(wanted, all, where, faults);
    const parameter = site && parameters.get(`${site.modulePath}.weight`);
    if (site !== undefined && parameter === undefined)
      faults.push(`${where}: ${site.modulePath}: expected float32 weights that are stored`);
    if (site === undefined || parameter === undefined) return [];
    const vocabulary = parameter.dims[0]!;
    const beyond = rows.filter((row) => row >= vocabulary);
    if (beyond.length > 0) faults.push(`${where}: expected rows below ${vocabulary}, got ${beyond.join(", ")}`);
    const tied = site.kind === "Embedding" ? followersOf(parameter, config, all, parameters) : [];
    faults.push(...sharingFaults(config, site, all).map((fault) => `${where}: ${fault}`));
    return beyond.length > 0 ? [] : [{ site, rows, parameter, tied }];
  });
  const following = new Set(found.flatMap(({ tied }) => tied.map(({ modulePath }) => modulePath)));
  return found
    .filter(({ site }) => !following.has(site.modulePath))
    .map(({ site, rows, parameter, tied }) => ({
      key: savedKey({ path: site.modulePath, name: "tokens", ofBase: false }),
      dims: [rows.length, parameter.dims[1]!],
      start: () => rowsOf(parameter.values(), rows),
      parameter,
      rows,
      tied,
    }));
}

/** The embedding that an entry of trainableTokenIndices means, or the output layer. Names match without regard to dots, as in PEFT. */
function tokenLayer(wanted: string | null, all: readonly Site[], where: string, faults: string[]): Site | undefined {
  const embeddings = all.filter(({ kind }) => kind === "Embedding");
  const named = (list: readonly Site[]): Site[] =>
    list.filter(({ modulePath, part }) => part === undefined && modulePath.endsWith(wanted!));
  const meant =
    wanted === null
      ? embeddings.filter(
          ({ modulePath }) => embeddings.length === 1 || inputEmbeddings.has(modulePath.split(".").at(-1)!),
        )
      : [...named(embeddings), ...named(all.filter(({ kind }) => kind === "Linear"))];
  const paths = [...new Set(meant.map(({ modulePath }) => modulePath))];
  if (paths.length === 1) return meant[0];
  const names = embeddings.map(({ modulePath }) => modulePath).join(", ") || "none";
  faults.push(`${where}: expected one embedding, got ${paths.length}; name one of ${names}`);
  return undefined;
}

/** Other embeddings of the same weight would have to follow as well, and do not here. */
function sharingFaults(config: TokenConfig, { kind, modulePath, sharedWith }: Site, all: readonly Site[]): string[] {
  if (kind !== "Embedding" || !tiesOutputs(config)) return [];
  const heads = new Set(all.filter((site) => site.kind === "Linear").map((site) => site.modulePath));
  const others = sharedWith.filter((path) => path !== modulePath && !heads.has(path));
  return others.length === 0
    ? []
    : [
        `${modulePath} shares its weight with ${others.join(", ")}, which are no output layers: its rows cannot be trained`,
      ];
}

/**
 * Whether an output layer with the embedding's values follows its trained rows. PEFT asks the class (tie_word_embeddings),
 * which no model file tells of; nearly all language models say yes. An adapter file names the class of its base where no task
 * does: one that is not Hugging Face's has nothing to say it with.
 */
function tiesOutputs({ extra }: Pick<AdapterConfig, "extra">): boolean {
  const mapping = extra.auto_mapping as { readonly parent_library?: unknown } | null | undefined;
  const library = mapping?.parent_library;
  return typeof library !== "string" || /^transformers(?:_modules)?(?:\.|$)/.test(library);
}

/** The output layers that follow the trained rows of an embedding: those that are tied to it, unless rows of their own are named. */
export function followersOf(
  parameter: ModuleParameter,
  config: TokenConfig,
  all: readonly Site[],
  parameters: ReadonlyMap<string, ModuleParameter>,
): readonly Site[] {
  if (!tiesOutputs(config)) return [];
  const tied = tiedTo(parameter, all, parameters);
  const rowsFor = (path: string): string | undefined =>
    tokenEntries(config.trainableTokenIndices)
      .find(([entry]) => entry !== null && path.endsWith(entry))?.[1]
      .join();
  const own = rowsFor(parameter.path);
  const isApart = ({ modulePath }: Site): boolean => (rowsFor(modulePath) ?? own) !== own;
  return tied.some(isApart) ? [] : tied;
}

/**
 * The output layers whose weight is the embedding's. Exporters store such a weight twice, once turned, under a made-up name:
 * the values tell. Under its own name each, they are two parameters that are equal.
 */
function tiedTo(
  parameter: ModuleParameter,
  all: readonly Site[],
  parameters: ReadonlyMap<string, ModuleParameter>,
): readonly Site[] {
  const { dims, path } = parameter;
  const linear = all.filter(
    ({ kind, inFeatures, outFeatures, modulePath }) =>
      kind === "Linear" && outFeatures === dims[0] && inFeatures === dims[1] && modulePath !== path,
  );
  if (linear.length === 0) return [];
  const own = parameter.values().data;
  return linear.filter(({ modulePath }) => {
    const other = parameters.get(`${modulePath}.weight`);
    if (other === undefined || other.dims.join() !== dims.join()) return false;
    if (other.stored !== parameter.stored && hasOwnName(other) && hasOwnName(parameter)) return false;
    const { data } = other.values();
    return own.every((value, index) => value === data[index]);
  });
}

/** Whether a parameter is stored under the name that PyTorch gave it. */
function hasOwnName({ stored, path, name }: ModuleParameter): boolean {
  const own = `${path}.${name}`;
  // A wrapper around the model may be in one of the names only.
  return stored === own || (stored !== "" && (stored.endsWith(`.${own}`) || own.endsWith(`.${stored}`)));
}

export function rowsOf({ dims, data }: Tensor<"float32">, rows: readonly number[]): Tensor<"float32"> {
  const width = dims[1]!;
  const picked = new Float32Array(rows.length * width);
  for (const [at, row] of rows.entries()) picked.set(data.subarray(row * width, (row + 1) * width), at * width);
  return tensor("float32", [rows.length, width], picked);
}

/** The inputs that a graph needs for them. */
export function inputsOf(saved: readonly SavedParameter[]): Parameter[] {
  return saved.map(({ key, dims, start }) => ({ key, type: "float32", dims, graphDims: dims, start }));
}
