// The rows of a fleet: one training each. A column is an option of tune, `name`, or anything else that stands as {column} in the
// base options, so that a list of tenants is a list of names and `data: tenants/{name}.csv`.

import { openCsv } from "../data/formats/csv.ts";
import { openJsonl } from "../data/formats/jsonl.ts";
import type { Table } from "../data/table.ts";
import { LowrankError, throwFaults } from "../errors.ts";
import { nearest } from "../nearest.ts";
import { type OptionName, optionTable } from "../tune/option-table.ts";
import { type BaseOptions, type FleetSource, isMapping, sweepable } from "./config.ts";

/** A row, checked: what it is called, and what it gives to tune. */
export interface FleetRow {
  readonly name: string;
  /** Base options with the row's cells in them, and the row's own options. */
  readonly options: BaseOptions;
  /** The cells, for tables and reports. */
  readonly cells: Readonly<Record<string, unknown>>;
}

/**
 * The rows of a fleet.
 *
 * @throws LowrankError "config" with all that is wrong with them, "file" or "data" for a file that cannot be read.
 */
export async function readFleetRows({ file, rows }: FleetSource, base: BaseOptions): Promise<FleetRow[]> {
  const where = file ?? "fleet";
  const cells = file === null ? rows : await readRows(file);
  const placeholders = placeholdersIn(base);
  const faults: string[] = [];
  if (cells.length === 0) faults.push("expected rows, got none");
  const columns = [...new Set(cells.flatMap((row) => Object.keys(row)))];
  const known: readonly string[] = ["name", ...sweepable, ...placeholders];
  for (const column of columns.filter((name) => !known.includes(name))) {
    const near = nearest(column, known, 1)[0];
    faults.push(`${column}: neither an option of tune nor a {${column}} in tune; did you mean ${near}?`);
  }
  for (const name of placeholders.filter((name) => !columns.includes(name))) {
    faults.push(`{${name}} in tune: expected a column of this name, got none`);
  }
  throwFaults("config", where, faults);
  const found = cells.map((row, at) => readRow(row, at, base, faults));
  for (const { name } of found.filter(({ name }, at) => found.findIndex((one) => one.name === name) < at)) {
    faults.push(`name: expected a different one for each row, got ${name} again`);
  }
  throwFaults("config", where, faults);
  return found;
}

function readRow(row: BaseOptions, at: number, base: BaseOptions, faults: string[]): FleetRow {
  const name = String(row.name ?? `row-${String(at + 1).padStart(4, "0")}`);
  // It becomes a folder's name, and a name that a server's clients ask for.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(name)) {
    faults.push(
      `row ${at + 1}: name: expected letters, digits, dots, hyphens and underscores, got ${JSON.stringify(name)}`,
    );
  }
  const own = Object.entries(row).filter(([key, value]) => key in optionTable && value !== null && value !== "");
  const filled = Object.entries(base).map(([key, value]) => [key, fill(value, row)] as const);
  return { name, options: Object.fromEntries([...filled, ...own]), cells: row };
}

function fill(value: unknown, row: BaseOptions): unknown {
  if (typeof value === "string") return value.replace(placeholder, (_, name: string) => String(row[name] ?? ""));
  if (Array.isArray(value)) return value.map((item) => fill(item, row));
  return value;
}

const placeholder = /\{([A-Za-z_][A-Za-z0-9_]*)\}/g;

function placeholdersIn(base: BaseOptions): string[] {
  const texts = Object.values(base)
    .flat()
    .filter((value) => typeof value === "string");
  return [...new Set(texts.flatMap((text) => [...text.matchAll(placeholder)].map(([, name]) => name!)))];
}

async function readRows(file: string): Promise<BaseOptions[]> {
  const isCsv = /\.(csv|tsv)$/i.test(file);
  if (!isCsv && !/\.(jsonl|ndjson)$/i.test(file)) {
    throw new LowrankError("config", `fleet.file: expected a .csv or .jsonl file, got ${file}`);
  }
  // Cells of a CSV stay text: numbers are read by the options' own kinds, at full precision.
  const table = isCsv ? await openCsv(file, { header: true, memoryBytes: 0 }) : await openJsonl(file);
  try {
    throwFaults(
      "data",
      file,
      table.faulty.map(({ fault }) => fault),
    );
    const rows = await allRows(table);
    return isCsv ? rows.map(readCells) : rows;
  } finally {
    await table.close();
  }
}

async function allRows(table: Table): Promise<BaseOptions[]> {
  const rows: BaseOptions[] = [];
  for (let block = 0; block < table.blocks.length - 1; block++) {
    for (const row of await table.read(block)) {
      if (row === null) continue;
      const cells = table.columns.map(({ name }, column) => [name, plain(row[column])] as const);
      rows.push(Object.fromEntries(cells.filter(([, value]) => value !== null && value !== undefined)));
    }
  }
  return rows;
}

/** JSON's own values; lists of numbers may come as arrays. */
function plain(cell: unknown): unknown {
  if (ArrayBuffer.isView(cell)) return Array.from(cell as unknown as ArrayLike<number>);
  return Array.isArray(cell) ? cell.map(plain) : isMapping(cell) ? { ...cell } : cell;
}

/** A CSV's texts as the values that the options take; what is no number stays text, to be told as it was written. */
function readCells(row: BaseOptions): BaseOptions {
  return Object.fromEntries(
    Object.entries(row).map(([name, text]) => {
      const kind = Object.hasOwn(optionTable, name) ? optionTable[name as OptionName].kind : "text";
      return [name, kind === "text" || kind === "choice" ? text : readCell(String(text), kind)];
    }),
  );
}

function readCell(text: string, kind: string): unknown {
  if (text.trim() === "") return null;
  const number = (part: string): number | string => (Number.isNaN(Number(part)) ? part : Number(part));
  if (kind === "number" || kind === "integer") return number(text);
  if (kind === "flag") return text === "true" ? true : text === "false" ? false : text;
  if (kind === "numbers") return text.split(",").map(number);
  return kind === "texts" ? text.split(";") : text;
}
