// Which format a file is of: by its name, else by its first bytes. A new format is one file in formats/ and a line here.
import { open, stat } from "node:fs/promises";
import { LowrankError } from "../errors.ts";
import { systemFault } from "./files.ts";
import { openCsv } from "./formats/csv.ts";
import { imageName, openImage, openImageFolder } from "./formats/image-folder.ts";
import { openJsonl } from "./formats/jsonl.ts";
import { openParquet } from "./formats/parquet.ts";
import { openIdx, openSafetensors } from "./formats/tensors.ts";
import type { Table } from "./table.ts";

export type FormatName = "csv" | "jsonl" | "parquet" | "idx" | "safetensors" | "images";

export interface FormatOptions {
  readonly format?: FormatName;
  readonly header?: boolean;
  readonly memoryBytes?: number;
}

/** How the files of a format are opened: one by one, or all together. */
const openers: {
  readonly [Name in FormatName]: (paths: readonly string[], options: FormatOptions) => Promise<Table[]>;
} = {
  csv: (paths, options) => eachFile(paths, (path) => openCsv(path, options)),
  jsonl: (paths, options) => eachFile(paths, (path) => openJsonl(path, options)),
  parquet: (paths) => eachFile(paths, openParquet),
  safetensors: (paths, options) => eachFile(paths, (path) => openSafetensors(path, options)),
  images: (paths) => eachFile(paths, (path) => (imageName.test(path) ? openImage(path) : openImageFolder(path))),
  idx: async (paths, options) => [await openIdx(paths, options)],
};

const endings: readonly (readonly [ending: RegExp, format: FormatName])[] = [
  [/\.(csv|tsv)$/i, "csv"],
  [/\.(jsonl|ndjson)$/i, "jsonl"],
  [/\.parquet$/i, "parquet"],
  [/\.safetensors$/i, "safetensors"],
  [/[.-](idx\d+-ubyte|idx)(\.gz)?$/i, "idx"],
  [imageName, "images"],
];

/**
 * Opens files of one format or several.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openTable(paths: readonly string[], options: FormatOptions): Promise<Table[]> {
  const byFormat = new Map<FormatName, string[]>();
  for (const path of paths) {
    const format = options.format ?? (await formatOf(path));
    byFormat.set(format, [...(byFormat.get(format) ?? []), path]);
  }
  const tables: Table[] = [];
  try {
    for (const [format, group] of byFormat) tables.push(...(await openers[format](group, options)));
    return tables;
  } catch (error) {
    for (const table of tables) await table.close();
    throw error;
  }
}

/** Opens each file in turn; when one fails, those before it are closed. */
async function eachFile(paths: readonly string[], open: (path: string) => Promise<Table>): Promise<Table[]> {
  const tables: Table[] = [];
  try {
    for (const path of paths) tables.push(await open(path));
    return tables;
  } catch (error) {
    for (const table of tables) await table.close();
    throw error;
  }
}

async function formatOf(path: string): Promise<FormatName> {
  const known = endings.find(([ending]) => ending.test(path));
  let start: Uint8Array;
  try {
    const about = await stat(path);
    if (about.isDirectory()) return "images";
    if (known !== undefined) return known[1];
    start = await firstBytes(path);
    if (start[0] === 0x7b) return "jsonl"; // {
    if (String.fromCharCode(...start) === "PAR1") return "parquet";
    if (start[0] === 0 && start[1] === 0 && start[2]! >= 8) return "idx";
  } catch (error) {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
  throw new LowrankError("data", `${path}: of no known format; ${advice(start)}`);
}

function advice(start: Uint8Array): string {
  // A list of rows in one piece could be as large as memory.
  if (start[0] === 0x5b) return "a JSON list; write its rows as JSON Lines, one on each line (jq -c '.[]')";
  return "name it by its format: .csv, .tsv, .jsonl, .ndjson, .parquet, .safetensors, .idx; in a program, say it with `format`";
}

async function firstBytes(path: string): Promise<Uint8Array> {
  const handle = await open(path);
  try {
    const bytes = new Uint8Array(4);
    const { bytesRead } = await handle.read(bytes, 0, 4, 0);
    return bytes.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
