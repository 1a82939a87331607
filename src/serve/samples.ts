// One adapter of each kind that a folder holds, so that the first session has branches for the layers of all of them.
import { realpath } from "node:fs/promises";
import { join } from "node:path";
import { identify, listAdapters, readPlace } from "./catalogue.ts";
import type { AdapterSource } from "./engine.ts";
import { readTextInside } from "./inside.ts";

/** Configurations that are looked at, and kinds that are kept: enough for any folder of one base. */
const [maxLooked, maxKinds] = [5000, 32];
const maxConfigBytes = 4_000_000;

/** Sources of different targets. Adapters that cannot be read are left out: they are refused when they are asked for. */
export async function sampleAdapters(folder: string, maxBytes: number): Promise<AdapterSource[]> {
  const root = await realpath(folder).catch(() => folder);
  const listed = await listAdapters(folder);
  const kinds = new Map<string, AdapterSource>();
  let looked = 0;
  for (const { versions, current } of listed.values()) {
    if (looked++ >= maxLooked || kinds.size >= maxKinds) break;
    const place = versions.get(current)!;
    const kind = place.home === "onnx" ? "onnx" : await kindOf(root, join(place.path, "adapter_config.json"));
    if (kind === null || kinds.has(kind)) continue;
    try {
      const { bytes } = await identify(root, place);
      if (bytes <= maxBytes) kinds.set(kind, await readPlace(place));
    } catch {
      // Its own request will say what is wrong with it.
    }
  }
  return [...kinds.values()];
}

/** What of a configuration decides about its layers. */
async function kindOf(root: string, path: string): Promise<string | null> {
  const text = await readTextInside(root, path, maxConfigBytes);
  if (text === null) return null;
  try {
    const config = JSON.parse(text) as Record<string, unknown>;
    const { target_modules, exclude_modules, layers_to_transform, layers_pattern, use_dora, num_layers } = config;
    const targets = Array.isArray(target_modules) ? [...target_modules].map(String).sort() : target_modules;
    return JSON.stringify([targets, exclude_modules, layers_to_transform, layers_pattern, use_dora, num_layers]);
  } catch {
    return null;
  }
}
