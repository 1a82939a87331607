// What PyTorch called the module that a node came from. Sources, best first: torch.export's name scopes in the node's
// metadata, the weight's name when it ends in `.weight`, the bias's when it ends in `.bias`, the TorchScript exporter's node
// names (a path of scopes).
import type { Node } from "./model.ts";

/**
 * The module path of a node that uses `weight`, or undefined when neither says one. `ownBias` is the bias that no other node adds.
 * `isModule` tells whether a scope's dotted name is that of a known parameter's module; it tells `fc_1` (the second call of
 * `fc`) from a module that is called so.
 */
export function modulePath(
  node: Node,
  weight: string,
  isModule: (path: string) => boolean,
  ownBias?: string,
): string | undefined {
  const [scope, named] = [scopePath(node), weightPath(weight)];
  // A module may use another's weight, as MultiheadAttention does its out_proj's.
  if (scope !== undefined && named?.startsWith(`${scope}.`)) return named;
  if (scope !== undefined || named !== undefined) return scope ?? named;
  const byNode = nodePath(node, isModule);
  // A forward pass that reaches into a module (`self.model.decoder(x)`) leaves scopes out; parameters have all of them.
  const byBias = /^(.+)\.bias$/.exec(withoutQuantization(ownBias ?? ""))?.[1];
  const isSame = byBias !== undefined && byNode !== undefined && lastName(byBias) === lastName(byNode);
  return isSame ? byBias : byNode;
}

const lastName = (path: string): string => path.slice(path.lastIndexOf(".") + 1);

/** torch.export: `pkg.torch.onnx.name_scopes` is a Python list in a string; the deepest module stands last but one. */
export function scopePath(node: Node): string | undefined {
  // A Conv into which a BatchNorm was folded carries the BatchNorm's scope.
  if (isBatchNorm(node)) return undefined;
  return lastModule(node, "pkg.torch.onnx.name_scopes");
}

function isBatchNorm(node: Node): boolean {
  return lastModule(node, "pkg.torch.onnx.class_hierarchy")?.includes(".batchnorm.") === true;
}

/**
 * Whether the exporter folded a BatchNorm into a layer. torch.export tells; TorchScript's exporter names the weights of a Conv
 * after its module, unless it computed them.
 */
export function saysFoldedNorm(node: Node, weight: string): boolean {
  return isBatchNorm(node) || (node.op === "Conv" && weight.startsWith("onnx::Conv_"));
}

/**
 * Whether the module has a bias, as torch.export tells: it drops one that is zero. False where the node says nothing.
 */
export function saysBias(node: Node): boolean {
  const call = node.metadata.get("pkg.torch.onnx.fx_node") ?? "";
  if (/%[a-z]+\w*_bias[,)]/.test(call)) return true;
  return node.metadata.get("pkg.torch.onnx.class_hierarchy")?.includes("'aten.addmm.") === true;
}

function lastModule(node: Node, key: string): string | undefined {
  const entries = [...(node.metadata.get(key) ?? "").matchAll(/'([^']*)'|"([^"]*)"/g)];
  const last = entries.at(-2);
  return last?.[1] || last?.[2] || undefined;
}

/** The module of a weight that is called as PyTorch calls it. */
export function weightPath(weight: string): string | undefined {
  const [, path] = /^(.+)\.q?weight$/.exec(withoutQuantization(weight)) ?? [];
  // ONNX Runtime GenAI's builder names a weight after its node: `layers.0.attn.q_proj.MatMul.weight`.
  return weight.startsWith("onnx::") ? undefined : path?.replace(/\.(MatMul|MatMulNBits)$/, "");
}

/** A name without what ONNX Runtime's quantizers write behind it: `fc.weight_quantized`, `fc.weight_Q4G32`, `fc.weight_DQ_Q4`. */
export function withoutQuantization(name: string): string {
  return name.replace(/(_quantized|(_DQ|_QDQ)?_Q\d+(G\d+)?)$/, "");
}

/** Paths of which `path` may be a later call: `fc_1` of `fc`, `block_1.fc` of `block.fc`. */
export function earlierCalls(path: string): readonly string[] {
  // A later call is numbered where it is made, which may be further out: `/block_1/fc/MatMul`.
  return [path.replace(/_\d+$/, ""), path.replace(/_\d+(?=\.|$)/g, "")].filter((earlier) => earlier !== path);
}

/** The module whose bias an Add behind a product adds: quantizers drop the product's own metadata, and keep the Add's. */
export function biasPath(add: Node | undefined, bias: string | undefined, isShared: boolean): string | undefined {
  const path = /^(.+)\.bias$/.exec(withoutQuantization(bias ?? ""))?.[1];
  return (add && scopePath(add)) ?? (isShared ? undefined : path);
}

/** TorchScript: `/encoder/encoder.0/encoder.0.fc/MatMul`; a segment that is a dotted prefix of the next is dropped. */
function nodePath(node: Node, isModule: (path: string) => boolean): string | undefined {
  if (!node.name.startsWith("/")) return undefined;
  const segments = node.name.slice(1).split("/").slice(0, -1);
  if (segments.length === 0) return undefined;
  const path = segments.filter((segment, index) => !segments[index + 1]?.startsWith(`${segment}.`)).join(".");
  return isModule(path) ? path : (earlierCalls(path).find(isModule) ?? path);
}
