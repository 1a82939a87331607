// lowrank gradcheck
import { Command } from "commander";
import { readSafetensors } from "../adapter/safetensors.ts";
import { attachLora } from "../lora/attach.ts";
import { readFileChecked } from "../runs/files.ts";
import { formatGradcheck } from "../runs/inspect-table.ts";
import { loadModel } from "../runs/model-file.ts";
import { gradcheck } from "../train/gradcheck.ts";
import { inputsFrom, randomInputs } from "../train/random-inputs.ts";
import { exitCodes } from "./main-errors.ts";
import { collect, parseNumber, parseTargets, targetsHelp } from "./options.ts";
import { createTerminal } from "./terminal.ts";

interface Flags {
  target?: readonly string[];
  inputs?: string;
  rank: number;
  seed: number;
  output?: string;
  json?: boolean;
}

export function gradcheckCommand(): Command {
  return new Command("gradcheck")
    .description(
      "Hold the gradients of a LoRA adapter against central differences along random directions, in float64 where the runtime can. Fails when one differs.",
    )
    .argument("<model>", "an .onnx file")
    .option("--target <modules>", targetsHelp, collect)
    .option("--inputs <file>", "a .safetensors file with a tensor for each input (default: random ones)")
    .option("--rank <r>", "rank of A and B", parseNumber, 4)
    .option("--seed <n>", "seed of all that is random", parseNumber, 0)
    .option("--output <name>", "the output that is differentiated (default: the first)")
    .option("--json", "print JSON to stdout, and nothing else there")
    .action(async (file: string, { target, inputs, rank: r, seed, output, json = false }: Flags) => {
      const model = await loadModel(file);
      const given = inputs === undefined ? null : readSafetensors(await readFileChecked(inputs), inputs).tensors;
      const adapted = attachLora(model, { r, ...(target !== undefined && { targetModules: parseTargets(target) }) });
      const batch = given === null ? randomInputs(model, { seed }) : inputsFrom(model, given);
      const checked = await gradcheck(adapted, batch, { seed, ...(output !== undefined && { output }) });
      const terminal = createTerminal({ json });
      terminal.say(formatGradcheck(checked));
      if (json) terminal.emit(JSON.stringify({ file, ...checked }, null, 2));
      if (!checked.passed) process.exitCode = exitCodes.failure;
    });
}
