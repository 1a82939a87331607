// Modules that are called several times are one site: layers of one path whose weights are the same values. TorchScript
// numbers later calls (`fc_1`), and transposes a weight anew for each, so that equal bytes count as the same weight.
import { producers, storedValue } from "../graph.ts";
import type { Graph, StoredTensor } from "../model.ts";
import { earlierCalls } from "../module-path.ts";
import type { Call, Site } from "../sites.ts";
import type { Constants } from "./constants.ts";

/** A layer with its path, one for each call. */
export type FoundSite = Omit<Site, "sharedWith" | "calls" | "part">;

/** The sites of the layers found: later calls joined to the first, and who shares a stored weight with whom. */
export function joinCalls(graph: Graph, found: readonly FoundSite[], constants: Constants): Site[] {
  const isSame = sameWeights(graph, constants);
  const groups: { readonly modulePath: string; readonly calls: [FoundSite, ...FoundSite[]] }[] = [];
  const byPath = new Map<string, (typeof groups)[number][]>();
  for (const site of found) {
    const path = site.modulePath;
    const before = [path, ...earlierCalls(path)].flatMap((name) => byPath.get(name) ?? []);
    const group = before.find(({ calls: [first] }) => isSame(first, site));
    if (group !== undefined) {
      group.calls.push(site);
      continue;
    }
    const fresh: (typeof groups)[number] = { modulePath: path, calls: [site] };
    groups.push(fresh);
    byPath.set(path, [...(byPath.get(path) ?? []), fresh]);
  }
  const bySource = new Map<string, string[]>();
  for (const { modulePath, calls } of groups) {
    for (const source of new Set(calls.map(({ weight }) => constants.source(weight)))) {
      bySource.set(source, [...(bySource.get(source) ?? []), modulePath]);
    }
  }
  return groups.map(({ modulePath, calls }): Site => {
    const [first] = calls;
    const sharing = bySource.get(constants.source(first.weight)) ?? [];
    return {
      ...first,
      modulePath,
      part: undefined,
      // A path that stands there twice is another layer's once.
      sharedWith: sharing.toSpliced(sharing.indexOf(modulePath), 1),
      calls: calls.map(({ node, weight, input, output }): Call => ({ node, weight, input, output })),
    };
  });
}

/** Whether two layers compute the same function, bias apart. */
function sameWeights(graph: Graph, constants: Constants): (a: FoundSite, b: FoundSite) => boolean {
  const made = producers(graph);
  const sameValue = (a: string, b: string): boolean => {
    if (a === b) return true;
    const [first, second] = [storedValue(graph, made, a), storedValue(graph, made, b)];
    if (first !== undefined && second !== undefined) return sameBytes(first, second);
    const [here, there] = [made.get(a), made.get(b)];
    const forms = [here, there].map((node) => JSON.stringify([node?.op, [...(node?.attributes.keys() ?? [])]]));
    return forms[0] === forms[1] && constants.source(a) !== a && constants.source(a) === constants.source(b);
  };
  return (a, b) =>
    a.kind === b.kind &&
    a.node.op === b.node.op &&
    a.layout === b.layout &&
    a.factor === b.factor &&
    a.groups === b.groups &&
    [a.inFeatures, a.outFeatures, ...a.kernel].join() === [b.inFeatures, b.outFeatures, ...b.kernel].join() &&
    sameValue(a.weight, b.weight) &&
    sameValue(a.quantized?.scale ?? "", b.quantized?.scale ?? "") &&
    sameValue(a.quantized?.zero ?? "", b.quantized?.zero ?? "");
}

function sameBytes(a: StoredTensor, b: StoredTensor): boolean {
  if (a.type !== b.type || a.dims.join() !== b.dims.join() || a.bytes.length !== b.bytes.length) return false;
  return a.bytes.every((byte, index) => byte === b.bytes[index]);
}
