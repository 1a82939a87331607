// An adapter laid over a model whose module paths have a scope more or less than its own: a base exported through a wrapper
// has one more in front, another lost one. A key is placed at the module whose path it equals, else at the one with which it
// shares the longest ending, one path being the whole end of the other; what fits several, or none, is told.
import type { Tensor } from "../tensor.ts";
import type { Adapter, AdapterConfig } from "./config.ts";
import { pathOf, renamedKey } from "./keys.ts";
import { withPaths } from "./scale.ts";

/** What can be placed; a configuration's ranks and alphas go along. */
export type Placeable = Pick<Adapter, "tensors"> & { readonly config?: AdapterConfig };

/** An adapter under a model's own names. */
export interface Placed<A extends Placeable> {
  /** The same object where no name differs. */
  readonly adapter: A;
  /** The adapter's own key of each of the model's. */
  readonly ownKeys: ReadonlyMap<string, string>;
}

/**
 * The adapter with its tensors under the keys of a model that has modules at `paths`. What cannot be placed keeps its key, and
 * its reason is added to `faults`.
 */
export function placeAdapter<A extends Placeable>(adapter: A, paths: ReadonlySet<string>, faults: string[]): Placed<A> {
  const own = new Set([...adapter.tensors.keys()].flatMap((key) => pathOf(key) ?? []));
  const renamed = new Map<string, string>();
  const taken = new Map<string, string>();
  for (const path of own) {
    const place = placeOf(path, paths);
    if (typeof place !== "string") {
      if (place.length > 0)
        faults.push(`${path}: fits several modules of the model: ${place.slice(0, 5).join(", ")}; rename its keys`);
      continue;
    }
    const other = taken.get(place);
    if (other !== undefined) faults.push(`${path}: ${other} is placed at ${place} already; remove one of them`);
    else taken.set(place, path);
    if (place !== path) renamed.set(path, place);
  }
  if (renamed.size === 0) return { adapter, ownKeys: new Map() };
  const ownKeys = new Map<string, string>();
  const tensors = new Map<string, Tensor>();
  for (const [key, value] of adapter.tensors) {
    const path = pathOf(key);
    const place = path === undefined ? undefined : renamed.get(path);
    const name = place === undefined ? key : renamedKey(key, path!, place);
    if (name !== key) ownKeys.set(name, key);
    tensors.set(name, value);
  }
  const places = new Map([...own].map((path) => [path, renamed.get(path) ?? path]));
  const config = adapter.config && withPaths(adapter.config, places);
  return { adapter: { ...adapter, tensors, ...(config && { config }) }, ownKeys };
}

/** The module that a path means; those between which it does not decide, or none. */
function placeOf(path: string, paths: ReadonlySet<string>): string | readonly string[] {
  if (paths.has(path)) return path;
  const fitting = [...paths].filter((other) => other.endsWith(`.${path}`) || path.endsWith(`.${other}`));
  // Every longer path shares all of this one; of the shorter ones the longest shares most.
  const longer = fitting.filter((other) => other.length > path.length);
  if (longer.length > 0) return longer.length === 1 ? longer[0]! : longer;
  return fitting.sort((a, b) => b.length - a.length)[0] ?? [];
}

/** The module paths that the keys of parameters name. */
export function pathsOf(keys: Iterable<string>): ReadonlySet<string> {
  return new Set([...keys].flatMap((key) => pathOf(key) ?? []));
}
