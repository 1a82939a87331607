// lowrank summary
import { Command } from "commander";
import { LowrankError } from "../errors.ts";
import { summary } from "../onnx/summary.ts";
import { loadModel } from "../runs/model-file.ts";
import { formatSummary } from "../runs/summary-table.ts";
import { parseNumber } from "./options.ts";
import { createTerminal } from "./terminal.ts";

export function summaryCommand(): Command {
  return new Command("summary")
    .description("The layers of an ONNX model with their output shapes and parameters.")
    .argument("<model>", "an .onnx file")
    .option(
      "--lora <r>",
      "add the columns of a LoRA adapter of this rank on every layer that can have one",
      parseNumber,
    )
    .action(async (file: string, { lora }: { lora?: number }) => {
      if (lora !== undefined && (!Number.isInteger(lora) || lora < 1)) {
        throw new LowrankError("config", `--lora: expected a rank (a whole number of 1 or more), got ${lora}`);
      }
      const model = await loadModel(file);
      createTerminal().say(formatSummary(summary(model), lora === undefined ? undefined : { r: lora }));
    });
}
