// lowrank compress
import { Command, Option } from "commander";
import { compress } from "../compress/compress.ts";
import type { CompressOptions, QuantizedForm } from "../compress/options.ts";
import { formatCompression } from "../runs/compress-table.ts";
import { loadModel } from "../runs/model-file.ts";
import { saveModel } from "./adapter-io.ts";
import { collect, parseNumber, parseTargets, targetsHelp } from "./options.ts";
import { createTerminal } from "./terminal.ts";

interface Flags {
  out: string;
  rank?: number;
  energy?: number;
  size?: number;
  error?: number;
  measure: "bytes" | "parameters";
  quantize?: QuantizedForm;
  target?: readonly string[];
  external?: boolean;
  json?: boolean;
  dryRun?: boolean;
}

export function compressCommand(): Command {
  return new Command("compress")
    .description(
      "Write a smaller model that runs anywhere: Linear layers factorized into two thin ones by truncated SVD, weights in 8 or 4 bits, or both.",
    )
    .argument("<model>", "an .onnx file")
    .requiredOption("--out <file>", "the .onnx file to write")
    .option("--rank <r>", "of each layer", parseNumber)
    .option("--energy <share>", "of the squared singular values that each layer keeps", parseNumber)
    .option("--error <share>", "that each layer's weight may be off by (Frobenius norm)", parseNumber)
    .option("--size <share>", "of the model's weights to keep; ranks are chosen across layers", parseNumber)
    .addOption(new Option("--measure <what>", "what --size counts").choices(["bytes", "parameters"]).default("bytes"))
    .addOption(new Option("--quantize <form>", "store the layers' weights in fewer bits").choices(["int8", "int4"]))
    .option("--target <modules>", targetsHelp.replace("adapt", "compress"), collect)
    .option("--external", "write the weights to a file beside the model; from 1 GiB on they are anyway")
    .option("--json", "print JSON to stdout, and nothing else there")
    .option("--dry-run", "do everything but write")
    .addHelpText("after", "\nExample:\n  lowrank compress model.onnx --out small.onnx --size 0.25 --quantize int8")
    .action(async (file: string, flags: Flags) => {
      const { model, ...report } = compress(await loadModel(file), optionsOf(flags));
      const terminal = createTerminal({ json: flags.json ?? false });
      terminal.say(formatCompression(report));
      const files = await saveModel(model, flags.out, flags);
      terminal.say(flags.dryRun ? `\nnot written (--dry-run): ${flags.out}` : `\nwritten: ${files.join(", ")}`);
      if (flags.json) terminal.emit(JSON.stringify({ file, output: flags.out, files, ...report }, null, 2));
    });
}

function optionsOf({ rank, energy, size, error, measure, quantize, target }: Flags): CompressOptions {
  return {
    ...(rank !== undefined && { rank }),
    ...(energy !== undefined && { energy }),
    ...(size !== undefined && { size }),
    ...(error !== undefined && { error }),
    ...(quantize !== undefined && { quantize }),
    ...(target !== undefined && { targetModules: parseTargets(target) }),
    measure,
  };
}
