// What PyTorch called the module that a node came from. Sources, best first: torch.export's name scopes in the node's
// metadata, the weight's name when it ends in `.weight`, the TorchScript exporter's node names (a path of scopes).
import type { Node } from "./model.ts";

/**
 * The module path of a node that uses `weight`, or undefined when neither says one.
 * `isModule` tells whether a scope's dotted name is that of a known parameter's module; it tells `fc_1` (the second call of
 * `fc`) from a module that is called so.
 */
export function modulePath(node: Node, weight: string, isModule: (path: string) => boolean): string | undefined {
  return scopePath(node) ?? weightPath(weight) ?? nodePath(node, isModule);
}

/** torch.export: `pkg.torch.onnx.name_scopes` is a Python list in a string; the deepest module stands last but one. */
export function scopePath(node: Node): string | undefined {
  // A Conv into which a BatchNorm was folded carries the BatchNorm's scope.
  if (lastModule(node, "pkg.torch.onnx.class_hierarchy")?.includes(".batchnorm.")) return undefined;
  return lastModule(node, "pkg.torch.onnx.name_scopes");
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
  return weight.endsWith(".weight") && !weight.startsWith("onnx::") ? weight.slice(0, -".weight".length) : undefined;
}

/** TorchScript: `/encoder/encoder.0/encoder.0.fc/MatMul`; a segment that is a dotted prefix of the next is dropped. */
function nodePath(node: Node, isModule: (path: string) => boolean): string | undefined {
  if (!node.name.startsWith("/")) return undefined;
  const segments = node.name.slice(1).split("/").slice(0, -1);
  if (segments.length === 0) return undefined;
  const path = segments.filter((segment, index) => !segments[index + 1]?.startsWith(`${segment}.`)).join(".");
  if (isModule(path)) return path;
  // A later call is numbered where it is made, which may be further out: `/block_1/fc/MatMul`.
  const withoutCalls = [path.replace(/_\d+$/, ""), path.replace(/_\d+(?=\.|$)/g, "")];
  return withoutCalls.find(isModule) ?? path;
}
