// Another adapter for each row of a batch, in the graph that runs one adapter for all: at each site an If chooses between
// the branch that attachLora wrote and one that takes a bank of adapters, each with the rows that want it. For Linear and
// Embedding layers that is one batched product over the bank (Sheng et al. 2023, "S-LoRA", arXiv:2311.03285, without its
// paging); a Conv runs all adapters of the batch side by side, as one of their summed rank, and masks what a row does not use.
// One graph means one session, so that the base is in memory once.
import { type GraphBuilder, graphBuilder, makeNode, type Value } from "../onnx/builder.ts";
import { consumers } from "../onnx/graph.ts";
import { type Graph, intAttribute, type Model, type Node } from "../onnx/model.ts";
import type { TensorInfo } from "../onnx/shape-row.ts";
import { inferShapes } from "../onnx/shapes.ts";
import type { AdaptedModel, AdaptedSite } from "./adapted.ts";

/** Inputs that say which row wants which adapter: K slots of the bank with room for m rows each, a rows with an adapter. */
export interface RowInputs {
  /** bool []: whether rows have adapters of their own; all else is read only then. */
  readonly byRow: Value;
  /** int64 [1]: how many rows the batch has. */
  readonly count: Value;
  /** int64 [K, m]: the rows of each slot; what is left over repeats any row. */
  readonly rowOf: Value;
  /** int64 [a]: the place among the K m that holds each adapted row. */
  readonly back: Value;
  /** int64 [a, 1]: the adapted rows, each once. */
  readonly where: Value;
}

/** A site where rows may differ, and the inputs that it has for that. */
export type RowSite =
  /** float32 A [K, r, in] and B [K, out, r], one adapter in each slot. */
  | { readonly form: "bank"; readonly adapted: AdaptedSite; readonly a: Value; readonly b: Value }
  /** bool [rows, 1, r, 1, …]: the ranks of the site's own A and B that each row uses. */
  | { readonly form: "mask"; readonly adapted: AdaptedSite; readonly mask: Value };

export interface RowModel {
  /** The adapted model with further inputs; with `byRow` false it does what it did. */
  readonly model: Model;
  readonly inputs: RowInputs;
  readonly sites: readonly RowSite[];
  /** Why rows cannot have adapters of their own at the other sites, by module path. */
  readonly faults: ReadonlyMap<string, string>;
}

/**
 * The adapted model, able to give each row of the batch (axis 0) its own adapter.
 *
 * @example
 * const { model, inputs, sites } = withRows(attachLora(base, { r: 8 }));
 */
export function withRows(adapted: AdaptedModel): RowModel {
  const { graph } = adapted.model;
  const infos = inferShapes(graph);
  const own = new Set(adapted.parameters.map(({ key }) => key));
  const branches = new Map<Node, SiteBranch>();
  const faults = new Map<string, string>();
  const readers = consumers(graph);
  for (const site of adapted.sites) {
    const branch = branchOf(graph, readers, site, own);
    const fault = typeof branch === "string" ? branch : rowFault(graph, infos, site, own);
    if (fault !== undefined) faults.set(site.site.modulePath, fault);
    else if (typeof branch !== "string") {
      const isMatrix = isRowMatrix(graph, infos, site, own);
      branches.set(branch.nodes.at(-1)!, { adapted: site, isMatrix, ...branch });
    }
  }
  const moved = new Set([...branches.values()].flatMap(({ nodes }) => nodes));
  const reserved = [
    ...graph.nodes.flatMap((node) => [node.name, ...node.outputs]),
    ...graph.inputs.map(({ name }) => name),
    ...graph.initializers.keys(),
  ];
  const g = graphBuilder({ opset: adapted.model.opsets.get("") ?? 0, from: { ...graph, nodes: [] }, reserved });
  const inputs = declareInputs(g);
  const sites: RowSite[] = [];
  for (const node of graph.nodes) {
    const branch = branches.get(node);
    if (branch !== undefined) sites.push(addChoice(g, inputs, branch, reserved, infos));
    else if (!moved.has(node)) g.node(node);
  }
  return { model: { ...adapted.model, graph: g.build() }, inputs, sites, faults };
}

