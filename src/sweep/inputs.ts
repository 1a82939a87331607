// The files that a training reads, by their content: which options name files, what belongs to each (a model's weights and
// tokenizer beside it, a folder's images), and a hash of it all. Where files lie says nothing of what is trained.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { LowrankError, throwFaults } from "../errors.ts";
import { readModel } from "../onnx/read.ts";
import { fileError } from "../runs/file-error.ts";
import { readFileChecked } from "../runs/files.ts";
import type { RunOptions } from "../tune/option-table.ts";

/** One file of an input. */
export interface InputFile {
  /** Below the input's folder, with / between its parts. */
  readonly name: string;
  readonly sha256: string;
  readonly bytes: number;
}

/** What an option names: a file with those that belong to it, or a folder. */
export interface Input {
  /** Of all that is in it, with the names. */
  readonly hash: string;
  /** What the option names within it: `base.onnx`, or the folder's name. */
  readonly entry: string;
  readonly files: readonly InputFile[];
}

type PathOption = "model" | "tokenizer" | "data" | "evalData" | "retainedData" | "replay";

/** The options with each path as `map` has it. */
export function mapPaths(options: RunOptions, map: (path: string, option: PathOption) => string): RunOptions {
  const each = (option: "data" | "evalData" | "retainedData"): readonly string[] | null =>
    options[option]?.map((path) => map(path, option)) ?? null;
  return {
    ...options,
    model: options.model === null ? null : map(options.model, "model"),
    tokenizer: options.tokenizer === null ? null : map(options.tokenizer, "tokenizer"),
    data: each("data"),
    evalData: each("evalData"),
    retainedData: each("retainedData"),
    replay:
      options.replay?.map((text) => {
        const at = text.lastIndexOf("=");
        return at < 0 ? map(text, "replay") : `${map(text.slice(0, at), "replay")}${text.slice(at)}`;
      }) ?? null,
  };
}

/** Every path that the options name, once, and which option names it first. */
export function pathsIn(options: RunOptions): Map<string, PathOption> {
  const found = new Map<string, PathOption>();
  mapPaths(options, (path, option) => {
    if (!found.has(path)) found.set(path, option);
    return path;
  });
  return found;
}

/** Options as a trial's own files have them: names without folders, and nothing of where it ran. */
export function namedOptions(options: RunOptions): RunOptions {
  return { ...mapPaths(options, (path) => basename(resolve(path))), out: null, resume: false };
}

/**
 * Reads and hashes what the options of all trials name, each path once.
 *
 * @throws LowrankError "file" with every path that cannot be read, "model" for a base that is none.
 */
export async function readInputs(all: readonly RunOptions[], signal?: AbortSignal): Promise<Map<string, Input>> {
  const paths = new Map(all.flatMap((options) => [...pathsIn(options)]));
  const inputs = new Map<string, Input>();
  const faults: string[] = [];
  for (const [path, option] of paths) {
    if (signal?.aborted === true) throw new LowrankError("aborted", "stopped on request; nothing was written");
    try {
      inputs.set(path, await readInput(path, option));
    } catch (error) {
      if (!(error instanceof LowrankError) || error.code !== "file") throw error;
      faults.push(error.message);
    }
  }
  throwFaults("file", "sweep", faults);
  return inputs;
}

async function readInput(given: string, option: PathOption): Promise<Input> {
  const path = resolve(given);
  const entry = basename(path);
  const names = await namesOf(path, option);
  const files: InputFile[] = [];
  for (const name of names) files.push({ name, ...(await hashFile(join(dirname(path), ...name.split("/")))) });
  return { hash: hashOf(entry, files), entry, files };
}

/** A hash of the files' names and contents. */
export function hashOf(entry: string, files: readonly InputFile[]): string {
  return sha256(JSON.stringify([entry, ...files.map(({ name, sha256, bytes }) => [name, sha256, bytes])]));
}

/** Names, from the folder that the path lies in, of all files that belong to it. */
async function namesOf(path: string, option: PathOption): Promise<string[]> {
  const entry = basename(path);
  const about = await stat(path).catch((error: unknown) => {
    throw fileError(path, "read", error);
  });
  if (about.isDirectory()) {
    return (await filesBelow(path, entry, [])).sort();
  }
  const beside = option === "model" || option === "tokenizer" ? await tokenizerFiles(path) : [];
  const weights = option === "model" ? await externalFiles(path) : [];
  return [...new Set([entry, ...weights, ...beside])];
}

/** All files of a folder. Links are followed, as the readers of data follow them, but not back to a folder above. */
async function filesBelow(folder: string, name: string, above: readonly string[]): Promise<string[]> {
  const real = await realpath(folder);
  if (above.includes(real)) return [];
  const names: string[] = [];
  for (const one of await readdir(folder)) {
    const about = await stat(join(folder, one)).catch(() => null); // a link to nothing
    if (about?.isDirectory()) names.push(...(await filesBelow(join(folder, one), `${name}/${one}`, [...above, real])));
    else if (about?.isFile()) names.push(`${name}/${one}`);
  }
  return names;
}

/** What the tokenizer's reader looks for in the folder of a model. */
async function tokenizerFiles(path: string): Promise<string[]> {
  const names = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
  const isThere = (name: string): Promise<boolean> =>
    access(join(dirname(path), name)).then(
      () => true,
      () => false,
    );
  const there = await Promise.all(names.map(isThere));
  return names.filter((_, at) => there[at]);
}

/** Files beside a model that hold its weights, by the checked locations that it names. */
async function externalFiles(path: string): Promise<string[]> {
  const locations = new Set<string>();
  readModel(await readFileChecked(path), path, {
    external(location, _offset, length) {
      locations.add(location);
      const read = (): Uint8Array => {
        throw new Error("internal: weights are not read to name their files");
      };
      return { length, folder: dirname(path), read };
    },
  });
  return [...locations].sort();
}

async function hashFile(path: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    for await (const chunk of createReadStream(path)) {
      hash.update(chunk as Uint8Array);
      bytes += (chunk as Uint8Array).length;
    }
  } catch (error) {
    throw fileError(path, "read", error);
  }
  return { sha256: hash.digest("hex"), bytes };
}

/** As hexadecimal digits. */
export function sha256(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}
