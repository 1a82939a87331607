// Tables of ONNX's RotaryEmbedding that are given by place, [batch, time, pairs]. torch.export writes one for all rows of a batch,
// [1, time, pairs], which the runtime refuses (onnxruntime 1.30): it is repeated for each of them.
import { graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model, Node } from "../onnx/model.ts";
import { sameDim } from "../onnx/shape-row.ts";
import { inferShapes } from "../onnx/shapes.ts";

/** The model with a table for each row of the batch; the same model when no table may be short of that. */
export function withRotaryTables(model: Model): Model {
  const { graph } = model;
  const rotary = graph.nodes.filter(
    ({ op, domain, inputs }) => op === "RotaryEmbedding" && domain === "" && !inputs[3],
  );
  if (rotary.length === 0) return model;
  const infos = inferShapes(graph);
  const isShort = ({ inputs: [x = "", cos = ""] }: Node): boolean =>
    !sameDim(infos.get(x)?.shape?.[0], infos.get(cos)?.shape?.[0]);
  const short = new Set(rotary.filter(isShort));
  if (short.size === 0) return model;
  const g = graphBuilder({
    opset: model.opsets.get("") ?? 0,
    from: { ...graph, nodes: [] },
    reserved: graph.nodes.flatMap(({ name, outputs }) => [name, ...outputs]),
    scope: "rotary/",
  });
  for (const node of graph.nodes) {
    if (!short.has(node)) {
      g.node(node);
      continue;
    }
    const [x, cos, sin, ...others] = node.inputs as [Value, Value, Value];
    const batch = g.op("Shape", [x], { start: 0, end: 1 });
    const sizes = g.op("Concat", [batch, g.constant("int64", [1, 1])], { axis: 0 });
    const tables = [cos, sin].map((table) => g.op("Expand", [table, sizes]));
    g.node({ ...node, inputs: [x, ...tables, ...others] });
  }
  return { ...model, graph: { ...g.build(), outputs: graph.outputs } };
}
