// Shapes of recurrent layers, and of control flow as the graphs inside state those of their outputs.
import { type Dim, intAttribute, type Node, stringAttribute, type ValueInfo } from "../model.ts";
import { type ShapeRow, type ShapeRows, type TensorInfo, unknown } from "../shape-row.ts";

/** Y [T, directions, B, H], then the last states [directions, B, H]; with `layout` 1 the batch comes first. */
const recurrent: ShapeRow = (node, [x]) => {
  const directions = stringAttribute(node, "direction", "forward") === "bidirectional" ? 2 : 1;
  const size = intAttribute(node, "hidden_size", 0) || null;
  const first = x?.shape?.[0] ?? null;
  const second = x?.shape?.[1] ?? null;
  const isBatchFirst = intAttribute(node, "layout", 0) !== 0;
  const states: Dim[] = isBatchFirst ? [first, directions, size] : [directions, second, size];
  const all: Dim[] = isBatchFirst ? [first, second, directions, size] : [first, directions, second, size];
  return [all, states, states].map((shape) => ({ type: x?.type, shape }));
};

/** States as the body states them; outputs of each step with the number of steps in front. */
const scan: ShapeRow = (node: Node, inputs): readonly TensorInfo[] => {
  if (node.attributes.has("scan_output_axes") || node.attributes.has("scan_input_axes")) return [];
  const count = intAttribute(node, "num_scan_inputs", 0);
  const states = inputs.length - count;
  const steps = inputs[states]?.shape?.[0] ?? null;
  return outputsOf(node, "body").map(({ type, shape }, at) => {
    if (shape === undefined) return { ...unknown, type };
    return { type, shape: at < states ? shape : [steps, ...shape] };
  });
};

/** What both branches state alike. */
const choice: ShapeRow = (node) => {
  const [yes, no] = [outputsOf(node, "then_branch"), outputsOf(node, "else_branch")];
  return yes.map(({ type, shape }, at): TensorInfo => {
    const other = no[at]?.shape;
    const isSame = shape !== undefined && shape.length === other?.length;
    return { type, shape: isSame ? shape.map((dim, axis) => (dim === other[axis] ? dim : null)) : undefined };
  });
};

/** States as the body states them; what each turn gives, with the number of turns in front. */
const loop: ShapeRow = (node, inputs) =>
  outputsOf(node, "body")
    .slice(1)
    .map(({ type, shape }, at) => ({ type, shape: at < inputs.length - 2 ? shape : shape && [null, ...shape] }));

function outputsOf(node: Node, name: string): readonly ValueInfo[] {
  const attribute = node.attributes.get(name);
  return attribute?.kind === "graph" ? attribute.value.outputs : [];
}

export const recurrentRows: ShapeRows = {
  LSTM: recurrent,
  GRU: recurrent,
  RNN: recurrent,
  Scan: scan,
  If: choice,
  Loop: loop,
};
