// Files written whole or not at all, and read with errors that a user understands. Method: write a temporary sibling,
// fsync it, rename it over the target (atomic in POSIX when both lie in one folder), fsync the folder so that the
// rename survives a power cut. Several files at once: replace-files.ts. Every failure removes the temporary, an exit in the middle included.
import { randomBytes } from "node:crypto";
import { renameSync, rmSync, type Stats } from "node:fs";
import { access, constants, type FileHandle, mkdir, open, readdir, readFile, realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { atExit } from "./at-exit.ts";
import { errorCode, type FileAction, fileError } from "./file-error.ts";
import { isLeftOver, replaceTogether, stagingFolder, syncFolder } from "./replace-files.ts";

export type Chunk = Uint8Array | string;

/** What a file will hold: all at once, or in chunks, which are written one after the other (text as UTF-8). */
export type FileContent = Chunk | Iterable<Chunk> | AsyncIterable<Chunk>;

/** The largest file that Node reads into one buffer: 2 GiB less one byte. */
const maxReadBytes = 2 ** 31 - 1;

/**
 * Writes `content` to `path` so that the file is either the old one or the whole new one, never a part.
 *
 * Permissions of an existing file are kept, a symbolic link is followed, and a device or pipe is written directly.
 * Throws a LowrankError "file" when the system refuses; what a chunk source throws is passed on as it is.
 *
 * @example
 * await writeFileAtomic("runs/first/base.onnx", writeModel(model));
 */
export async function writeFileAtomic(path: string, content: FileContent): Promise<void> {
  const fail = failure(path, "write");
  const existing = await statOrNull(path).catch(fail);
  if (existing?.isDirectory()) throw new LowrankError("file", `${path}: cannot write: it is a folder; name a file`);
  if (existing !== null && !existing.isFile()) return writeInPlace(path, content);
  // Without this, the rename below would replace a file that its owner has write-protected.
  if (existing !== null) await access(path, constants.W_OK).catch(fail);
  const target = existing === null ? path : await realpath(path).catch(fail);
  const temporary = temporaryBeside(target);
  const forget = atExit(() => discard(temporary));
  try {
    await writeNew(temporary, content, fail, existing?.mode);
    attempt(fail, () => renameSync(temporary, target));
    syncFolder(dirname(target));
  } catch (error) {
    discard(temporary);
    throw error;
  } finally {
    forget();
  }
}

/**
 * Throws the LowrankError "file" that `writeFileAtomic` would throw for this path, as far as it can be known beforehand: for work
 * that takes long before it writes.
 *
 * @example
 * await assertWritable("small.onnx");
 */
export async function assertWritable(path: string): Promise<void> {
  const fail = failure(path, "write");
  const existing = await statOrNull(path).catch(fail);
  if (existing?.isDirectory()) throw new LowrankError("file", `${path}: cannot write: it is a folder; name a file`);
  if (existing !== null) await access(path, constants.W_OK).catch(fail);
  if (existing === null || existing.isFile()) await access(dirname(path), constants.W_OK).catch(fail);
}

/**
 * Writes a folder that holds exactly `files` (name to content), so that it is the old one or the whole new one.
 *
 * An existing folder at `path` is replaced only when all that it holds are files of these names: a folder with anything
 * else in it is refused, since replacing it would delete what is not ours. Throws a LowrankError "file".
 *
 * @example
 * await writeFolderAtomic("runs/first/adapter", await writeAdapter(adapter));
 */
export async function writeFolderAtomic(path: string, files: ReadonlyMap<string, FileContent>): Promise<void> {
  const fail = failure(path, "write");
  await assertReplaceable(path, files).catch(fail);
  await writeFilesAtomic(path, files);
}

/**
 * Writes `files` (name to content) into the folder `path`, which is made when it is not there, so that whoever opens them finds
 * all old ones or all new ones, whenever this process is killed (replace-files.ts says how). Other files in the folder stay
 * as they are. Throws a LowrankError "file".
 *
 * @example
 * await writeFilesAtomic("adapter", writeAdapter(adapter));
 */
export async function writeFilesAtomic(path: string, files: ReadonlyMap<string, FileContent>): Promise<void> {
  for (const name of files.keys()) assertPlainName(name);
  const fail = failure(path, "write");
  const existing = await statOrNull(path).catch(fail);
  if (existing !== null && !existing.isDirectory()) throw notAFolder(path);
  const target = existing === null ? path : await realpath(path).catch(fail);
  for (const name of existing === null ? [] : files.keys()) {
    const inTheWay = await statOrNull(join(target, name)).catch(fail);
    if (inTheWay !== null && !inTheWay.isFile())
      throw new LowrankError(
        "file",
        `${join(path, name)}: cannot write: expected a file, got a folder or device; move it`,
      );
  }
  const staging = existing === null ? temporaryBeside(target) : attempt(fail, () => stagingFolder(target));
  const forget = atExit(() => discard(staging));
  try {
    if (existing === null) await mkdir(staging).catch(fail);
    for (const [name, content] of files) {
      await writeNew(join(staging, name), content, failure(join(path, name), "write"));
    }
    syncFolder(staging);
    attempt(fail, () => (existing === null ? renameSync(staging, target) : replaceTogether(target, staging)));
    syncFolder(dirname(target));
  } catch (error) {
    discard(staging);
    throw error;
  } finally {
    forget();
  }
}

/**
 * The bytes of those of `names` that are in the folder `path`, all of one moment: when files were replaced in the meantime
 * (`writeFilesAtomic`), they are read again. Throws a LowrankError "file".
 *
 * @example
 * const files = await readFilesTogether("adapter", ["adapter_config.json", "adapter_model.safetensors"]);
 */
export async function readFilesTogether(path: string, names: readonly string[]): Promise<Map<string, Uint8Array>> {
  for (let tries = 1; ; tries++) {
    const before = await identities(path, names);
    const files = new Map<string, Uint8Array>();
    try {
      for (const [name] of before) files.set(name, await readFileChecked(join(path, name)));
      const after = await identities(path, names);
      if (JSON.stringify([...before]) === JSON.stringify([...after])) return files;
    } catch (error) {
      if (tries >= maxReads) throw error;
    }
    if (tries >= maxReads) throw new LowrankError("file", `${path}: cannot read: its files keep changing; try again`);
    await new Promise((resolve) => setTimeout(resolve, 5 * tries));
  }
}

/** A writer replaces the files of a folder within milliseconds. */
const maxReads = 8;

/** What tells a file from the one that replaces it, by name, for those that are there. */
async function identities(path: string, names: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const name of names) {
    const file = join(path, name);
    const stats = await stat(file, { bigint: true }).catch((error: unknown) => {
      if (errorCode(error) === "ENOENT") return null;
      throw fileError(file, "read", error);
    });
    if (stats !== null) found.set(name, [stats.dev, stats.ino, stats.size, stats.mtimeNs].join());
  }
  return found;
}

