// JSON Lines: one object in each line, its keys the columns. Lines may differ in their keys; what a line lacks is null.
import { LowrankError } from "../../errors.ts";
import type { Cell, Row, Table } from "../table.ts";
import { wantedReader } from "./jsonl-reader.ts";
import { defaultMemoryBytes, keptReader } from "./kept-blocks.ts";
import { openLines } from "./lines.ts";

/** More keys than this are data in the place of names. */
const maxColumns = 10_000;

/** No example nests so deep; what walks through cells may recurse. */
const maxDepth = 64;

export interface JsonlOptions {
  /** What a model reads of a file is kept in memory up to this many bytes; default 256 MiB. */
  readonly memoryBytes?: number;
}

/**
 * Opens a JSON Lines file; each line is parsed once in the opening pass.
 *
 * @throws LowrankError "file" or "data".
 */
export async function openJsonl(path: string, options: JsonlOptions = {}): Promise<Table> {
  const { memoryBytes = defaultMemoryBytes } = options;
  const columns = new Map<string, number>();
  const file = await openLines(path, {
    quotes: false,
    visit(text) {
      const value = parse(text);
      if (typeof value === "string") return value;
      if (isDeeperThan(maxDepth, value))
        return `expected at most ${maxDepth} lists and objects in each other, got more`;
      for (const key of Object.keys(value)) if (!columns.has(key)) columns.set(key, columns.size);
      if (columns.size > maxColumns) {
        throw new LowrankError("data", `${path}: expected at most ${maxColumns} different keys, got more`);
      }
      return null;
    },
  });
  const names = [...columns.keys()];
  const toRow = (text: string): Row => {
    const value = parse(text);
    if (typeof value === "string") throw new LowrankError("file", `${path}: was changed while it was in use`);
    return names.map((name) => (Object.hasOwn(value, name) ? value[name]! : null));
  };
  const reader = keptReader(file.blocks.length - 1, memoryBytes, ({ numbers, cells }) => {
    const wanted = new Map([...numbers, ...cells].map((column) => [names[column]!, column]));
    return wantedReader(file, { width: names.length, columns: wanted, toRow });
  });
  return {
    format: "jsonl",
    columns: names.map((name) => ({ name })),
    length: file.rows,
    blocks: file.blocks,
    faulty: file.faulty,
    labels: null,
    read: (block) => file.read(block, toRow),
    reader,
    where: file.where,
    close: file.close,
  };
}

/** The line's object, or what is wrong with it. */
function parse(text: string): Record<string, Cell> | string {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, Cell>;
    const got = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
    return `expected a JSON object on each line, got ${got}`;
  } catch (error) {
    return `expected a JSON object on each line: ${(error as Error).message}`;
  }
}

function isDeeperThan(most: number, value: Cell): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (most === 0) return true;
  for (const item of Array.isArray(value) ? (value as readonly Cell[]) : Object.values(value)) {
    if (isDeeperThan(most - 1, item)) return true;
  }
  return false;
}
