// From flags and a configuration file to one set of options: flags win over the file, the file over the defaults. Every
// fault of both is told at once, with the nearest name for a key that is none.
import { type Document, parseDocument } from "yaml";
import { LowrankError, throwFaults } from "../errors.ts";
import { nearest } from "../nearest.ts";
import { isList, kinds } from "./kinds.ts";
import {
  flagOf,
  type OptionName,
  type OptionRow,
  optionsOf,
  optionTable,
  type RunOptions,
  type Verb,
} from "./option-table.ts";

/** What commander hands over: text, lists of texts for options that may be repeated, true for flags. */
export type Flags = Readonly<Record<string, string | readonly string[] | boolean | undefined>>;

/** A configuration file that was parsed. */
export interface ConfigFile {
  /** Named in messages. */
  readonly where: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/**
 * A configuration file's text, YAML 1.2 or JSON. Throws LowrankError "config" that names line and column.
 *
 * @example parseConfigFile("tune.yaml", "r: 16\ndata: [train.csv]")
 */
export function parseConfigFile(where: string, text: string): ConfigFile {
  const document = parseDocument(text, { prettyErrors: true });
  const faults = document.errors.map(({ message }) => message.split("\n")[0]!.replace(/:$/, ""));
  throwFaults("config", where, faults);
  const values = valuesOf(where, document);
  if (values === null || values === undefined) return { where, values: {} };
  if (typeof values !== "object" || Array.isArray(values)) {
    throw new LowrankError("config", `${where}: expected a mapping of options, got a list or a single value`);
  }
  return { where, values: values as Record<string, unknown> };
}

/** Aliases may expand without bound ("billion laughs"); a configuration needs few. */
function valuesOf(where: string, document: Document): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowrankError("config", `${where}: ${reason}`, { cause });
  }
}

/**
 * The options of a run.
 *
 * @throws LowrankError "config" that lists every unknown key (with the nearest that there is) and every faulty value.
 */
export function resolveOptions(verb: Verb, flags: Flags, file?: ConfigFile): RunOptions {
  const faults: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, row] of Object.entries(optionTable)) values[name] = row.default;
  const known = optionsOf(verb).map(([name]) => name);
  for (const [key, value] of Object.entries(file?.values ?? {})) {
    const where = `${file!.where}: ${JSON.stringify(key)}`;
    if (key === "$schema") continue;
    if (!known.includes(key as OptionName)) faults.push(`${where} ${unknownKey(verb, key, known)}`);
    else accept(key as OptionName, value, where);
  }
  for (const [key, value] of Object.entries(flags)) {
    if (value === undefined || !Object.hasOwn(optionTable, key)) continue;
    const name = key as OptionName;
    accept(name, fromFlag(optionTable[name], value), `--${flagOf(name)}`);
  }
  throwFaults("config", verb, faults);
  return values as unknown as RunOptions;

  function accept(name: OptionName, value: unknown, where: string): void {
    const row = optionTable[name] as OptionRow;
    const given = (typeof value === "string" || typeof value === "number") && isList(row) ? [value] : value;
    const fault =
      given === null ? (row.default === null ? null : "expected a value, got null") : kinds[row.kind].fault(row, given);
    if (fault === null) values[name] = given;
    else faults.push(`${where}: ${fault}`);
  }
}

function unknownKey(verb: Verb, key: string, known: readonly string[]): string {
  const other = Object.hasOwn(optionTable, key) ? ` of ${verb}` : "";
  return `is no option${other}; did you mean ${nearest(key, known, 1)[0]}?`;
}

/** A flag's text as the value that it stands for; what is no number stays text, to be told as it was written. */
function fromFlag(row: OptionRow, value: string | readonly string[] | boolean): unknown {
  const number = (text: string): number | string =>
    text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
  if (row.kind === "number" || row.kind === "integer") return typeof value === "string" ? number(value) : value;
  if (row.kind === "numbers") return [value].flat().flatMap((text) => String(text).split(",").map(number));
  if (row.kind === "texts" && row.value === "modules") return modulesOf([value].flat().map(String));
  return value;
}

/** Module names may be given in one list with commas; a regular expression stands between slashes. */
function modulesOf(values: readonly string[]): readonly string[] {
  return values
    .flatMap((value) => (/^\/.+\/$/s.test(value) ? [value] : value.split(",")))
    .filter((name) => name !== "");
}

/** The JSON schema of a verb's configuration file. */
export function schemaOf(verb: Verb): Record<string, unknown> {
  const properties = Object.fromEntries(optionsOf(verb).map(([name, row]) => [name, kinds[row.kind].schema(row)]));
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: `urn:lowrank:${verb}-options:1`,
    title: `Options of lowrank ${verb}`,
    description: `A file for \`lowrank ${verb} --config FILE\`, YAML or JSON. Flags win over it.`,
    type: "object",
    additionalProperties: false,
    properties: { $schema: { type: "string" }, ...properties },
  };
}
