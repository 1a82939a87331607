// lowrank gradcheck
import { Command, Option } from "commander";
import { readSafetensors } from "../adapter/safetensors.ts";
import { attachLora } from "../lora/attach.ts";
import { readFileChecked } from "../runs/files.ts";
import { formatGradcheck } from "../runs/inspect-table.ts";
import { loadModel } from "../runs/model-file.ts";
import { checkDevice, type DeviceChoice, deviceChoices } from "../runtime/session.ts";
import { gradcheck } from "../train/gradcheck.ts";
import { inputsFrom, randomInputs } from "../train/random-inputs.ts";
import { exitCodes } from "./main-errors.ts";
import { collect, parseNumber, parseTargets, parseThreads, targetsHelp } from "./options.ts";
import { createTerminal } from "./terminal.ts";

interface Flags {
  target?: readonly string[];
  inputs?: string;
  rank: number;
  seed: number;
  output?: string;
  device: DeviceChoice;
  threads?: number;
  json?: boolean;
}

export function gradcheckCommand(): Command {
  return new Command("gradcheck")
    .description(
      "Hold the gradients of a LoRA adapter against central differences along random directions, in float64 where the runtime can. Fails when one differs. Where activations are quantized, both are of the model without that rounding: gradients go straight through it.",
    )
    .argument("<model>", "an .onnx file")
    .option("--target <modules>", targetsHelp, collect)
    .option("--inputs <file>", "a .safetensors file with a tensor for each input (default: random ones)")
    .option("--rank <r>", "rank of A and B", parseNumber, 4)
    .option("--seed <n>", "seed of all that is random", parseNumber, 0)
    .option("--output <name>", "the output that is differentiated (default: the first)")
    .addOption(
      new Option("--device <device>", "where the gradients are computed; the differences are the CPU's")
        .choices(deviceChoices)
        .default("cpu"),
    )
    .option("--threads <n>", "threads of the runtime", parseThreads)
    .option("--json", "print JSON to stdout, and nothing else there")
    .addHelpText("after", "\nExample:\n  lowrank gradcheck model.onnx --target query,value --device auto")
    .action(async (file: string, { target, inputs, rank: r, seed, output, device, threads, json = false }: Flags) => {
      const asked = { device, ...(threads !== undefined && { threads }) };
      const chosen = await checkDevice(asked);
      const model = await loadModel(file);
      const given = inputs === undefined ? null : readSafetensors(await readFileChecked(inputs), inputs).tensors;
      const adapted = attachLora(model, { r, ...(target !== undefined && { targetModules: parseTargets(target) }) });
      const batch = given === null ? randomInputs(model, { seed }) : inputsFrom(model, given);
      const checked = await gradcheck(adapted, batch, {
        ...asked,
        device: chosen.device,
        seed,
        ...(output !== undefined && { output }),
      });
      const terminal = createTerminal({ json });
      if (device === "auto") terminal.say(`Device auto: ${chosen.device} (${chosen.reason}).`);
      terminal.say(formatGradcheck(checked));
      if (json) terminal.emit(JSON.stringify({ file, ...checked }, null, 2));
      if (!checked.passed) process.exitCode = exitCodes.failure;
    });
}
