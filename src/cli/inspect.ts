// lowrank inspect
import { Command } from "commander";
import { formatInspection } from "../runs/inspect-table.ts";
import { loadModel } from "../runs/model-file.ts";
import { support } from "../train/support.ts";
import { collect, parseTargets, targetsHelp } from "./options.ts";
import { createTerminal } from "./terminal.ts";

interface Flags {
  target?: readonly string[];
  output?: string;
  json?: boolean;
}

export function inspectCommand(): Command {
  return new Command("inspect")
    .description(
      "What a model offers to an adapter: its inputs and outputs, its operators and how gradients go through them, the layers that can be adapted; with --target, whether that can be trained.",
    )
    .argument("<model>", "an .onnx file")
    .option("--target <modules>", targetsHelp, collect)
    .option("--output <name>", "with --target: the output that a loss would be measured on (default: the first)")
    .option("--json", "print JSON to stdout, and nothing else there")
    .action(async (file: string, { target, output, json = false }: Flags) => {
      const model = await loadModel(file);
      const targetModules = target === undefined ? undefined : parseTargets(target);
      const inspected =
        targetModules === undefined
          ? support(model)
          : support(model, { targetModules }, output === undefined ? {} : { output });
      const terminal = createTerminal({ json });
      terminal.say(formatInspection(inspected, file));
      if (json) terminal.emit(JSON.stringify({ file, ...inspected }, null, 2));
    });
}
