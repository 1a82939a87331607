// What files hold, in a few characters: a run notes it, and resuming looks whether they are still the same.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileError } from "../runs/file-error.ts";

/**
 * SHA-256 by file name (by path, where two files are called the same); of a folder of images, of the names and sizes of all that is in it. Throws LowrankError "file".
 *
 * @example await hashFiles(["data/train.csv"]); // { "train.csv": "5b34…" }
 */
export async function hashFiles(paths: readonly string[]): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const path of paths) {
    try {
      const hash = (await stat(path)).isDirectory() ? await folderHash(path) : await fileHash(path);
      const name = basename(path);
      hashes[(hashes[name] ?? hash) === hash ? name : path] = hash;
    } catch (error) {
      throw fileError(path, "read", error);
    }
  }
  return hashes;
}

async function fileHash(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

async function folderHash(folder: string): Promise<string> {
  const hash = createHash("sha256");
  const names = (await readdir(folder, { recursive: true })).sort();
  for (const name of names) {
    const about = await stat(join(folder, name));
    if (about.isFile()) hash.update(`${name}\0${about.size}\n`);
  }
  return hash.digest("hex");
}
