// lowrank eval
import { Command } from "commander";
import { runEval } from "../tune/run-eval.ts";
import type { Flags } from "../tune/settings.ts";
import { withInterrupt } from "./main-errors.ts";
import { addRunOptions, helpConfiguration, readRunOptions } from "./run-options.ts";
import { createTerminal } from "./terminal.ts";
import { voiceOf } from "./voice.ts";

type Given = Flags & { readonly config?: string; readonly json?: true; readonly quiet?: true };

export function evalCommand(): Command {
  const command = new Command("eval")
    .description("Measure a model on data, and each adapter on it, side by side.")
    .argument("[model]", "an .onnx file (or `model` in --config)");
  return addRunOptions(command, "eval")
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .configureHelp(helpConfiguration)
    .addHelpText(
      "after",
      "\nExample:\n  lowrank eval model.onnx --data test.csv --adapter runs/first/best --adapter runs/second/best",
    )
    .action(async (model: string | undefined, given: Given) => {
      const { json = false, quiet = false, ...flags } = given;
      const options = await readRunOptions("eval", model, flags);
      const terminal = createTerminal({ quiet, json });
      const voice = voiceOf(terminal, quiet);
      const { summary } = await withInterrupt((signal) => runEval(options, { voice, signal }));
      if (json) terminal.emit(JSON.stringify(summary, null, 2));
    });
}
