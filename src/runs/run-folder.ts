// The folder that a run leaves behind. A marker, `.lowrank-run`, names everything that the run has put there, so that a
// later run into the same folder removes exactly that before it begins (a half-finished run is never mistaken for the
// finished one before it), and a folder of anyone else's is refused. Each file is written whole or not at all.
import { appendFileSync, existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { errorCode, fileError } from "./file-error.ts";
import {
  assertPlainName,
  type FileContent,
  isPlainName,
  isTemporary,
  writeFileAtomic,
  writeFolderAtomic,
} from "./files.ts";
import { type MetricsLog, openMetrics } from "./metrics.ts";

const marker = ".lowrank-run";
const markerHead = "lowrank run 1\n"; // the format's version; then one name a line
const metricsName = "metrics.jsonl";

/** A folder that a run writes its results into. All names are plain names directly below it. */
export interface RunFolder {
  /** As it was asked for, or `runs/<prefix>-<time>`: relative paths stay relative. */
  readonly path: string;
  /** `metrics.jsonl`; close it when the run ends. */
  readonly metrics: MetricsLog;
  /** JSON with indent 2, keys in the given order, and a newline at the end. */
  writeJson(name: string, value: unknown): Promise<void>;
  write(name: string, content: FileContent): Promise<void>;
  /** Says beforehand that the run will have a file or folder of this name, for one that is written by other means. */
  note(name: string): void;
  /** A folder of files (an adapter's two), which appears complete or not at all. */
  writeFolder(name: string, files: ReadonlyMap<string, FileContent>): Promise<void>;
}

export interface RunFolderOptions {
  /** What the run is: the default folder is `runs/<prefix>-<time>`. */
  prefix: string;
  /** When the run began; its local time names the folder. Default: now. */
  now?: Date;
  /** Where the default folder goes; default "runs". */
  parent?: string;
}

/**
 * Makes the folder of a run, and proves that it can be written to before any work begins.
 *
 * With no `path`, a fresh `runs/<prefix>-2026-11-23T20-41-07` (with `-2`, `-3`, … where that is taken). A given `path`
 * must be absent, empty, or the folder of an earlier run: what that one wrote is removed, other files are left alone.
 * Throws a LowrankError "file" for any other folder, and for one that cannot be written.
 *
 * @example
 * const run = await createRunFolder(undefined, { prefix: "study" });
 * await run.writeJson("config.json", config);
 */
export async function createRunFolder(path: string | undefined, options: RunFolderOptions): Promise<RunFolder> {
  const folder = path === undefined ? await createDefault(options) : await claim(path);
  await writeFileAtomic(join(folder, marker), markerHead);
  const note = noterOf(folder, []);
  note(metricsName);
  return folderOf(folder, note, openMetrics(join(folder, metricsName)));
}

/**
 * The folder of an earlier run with all that is in it, to go on with that run; null where there is none. Of its metrics those
 * records stay for which `keep` holds: what was measured after the last checkpoint will be measured again.
 *
 * @throws LowrankError "file" when it cannot be read or written.
 * @example
 * const run = await reopenRunFolder("runs/first", ({ step }) => Number(step) <= checkpoint.step);
 */
export async function reopenRunFolder(
  path: string,
  keep: (record: Readonly<Record<string, unknown>>) => boolean,
): Promise<RunFolder | null> {
  const known = await namesOfRun(path);
  if (known === null) return null;
  const metrics = join(path, metricsName);
  const note = noterOf(path, known);
  note(metricsName);
  await keepRecords(metrics, keep);
  return folderOf(path, note, openMetrics(metrics, { append: true }));
}

/** What an earlier run has put into a folder, by name; null when it is no run's folder, or not there. */
export async function namesOfRun(path: string): Promise<readonly string[] | null> {
  return existsSync(join(path, marker)) ? readMarker(path) : null;
}

/** The marker always precedes what it names: an interrupted run leaves nothing that the next one does not know. */
function noterOf(folder: string, names: readonly string[]): (name: string) => void {
  const known = new Set(names);
  return (name) => {
    assertPlainName(name);
    if (known.has(name)) return;
    try {
      appendFileSync(join(folder, marker), `${name}\n`);
    } catch (error) {
      throw fileError(join(folder, marker), "write", error);
    }
    known.add(name);
  };
}

function folderOf(folder: string, note: (name: string) => void, metrics: MetricsLog): RunFolder {
  const write = async (name: string, content: FileContent): Promise<void> => {
    note(name);
    await writeFileAtomic(join(folder, name), content);
  };
  return {
    path: folder,
    metrics,
    note,
    write,
    writeJson: (name, value) => write(name, `${JSON.stringify(value, null, 2)}\n`),
    writeFolder: async (name, files) => {
      note(name);
      await writeFolderAtomic(join(folder, name), files);
    },
  };
}

/** A line that is no record was being written when the process was killed. */
async function keepRecords(path: string, keep: (record: Readonly<Record<string, unknown>>) => boolean): Promise<void> {
  const text = existsSync(path) ? await system(path, "read", () => readFile(path, "utf8")) : "";
  const lines = text.split("\n").filter((line) => {
    try {
      const record: unknown = JSON.parse(line);
      return typeof record === "object" && record !== null && keep(record as Record<string, unknown>);
    } catch {
      return false;
    }
  });
  await writeFileAtomic(path, lines.map((line) => `${line}\n`).join(""));
}

/** Local time as a file name that sorts by time: `2026-11-23T20-41-07`. */
export function timeForName(time: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join("-");
  return `${day}T${[time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join("-")}`;
}

async function createDefault({ prefix, now = new Date(), parent = "runs" }: RunFolderOptions): Promise<string> {
  await makeFolder(parent, true);
  const base = join(parent, `${prefix}-${timeForName(now)}`);
  for (let attempt = 1; ; attempt++) {
    const folder = attempt === 1 ? base : `${base}-${attempt}`;
    // mkdir itself decides whether the name is free, so two runs that start in one second get two folders.
    if (await makeFolder(folder, false)) return folder;
  }
}

/** Makes sure that `folder` is there, and ours to write in: empty, or cleared of an earlier run's results. */
async function claim(folder: string): Promise<string> {
  if (folder === "") throw new LowrankError("config", `out: expected a folder, got ""; name one, or leave it out`);
  await makeFolder(folder, true);
  const found = await system(folder, "open", () => readdir(folder));
  const entries = found.filter((name) => !isTemporary(name));
  const names = entries.length === 0 ? [] : entries.includes(marker) ? await readMarker(folder) : null;
  if (names === null) {
    throw new LowrankError(
      "file",
      `${folder}: expected a new or empty folder or that of an earlier run, got a folder with other files ` +
        `(${entries.sort()[0]}${entries.length > 1 ? ", …" : ""}); choose another folder`,
    );
  }
  // With what a killed process has left half written.
  for (const name of [...names, ...found.filter(isTemporary)]) {
    await system(join(folder, name), "remove", () => rm(join(folder, name), { recursive: true, force: true }));
  }
  return folder;
}

/** The names in a folder's marker, or null when it is no marker of ours. */
async function readMarker(folder: string): Promise<string[] | null> {
  const text = await system(join(folder, marker), "read", () => readFile(join(folder, marker), "utf8"));
  if (!text.startsWith(markerHead)) return null;
  const names = text
    .slice(markerHead.length)
    .split("\n")
    .filter((name) => name !== "");
  return names.every(isPlainName) ? names : null;
}

/** Whether a folder was made; with `orExisting`, one that is there already is as good, and those above it are made. */
async function makeFolder(path: string, orExisting: boolean): Promise<boolean> {
  try {
    await mkdir(path);
    return true;
  } catch (error) {
    // Not mkdir's own recursion: where a file system has no room for folders (/proc), Node.js 20 never comes back from it.
    const above = dirname(path);
    if (errorCode(error) === "ENOENT" && orExisting && above !== path && !existsSync(above)) {
      await makeFolder(above, true);
      return makeFolder(path, true);
    }
    if (errorCode(error) === "EEXIST" && orExisting && (await isFolder(path))) return false;
    if (errorCode(error) !== "EEXIST") throw fileError(path, "write", error);
    if (!orExisting) return false;
    throw new LowrankError("file", `${path}: expected a folder, got a file; choose another name`);
  }
}

async function isFolder(path: string): Promise<boolean> {
  return system(path, "open", async () => (await stat(path)).isDirectory());
}

async function system<T>(path: string, action: "open" | "read" | "remove", call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fileError(path, action, error);
  }
}
