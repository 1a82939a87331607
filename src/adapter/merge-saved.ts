// The first part of merging: what an adapter trained of the base itself (modules_to_save, biases, rows of embeddings), and the
// bias of B, put in the place of what the base has. Copy before write: what others read stays.
import type { Adapter } from "../lora/config.ts";
import { besideKey, type SavedTensor, savedOf } from "../lora/keys.ts";
import { followersOf, type ModuleParameter, moduleParameters, type Use } from "../lora/saved.ts";
import { scaleOf } from "../lora/scale.ts";
import { valuesOf } from "../lora/weights.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "../onnx/builder.ts";
import { consumers, reads } from "../onnx/graph.ts";
import { floatsOf, rounded } from "../onnx/half.ts";
import type { Graph, Model, Node, StoredTensor } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { transposed } from "../onnx/sites/dense.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { type Tensor, tensor } from "../tensor.ts";

/** Every module of a model that an adapter may have tensors for. */
export function modulePaths(model: Model): ReadonlySet<string> {
  const all = sites(model);
  const parameters = [...moduleParameters(model.graph, all).values()];
  return new Set([...all.map(({ modulePath }) => modulePath), ...parameters.map(({ path }) => path)]);
}

/**
 * The model with the adapter's saved tensors and biases of B. Adds to `faults` those that nothing takes.
 *
 * @returns also the keys that were placed or reported.
 */
export function withSaved(model: Model, adapter: Adapter, faults: string[]): { model: Model; placed: Set<string> } {
  const saved = savedOf(adapter.tensors);
  const all = sites(model);
  const placed = new Set(saved.map(({ key }) => key));
  const hasBiases = all.some(({ modulePath }) => adapter.tensors.has(besideKey(modulePath, "biasOfB")));
  if (saved.length === 0 && !hasBiases) return { model, placed };
  const parameters = moduleParameters(model.graph, all);
  const changes = new Changes(model);
  for (const one of saved) {
    const parameter = parameterOf(one, parameters, all);
    const fault = parameter === undefined ? "the model has no parameter for it" : putFault(one, parameter, adapter);
    if (fault !== undefined) faults.push(`${one.key}: ${fault}`);
    else {
      const value = newValues(one, parameter!, adapter);
      const isTable = one.name === "tokens" && parameter!.uses.some(({ kind }) => kind === "input");
      const tied = isTable ? followersOf(parameter!, adapter.config, all, parameters) : [];
      const followers = tied.map(({ modulePath }) => parameters.get(`${modulePath}.weight`)!);
      const own = new Set(saved.filter(({ name }) => name === "weight").map(({ path }) => path));
      for (const { path, uses } of [parameter!, ...followers])
        if (path === one.path || !own.has(path)) for (const use of uses) changes.put(use, value);
    }
  }
  for (const site of all) {
    const key = besideKey(site.modulePath, "biasOfB");
    const value = adapter.tensors.get(key);
    if (value === undefined) continue;
    placed.add(key);
    if (site.quantized !== undefined || site.part !== undefined)
      faults.push(`${key}: a bias of B can be merged into layers with float weights of their own alone`);
    else if (value.type !== "float32" || value.dims.join() !== String(site.outFeatures))
      faults.push(`${key}: expected float32 [${site.outFeatures}], got ${value.type} [${value.dims}]`);
    else changes.addBias(site, value, scaleOf(adapter.config, site.modulePath));
  }
  return { model: { ...model, graph: changes.graph() }, placed };
}

/** The base's parameter that a tensor replaces. A bias that the base lacks is made: the adapter shows that there was one. */
function parameterOf(
  { path, name }: SavedTensor,
  parameters: ReadonlyMap<string, ModuleParameter>,
  all: readonly Site[],
): ModuleParameter | undefined {
  const found = parameters.get(`${path}.${name === "tokens" ? "weight" : name}`);
  if (found !== undefined || name !== "bias") return found;
  const own = all.filter(
    ({ modulePath, kind, bias, quantized, part }) =>
      modulePath === path &&
      kind !== "Embedding" &&
      bias === undefined &&
      quantized === undefined &&
      part === undefined,
  );
  const uses = own.map((site): Use => ({ kind: "bias", node: site.node, site, isTransposed: false }));
  const dims = own[0] && [own[0].outFeatures];
  return (
    dims && { path, name, dims, stored: "", uses, values: () => tensor("float32", dims, new Float32Array(dims[0]!)) }
  );
}

function putFault({ name, value }: SavedTensor, { dims, path }: ModuleParameter, adapter: Adapter): string | undefined {
  const rows = name === "tokens" ? rowsFor(path, adapter) : undefined;
  if (name === "tokens" && (rows === undefined || rows.some((row) => row >= dims[0]!)))
    return `expected trainableTokenIndices below ${dims[0]}, got ${rows?.join(", ") ?? "none"}`;
  const wanted = rows === undefined ? dims : [rows.length, dims[1]!];
  return value.dims.join() === wanted.join() ? undefined : `expected float32 [${wanted}], got [${value.dims}]`;
}

function newValues({ name, value }: SavedTensor, parameter: ModuleParameter, adapter: Adapter): Tensor<"float32"> {
  if (name !== "tokens") return value;
  const { dims, data } = parameter.values();
  const [whole, width] = [data.slice(), dims[1]!];
  for (const [at, row] of rowsFor(parameter.path, adapter)!.entries())
    whole.set(value.data.subarray(at * width, (at + 1) * width), row * width);
  return tensor("float32", dims, whole);
}

