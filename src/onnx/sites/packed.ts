// Packed projections: one layer that computes queries, keys and values side by side. Its columns are followed through the
// nodes behind it (a bias, Reshape, Transpose, …) to where they are taken apart; three runs of columns, the last two of one
// width that divides the first's (heads share keys and values: Ainslie et al. 2023), are queries, keys and values.
import { intAttribute, intsAttribute, type Node } from "../model.ts";
import type { Part, Site } from "../sites.ts";
import type { Constants } from "./constants.ts";

const names = ["q_proj", "k_proj", "v_proj"] as const;

/** The sites inside a layer; none when it is not packed, or when their paths are taken. */
export function partsOf(
  site: Site,
  constants: Constants,
  readers: ReadonlyMap<string, readonly Node[]>,
  taken: ReadonlySet<string>,
): Site[] {
  const runs = site.kind === "Linear" ? partRuns(site, constants, readers) : undefined;
  if (runs === undefined) return [];
  const parents = [besideOf(site.modulePath), `${site.modulePath}.`];
  const isFree = (parent: string): boolean => names.every((name) => !taken.has(parent + name));
  const parent = parents.find(isFree);
  if (parent === undefined) return [];
  return runs.map(([from, to], index): Site => {
    const part: Part = { of: site.modulePath, from, total: site.outFeatures };
    return { ...site, modulePath: parent + names[index]!, outFeatures: to - from, bias: undefined, part };
  });
}

/** The columns of queries, keys and values; undefined when the layer does not have them side by side. */
function partRuns(
  site: Site,
  constants: Constants,
  readers: ReadonlyMap<string, readonly Node[]>,
): readonly Run[] | undefined {
  const total = site.outFeatures;
  if (site.fused) {
    const [q = total / 3, k = total / 3, v = total / 3] = intsAttribute(site.node, "qkv_hidden_sizes") ?? [];
    if (q + k + v !== total) return undefined;
    return [
      [0, q],
      [q, q + k],
      [q + k, total],
    ];
  }
  const rank = constants.anyInfo(site.output)?.shape?.length;
  if (rank === undefined || rank === 0) return undefined;
  const runs = runsOf({ value: site.output, axis: rank - 1, size: total, stride: 1 }, constants, readers);
  const [q, k, v] = runs?.map(([from, to]) => to - from) ?? [];
  return runs?.length === 3 && q && k && k === v && q % k === 0 ? runs : undefined;
}

/** What stands before the names: beside a projection (`attn.qkv`), inside a module that has it as its own (`self_attn`). */
function besideOf(path: string): string {
  const at = path.lastIndexOf(".") + 1;
  const isProjection = /q_?k_?v|query_key_value|c_attn|proj|linear|dense/i.test(path.slice(at));
  return isProjection && at > 0 ? path.slice(0, at) : `${path}.`;
}

/** The columns of a layer's result in a value behind it: those of index i along `axis` are [i stride, (i + 1) stride). */
interface View {
  readonly value: string;
  readonly axis: number;
  readonly size: number;
  readonly stride: number;
}
type Run = readonly [from: number, to: number];

/** The runs of columns that a value is taken apart into, in order; undefined when it is not, or they leave one out. */
function runsOf(
  start: View,
  constants: Constants,
  readers: ReadonlyMap<string, readonly Node[]>,
): readonly Run[] | undefined {
  let view: View | undefined = start;
  // A graph has no cycles, and each step goes one node on.
  while (view !== undefined) {
    const { value, stride, size }: View = view;
    const next: readonly Node[] = (readers.get(value) ?? []).filter(({ op }) => op !== "Shape");
    const taken = next.map((node) => runsAt(node, view as View, constants));
    if (taken.length > 0 && taken.every((runs) => runs !== undefined)) {
      const unique = new Map(taken.flat().map((run) => [run.join(), run]));
      const runs = [...unique.values()].sort(([a], [b]) => a - b);
      const tiles = runs.every(([from], index) => from === (index === 0 ? 0 : runs[index - 1]![1]));
      if (!tiles || runs.at(-1)?.[1] !== size) return undefined;
      return runs.map(([from, to]) => [from * stride, to * stride]);
    }
    view = next.length === 1 ? moved(next[0]!, view, constants) : undefined;
  }
  return undefined;
}

