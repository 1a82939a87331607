// What `lowrank tune` and `lowrank pretrain` have in common: the options of the table, and how a run is started.
import type { Command } from "commander";
import type { RunOptions } from "../tune/option-table.ts";
import type { TrainVerb } from "../tune/prepare.ts";
import type { RunResult } from "../tune/result.ts";
import type { RunContext } from "../tune/run.ts";
import type { Flags } from "../tune/settings.ts";
import { withInterrupt } from "./main-errors.ts";
import { addRunOptions, helpConfiguration, readRunOptions } from "./run-options.ts";
import { createTerminal } from "./terminal.ts";
import { voiceOf } from "./voice.ts";

interface TrainCommand {
  readonly verb: TrainVerb;
  /** With its description and arguments. */
  readonly command: Command;
  readonly example: string;
  run(options: RunOptions, context: RunContext): Promise<RunResult>;
}

type Given = Flags & { readonly config?: string; readonly json?: true; readonly quiet?: true };

export function trainCommand({ verb, command, example, run }: TrainCommand): Command {
  return addRunOptions(command, verb)
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .configureHelp(helpConfiguration)
    .addHelpText("after", `\nExamples:\n${example}`)
    .action(async (model: string | undefined, given: Given) => {
      const { json = false, quiet = false, ...flags } = given;
      const options = await readRunOptions(verb, model, flags);
      const terminal = createTerminal({ quiet, json });
      const voice = voiceOf(terminal, quiet);
      const { summary } = await withInterrupt((signal) => run(options, { voice, signal }));
      if (json) terminal.emit(JSON.stringify(summary, null, 2));
    });
}
