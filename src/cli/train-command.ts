// What `lowrank tune` and `lowrank pretrain` have in common: the options of the table, and how a run is started.
import type { Command } from "commander";
import type { LearningRateCurve } from "../train/find-learning-rate.ts";
import { dryRun } from "../tune/dry-run.ts";
import { findRate } from "../tune/find-rate.ts";
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

type Given = Flags & {
  readonly config?: string;
  readonly dryRun?: true;
  readonly json?: true;
  readonly quiet?: true;
};

export function trainCommand({ verb, command, example, run }: TrainCommand): Command {
  return addRunOptions(command, verb)
    .option("--dry-run", "open, match and compile everything, time a few steps, say what would be done; write nothing")
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .configureHelp(helpConfiguration)
    .addHelpText("after", `\nExamples:\n${example}`)
    .action(async (model: string | undefined, given: Given) => {
      const { json = false, quiet = false, dryRun: isDry = false, ...flags } = given;
      const options = await readRunOptions(verb, model, flags);
      const terminal = createTerminal({ quiet, json });
      const voice = voiceOf(terminal, quiet);
      const result = await withInterrupt<unknown>(async (signal) => {
        const context = { voice, signal };
        if (isDry) return dryRun(verb, options, context);
        if (options.findLr) return plainCurve(await findRate(verb, options, context));
        return (await run(options, context)).summary;
      });
      if (json) terminal.emit(JSON.stringify(result, null, 2));
    });
}

/** Typed arrays as lists, for JSON. */
function plainCurve({ rates, losses, smoothed, ...rest }: LearningRateCurve): Record<string, unknown> {
  return { ...rest, rates: [...rates], losses: [...losses], smoothed: [...smoothed] };
}