/** The runs of indices along the view's axis that a node takes; undefined when it takes none apart. */
function runsAt(node: Node, view: View, constants: Constants): readonly Run[] | undefined {
  if (node.inputs[0] !== view.value) return undefined;
  const rank = constants.anyInfo(view.value)?.shape?.length ?? 0;
  if (node.domain === "com.microsoft") return groupsOf(node, view, rank);
  const isOnAxis = (axis: number): boolean => (axis < 0 ? axis + rank : axis) === view.axis;
  switch (node.domain === "" ? node.op : "") {
    case "Split": {
      if (!isOnAxis(intAttribute(node, "axis", 0))) return undefined;
      const equal = Array<number>(node.outputs.length).fill(view.size / node.outputs.length);
      const sizes = node.inputs[1] ? constants.integers(node.inputs[1]) : (intsAttribute(node, "split") ?? equal);
      if (sizes?.every(Number.isInteger) !== true) return undefined;
      let end = 0;
      return sizes.map((size) => {
        end += size;
        return [end - size, end];
      });
    }
    case "Gather": {
      const [index, ...others] = constants.integers(node.inputs[1]) ?? [];
      if (!isOnAxis(intAttribute(node, "axis", 0)) || index === undefined || others.length > 0) return undefined;
      const from = index < 0 ? index + view.size : index;
      return [[from, from + 1]];
    }
    case "Slice":
      return sliced(node, view, constants, isOnAxis);
    default:
      return undefined;
  }
}

function sliced(
  node: Node,
  { size }: View,
  constants: Constants,
  isOnAxis: (axis: number) => boolean,
): readonly Run[] | undefined {
  const [starts, ends, axes, steps] = node.inputs.slice(1).map((name) => constants.integers(name));
  if (starts?.length !== 1 || ends?.length !== 1) return undefined;
  if (!isOnAxis(axes?.[0] ?? 0) || (steps?.[0] ?? 1) !== 1) return undefined;
  const place = (index: number): number => Math.min(Math.max(index < 0 ? index + size : index, 0), size);
  return [[place(starts[0]!), place(ends[0]!)]];
}

/** com.microsoft.GroupQueryAttention takes queries, keys and values in one input, when it gets no others. */
function groupsOf(node: Node, { axis, size, stride }: View, rank: number): readonly Run[] | undefined {
  if (node.op !== "GroupQueryAttention" || node.inputs[1] || axis !== rank - 1 || stride !== 1) return undefined;
  const [heads, groups] = [intAttribute(node, "num_heads", 0), intAttribute(node, "kv_num_heads", 0)];
  const width = size / (heads + 2 * groups);
  const [q, k] = [heads * width, (heads + groups) * width];
  return Number.isInteger(width) && groups > 0
    ? [
        [0, q],
        [q, k],
        [k, size],
      ]
    : undefined;
}

/** The same columns behind a node that moves or changes them one by one; undefined behind any other. */
function moved(node: Node, view: View, constants: Constants): View | undefined {
  const value = node.outputs[0]!;
  const before = constants.anyInfo(view.value)?.shape;
  const after = constants.anyInfo(value)?.shape;
  if (node.domain !== "" || before === undefined || after === undefined) return undefined;
  const isOperand = node.inputs[0] === view.value;
  const axesOf = (rank: number): number[] | undefined =>
    (constants.integers(node.inputs[1]) ?? intsAttribute(node, "axes"))?.map((axis) => (axis < 0 ? axis + rank : axis));
  switch (node.op) {
    case "Add": {
      const bias = node.inputs.find((name) => name !== view.value);
      return constants.info(bias) === undefined || before.length !== after.length ? undefined : { ...view, value };
    }
    case "Identity":
    case "Cast":
    case "QuantizeLinear":
    case "DequantizeLinear":
      return isOperand ? { ...view, value } : undefined;
    case "Transpose": {
      const order = intsAttribute(node, "perm") ?? before.map((_, index) => before.length - 1 - index);
      return { ...view, value, axis: order.indexOf(view.axis) };
    }
    case "Unsqueeze": {
      const axes = axesOf(after.length);
      const kept = after.flatMap((_, index) => (axes?.includes(index) ? [] : [index]));
      return axes && { ...view, value, axis: kept[view.axis]! };
    }
    case "Squeeze": {
      const axes = axesOf(before.length);
      if (axes === undefined || axes.includes(view.axis)) return undefined;
      return { ...view, value, axis: view.axis - axes.filter((axis) => axis < view.axis).length };
    }
    case "Reshape":
      return isOperand && view.axis === before.length - 1 ? unfolded(view, value, after) : undefined;
    default:
      return undefined;
  }
}

/** The last axis written as several: the first of them is what columns can be taken apart along. */
function unfolded({ size, stride }: View, value: string, dims: readonly unknown[]): View | undefined {
  let product = 1;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    const dim = dims[axis];
    if (typeof dim !== "number" || dim < 1) return undefined;
    product *= dim;
    if (product === size) return { value, axis, size: dim, stride: (stride * size) / dim };
    if (product > size) return undefined;
  }
  return undefined;
}
