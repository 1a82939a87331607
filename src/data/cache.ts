// Where downloaded data is kept, and how it gets there: a folder that is complete the moment it can be seen.
import { randomBytes } from "node:crypto";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join } from "node:path";

/**
 * The user's cache folder for MNIST, or null on a system that has none: `lowrank/mnist` in $XDG_CACHE_HOME, else in
 * ~/.cache (XDG Base Directory Specification 0.8, which says to ignore relative values).
 */
export function cacheFolder(environment: Readonly<Record<string, string | undefined>>): string | null {
  const xdg = environment.XDG_CACHE_HOME;
  if (xdg && isAbsolute(xdg)) return join(xdg, "lowrank", "mnist");
  const home = environment.HOME || systemHome();
  return home === null ? null : join(home, ".cache", "lowrank", "mnist");
}

/**
 * Puts `files` at `folder`, in place of anything that is there: written and flushed beside it under a temporary name,
 * then moved in one step. Of two processes that do so at once, one's folder stays. Throws Node's system errors, and
 * then leaves nothing behind.
 */
export async function replaceFolder(folder: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  const parent = dirname(folder);
  await mkdir(parent, { recursive: true });
  const temporary = join(parent, `.${basename(folder)}-${process.pid}-${randomBytes(4).toString("hex")}`);
  try {
    await mkdir(join(temporary, "new"), { recursive: true });
    for (const [name, bytes] of files) await writeFlushed(join(temporary, "new", name), bytes);
    await rename(folder, join(temporary, "old")).catch(unless("ENOENT"));
    await rename(join(temporary, "new"), folder).catch(unless("ENOTEMPTY", "EEXIST"));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function writeFlushed(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

function unless(...expected: string[]): (error: NodeJS.ErrnoException) => void {
  return (error) => {
    if (!expected.includes(error.code ?? "")) throw error;
  };
}

function systemHome(): string | null {
  try {
    return homedir();
  } catch {
    return null; // no HOME, and a user id that no password file knows
  }
}
