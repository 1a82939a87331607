// A model whose adapters are inputs in Olive's layout, so that ONNX Runtime in any language switches adapters without another
// session: `<module path>.lora_A.weight` [in, r] and `.lora_B.weight` [r, out], the scale being in B (onnx-adapter.ts).
import { throwFaults } from "../errors.ts";
import type { AdaptedModel, AdaptedSite, Parameter } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { LoraConfig } from "../lora/config.ts";
import { type GraphBuilder, graphBuilder, makeNode } from "../onnx/builder.ts";
import { type Dim, fromTensor, type Graph, intsAttribute, type Model, type Node } from "../onnx/model.ts";
import { emptyParameter, type ParameterType, plainName, quantizedNames } from "./onnx-adapter.ts";

export interface AdapterInputOptions {
  /** The type of A and B as inputs; they are computed with in float32. Default float32. */
  readonly dtype?: ParameterType;
  /**
   * Olive's form: each adapter input also has an empty default, so that a run without an adapter is the base. ONNX Runtime's
   * adapter files need it in Python, whose `run` asks for every required input. Its JavaScript bindings ignore or refuse
   * values for such inputs: without this (the default) the inputs are required, and rank 0 switches the adapter off.
   */
  readonly optional?: boolean;
}

/**
 * The model with an input for A and B of each targeted layer, for adapters of any rank and scale; `config` says which layers.
 *
 * Use it with `optional` from Python, where a file from `writeOnnxAdapter(adapter)` is activated for a run:
 * ```python
 * adapter = onnxruntime.LoraAdapter(); adapter.Load("tuned.onnx_adapter")
 * options = onnxruntime.RunOptions(); options.add_active_adapter(adapter)
 * session.run(None, {"x": x}, run_options=options)
 * ```
 * (C#: `OrtLoraAdapter.Create(path, null)` and `runOptions.AddActiveLoraAdapter(adapter)`), and without it from JavaScript, where
 * `adapterParameters(adapter, { model })` gives what to feed.
 *
 * @throws LowrankError as `attachLora` does, and "config" for variants of LoRA that have more than A and B.
 * @example
 * await writeFile("switchable.onnx", writeModel(withAdapterInputs(base, adapter.config)));
 */
export function withAdapterInputs(base: Model, config: LoraConfig = {}, options: AdapterInputOptions = {}): Model {
  const ranks = config.rankPattern ?? {};
  // The scale is the file's: alpha = r leaves a factor of 1 in the graph.
  const adapted = attachLora(base, {
    ...config,
    useRslora: false,
    loraAlpha: config.r ?? 8,
    alphaPattern: ranks,
  });
  checkParameters(adapted);
  const graph = withInputs(adapted, options.dtype ?? "float32");
  return { ...adapted.model, graph: options.optional === true ? withDefaults(graph, adapted) : graph };
}

function checkParameters({ parameters, sites }: AdaptedModel): void {
  const factors = new Set(sites.flatMap(({ a, b }) => [a, b]));
  const others = parameters.filter(({ key }) => !factors.has(key));
  throwFaults(
    "config",
    "withAdapterInputs",
    others.map(({ key }) => `${key}: Olive's layout has A and B alone; train plain LoRA, or merge the adapter`),
  );
}

/** The graph with each A and B made from the inputs that replace them. */
function withInputs({ model, parameters, sites }: AdaptedModel, type: ParameterType): Graph {
  const { graph } = model;
  const byKey = new Map(parameters.map((parameter) => [parameter.key, parameter]));
  const g = graphBuilder({
    opset: model.opsets.get("") ?? 0,
    from: { ...graph, nodes: [], inputs: graph.inputs.filter(({ name }) => !byKey.has(name)) },
    reserved: graph.nodes.flatMap((node) => [node.name, ...node.outputs]),
  });
  const sources = new Map<string, string>();
  for (const site of sites) {
    for (const { key, stem } of stemsOf(site)) sources.set(key, addInput(g, byKey.get(key)!, stem, type));
  }
  const nodes = graph.nodes.map((node) => withoutTranspose(node, sources));
  const read = new Set(nodes.flatMap(({ inputs }) => inputs));
  for (const [key, source] of sources) {
    if (!read.has(key)) continue;
    const isMatrix = byKey.get(key)!.dims.length === 2;
    const attributes = new Map(isMatrix ? [["perm", { kind: "ints", value: [1n, 0n] } as const] as const] : []);
    const op = isMatrix ? "Transpose" : "Identity";
    g.node(makeNode({ op, name: g.freshName(`${key}/layout`), inputs: [source], outputs: [key], attributes }));
  }
  for (const node of nodes) g.node(node);
  return g.build();
}

/** Keys of a site's factors, and what the names of their inputs begin with. */
function stemsOf({ site: { modulePath, kind }, a, b }: AdaptedSite): { key: string; stem: string }[] {
  const middle = kind === "Embedding" ? "lora_embedding_" : "lora_";
  return [
    { key: a, stem: `${modulePath}.${middle}A` },
    { key: b, stem: `${modulePath}.${middle}B` },
  ];
}

/** Declares the input (or two, where it is quantized) and returns it as float32, in Olive's layout. */
function addInput(g: GraphBuilder, { graphDims }: Parameter, stem: string, type: ParameterType): string {
  const isMatrix = graphDims.length === 2;
  const dims: readonly Dim[] = isMatrix ? [graphDims[1]!, graphDims[0]!] : graphDims;
  const declare = (name: string, kind: "float32" | "float16" | "bfloat16" | "int8", shape: readonly Dim[]): string => {
    const declared = g.input(name, kind, shape);
    throwFaults("model", "withAdapterInputs", declared === name ? [] : [`the model has a value ${name} already`]);
    return declared;
  };
  if (type === "int8") {
    const names = quantizedNames(stem);
    const values = declare(names.values, "int8", dims);
    const scales = declare(names.scales, "float32", [graphDims[0]!]);
    return g.op("DequantizeLinear", [values, scales], { axis: isMatrix ? 1 : 0 }, { name: `${stem}.dequantize` });
  }
  const value = declare(plainName(stem), type, dims);
  return type === "float32" ? value : g.op("Cast", [value], { to: 1 }, { name: `${stem}.cast` });
}

/** Branches that want a factor's transpose get the input itself. */
function withoutTranspose(node: Node, sources: ReadonlyMap<string, string>): Node {
  const source = sources.get(node.inputs[0] ?? "");
  if (node.op !== "Transpose" || source === undefined || intsAttribute(node, "perm")?.join() !== "1,0") return node;
  return { ...node, op: "Identity", inputs: [source], attributes: new Map() };
}

/** An empty value of each adapter input, of rank 0. */
function withDefaults(graph: Graph, { model }: AdaptedModel): Graph {
  const own = new Set(model.graph.inputs.map(({ name }) => name));
  const defaults = graph.inputs.flatMap(({ name, type, shape }) =>
    own.has(name) || shape === undefined
      ? []
      : [[name, fromTensor(emptyParameter(type as ParameterType, shape))] as const],
  );
  return { ...graph, initializers: new Map([...graph.initializers, ...defaults]) };
}