function rowsFor(path: string, { config: { trainableTokenIndices: tokens } }: Adapter): readonly number[] | undefined {
  if (tokens === null) return undefined;
  if (Array.isArray(tokens)) return tokens as readonly number[];
  return Object.entries(tokens).find(([entry]) => path.endsWith(entry))?.[1];
}

/** Collects new initializers, and nodes that read them. */
class Changes {
  readonly #graph: Graph;
  readonly #listsInitializers: boolean;
  readonly #names: GraphBuilder;
  readonly #values: ReturnType<typeof valuesOf>;
  readonly #infos: ReturnType<typeof inferShapes>;
  readonly #readers: ReadonlyMap<string, readonly Node[]>;
  readonly #added = new Map<string, StoredTensor>();
  readonly #inputs = new Map<Node, readonly string[]>();
  /** Biases of MatMuls that had none. */
  readonly #behind = new Map<Node, string>();

  constructor({ graph, opsets, irVersion }: Model) {
    this.#graph = graph;
    this.#listsInitializers = irVersion < 4;
    this.#names = graphBuilder({ opset: opsets.get("") ?? 0, from: graph });
    this.#values = valuesOf(graph);
    this.#infos = inferShapes(graph);
    this.#readers = consumers(graph);
  }

  put(use: Use, value: Tensor<"float32">): void {
    if (use.kind === "input") this.#replace(use.node, use.index, value);
    else if (use.kind === "bias") this.#putBias(use.site, value);
    else this.#replace(use.node, use.site.weightInput, use.isTransposed ? transposed(value) : value);
  }

  /** bias + scale * value. */
  addBias(site: Site, value: Tensor<"float32">, scale: number): void {
    const before = this.#biasOf(site);
    const sum = value.data.map((one, out) => (before?.data[out] ?? 0) + scale * one);
    this.#putBias(site, tensor("float32", value.dims, sum));
  }

  graph(): Graph {
    const { initializers, inputs, outputs, nodes } = this.#graph;
    const changed = nodes.flatMap((node) => this.#changed(node));
    // What a changed node read before, and nobody reads now, is gone.
    const read = new Set([...changed.flatMap(reads), ...outputs.map(({ name }) => name)]);
    const dropped = new Set([...this.#inputs.keys()].flatMap((node) => node.inputs).filter((name) => !read.has(name)));
    const kept = [...initializers].filter(([name]) => !dropped.has(name));
    const fresh = [...this.#added].filter(([name]) => !initializers.has(name));
    const listed = fresh.map(([name, { type, dims }]) => ({ name, type, shape: dims, doc: "" }));
    return {
      ...this.#graph,
      initializers: new Map([...kept, ...this.#added]),
      inputs: [...inputs.filter(({ name }) => !dropped.has(name)), ...(this.#listsInitializers ? listed : [])],
      nodes: changed,
    };
  }

  #changed(node: Node): Node[] {
    const changed = { ...node, inputs: this.#inputs.get(node) ?? node.inputs };
    const bias = this.#behind.get(node);
    if (bias === undefined) return [changed];
    const product = this.#names.freshName(`${node.outputs[0]}/product`);
    const name = this.#names.freshName(`${node.name}/bias`);
    return [
      { ...changed, outputs: [product] },
      makeNode({ op: "Add", name, inputs: [product, bias], outputs: node.outputs }),
    ];
  }

  /** The node and the place of its input that a bias is read at; none when it has to be made. */
  #placeOf({ node, bias }: Site): readonly [Node, number] | undefined {
    if (node.op !== "MatMul") return [node, 2];
    const add = bias === undefined ? undefined : this.#readers.get(node.outputs[0]!)?.[0];
    return add && [add, add.inputs.indexOf(bias!)];
  }

  #biasOf(site: Site): Tensor<"float32"> | undefined {
    const place = this.#placeOf(site);
    const name = place === undefined ? this.#behind.get(site.node) : this.#inputsOf(place[0])[place[1]];
    const added = name === undefined ? undefined : this.#added.get(name);
    if (added !== undefined) return tensor("float32", added.dims, floatsOf(added));
    return site.bias === undefined ? undefined : this.#values(site.bias);
  }

  #putBias(site: Site, value: Tensor<"float32">): void {
    const place = this.#placeOf(site);
    if (place === undefined) {
      const type = this.#infos.get(site.weight)?.type ?? "float32";
      this.#behind.set(site.node, this.#store(`${site.modulePath}.bias`, rounded(type, value.dims, value.data)));
    } else this.#replace(place[0], place[1], value, `${site.modulePath}.bias`);
  }

  #replace(node: Node, index: number, value: Tensor<"float32">, wanted?: string): void {
    const inputs = [...this.#inputsOf(node)];
    const before = inputs[index] ?? "";
    // A bias that is made has the type of its layer's weight.
    const type = this.#infos.get(before === "" ? inputs[1]! : before)?.type ?? "float32";
    const stored = rounded(type, value.dims, value.data);
    if (this.#isOwn(before)) {
      this.#added.set(before, stored);
      return;
    }
    while (inputs.length < index) inputs.push("");
    inputs[index] = this.#store(wanted ?? before, stored);
    this.#inputs.set(node, inputs);
  }

  #inputsOf(node: Node): readonly string[] {
    return this.#inputs.get(node) ?? node.inputs;
  }

  /** Whether a value is an initializer that one node reads, and that is no output itself. */
  #isOwn(name: string): boolean {
    const { initializers, outputs } = this.#graph;
    return (
      initializers.has(name) && this.#readers.get(name)?.length === 1 && !outputs.some((info) => info.name === name)
    );
  }

  #store(wanted: string, stored: StoredTensor): string {
    const name = this.#names.freshName(wanted);
    this.#added.set(name, stored);
    return name;
  }
}
