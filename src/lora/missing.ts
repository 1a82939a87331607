// Layers that an adapter's configuration names (targets.ts) and that none of its tensors is for, while others of their name have
// some: eleven of twelve c_attn, as when a file lost a part. PEFT 0.21 leaves such a layer as a fresh adapter does, which
// changes nothing, and warns; here it is told beside what does not fit.
import { LowrankError } from "../errors.ts";
import { scopePath } from "../onnx/module-path.ts";
import type { Site } from "../onnx/sites.ts";
import type { Tensor } from "../tensor.ts";
import type { AdapterConfig } from "./config.ts";
import { adapterKeys, pathOf } from "./keys.ts";
import { isKeptWhole } from "./saved.ts";
import { targetTest } from "./targets.ts";

/** An adapter under the names of a model (place.ts). */
interface PlacedAdapter {
  readonly adapter: { readonly tensors: ReadonlyMap<string, Tensor>; readonly config?: AdapterConfig };
  readonly ownKeys: ReadonlyMap<string, string>;
}

/**
 * A fault for each site that the adapter's configuration names, and that it has neither A nor B for though it has them for a
 * site of the same last name.
 *
 * @param all the sites that it could be for: a model's, or those of them that have a branch.
 */
export function missingFaults({ adapter, ownKeys }: PlacedAdapter, all: readonly Site[]): string[] {
  const { tensors, config } = adapter;
  const has = ({ modulePath, kind }: Site): boolean => {
    const { a, b } = adapterKeys(modulePath, kind);
    return tensors.has(a) || tensors.has(b);
  };
  const [there, without] = [all.filter(has), all.filter((site) => !has(site))];
  if (config === undefined || there.length === 0 || without.length === 0) return [];
  const ownPath = ownPathsBy(ownKeys);
  const isNamed = namedBy(config, new Set(there.map(({ modulePath }) => ownPath(modulePath))));
  const names = new Set(there.map(nameOf));
  const isCovered = coveredBy(there);
  return without
    .filter((site) => names.has(nameOf(site)) && isModule(site) && !isCovered(site))
    .filter((site) => isNamed(site, ownPath(site.modulePath)))
    .map(
      ({ modulePath }) =>
        `${modulePath}: targetModules names it, and the adapter has no tensors for it; name it in excludeModules if the base is to stay as it is there`,
    );
}

/** Whether a configuration means a site; nothing is known of expressions that cannot be read here. */
function namedBy(config: AdapterConfig, present: ReadonlySet<string>): (site: Site, path: string) => boolean {
  // Lists made of whole paths mean those alone, though to PEFT they are endings too.
  const list = typeof config.targetModules === "string" ? null : config.targetModules;
  const targetModules = list === null ? config.targetModules : list.filter((entry) => !present.has(entry));
  try {
    const test = targetTest({ ...config, targetModules });
    return (site, path) => !isKeptWhole(path, config.modulesToSave) && test(site, path);
  } catch (error) {
    if (error instanceof LowrankError) return () => false;
    throw error;
  }
}

/** What the adapter would call a module of the model: with the scopes in front that its own keys have more, or without. */
function ownPathsBy(ownKeys: ReadonlyMap<string, string>): (path: string) => string {
  const [renamed] = ownKeys;
  if (renamed === undefined) return (path) => path;
  const [models, own] = renamed.map((key) => pathOf(key) ?? "") as [string, string];
  if (own.length > models.length) return (path) => own.slice(0, own.length - models.length) + path;
  const scope = models.slice(0, models.length - own.length);
  return (path) => (path.startsWith(scope) ? path.slice(scope.length) : path);
}

/** The last name of a module; parts of packed projections, which have names of our making, are apart. */
function nameOf({ modulePath, part }: Site): string {
  return `${part === undefined ? "" : "part "}${lastOf(modulePath)}`;
}

/** Whether a packed projection is adapted in its parts, or a part by its projection. */
function coveredBy(there: readonly Site[]): (site: Site) => boolean {
  const paths = new Set(there.flatMap(({ modulePath, part }) => [modulePath, part?.of ?? modulePath]));
  return ({ modulePath, part }) => paths.has(part?.of ?? modulePath);
}

/** Whether PyTorch has a module of that path: a bare parameter that is multiplied with is none, and no adapter's target. */
function isModule({ modulePath, node, weight, part }: Site): boolean {
  if (part !== undefined) return true;
  const last = lastOf(modulePath);
  const names = [scopePath(node) ?? "", weight.replace(/\.weight.*$/, "")];
  if (weight.includes(".weight") && lastOf(names[1]!) === last) return true;
  return lastOf(names[0]!) === last || node.name.split("/").some((segment) => lastOf(segment) === last);
}

function lastOf(path: string): string {
  return path.split(".").at(-1)!;
}
