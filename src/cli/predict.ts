// lowrank predict
import { Command } from "commander";
import { runPredict } from "../tune/run-predict.ts";
import type { Flags } from "../tune/settings.ts";
import { withInterrupt } from "./main-errors.ts";
import { addRunOptions, helpConfiguration, readRunOptions } from "./run-options.ts";
import { createTerminal } from "./terminal.ts";

type Given = Flags & { readonly config?: string; readonly json?: true };

export function predictCommand(): Command {
  const command = new Command("predict")
    .description("Answer each row of data with a line of JSON, or go on from a prompt with text.")
    .argument("[model]", "an .onnx file (or `model` in --config)");
  return addRunOptions(command, "predict")
    .option("--json", "generated text as a line of JSON for each prompt, instead of as it comes")
    .configureHelp(helpConfiguration)
    .addHelpText(
      "after",
      "\nExamples:\n  lowrank predict model.onnx --data new.csv --adapter runs/first/best\n" +
        '  lowrank predict decoder.onnx --prompt "Once upon a time" --temperature 0.8 --max-new-tokens 40',
    )
    .action(async (model: string | undefined, given: Given) => {
      const { json = false, ...flags } = given;
      const options = await readRunOptions("predict", model, flags);
      const terminal = createTerminal({});
      const write = (text: string): void => void process.stdout.write(text);
      await withInterrupt((signal) =>
        runPredict(options, { write, warn: (text) => terminal.warn(text), signal, json }),
      );
    });
}
