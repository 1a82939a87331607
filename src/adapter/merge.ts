// An adapter folded into its base: W + s B A, which runs anywhere at the base's own speed (Hu et al. 2021, section 4.1).
// A weight that is stored is replaced; one that the graph computes (dequantized, transposed) gets the update added to it.
import { throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { doraFactors } from "../lora/dora.ts";
import { dilationFault, factorFault } from "../lora/factors.ts";
import { adapterKeys, besideKey } from "../lora/keys.ts";
import { missingFaults } from "../lora/missing.ts";
import { placeAdapter } from "../lora/place.ts";
import { plainAdapter } from "../lora/residual.ts";
import { scaleOf } from "../lora/scale.ts";
import { valuesOf } from "../lora/weights.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "../onnx/builder.ts";
import type { ElementType } from "../onnx/elements.ts";
import { isHalf } from "../onnx/float32.ts";
import { behindIdentity, consumers, producers, prune } from "../onnx/graph.ts";
import { rounded } from "../onnx/half.ts";
import { fromTensor, type Graph, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { dequantizedWeight, storedWeight, transposed } from "../onnx/sites/dense.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { refuseNonFinite } from "./merge-safe.ts";
import { modulePaths, withSaved } from "./merge-saved.ts";

export interface MergeOptions {
  /** Refuse a result with NaN or infinity, naming its layers. Default false. */
  readonly safe?: boolean;
  /**
   * Whether quantized layers (MatMulNBits, dynamically quantized activations) become float32 MatMuls; by default they are
   * refused, since W + s B A is not on their grid. Activations of such a layer are no longer quantized either.
   */
  readonly dequantize?: boolean;
}

/**
 * The model with an adapter merged into its weights, in its own operator set. Sums are taken in float64 and rounded once, to the
 * type that the weight is stored in: in float16 and bfloat16 what an update changes by less than half a unit is lost. A
 * grouped Conv becomes an ungrouped one with zeros between its groups, as LoRA's A reads every channel: it grows by the
 * number of its groups. A module that is called several times is written once; a weight that other modules read too is
 * copied first. What the adapter trained whole takes the place of the base's.
 *
 * @throws LowrankError "adapter" that lists every tensor that no layer takes, or whose shape does not fit, dilated Convs, and
 * quantized layers unless `dequantize` is set; with `safe`, "model" that lists every layer whose merged weights are not finite.
 * @example await fs.writeFile("merged.onnx", writeModel(merge(model, adapter)));
 */
export function merge(base: Model, given: Adapter, options: MergeOptions = {}): Model {
  const { dequantize = false, safe = false } = options;
  const faults: string[] = [];
  const own = placeAdapter(plainAdapter(given, base), modulePaths(base), faults);
  const { adapter } = own;
  const { model, placed } = withSaved(base, adapter, faults);
  const { graph } = model;
  const writer = new Writer(model);
  const infos = inferShapes(graph);
  const updated = new Map<Site, { readonly parts: Site[]; readonly type: ElementType }>();
  const all = sites(model);
  const values = valuesOf(graph);
  for (const site of all) {
    const { a, b } = adapterKeys(site.modulePath, site.kind);
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined && B === undefined) continue;
    placed.add(a).add(b);
    const type = infos.get(site.quantized?.scale ?? site.weight)?.type;
    const dilated = dilationFault(site, site.modulePath);
    const fault =
      type === "float32" || isHalf(type)
        ? factorFault(site, A, B)
        : `expected float32, float16 or bfloat16 weights, got ${type}; convert the model`;
    if (dilated !== undefined) faults.push(dilated);
    else if (all.some((other) => other !== site && other.modulePath === site.modulePath)) {
      faults.push(
        `${site.modulePath}: two layers with different weights are called so, and an adapter has one place for them`,
      );
    } else if (site.quantized !== undefined && !dequantize) faults.push(quantizedFault(site));
    else if (fault !== undefined) faults.push(`${site.modulePath}: ${fault}`);
    else {
      // The rows of a packed layer are rows of its weight: one weight, one update.
      const whole = all.find(({ modulePath }) => modulePath === site.part?.of) ?? site;
      const parts = updated.get(whole)?.parts ?? [];
      updated.set(whole, { parts: [...parts, site], type: type ?? "float32" });
      const key = besideKey(site.modulePath, "magnitude");
      const magnitude = adapter.tensors.get(key);
      placed.add(key);
      if (magnitude !== undefined) faults.push(...turnFaults(site, magnitude, values(site.weight)));
    }
  }
  for (const key of adapter.tensors.keys()) if (!placed.has(key)) faults.push(`${key}: the model has no layer for it`);
  faults.push(...missingFaults(own, all));
  throwFaults("adapter", "merge", faults);
  // One update in memory at a time.
  for (const [site, { parts, type }] of updated) {
    const update = sumOfUpdates(parts, adapter);
    const magnitude = adapter.tensors.get(besideKey(site.modulePath, "magnitude"));
    writer.write(site, magnitude === undefined ? update : turn(site, update, magnitude, values(site.weight)!), type);
  }
  const merged = { ...model, graph: withoutUnused(graph, writer.graph()) };
  if (safe) refuseNonFinite(base, merged);
  return merged;
}

function quantizedFault({ modulePath, node }: Site): string {
  return `${modulePath}: its weight is quantized (${node.op}), so that W + s B A cannot be stored in it exactly; keep the adapter beside the model, or set dequantize for a float32 MatMul`;
}

/** The update of one weight by a layer, its parts, or both, laid out as the weight is. */
function sumOfUpdates(parts: readonly Site[], { config, tensors }: Adapter): Float64Array {
  let sum: Float64Array | undefined;
  for (const site of parts) {
    const { a, b } = adapterKeys(site.modulePath, site.kind);
    const [A, B] = [tensors.get(a) as Tensor<"float32">, tensors.get(b) as Tensor<"float32">];
    sum = added(sum, site, updateOf(site, A, B, scaleOf(config, site.modulePath) / site.factor));
  }
  if (sum === undefined) throw new Error("internal: a weight without an update");
  return sum;
}

/** A sum of updates and one more; that of a part of the rows is laid into the whole. */
function added(sum: Float64Array | undefined, site: Site, update: Float64Array): Float64Array {
  const { part, inFeatures, outFeatures, layout } = site;
  if (part === undefined) return sum === undefined ? update : sum.map((value, index) => value + update[index]!);
  const whole = sum ?? new Float64Array(part.total * inFeatures);
  const [width, stride, start] =
    layout === "out,in" ? [inFeatures, inFeatures, part.from * inFeatures] : [outFeatures, part.total, part.from];
  for (let index = 0; index < update.length; index++) {
    whole[start + Math.floor(index / width) * stride + (index % width)]! += update[index]!;
  }
  return whole;
}

/** The graph without nodes and initializers that were of use before, and are no longer. */
function withoutUnused(before: Graph, after: Graph): Graph {
  const [used, needed] = [prune(before), prune(after)];
  const [nodes, still] = [new Set(used.nodes), new Set(needed.nodes)];
  const isUnused = (name: string): boolean => used.initializers.has(name) && !needed.initializers.has(name);
  return {
    ...after,
    nodes: after.nodes.filter((node) => !nodes.has(node) || still.has(node)),
    inputs: after.inputs.filter(({ name }) => !isUnused(name)),
    initializers: new Map([...after.initializers].filter(([name]) => !isUnused(name))),
  };
}

/** Why a DoRA site cannot be merged. */
function turnFaults(
  { modulePath, groups, outFeatures, part, factor }: Site,
  magnitude: Tensor,
  weight: Tensor<"float32"> | undefined,
): string[] {
  const faults: string[] = [];
  if (groups > 1) faults.push(`DoRA is not defined for a Conv with groups, got ${groups}`);
  if (part !== undefined || factor !== 1) faults.push("DoRA needs a layer with a weight of its own, without a factor");
  if (weight === undefined) faults.push("DoRA needs weights that are stored as floats, got computed ones");
  if (magnitude.type !== "float32" || magnitude.data.length !== outFeatures)
    faults.push(`expected a magnitude of ${outFeatures} values, got ${magnitude.type} [${magnitude.dims}]`);
  return faults.map((fault) => `${modulePath}: ${fault}`);
}

/** DoRA's update (m / n) (W + s B A) - W in float64. */
function turn(site: Site, update: Float64Array, magnitude: Tensor, { data }: Tensor<"float32">): Float64Array {
  const factors = doraFactors(site, data, update, magnitude as Tensor<"float32">);
  const perOutput = update.length / site.outFeatures;
  return update.map((change, index) => {
    const out = site.layout === "out,in" ? Math.floor(index / perOutput) : index % site.outFeatures;
    return factors[out]! * (data[index]! + change) - data[index]!;
  });
}

/** Collects what changes in a graph: initializers, and nodes with those that stand before them. */
class Writer {
  readonly #graph: Graph;
  /** Before IR version 4, every initializer is listed as an input too. */
  readonly #listsInitializers: boolean;
  readonly #initializers: Map<string, StoredTensor>;
  readonly #made: ReadonlyMap<string, Node>;
  readonly #names: GraphBuilder;
  readonly #isOwn: (name: string, site: Site) => boolean;
  readonly #changed = new Map<Node, readonly Node[]>();

  constructor({ graph, opsets, irVersion }: Model) {
    this.#listsInitializers = irVersion < 4;
    this.#graph = graph;
    this.#initializers = new Map(graph.initializers);
    this.#made = producers(graph);
    this.#names = graphBuilder({ opset: opsets.get("") ?? 0, from: graph });
    this.#isOwn = privateInitializers(graph);
  }

  /** Adds an update, laid out as the site's weight is once it is without groups. */
  write(site: Site, update: Float64Array, type: ElementType): void {
    const written = new Map<string, string>(); // TorchScript transposes a weight anew for each call
    for (const use of site.calls) {
      const call: Site = { ...site, ...use };
      // One call may be a Gemm over [out, in], another a MatMul over [in, out].
      const own = use.layout === site.layout ? update : turned(update, site);
      if (site.quantized !== undefined) this.#writeFloats(call, own, written);
      else this.#writeCall(call, own, written, type);
    }
  }

  #writeCall(site: Site, update: Float64Array, written: Map<string, string>, type: ElementType): void {
    // TorchScript reads one stored weight through an Identity for each further call.
    const source = behindIdentity(this.#made, site.weight);
    let name = written.get(source);
    if (name === undefined) {
      const stored = storedWeight(this.#graph, this.#made, source);
      if (stored === undefined) name = this.#addTo(site, update, type);
      else {
        const weight = ungrouped(site, stored.data);
        const sum = Float64Array.from(weight, (value, index) => value + update[index]!);
        // Copy before write: others read the same value, or it is a Constant's.
        name = this.#isOwn(source, site) ? source : this.#names.freshName(`${site.modulePath}.weight`);
        this.#initializers.set(name, rounded(stored.storedType, ungroupedDims(site), sum));
      }
      written.set(source, name);
    }
    if (name !== source || site.groups > 1) this.#replace(site, name);
  }

  /** A quantized product as a MatMul, with what it added itself behind it. */
  #writeFloats(site: Site, update: Float64Array, written: Map<string, string>): void {
    const { modulePath, input, output, layout } = site;
    let name = written.get(site.weight);
    if (name === undefined) {
      const { dims, data } = dequantizedWeight(this.#graph, site);
      const sum = data.map((value, index) => value + update[index]!);
      const merged = tensor("float32", dims, sum);
      name = this.#store(`${modulePath}.weight`, fromTensor(layout === "in,out" ? merged : transposed(merged)));
      written.set(site.weight, name);
    }
    const ownBias = site.bias !== undefined && site.node.inputs.includes(site.bias) ? site.bias : undefined;
    const product = ownBias === undefined ? output : this.#names.freshName(`${output}/product`);
    const multiply = makeNode({
      op: "MatMul",
      name: this.#names.freshName(`${modulePath}/MatMul`),
      inputs: [input, name],
      outputs: [product],
      metadata: site.node.metadata,
    });
    const add = ownBias && makeNode({ op: "Add", inputs: [product, ownBias], outputs: [output] });
    this.#changed.set(this.#made.get(output)!, add ? [multiply, add] : [multiply]);
  }

  graph(): Graph {
    const added = [...this.#initializers].filter(([name]) => !this.#graph.initializers.has(name));
    const listed = added.map(([name, { type, dims }]) => ({ name, type, shape: dims, doc: "" }));
    // A listed weight may have another shape now.
    const inputs = this.#graph.inputs.map((info) => {
      const dims = this.#initializers.get(info.name)?.dims;
      return dims === undefined || dims.join() === info.shape?.join() ? info : { ...info, shape: dims };
    });
    return {
      ...this.#graph,
      initializers: this.#initializers,
      inputs: this.#listsInitializers ? [...inputs, ...listed] : inputs,
      nodes: this.#graph.nodes.flatMap((node) => this.#changed.get(node) ?? [node]),
    };
  }

  /** weight + update as nodes; that of a grouped Conv is repeated for each group, and kept in its own channels. */
  #addTo(site: Site, update: Float64Array, type: ElementType): string {
    const { modulePath, weight, groups, kernel } = site;
    const dims = ungroupedDims(site);
    const nodes: Node[] = [];
    const op = (operator: string, inputs: readonly string[]): string => {
      const name = this.#names.freshName(`${modulePath}/merged/${operator}`);
      nodes.push(makeNode({ op: operator, name, inputs, outputs: [name] }));
      return name;
    };
    const floats = (part: string, sizes: readonly number[], values: ArrayLike<number>): string =>
      this.#store(`${modulePath}.merged.${part}`, rounded(type, sizes, values));
    let whole = weight;
    if (groups > 1) {
      const [out, channels] = dims as [number, number];
      const perGroup = new Float32Array((out * channels) / groups).fill(1);
      const mask = ungrouped({ outFeatures: out, inFeatures: channels, groups, kernel: [] }, perGroup);
      const repeats = BigInt64Array.from([1, groups, ...kernel.map(() => 1)], BigInt);
      const times = this.#store(`${modulePath}.merged.repeats`, fromTensor(tensor("int64", [repeats.length], repeats)));
      const own = floats("channels", [out, channels, ...kernel.map(() => 1)], mask);
      whole = op("Mul", [op("Tile", [weight, times]), own]);
    }
    const sum = op("Add", [whole, floats("update", dims, update)]);
    this.#changed.set(site.node, [...nodes, site.node]);
    return sum;
  }

  /** The node with another weight; what was put before it stays there. */
  #replace({ node, weightInput, groups }: Site, weight: string): void {
    const attributes = new Map([...node.attributes].filter(([name]) => groups === 1 || name !== "group"));
    const changed = { ...node, inputs: node.inputs.with(weightInput, weight), attributes };
    this.#changed.set(node, [...(this.#changed.get(node) ?? [node]).slice(0, -1), changed]);
  }

  #store(name: string, value: StoredTensor): string {
    const fresh = this.#names.freshName(name);
    this.#initializers.set(fresh, value);
    return fresh;
  }
}

