// The options of the verbs that share one table (src/tune/option-table.ts): their flags, their help by groups, and what was
// given on the command line and in a configuration file as one set.
import { type Command, type Help, Option } from "commander";
import { readFileChecked } from "../runs/files.ts";
import { isList } from "../tune/kinds.ts";
import {
  flagOf,
  groups,
  type OptionName,
  type OptionRow,
  optionsOf,
  optionTable,
  type RunOptions,
  type Verb,
} from "../tune/option-table.ts";
import { type Flags, parseConfigFile, resolveOptions } from "../tune/settings.ts";
import { collect } from "./options.ts";

/** Adds the flags of a verb to its command, in groups, with `--config`. */
export function addRunOptions(command: Command, verb: Verb): Command {
  return addTableOptions(command, verb).addOption(
    new Option("--config <file>", "YAML or JSON with any of these options in camelCase; flags win over it").helpGroup(
      "Output:",
    ),
  );
}

/** Adds the flags of a verb to its command, in groups. */
export function addTableOptions(command: Command, verb: Verb): Command {
  for (const group of groups) {
    for (const [name, row] of optionsOf(verb)) {
      if (row.group !== group || row.fileOnly) continue;
      command.addOption(optionOf(name, row).helpGroup(`${group}:`));
    }
  }
  return command;
}

/** The options of a run: flags over the file over the defaults. */
export async function readRunOptions(
  verb: Verb,
  model: string | undefined,
  flags: Flags & { readonly config?: string },
): Promise<RunOptions> {
  const { config, ...all } = flags;
  // Commander says that a flag is on which `--no-` would have switched off: that is no word of the user's.
  const given = Object.fromEntries(Object.entries(all).filter(([name, value]) => !(value === true && isOn(name))));
  const file =
    config === undefined ? undefined : parseConfigFile(config, new TextDecoder().decode(await readFileChecked(config)));
  return resolveOptions(verb, { ...given, ...(model !== undefined && { model }) }, file);
}

function isOn(name: string): boolean {
  return Object.hasOwn(optionTable, name) && optionTable[name as OptionName].default === true;
}

/** Defaults stand in the text alone: commander must not give them, or they would win over the file. */
function optionOf(name: string, row: OptionRow): Option {
  const flag = `--${flagOf(name)}`;
  // What is so by default can be switched off.
  if (row.kind === "flag") return new Option(row.default ? `--no-${flagOf(name)}` : flag, row.about);
  const option = new Option(
    `${flag} <${row.value ?? valueName(row)}>`,
    `${row.about}${choicesText(row)}${defaultText(row)}`,
  );
  return isList(row) ? option.argParser(collect) : option;
}

function valueName(row: OptionRow): string {
  return {
    number: "n",
    integer: "n",
    text: "text",
    texts: "text",
    numbers: "n,…",
    flag: "",
    choice: "name",
    table: "",
  }[row.kind];
}

function choicesText(row: OptionRow): string {
  return "choices" in row ? `; one of ${row.choices.join(", ")}` : "";
}

function defaultText(row: OptionRow): string {
  const { default: value } = row;
  if (value === null || /\(default/.test(row.about)) return "";
  return ` (default: ${[value].flat().join(", ")})`;
}

/** Long help is read in a terminal: the flags stand on lines of their own where they are long. */
export const helpConfiguration: Partial<Help> = { helpWidth: 110 };