/** What attachLora wrote at a site. */
interface SiteBranch {
  readonly adapted: AdaptedSite;
  readonly nodes: readonly Node[];
  /** What the layer gives without the branch. */
  readonly base: Value;
  /** The layer's input is known to be one vector for each row of the batch. */
  readonly isMatrix: boolean;
}

function declareInputs(g: GraphBuilder): RowInputs {
  return {
    byRow: g.input("rows/by_row", "bool", []),
    count: g.input("rows/count", "int64", [1]),
    rowOf: g.input("rows/row_of", "int64", ["rows/slots", "rows/places"]),
    back: g.input("rows/back", "int64", ["rows/adapted"]),
    where: g.input("rows/where", "int64", ["rows/adapted", 1]),
  };
}

/** The nodes from A and B to the site's output, in order, and what the layer gives without them; or why there are none. */
function branchOf(
  { nodes }: Graph,
  readers: ReadonlyMap<string, readonly Node[]>,
  { site, a, b }: AdaptedSite,
  own: ReadonlySet<string>,
): { nodes: readonly Node[]; base: Value } | string {
  const output = site.node.outputs[0]!;
  const found = new Set<Node>();
  const pending = [a, b];
  for (let value = pending.pop(); value !== undefined; value = pending.pop()) {
    for (const node of readers.get(value) ?? []) {
      if (found.has(node)) continue;
      found.add(node);
      pending.push(...node.outputs.filter((name) => name !== output));
    }
  }
  const branch = nodes.filter((node) => found.has(node));
  // The layer itself stays where it is; only its output has another name since the branch was attached.
  const layer = nodes.find(
    ({ op, inputs }) => op === site.node.op && inputs[0] === site.node.inputs[0] && inputs[1] === site.node.inputs[1],
  );
  const reads = new Set(branch.flatMap((node) => node.inputs));
  const isPlain =
    layer !== undefined &&
    reads.has(layer.outputs[0]!) &&
    branch.at(-1)?.outputs[0] === output &&
    [...reads].every((name) => name === a || name === b || !own.has(name));
  return isPlain ? { nodes: branch, base: layer.outputs[0]! } : "it is more than LoRA with A and B";
}

/** Why the rows at a site are not those of the batch; undefined as far as shapes do not tell. */
function rowFault(
  graph: Graph,
  infos: ReadonlyMap<string, TensorInfo>,
  { site }: AdaptedSite,
  own: ReadonlySet<string>,
): string | undefined {
  if (site.node.op === "Gemm" && intAttribute(site.node, "transA", 0) !== 0) return "it reads its input transposed";
  const inputs = graph.inputs.filter(({ name }) => !own.has(name));
  const batch = batchOf(graph, own);
  const first = infos.get(site.node.inputs[site.kind === "Embedding" ? 1 : 0]!)?.shape?.[0];
  const isBatch =
    typeof batch === "number"
      ? typeof first !== "number" || first % batch === 0
      : typeof first !== "number" &&
        (first === batch || !inputs.some(({ shape }) => typeof first === "string" && shape?.includes(first)));
  return isBatch ? undefined : `its input's first axis is ${first}, not the batch`;
}

/** The first axis of the model's first input. */
function batchOf({ inputs }: Graph, own: ReadonlySet<string>): number | string | undefined {
  return inputs.find(({ name }) => !own.has(name))?.shape?.[0] ?? undefined;
}

function isRowMatrix(
  graph: Graph,
  infos: ReadonlyMap<string, TensorInfo>,
  { site }: AdaptedSite,
  own: ReadonlySet<string>,
): boolean {
  const shape = site.kind === "Linear" ? infos.get(site.node.inputs[0]!)?.shape : undefined;
  const batch = batchOf(graph, own);
  return shape?.length === 2 && batch !== undefined && shape[0] === batch;
}

