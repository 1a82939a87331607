// The weights of Linear layers as matrices: read in whichever form the file has them, replaced with copy before write.
import { LowrankError } from "../errors.ts";
import { denseMap, type LinearMap, transposeMap } from "../linalg/linear-map.ts";
import { behindIdentity, consumers, producers, storedValue } from "../onnx/graph.ts";
import { floatValues, fromTensor, intsAttribute, type Model, type Node, type StoredTensor } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { tensor } from "../tensor.ts";

/** W of one layer, row by row in the layout that the site has: [out, in] or [in, out]. */
export interface LinearWeight {
  readonly site: Site;
  readonly values: Float32Array;
}

/**
 * The weight of a Linear site; a LowrankError's message where its values are not stored as float32, or behind anything but
 * Identity and Transpose nodes.
 */
export function readLinearWeight({ graph }: Model, site: Site): LinearWeight | string {
  const made = producers(graph);
  const direct = storedValue(graph, made, site.weight);
  if (direct !== undefined) return valuesOf(site, direct, false);
  const node = made.get(behindIdentity(made, site.weight));
  const behind = node !== undefined && isTurn(node) ? storedValue(graph, made, node.inputs[0]!) : undefined;
  return behind === undefined
    ? `${site.modulePath}: expected a stored float32 weight, got one that the graph computes; start from the float model`
    : valuesOf(site, behind, true);
}

function isTurn(node: Node): boolean {
  return node.op === "Transpose" && node.domain === "" && (intsAttribute(node, "perm")?.join() ?? "1,0") === "1,0";
}

function valuesOf(site: Site, stored: StoredTensor, isTurned: boolean): LinearWeight | string {
  if (stored.type !== "float32") {
    return `${site.modulePath}: expected float32 weights, got ${stored.type}; start from the float model`;
  }
  const values = floatValues(site.weight, stored);
  const [rows, columns] = stored.dims as [number, number];
  return { site, values: isTurned ? turned(values, rows, columns) : values };
}

function turned(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = values[i * columns + j]!;
  return out;
}

/** W as a map from in to out, whatever its layout. */
export function weightMap({ site, values }: LinearWeight): LinearMap {
  const { inFeatures, outFeatures, layout } = site;
  return layout === "out,in"
    ? denseMap(outFeatures, inFeatures, values)
    : transposeMap(denseMap(inFeatures, outFeatures, values));
}

/**
 * W - scale * B A in the weight's own layout, summed in float64 and rounded once; a [r, in], b [out, r]. Throws LowrankError
 * "data" when that is not finite.
 */
export function withoutUpdate(
  { site, values }: LinearWeight,
  a: Float32Array,
  b: Float32Array,
  scale: number,
): Float32Array {
  const { inFeatures, outFeatures, layout, modulePath } = site;
  const r = a.length / inFeatures;
  const isOutIn = layout === "out,in";
  const [rows, columns] = isOutIn ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
  const out = new Float32Array(values.length);
  const sum = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) sum[j] = values[i * columns + j]!;
    for (let k = 0; k < r; k++) {
      if (isOutIn) {
        const factor = scale * b[i * r + k]!;
        for (let j = 0; j < columns; j++) sum[j] = sum[j]! - factor * a[k * inFeatures + j]!;
      } else {
        const factor = scale * a[k * inFeatures + i]!;
        for (let j = 0; j < columns; j++) sum[j] = sum[j]! - factor * b[j * r + k]!;
      }
    }
    out.set(sum, i * columns);
  }
  if (out.some((value) => !Number.isFinite(value))) {
    throw new LowrankError(
      "data",
      `${modulePath}: what is left of the weight is not finite; check the model's weights`,
    );
  }
  return out;
}

/** The model with other values for the weights of some Linear sites. Values that others read too are copied first. */
export function withLinearWeights(model: Model, weights: readonly LinearWeight[]): Model {
  const { graph } = model;
  const initializers = new Map(graph.initializers);
  const readers = consumers(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const replaced = new Map<Node, Node>();
  const listed = [...graph.inputs];
  for (const { site, values } of weights) {
    const { node, weight, weightInput, inFeatures, outFeatures, layout, modulePath } = site;
    const dims = layout === "out,in" ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
    const stored = fromTensor(tensor("float32", dims, values));
    const isOwn = graph.initializers.has(weight) && readers.get(weight)?.length === 1 && !outputs.has(weight);
    const name = isOwn ? weight : freshName(model, initializers, `${modulePath}.weight`);
    initializers.set(name, stored);
    if (isOwn) continue;
    replaced.set(node, { ...node, inputs: node.inputs.with(weightInput, name) });
    // Before IR version 4, every initializer is listed as an input too.
    if (model.irVersion < 4) listed.push({ name, type: "float32", shape: dims, doc: "" });
  }
  const nodes = graph.nodes.map((node) => replaced.get(node) ?? node);
  return { ...model, graph: { ...graph, initializers, inputs: listed, nodes } };
}

function freshName({ graph }: Model, initializers: ReadonlyMap<string, StoredTensor>, wanted: string): string {
  const taken = new Set([...graph.inputs.map(({ name }) => name), ...graph.nodes.flatMap(({ outputs }) => outputs)]);
  for (let count = 0; ; count++) {
    const name = count === 0 ? wanted : `${wanted}_${count}`;
    if (!taken.has(name) && !initializers.has(name)) return name;
  }
}
