// Which adapter a request, or a row of it, wants: a name, a weighted sum of several ("poet:0.7,critic:0.3"), or the base.
import { assertName, shortened } from "./names.ts";
import { ServeError } from "./serve-error.ts";

/** One adapter of a sum. */
export interface Part {
  readonly name: string;
  readonly weight: number;
}

/** The adapters that are summed; none is the base. */
export type Wanted = readonly Part[];

/** Summed ranks cost time at each row: more adapters than this are not summed. */
export const maxParts = 8;

/**
 * Reads "name", "name:0.5" or "a:0.7,b:0.3"; "" is the base. A name that occurs twice counts with the sum of its weights.
 *
 * @throws ServeError 400 for what is no such text.
 * @example parseBlend("poet:0.7,critic:0.3") // [{ name: "poet", weight: 0.7 }, { name: "critic", weight: 0.3 }]
 */
export function parseBlend(text: string): Wanted {
  if (text === "") return [];
  const weights = new Map<string, number>();
  for (const entry of text.split(",", maxParts + 1)) {
    const [name, weight = "1", ...rest] = entry.split(":");
    assertName(name, "adapter");
    const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(weight) ? Number(weight) : Number.NaN;
    // Beyond this, float32 has no such number.
    if (rest.length > 0 || !(Math.abs(value) <= 3.4e38)) {
      throw new ServeError(400, `adapter: expected name or name:weight, got ${JSON.stringify(shortened(entry))}`);
    }
    weights.set(name, (weights.get(name) ?? 0) + value);
  }
  if (weights.size > maxParts || text.split(",").length > maxParts) {
    throw new ServeError(400, `adapter: expected a sum of at most ${maxParts} adapters, got more`);
  }
  return Array.from(weights, ([name, weight]) => ({ name, weight }));
}