/** The site's branch moved into an If, beside one that goes by rows. Returns the inputs that this one got. */
function addChoice(
  g: GraphBuilder,
  inputs: RowInputs,
  branch: SiteBranch,
  reserved: readonly string[],
  infos: ReadonlyMap<string, TensorInfo>,
): RowSite {
  const { adapted, nodes } = branch;
  const { site } = adapted;
  const output = site.node.outputs[0]!;
  const { site: row, write } = site.kernel.length === 0 ? bankForm(g, inputs, branch) : maskForm(g, inputs, branch);
  const subgraph = (name: string, fill: (s: GraphBuilder) => Value): Graph => {
    const s = graphBuilder({ opset: g.opset, name, scope: `${name}/`, reserved });
    // Without a shape here the runtime knows none behind the If, and leaves out fusions that the base has.
    s.output(fill(s), "float32", infos.get(output)?.shape);
    return s.build();
  };
  const one = subgraph(`${site.modulePath}/lora/one`, (s) => copyNodes(s, nodes, output));
  const rows = subgraph(`${site.modulePath}/lora/rows`, write);
  g.node(
    makeNode({
      op: "If",
      name: g.freshName(`${site.modulePath}/lora/by_row`),
      inputs: [inputs.byRow],
      outputs: [output],
      attributes: new Map([
        ["then_branch", { kind: "graph", value: rows } as const],
        ["else_branch", { kind: "graph", value: one } as const],
      ]),
    }),
  );
  return row;
}

/** The nodes under fresh names, each output as `change` leaves it. Returns what `output` is called now. */
function copyNodes(
  s: GraphBuilder,
  nodes: readonly Node[],
  output: Value,
  change: (node: Node, value: Value) => Value = (_, value) => value,
): Value {
  const renamed = new Map<Value, Value>();
  for (const node of nodes) {
    const outputs = node.outputs.map((name) => (name === "" ? "" : s.freshName(name)));
    const inputs = node.inputs.map((name) => renamed.get(name) ?? name);
    s.node({ ...node, name: s.freshName(node.name), inputs, outputs });
    for (const [index, name] of node.outputs.entries()) renamed.set(name, change(node, outputs[index]!));
  }
  return renamed.get(output)!;
}

interface Form {
  readonly site: RowSite;
  /** Writes the branch, and returns its output. */
  readonly write: (s: GraphBuilder) => Value;
}

