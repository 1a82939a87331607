// Files of the adapters' folder, and none beyond it: links are followed as long as they stay inside, what is written goes to no
// link at all, and what is no plain file (a pipe, a device) is never opened, since reading it might never end.
import { lstat, readFile, realpath, stat } from "node:fs/promises";
import { basename, sep } from "node:path";
import { errorCode } from "../runs/file-error.ts";
import { ServeError } from "./serve-error.ts";

/** Where a path leads; null when that is outside of `root`. `root` has no links in it. Throws as `realpath` does. */
export async function realInside(root: string, path: string): Promise<string | null> {
  const real = await realpath(path);
  return real.startsWith(root + sep) ? real : null;
}

/** A small file's text; null when it is not there, no file, too large, or outside of `root`. */
export async function readTextInside(root: string, path: string, maxBytes: number): Promise<string | null> {
  try {
    const real = await realInside(root, path);
    if (real === null) return null;
    const stats = await stat(real);
    return stats.isFile() && stats.size <= maxBytes ? await readFile(real, "utf8") : null;
  } catch {
    return null;
  }
}

/** Throws ServeError 400 when something else than a file (or folder) is where one is read and written, a link included. */
export async function assertOwn(path: string, kind: "file" | "folder"): Promise<void> {
  const stats = await lstat(path).catch((error: unknown) => {
    if (errorCode(error) === "ENOENT") return null;
    throw error;
  });
  if (stats === null || (kind === "file" ? stats.isFile() : stats.isDirectory())) return;
  throw new ServeError(400, `${basename(path)}: expected a ${kind}, got a link or something else; remove it`);
}