/**
 * The bytes of a file (up to 2 GiB). Throws a LowrankError "file" for one that is missing, unreadable, too large, or no
 * file at all.
 *
 * The result is a plain Uint8Array: a Buffer's `slice` makes views where callers count on copies.
 *
 * @example
 * const model = readModel(await readFileChecked("base.onnx"));
 */
export async function readFileChecked(path: string): Promise<Uint8Array> {
  const fail = failure(path, "read");
  const { size, isFile, isFolder, isPipe } = await stat(path).then(
    (s) => ({ size: s.size, isFile: s.isFile(), isFolder: s.isDirectory(), isPipe: s.isFIFO() }),
    fail,
  );
  const refuse = (why: string): never => fail(new LowrankError("file", `${path}: cannot read: ${why}`));
  if (isFolder) refuse("it is a folder; name a file");
  if (!isFile && !isPipe) refuse("it is a device, not a file; name a file"); // /dev/zero never ends
  if (size > maxReadBytes) refuse(`expected at most 2 GiB, got ${size} bytes; keep large weights as external data`);
  const bytes = await readFile(path).catch(fail);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Throws `internal:` for a name that is more than one path component: names come from our code, not from users. */
export function assertPlainName(name: string): void {
  if (!isPlainName(name)) throw new Error(`internal: ${JSON.stringify(name)} is no plain file name`);
}

/** Whether `name` is one path component, on every platform. */
export function isPlainName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && !/[/\\:\0]/.test(name);
}