/** base + s B_k(A_k(x)) for the rows x of each slot k, scattered to where they came from. */
function bankForm(g: GraphBuilder, inputs: RowInputs, { adapted, base, isMatrix }: SiteBranch): Form {
  const { site, scale } = adapted;
  const { inFeatures, outFeatures, modulePath } = site;
  const rank = `${modulePath}/rows/rank`;
  const a = g.input(`${modulePath}/rows/A`, "float32", ["rows/slots", rank, inFeatures]);
  const b = g.input(`${modulePath}/rows/B`, "float32", ["rows/slots", outFeatures, rank]);
  /** The update of every place: [K, m, n, …] -> [K, m n, out]. */
  const updates = (s: GraphBuilder, slots: Value): Value => {
    const h = site.kind === "Embedding" ? lookUp(s, slots, a) : project(s, slots, a, inFeatures, isMatrix);
    const scaled = scale === 1 ? h : s.op("Mul", [h, s.constant("float32", scale)]);
    return s.op("MatMul", [scaled, swapped(s, b)]);
  };
  /** Where x is [rows, in] as it stands: what a reshape would copy, at the layer's width, is most of what rows cost. */
  const writeMatrix = (s: GraphBuilder): Value => {
    const delta = updates(s, s.op("Gather", [site.node.inputs[0]!, inputs.rowOf], { axis: 0 }));
    const flat = s.op("Reshape", [delta, s.constant("int64", [-1, outFeatures])]);
    const update = s.op("Gather", [flat, inputs.back], { axis: 0 }); // [a, out]
    return s.op("ScatterND", [base, inputs.where, update], { reduction: "add" });
  };
  const write = (s: GraphBuilder): Value => {
    const byRows = (value: Value, ...sizes: number[]): Value =>
      s.op("Reshape", [value, s.op("Concat", [inputs.count, s.constant("int64", [-1, ...sizes])], { axis: 0 })]);
    const isEmbedding = site.kind === "Embedding";
    const x = isEmbedding ? byRows(site.node.inputs[1]!) : byRows(site.node.inputs[0]!, inFeatures); // [rows, n, …]
    const delta = updates(s, s.op("Gather", [x, inputs.rowOf], { axis: 0 })); // of [K, m, n, …]
    const n = s.op("Shape", [x], { start: 1, end: 2 });
    const size = s.op("Concat", [s.constant("int64", [-1]), n, s.constant("int64", [outFeatures])], { axis: 0 });
    const update = s.op("Gather", [s.op("Reshape", [delta, size]), inputs.back], { axis: 0 }); // [a, n, out]
    const sum = s.op("ScatterND", [byRows(base, outFeatures), inputs.where, update], { reduction: "add" });
    return s.op("Reshape", [sum, s.op("Shape", [base])]);
  };
  return { site: { form: "bank", adapted, a, b }, write: isMatrix ? writeMatrix : write };
}

/** x A^T: [K, m, n, in], or [K, m, in], -> [K, m n, r]. */
function project(s: GraphBuilder, slots: Value, a: Value, inFeatures: number, isMatrix: boolean): Value {
  const x = isMatrix ? slots : s.op("Reshape", [slots, s.constant("int64", [0, -1, inFeatures])]);
  return s.op("MatMul", [x, swapped(s, a)]);
}

/** The columns of A that indices name: [K, m, n] -> [K, m n, r]. */
function lookUp(s: GraphBuilder, slots: Value, a: Value): Value {
  const flat = s.op("Reshape", [slots, s.constant("int64", [0, 1, -1])]); // [K, 1, m n]
  const ranks = s.op("Concat", [s.op("Shape", [a], { start: 0, end: 2 }), s.constant("int64", [1])], { axis: 0 });
  const everyRank = s.op("Expand", [flat, ranks]); // [K, r, m n]
  return swapped(s, s.op("GatherElements", [a, everyRank], { axis: 2 }));
}

function swapped(s: GraphBuilder, value: Value): Value {
  return s.op("Transpose", [value], { perm: [0, 2, 1] });
}

/** The branch as it is over the stacked ranks of several adapters, without the ranks that a row does not use. */
function maskForm(g: GraphBuilder, inputs: RowInputs, { adapted, nodes }: SiteBranch): Form {
  const { site } = adapted;
  const mask = g.input(`${site.modulePath}/rows/mask`, "bool", [
    "rows",
    1,
    `${site.modulePath}/rows/rank`,
    ...site.kernel.map(() => 1),
  ]);
  const masked = (s: GraphBuilder, h: Value): Value => {
    const sizes = [inputs.count, s.constant("int64", [-1]), s.op("Shape", [h], { start: 1 })];
    const byRows = s.op("Reshape", [h, s.op("Concat", sizes, { axis: 0 })]); // [rows, n, r, …]
    const kept = s.op("Where", [mask, byRows, s.constant("float32", 0)]);
    return s.op("Reshape", [kept, s.op("Shape", [h])]);
  };
  const write = (s: GraphBuilder): Value =>
    copyNodes(s, nodes, site.node.outputs[0]!, (node, value) =>
      node.inputs.includes(adapted.a) ? masked(s, value) : value,
    );
  return { site: { form: "mask", adapted, mask }, write };
}
