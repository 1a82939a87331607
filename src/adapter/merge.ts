// An adapter folded into its base: W + s B A, which runs anywhere at the base's own speed (Hu et al. 2021, section 4.1).
// A weight that is stored is replaced; one that the graph computes (dequantized, transposed) gets the update added to it.
import { throwFaults } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { dilationFault, factorFault } from "../lora/factors.ts";
import { adapterKeys } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "../onnx/builder.ts";
import { consumers, producers, storedValue } from "../onnx/graph.ts";
import { floatValues, fromTensor, type Graph, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import { inferShapes } from "../onnx/shapes.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { refuseNonFinite } from "./merge-safe.ts";

export interface MergeOptions {
  /** Refuse a result with NaN or infinity, naming its layers. Default false. */
  readonly safe?: boolean;
}

/**
 * The model with an adapter merged into its weights, in its own operator set. Sums are taken in float64 and rounded once. A
 * grouped Conv becomes an ungrouped one with zeros between its groups, as LoRA's A reads every channel: it grows by the
 * number of its groups.
 *
 * @throws LowrankError "adapter" that lists every tensor that no layer takes, or whose shape does not fit, and dilated Convs;
 * with `safe`, "model" that lists every layer whose merged weights are not finite.
 * @example await fs.writeFile("merged.onnx", writeModel(merge(model, adapter)));
 */
export function merge(model: Model, adapter: Adapter, { safe = false }: MergeOptions = {}): Model {
  const { graph } = model;
  const writer = new Writer(model);
  const infos = inferShapes(graph);
  const placed = new Set<string>();
  const faults: string[] = [];
  for (const site of sites(model)) {
    const { a, b } = adapterKeys(site.modulePath, site.kind);
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined && B === undefined) continue;
    placed.add(a).add(b);
    const type = infos.get(site.weight)?.type;
    const dilated = dilationFault(site, site.modulePath);
    const fault =
      type === "float32" ? factorFault(site, A, B) : `expected float32 weights, got ${type}; convert the model`;
    if (dilated !== undefined) faults.push(dilated);
    else if (fault !== undefined) faults.push(`${site.modulePath}: ${fault}`);
    else {
      const [factorA, factorB] = [A as Tensor<"float32">, B as Tensor<"float32">];
      writer.write(site, updateOf(site, factorA, factorB, scaleOf(adapter.config, site.modulePath)));
    }
  }
  for (const key of adapter.tensors.keys()) if (!placed.has(key)) faults.push(`${key}: the model has no layer for it`);
  throwFaults("adapter", "merge", faults);
  const merged = { ...model, graph: writer.graph() };
  if (safe) refuseNonFinite(model, merged);
  return merged;
}

/** Collects what changes in a graph: initializers, and nodes with those that stand before them. */
class Writer {
  readonly #graph: Graph;
  /** Before IR version 4, every initializer is listed as an input too. */
  readonly #listsInitializers: boolean;
  readonly #initializers: Map<string, StoredTensor>;
  readonly #made: ReadonlyMap<string, Node>;
  readonly #names: GraphBuilder;
  readonly #isOwn: (name: string) => boolean;
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
  write(site: Site, update: Float64Array): void {
    const stored = storedValue(this.#graph, this.#made, site.weight);
    if (stored === undefined) {
      this.#addTo(site, update);
      return;
    }
    const weight = ungrouped(site, floatValues(site.weight, stored));
    const dims = ungroupedDims(site);
    const merged = fromTensor(
      tensor(
        "float32",
        dims,
        weight.map((value, index) => value + update[index]!),
      ),
    );
    // Copy before write: others read the same value, or it is a Constant's or an Identity's.
    const name = this.#isOwn(site.weight) ? site.weight : this.#names.freshName(`${site.modulePath}.weight`);
    this.#initializers.set(name, merged);
    if (name !== site.weight || site.groups > 1) this.#replace(site, name, []);
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
  #addTo(site: Site, update: Float64Array): void {
    const { modulePath, weight, groups, kernel } = site;
    const dims = ungroupedDims(site);
    const nodes: Node[] = [];
    const op = (operator: string, inputs: readonly string[]): string => {
      const name = this.#names.freshName(`${modulePath}/merged/${operator}`);
      nodes.push(makeNode({ op: operator, name, inputs, outputs: [name] }));
      return name;
    };
    const floats = (part: string, sizes: readonly number[], values: ArrayLike<number>): string =>
      this.#store(`${modulePath}.merged.${part}`, fromTensor(tensor("float32", sizes, Float32Array.from(values))));
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
    this.#replace(site, op("Add", [whole, floats("update", dims, update)]), nodes);
  }

  #replace({ node, weightInput, groups }: Site, weight: string, before: readonly Node[]): void {
    const attributes = new Map([...node.attributes].filter(([name]) => groups === 1 || name !== "group"));
    const changed = { ...node, inputs: node.inputs.with(weightInput, weight), attributes };
    this.#changed.set(node, [...before, changed]);
  }

  #store(name: string, value: StoredTensor): string {
    const fresh = this.#names.freshName(name);
    this.#initializers.set(fresh, value);
    return fresh;
  }
}

/** Whether a value is an initializer that one node reads, and that is no output itself. */
function privateInitializers(graph: Graph): (name: string) => boolean {
  const readers = consumers(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  return (name) => graph.initializers.has(name) && readers.get(name)?.length === 1 && !outputs.has(name);
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