function failure(path: string, action: FileAction): (cause: unknown) => never {
  return (cause) => {
    throw fileError(path, action, cause);
  };
}

function attempt<T>(fail: (cause: unknown) => never, action: () => T): T {
  try {
    return action();
  } catch (error) {
    return fail(error);
  }
}

/** Whether a name is that of a file or folder which is being written, or which a killed process has left half written. */
export function isTemporary(name: string): boolean {
  return /^\.lowrank-[0-9a-f]{12}\.tmp$/.test(name);
}

function temporaryBeside(path: string): string {
  return join(dirname(path), `.lowrank-${randomBytes(6).toString("hex")}.tmp`);
}

/** Removes what a failed write has left; the failure itself is what the caller must hear of, so this one is silent. */
function discard(temporary: string): void {
  try {
    rmSync(temporary, { recursive: true, force: true });
  } catch {
    // It cannot be removed, or its folder is gone.
  }
}

async function statOrNull(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return null;
    throw error;
  }
}

/** A device or pipe cannot be renamed over: `/dev/null` must stay what it is. */
async function writeInPlace(path: string, content: FileContent): Promise<void> {
  const fail = failure(path, "write");
  const handle = await open(path, "w").catch(fail);
  try {
    await writeChunks(handle, content, fail);
  } finally {
    await handle.close().catch(fail);
  }
}

async function writeNew(
  path: string,
  content: FileContent,
  fail: (cause: unknown) => never,
  mode?: number,
): Promise<void> {
  const handle = await open(path, "wx").catch(fail);
  try {
    if (mode !== undefined) await handle.chmod(mode & 0o777).catch(fail);
    await writeChunks(handle, content, fail);
    await handle.sync().catch((error) => {
      // Some network file systems have no fsync; the data is as safe there as they can make it.
      if (!["EINVAL", "ENOSYS", "ENOTSUP"].includes(errorCode(error) ?? "")) fail(error);
    });
  } finally {
    await handle.close().catch(fail);
  }
}

async function writeChunks(handle: FileHandle, content: FileContent, fail: (cause: unknown) => never): Promise<void> {
  const chunks = typeof content === "string" || content instanceof Uint8Array ? [content] : content;
  // FileHandle.writeFile goes on at the current position and loops over partial writes.
  for await (const chunk of chunks) await handle.writeFile(chunk).catch(fail);
}

/** Throws when there is something at `path` that is no folder of these files and what earlier writes have left. */
async function assertReplaceable(path: string, files: ReadonlyMap<string, unknown>): Promise<void> {
  const existing = await statOrNull(path);
  if (existing === null) return;
  if (!existing.isDirectory()) throw notAFolder(path);
  const foreign: string[] = [];
  for (const name of (await readdir(path)).sort()) {
    if (isLeftOver(name)) continue;
    if (!files.has(name) || (await statOrNull(join(path, name)))?.isDirectory()) foreign.push(name);
  }
  if (foreign.length === 0) return;
  const shown = foreign.length > 3 ? `${foreign.slice(0, 3).join(", ")}, …` : foreign.join(", ");
  const expected = [...files.keys()].join(", ");
  throw new LowrankError(
    "file",
    `${path}: cannot replace this folder: expected only ${expected}, got ${shown}; choose another folder`,
  );
}

function notAFolder(path: string): LowrankError {
  return new LowrankError("file", `${path}: cannot write: expected a folder, got a file; choose another name`);
}
