// What the adapters' folder holds. An adapter is a folder of PEFT's or mlx-lm's files or an `.onnx_adapter` file in it; its name
// is that of the folder or file. A folder may have versions beside or instead of files of its own: subfolders called 2, 3, ...
// (the files of its own are version 1). The greatest version is served, unless serving.json names another.
// Names come from listing the folder, never from a client; whatever a link leads out of the folder is not there.
import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { isMlxAdapter, mlxFiles } from "../adapter/mlx.ts";
import type { AdapterHome } from "../runs/adapter-files.ts";
import { errorCode, fileError } from "../runs/file-error.ts";
import { readFileChecked, readFilesTogether } from "../runs/files.ts";
import type { AdapterSource } from "./engine.ts";
import { readTextInside, realInside } from "./inside.ts";
import { isName } from "./names.ts";
import { ServeError } from "./serve-error.ts";

/** Where a version lies. */
interface Place {
  readonly home: AdapterHome;
  readonly path: string;
}

/** An adapter of the folder. */
export interface Listed {
  readonly name: string;
  /** By version, "1", "2" and so on, in that order. */
  readonly versions: ReadonlyMap<string, Place>;
  /** The one that is served when none is asked for. */
  readonly current: string;
}

/** The file that says which version of an adapter is served: { "version": "2" }. */
export const servingFile = "serving.json";

const onnxEnding = ".onnx_adapter";
const peftFiles = ["adapter_config.json", "adapter_model.safetensors", "labels.json"] as const;

/** All adapters of a folder, by name. Throws LowrankError "file" when it cannot be read. */
export async function listAdapters(folder: string): Promise<Map<string, Listed>> {
  const entries = await readdir(folder).catch((error: unknown) => {
    throw fileError(folder, "read", error);
  });
  const root = await realpath(folder);
  const found = new Map<string, Listed>();
  // A few at a time: a folder may hold very many.
  const names = entries.sort();
  for (let at = 0; at < names.length; at += 64) {
    const listed = await Promise.all(names.slice(at, at + 64).map((entry) => listOne(root, entry)));
    for (const one of listed) if (one !== null && !found.has(one.name)) found.set(one.name, one);
  }
  return found;
}

/** One entry of the folder as it is now; null when it is no adapter. `entry` is a name that listing the folder gave. */
async function listOne(root: string, entry: string): Promise<Listed | null> {
  const isFile = entry.endsWith(onnxEnding);
  const name = isFile ? entry.slice(0, -onnxEnding.length) : entry;
  if (!isName(name)) return null;
  const path = join(root, entry);
  const kind = await kindInside(root, path);
  if (isFile) {
    return kind === "file" ? { name, versions: new Map([["1", { home: "onnx", path }]]), current: "1" } : null;
  }
  if (kind !== "folder") return null;
  const versions = await versionsIn(root, path);
  if (versions.size === 0) return null;
  const greatest = [...versions.keys()].at(-1)!;
  const chosen = await chosenVersion(root, path);
  return { name, versions, current: chosen !== null && versions.has(chosen) ? chosen : greatest };
}

async function versionsIn(root: string, path: string): Promise<Map<string, Place>> {
  const inside = await readdir(path).catch(() => []);
  const versions = new Map<string, Place>();
  const own = homeOf(inside);
  if (own !== null) versions.set("1", { home: own, path });
  const numbers = inside.filter((entry) => /^[1-9]\d{0,8}$/.test(entry)).map(Number);
  for (const number of numbers.sort((a, b) => a - b)) {
    const folder = join(path, String(number));
    if (versions.has(String(number)) || (await kindInside(root, folder)) !== "folder") continue;
    const home = homeOf(await readdir(folder).catch(() => []));
    if (home !== null) versions.set(String(number), { home, path: folder });
  }
  return versions;
}

function homeOf(names: readonly string[]): AdapterHome | null {
  if (isMlxAdapter(names)) return "mlx";
  return names.some((name) => name.startsWith("adapter_")) ? "peft" : null;
}

/** What is at a path, links followed as long as they stay inside `root`. */
async function kindInside(root: string, path: string): Promise<"file" | "folder" | null> {
  try {
    const real = await realInside(root, path);
    if (real === null) return null;
    const stats = await stat(real);
    if (stats.isDirectory()) return "folder";
    return stats.isFile() ? "file" : null;
  } catch {
    return null;
  }
}

/** Bytes that serving.json may have. */
const maxServingBytes = 1000;

async function chosenVersion(root: string, path: string): Promise<string | null> {
  const text = await readTextInside(root, join(path, servingFile), maxServingBytes);
  try {
    const { version } = (JSON.parse(text ?? "null") ?? {}) as { version?: unknown };
    return typeof version === "string" ? version : null;
  } catch {
    return null;
  }
}

/** What tells a version's files from those that replace them, and how large they are. */
export interface Identity {
  readonly text: string;
  readonly bytes: number;
}

function filesOf({ home }: Place): readonly string[] {
  if (home === "onnx") return [""];
  return home === "mlx" ? mlxFiles : peftFiles;
}

/** Looks at a version's files without reading them. Throws ServeError 404 when they are gone, 400 when one lies elsewhere. */
export async function identify(root: string, place: Place): Promise<Identity> {
  const parts: string[] = [];
  let bytes = 0;
  for (const file of filesOf(place)) {
    const path = file === "" ? place.path : join(place.path, file);
    try {
      const real = await realInside(root, path);
      if (real === null) throw new ServeError(400, `${file}: it is a link that leads out of the adapters' folder`);
      const stats = await stat(real, { bigint: true });
      if (!stats.isFile()) throw new ServeError(400, `${file}: expected a file`);
      parts.push([file, stats.dev, stats.ino, stats.size, stats.mtimeNs].join());
      bytes += Number(stats.size);
    } catch (error) {
      if (errorCode(error) !== "ENOENT" && errorCode(error) !== "ENOTDIR") throw error;
    }
  }
  if (parts.length === 0) throw new ServeError(404, "its files are gone");
  return { text: parts.join(" "), bytes };
}

/**
 * What changes when a version's files are replaced or written to, or its adapter gets other versions: cheap enough to be looked
 * at for thousands of adapters every few seconds.
 */
export async function glance(root: string, name: string, place: Place): Promise<string> {
  const own = place.home === "onnx" ? [] : [join(root, name)];
  const files = filesOf(place).map((file) => (file === "" ? place.path : join(place.path, file)));
  const parts = await Promise.all(
    [...own, ...files].map((path) =>
      stat(path, { bigint: true }).then(
        ({ ino, size, mtimeNs }) => `${ino},${size},${mtimeNs}`,
        () => "",
      ),
    ),
  );
  return parts.join(" ");
}

/** Which of `entries` the folder lists: a name that differs in nothing but case must not find another's. */
async function entriesNamed(folder: string, entries: readonly string[]): Promise<string[]> {
  const there = new Set(await readdir(folder).catch(() => []));
  return entries.filter((entry) => there.has(entry));
}

/** An adapter as the folder has it now, by name; null when it has none. */
export async function findAdapter(folder: string, root: string, name: string): Promise<Listed | null> {
  for (const entry of await entriesNamed(folder, [name, `${name}${onnxEnding}`])) {
    const listed = await listOne(root, entry);
    if (listed !== null) return listed;
  }
  return null;
}

/** A version's files, all of one moment. */
export async function readPlace(place: Place): Promise<AdapterSource> {
  if (place.home === "onnx") return { home: "onnx", files: new Map([["", await readFileChecked(place.path)]]) };
  return { home: place.home, files: await readFilesTogether(place.path, filesOf(place)) };
}