/** Whether a value is an initializer that nothing but a site's calls reads, also through Identity, and that is no output. */
function privateInitializers(graph: Graph): (name: string, site: Site) => boolean {
  const readers = consumers(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  return (name, { calls }) => {
    const isFree = (value: string): boolean => !outputs.has(value) && (readers.get(value) ?? []).every(isOfCall);
    const isOfCall = (node: Node): boolean =>
      calls.some((call) => call.node === node) || (node.op === "Identity" && isFree(node.outputs[0]!));
    return graph.initializers.has(name) && isFree(name);
  };
}

type Grouped = Pick<Site, "inFeatures" | "outFeatures" | "groups" | "kernel">;

export function ungroupedDims({ inFeatures, outFeatures, layout, kernel }: Site): readonly number[] {
  return layout === "in,out" ? [inFeatures, outFeatures] : [outFeatures, inFeatures, ...kernel];
}

/** [out, in / groups, ...kernel] as [out, in, ...kernel], zero where a group reads no channel. */
export function ungrouped({ inFeatures, outFeatures, groups, kernel }: Grouped, weight: Float32Array): Float32Array {
  if (groups === 1) return weight;
  const row = (inFeatures / groups) * elementCount(kernel);
  const whole = new Float32Array(weight.length * groups);
  for (let out = 0; out < outFeatures; out++) {
    const group = Math.floor((out * groups) / outFeatures);
    whole.set(weight.subarray(out * row, (out + 1) * row), (out * groups + group) * row);
  }
  return whole;
}

/** A Linear layer's update in the layout that its site does not have. */
function turned(update: Float64Array, { inFeatures, outFeatures, layout }: Site): Float64Array {
  const columns = layout === "in,out" ? outFeatures : inFeatures;
  const rows = update.length / columns;
  return update.map((_, index) => update[(index % rows) * columns + Math.floor(index / rows)]!);
}

/** s B A in float64, laid out as the site stores its weight; each group of a Conv has its own rows of A. */
function updateOf(
  { inFeatures, outFeatures, layout, kernel, groups }: Site,
  A: Tensor<"float32">, // [r, in, ...kernel]
  B: Tensor<"float32">, // [out, r / groups, 1, …]
  scale: number,
): Float64Array {
  const columns = inFeatures * elementCount(kernel);
  const [r, rows] = [A.dims[0]! / groups, outFeatures / groups];
  const update = new Float64Array(outFeatures * columns);
  for (let group = 0; group < groups; group++) {
    const [ownB, ownA] = [
      B.data.subarray(group * rows * r, (group + 1) * rows * r),
      A.data.subarray(group * r * columns, (group + 1) * r * columns),
    ];
    const product = scaledProduct(ownB, ownA, r, { inFeatures: columns, outFeatures: rows, layout }, scale);
    update.set(product, group * rows * columns);
  }
  return update;
}

/** s B A in float64, laid out as a matrix of that layout. */
export function scaledProduct(
  B: Float32Array, // [out, r]
  A: Float32Array, // [r, in]
  r: number,
  { inFeatures, outFeatures, layout }: Pick<Site, "inFeatures" | "outFeatures" | "layout">,
  scale: number,
): Float64Array {
  const product = new Float64Array(outFeatures * inFeatures);
  const [rowStride, columnStride] = layout === "out,in" ? [inFeatures, 1] : [1, outFeatures];
  for (let out = 0; out < outFeatures; out++) {
    for (let k = 0; k < r; k++) {
      const factor = scale * B[out * r + k]!;
      if (factor === 0) continue;
      for (let column = 0; column < inFeatures; column++) {
        product[out * rowStride + column * columnStride]! += factor * A[k * inFeatures + column]!;
      }
    }
  }
  return product;
}
