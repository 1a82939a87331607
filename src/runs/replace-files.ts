// Several files of a folder replaced at one moment, so that a kill at any other leaves all old ones or all new ones, for every
// reader that opens them by their names. A rename replaces one file atomically, never two; so for a moment the names become
// symbolic links through one other link, and that one is renamed (as Kubernetes updates its volumes):
//
//   1. adapter_config.json -> .lowrank-ID.link/adapter_config.json, .lowrank-ID.link -> .lowrank-ID.old   (reads as before)
//   2. .lowrank-ID.link -> .lowrank-ID.new                                                    (one rename: all files are new)
//   3. the new files take the places of their links, and what is left over is removed                     (reads the same)
//
// A kill in between leaves links, which read like files; the next write into the folder removes them. One writer at a time.
import { randomBytes } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from "node:fs";
import { join } from "node:path";
import { errorCode } from "./file-error.ts";

const ownName = /^(\.lowrank-[0-9a-f]{12})\.(?:old|new|link|tmp)$/;

/** Whether a name in a folder is what a write has left there that did not come to its end. */
export function isLeftOver(name: string): boolean {
  return ownName.test(name);
}

/** A new folder inside `folder` for the files that `replaceTogether` puts in their places. */
export function stagingFolder(folder: string): string {
  const staging = join(folder, `.lowrank-${randomBytes(6).toString("hex")}.new`);
  mkdirSync(staging);
  return staging;
}

/**
 * Puts all files of `staging` (complete, and on disk) into the folder that it lies in, under the same names. Other files of
 * the folder stay. Synchronous, so that an exit of this process comes before or after it.
 *
 * Where the file system has no symbolic links (FAT, Windows without the privilege), the files are renamed one right after the
 * other. Throws what the system says, the old files being in their places then.
 */
export function replaceTogether(folder: string, staging: string): void {
  const names = readdirSync(staging);
  const id = staging.slice(0, -".new".length);
  const [old, link, spare] = [`${id}.old`, `${id}.link`, `${id}.tmp`];
  const base = (path: string): string => path.slice(folder.length + 1);
  const existing = names.filter((name) => isThere(join(folder, name)));
  try {
    mkdirSync(old);
    for (const name of existing) keepCopy(realpathSync(join(folder, name)), join(old, name));
    if (!tryLink(base(old), link)) {
      for (const name of names) renameSync(join(staging, name), join(folder, name));
      tidy(folder);
      return;
    }
    for (const name of names) {
      // Where there was no file, this one leads nowhere until the switch: a reader finds none, as before.
      symlinkSync(join(base(link), name), spare);
      renameSync(spare, join(folder, name));
    }
    syncFolder(folder);
    symlinkSync(base(staging), spare, "dir");
    renameSync(spare, link); // the moment
  } catch (error) {
    restore(folder, names, old);
    tidy(folder);
    throw error;
  }
  syncFolder(folder);
  try {
    for (const name of names) renameSync(join(staging, name), join(folder, name));
    syncFolder(folder);
    tidy(folder);
  } catch {
    // The new files are there, through links; the next write tidies up.
  }
}

/** Makes a rename in `folder` durable. Windows cannot open folders, and some file systems refuse: then it is left. */
export function syncFolder(folder: string): void {
  try {
    const handle = openSync(folder, "r");
    try {
      fsyncSync(handle);
    } finally {
      closeSync(handle);
    }
  } catch {
    // The rename itself has succeeded; only its durability across a power cut is up to the file system.
  }
}

function isThere(path: string): boolean {
  try {
    return !lstatSync(path).isSymbolicLink() || realpathSync(path) !== "";
  } catch (error) {
    if (errorCode(error) === "ENOENT") return false;
    throw error;
  }
}

/** A second name for a file, or a copy where the file system has no hard links or they may not cross to it. */
function keepCopy(file: string, copy: string): void {
  try {
    linkSync(file, copy);
  } catch {
    copyFileSync(file, copy);
  }
}

function tryLink(target: string, path: string): boolean {
  try {
    symlinkSync(target, path, "dir");
    return true;
  } catch (error) {
    if (["EPERM", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EACCES"].includes(errorCode(error) ?? "")) return false;
    throw error;
  }
}

/** The old files in their places again: a link is replaced, a file that is still there is the same. */
function restore(folder: string, names: readonly string[], old: string): void {
  for (const name of names) {
    const path = join(folder, name);
    if (isThere(join(old, name))) renameSync(join(old, name), path);
    else if (!isThere(path)) rmSync(path, { force: true });
  }
}

/** Removes what this write and earlier ones have left, but for what a link of the folder still leads through. */
function tidy(folder: string): void {
  const entries = readdirSync(folder, { withFileTypes: true });
  const inUse = new Set(
    entries
      .filter((entry) => entry.isSymbolicLink() && !isLeftOver(entry.name))
      .map(({ name }) => ownName.exec(readlinkSync(join(folder, name)).split(/[/\\]/)[0] ?? "")?.[1]),
  );
  for (const { name } of entries) {
    const own = ownName.exec(name)?.[1];
    if (own === undefined || inUse.has(own)) continue;
    const path = join(folder, name);
    if (lstatSync(path).isSymbolicLink()) unlinkSync(path);
    else rmSync(path, { recursive: true, force: true });
  }
}
