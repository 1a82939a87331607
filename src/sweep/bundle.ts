// Several files as one, so that they appear in a store at one moment: a safetensors file with a tensor of bytes for each, which
// has a checked reader already. And a training's folder as such a bundle.
import { mkdir, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { readSafetensors, writeSafetensors } from "../adapter/safetensors.ts";
import { LowrankError } from "../errors.ts";
import { checkpointName } from "../runs/checkpoints.ts";
import { isTemporary, readFileChecked, writeFileAtomic } from "../runs/files.ts";
import { isLeftOver } from "../runs/replace-files.ts";
import { type Tensor, tensor } from "../tensor.ts";

/** Names may have folders, with / between. */
export type Files = ReadonlyMap<string, Uint8Array>;

/** The bytes of a bundle; equal files give equal bytes. */
export function packFiles(files: Files): Uint8Array {
  const tensors = new Map<string, Tensor>();
  for (const [name, bytes] of files) tensors.set(name, tensor("uint8", [bytes.length], bytes));
  return writeSafetensors(tensors);
}

/** The files of a bundle. Throws LowrankError for damaged ones, and for names that lead elsewhere. */
export function unpackFiles(bytes: Uint8Array, where: string): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  for (const [name, { data, type }] of readSafetensors(bytes, where).tensors) {
    const isPlain = name.split("/").every((part) => /^[A-Za-z0-9._-]+$/.test(part) && !/^\.+$/.test(part));
    if (type !== "uint8" || !isPlain) {
      throw new LowrankError(
        "file",
        `${where}: expected a bundle of files, got ${JSON.stringify(name)}; it is damaged`,
      );
    }
    files.set(name, data as Uint8Array);
  }
  return files;
}

/** All that a training left but its checkpoint, which only going on with it needs. */
export async function resultFiles(folder: string): Promise<Files> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const names = entries
    .filter((entry) => entry.isFile() && !isTemporary(entry.name) && !isLeftOver(entry.name))
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(folder.length + 1)
        .replaceAll("\\", "/"),
    );
  return readAll(folder, names.filter((name) => name !== checkpointName).sort());
}

/** What is needed to go on: null before the first checkpoint. Records that come after it are dropped when it is used. */
export async function resumeFiles(folder: string): Promise<Files | null> {
  const names = await readdir(folder).catch((): string[] => []);
  if (!names.includes(checkpointName)) return null;
  // The checkpoint first: records are flushed before each, so those that are read later cover it.
  return readAll(folder, [checkpointName, ".lowrank-run", "config.json", "env.json", "metrics.jsonl"]);
}

async function readAll(folder: string, names: readonly string[]): Promise<Files> {
  const files = new Map<string, Uint8Array>();
  for (const name of names) files.set(name, await readFileChecked(join(folder, ...name.split("/"))));
  return files;
}

/** Writes files into a folder, each of them whole. */
export async function writeFiles(folder: string, files: Files): Promise<void> {
  for (const [name, bytes] of files) {
    const path = join(folder, ...name.split("/"));
    await mkdir(dirname(path), { recursive: true });
    await writeFileAtomic(path, bytes);
  }
}
