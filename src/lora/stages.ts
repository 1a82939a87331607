// What is written behind the nodes of a base for the parameters of its own that an adapter trains (saved.ts). Weights of
// products and biases come in as differences: y + x (P - W)^T + (p - b) is the base bit for bit while P and p are what the
// base has (a product with a constant and one with an input round differently), and no initializer that others read is
// touched. Other parameters take the places of their nodes' inputs, rows of an embedding those of what is looked up.
import { type GraphBuilder, makeNode, type Value } from "../onnx/builder.ts";
import type { Node } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { SavedParameter, Use } from "./saved.ts";

/** Writes something behind a node: from what it gives as `base` to `output`. */
export type Stage = (g: GraphBuilder, base: Value, output: Value) => void;

/** What the saved parameters change at each node: inputs that they replace, and what is written behind it. */
export interface Rewriting {
  readonly inputs: ReadonlyMap<Node, readonly string[]>;
  readonly stages: ReadonlyMap<Node, readonly Stage[]>;
}

export function rewritingFor(saved: readonly SavedParameter[]): Rewriting {
  const inputs = new Map<Node, readonly string[]>();
  const stages = new Map<Node, Stage[]>();
  const whole = new Set(saved.filter(({ rows }) => rows === undefined).map(({ parameter }) => parameter.path));
  for (const one of saved) {
    // A head that is trained whole is tied no more.
    for (const site of one.tied ?? []) if (!whole.has(site.modulePath)) push(stages, site.node, outputStage(one, site));
    for (const use of one.parameter.uses) {
      const { node } = use;
      if (one.rows !== undefined)
        push(stages, node, use.kind === "weight" ? outputStage(one, use.site) : tokenStage(one, node));
      else if (use.kind === "input") inputs.set(node, (inputs.get(node) ?? node.inputs).with(use.index, one.key));
      else push(stages, node, use.kind === "weight" ? weightStage(one.key, use) : biasStage(one.key, use.site));
    }
  }
  return { inputs, stages };
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

/** base + x (P - W)^T, or the convolution with P - W. */
function weightStage(key: string, { node, site, isTransposed }: Extract<Use, { site: Site }>): Stage {
  return (g, base, output) => {
    const [x, name] = [node.inputs[0]!, { name: `${site.modulePath}/saved/weight` }];
    const own = isTransposed ? g.op("Transpose", [key], { perm: [1, 0] }) : key;
    const difference = g.op("Sub", [own, site.weight]);
    const attributes = Object.fromEntries([...node.attributes].filter(([attribute]) => attribute !== "beta"));
    const change = g.op(node.op, [x, difference], attributes, name);
    into(g, "Add", [base, change], output, `${site.modulePath}/saved/sum`);
  };
}

/** base + (p - b), over the channels of a Conv. */
function biasStage(key: string, site: Site): Stage {
  return (g, base, output) => {
    const change = site.bias === undefined ? key : g.op("Sub", [key, site.bias]);
    into(g, "Add", [base, overChannels(g, site, change)], output, `${site.modulePath}/saved/bias`);
  };
}

/** A vector [out] in the shape in which it is added to a layer's output. */
export function overChannels(
  g: GraphBuilder,
  { kernel, outFeatures }: Pick<Site, "kernel" | "outFeatures">,
  value: Value,
): Value {
  if (kernel.length === 0) return value;
  return g.op("Reshape", [value, g.constant("int64", [1, outFeatures, ...kernel.map(() => 1)])]);
}

/** The embedding's rows, those of the trained tokens replaced. */
function tokenStage({ key, rows = [], parameter }: SavedParameter, node: Node): Stage {
  return (g, base, output) => {
    const vocabulary = parameter.dims[0]!;
    const [isTrained, place] = [new Uint8Array(vocabulary), new BigInt64Array(vocabulary)];
    for (const [at, row] of rows.entries()) {
      isTrained[row] = 1;
      place[row] = BigInt(at);
    }
    const ids = node.inputs[1]!;
    const table = (name: string, value: Tensor): Value =>
      g.op("Gather", [g.initializer(`${parameter.path}/tokens/${name}`, value), ids]);
    const trained = g.op("Gather", [key, table("place", tensor("int64", [vocabulary], place))]);
    const mask = g.op("Unsqueeze", [
      table("trained", tensor("bool", [vocabulary], isTrained)),
      g.constant("int64", [-1]),
    ]);
    into(g, "Where", [mask, trained, base], output, `${parameter.path}/tokens`);
  };
}

/** The outputs of a layer that belong to the trained rows, its own or those it is tied to: base + x (P - W)^T in their places. */
function outputStage({ key, rows = [], parameter, start }: SavedParameter, site: Site): Stage {
  return (g, base, output) => {
    const vocabulary = parameter.dims[0]!;
    const [share, place] = [new Float32Array(vocabulary), new BigInt64Array(vocabulary)];
    for (const [at, row] of rows.entries()) {
      share[row] = 1;
      place[row] = BigInt(at);
    }
    const named = (name: string, value: Tensor): Value => g.initializer(`${site.modulePath}/tokens/${name}`, value);
    const difference = g.op("Sub", [key, named("rows", start())]);
    const turned = g.op("Transpose", [difference], { perm: [1, 0] });
    const change = g.op("MatMul", [site.node.inputs[0]!, turned], {}, { name: `${site.modulePath}/tokens/change` });
    const spread = g.op("Gather", [change, named("place", tensor("int64", [vocabulary], place))], { axis: -1 });
    const masked = g.op("Mul", [spread, named("trained", tensor("float32", [vocabulary], share))]);
    into(g, "Add", [base, masked], output, `${site.modulePath}/tokens`);
  };
}

/** A node whose output has the given name. */
export function into(g: GraphBuilder, op: string, inputs: readonly Value[], output: Value, name: string): void {
  g.node(makeNode({ op, name: g.freshName(name), inputs, outputs: [output] }));
}
