// Modules that are called several times are one site: layers of one path whose weights are the same values. TorchScript
// numbers later calls (`fc_1`), and both exporters store a weight once as Gemm wants it and once, transposed, as MatMul does:
// equal numbers count as the same weight.

import type { Tensor } from "../../tensor.ts";
import { producers, storedValue } from "../graph.ts";
import type { Graph, Node, StoredTensor } from "../model.ts";
import { earlierCalls } from "../module-path.ts";
import type { Call, Site } from "../sites.ts";
import type { Constants } from "./constants.ts";
import { storedWeight } from "./dense.ts";

/** A layer with its path, one for each call. */
export type FoundSite = Omit<Site, "sharedWith" | "calls" | "part">;

/** The sites of the layers found: later calls joined to the first, and who shares a stored weight with whom. */
export function joinCalls(graph: Graph, found: readonly FoundSite[], constants: Constants): Site[] {
  const isSame = sameWeights(graph, constants);
  const groups: { readonly modulePath: string; readonly calls: [FoundSite, ...FoundSite[]] }[] = [];
  const byPath = new Map<string, typeof groups>();
  for (const site of found) {
    const path = site.modulePath;
    const before = [path, ...earlierCalls(path)].flatMap((name) => byPath.get(name)?.slice(0, mostCompared) ?? []);
    const group = before.find(({ calls: [first] }) => isSame(first, site));
    if (group !== undefined) {
      group.calls.push(site);
      continue;
    }
    const fresh: (typeof groups)[number] = { modulePath: path, calls: [site] };
    groups.push(fresh);
    pushTo(byPath, path, fresh);
  }
  const bySource = new Map<string, string[]>();
  for (const { modulePath, calls } of groups) {
    for (const source of new Set(calls.map(({ weight }) => constants.source(weight)))) {
      pushTo(bySource, source, modulePath);
    }
  }
  return groups.map(({ modulePath, calls }): Site => {
    const [first] = calls;
    // One list for all of them: thousands of sites may read one weight.
    const sharing = bySource.get(constants.source(first.weight)) ?? [];
    return {
      ...first,
      modulePath,
      part: undefined,
      sharedWith: sharing.length > 1 ? sharing : [],
      calls: calls.map(({ node, weight, layout, input, output }): Call => ({ node, weight, layout, input, output })),
    };
  });
}

/**
 * With how many layers of one path but different weights a further one is compared. An adapter refuses such a path anyway; a
 * hostile file has thousands of them.
 */
const mostCompared = 8;

function pushTo<Entry>(lists: Map<string, Entry[]>, key: string, entry: Entry): void {
  const list = lists.get(key);
  if (list) list.push(entry);
  else lists.set(key, [entry]);
}

/** Whether two layers compute the same function, bias apart. */
function sameWeights(graph: Graph, constants: Constants): (a: FoundSite, b: FoundSite) => boolean {
  const made = producers(graph);
  const sameValue = (a: string, b: string): boolean => {
    if (a === b) return true;
    const [first, second] = [storedValue(graph, made, a), storedValue(graph, made, b)];
    if (first !== undefined && second !== undefined) return sameBytes(first, second);
    const [here, there] = [made.get(a), made.get(b)];
    const isComputed = here !== undefined && here.op === there?.op && constants.source(a) !== a;
    return isComputed && sameAttributes(here, there) && constants.source(a) === constants.source(b);
  };
  const sameWeight = (a: FoundSite, b: FoundSite): boolean => {
    if (a.layout === b.layout) return sameValue(a.weight, b.weight);
    const [first, second] = [storedWeight(graph, made, a.weight), storedWeight(graph, made, b.weight)];
    return first?.dims.length === 2 && second?.dims.length === 2 && sameTransposed(first, second);
  };
  return (a, b) =>
    a.kind === b.kind &&
    a.quantized?.form === b.quantized?.form &&
    a.factor === b.factor &&
    a.groups === b.groups &&
    [a.inFeatures, a.outFeatures, ...a.kernel].join() === [b.inFeatures, b.outFeatures, ...b.kernel].join() &&
    sameWeight(a, b) &&
    sameValue(a.quantized?.scale ?? "", b.quantized?.scale ?? "") &&
    sameValue(a.quantized?.zero ?? "", b.quantized?.zero ?? "");
}

function sameBytes(a: StoredTensor, b: StoredTensor): boolean {
  if (a.type !== b.type || a.dims.join() !== b.dims.join() || a.bytes.length !== b.bytes.length) return false;
  return a.bytes.every((byte, index) => byte === b.bytes[index]);
}

function sameAttributes(a: Node, b: Node): boolean {
  const text = ({ attributes }: Node): string =>
    JSON.stringify([...attributes], (_, value) => (typeof value === "bigint" ? String(value) : value));
  return text(a) === text(b);
}

/** Whether a matrix is the other's transpose. */
function sameTransposed(a: Tensor<"float32">, b: Tensor<"float32">): boolean {
  const [rows, columns] = a.dims as [number, number];
  return a.data.every((value, index) => value === b.data[(index % columns) * rows + Math.floor(index / columns)]);
}
