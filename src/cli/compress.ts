// lowrank compress
import { Command, Option } from "commander";
import type { CompressOptions, QuantizedForm } from "../compress/options.ts";
import { type CompressRequest, runCompress } from "../tune/run-compress.ts";
import { type Flags, resolveOptions } from "../tune/settings.ts";
import { withInterrupt } from "./main-errors.ts";
import { collect, parseNumber, parseTargets, targetsHelp } from "./options.ts";
import { addTableOptions, helpConfiguration } from "./run-options.ts";
import { createTerminal } from "./terminal.ts";
import { voiceOf } from "./voice.ts";

/** The flags that are not in the table of tune's options. */
interface OwnFlags {
  out: string;
  rank?: number;
  energy?: number;
  size?: number;
  error?: number;
  measure: "bytes" | "parameters";
  quantize?: QuantizedForm;
  target?: readonly string[];
  samples?: number;
  layerAccuracy: boolean;
  recover?: true | "labels" | "original";
  run?: string;
  merge?: true;
  external?: boolean;
  json?: boolean;
  quiet?: boolean;
  dryRun?: boolean;
}

export function compressCommand(): Command {
  const command = new Command("compress")
    .description(
      "Write a smaller model that runs anywhere: Linear layers factorized into two thin ones by truncated SVD, weights in 8 or 4 bits, or both. With data, errors are weighed by it and accuracy is measured; --recover tunes an adapter on the result.",
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
    .option("--samples <n>", "rows of --data that errors are weighed with (default: 512)", parseNumber)
    .option("--no-layer-accuracy", "do not measure each layer compressed by itself")
    .addOption(
      new Option(
        "--recover [what]",
        "tune an adapter on the result, in a run folder: on labels (where the data has them, the default) or on the outputs of the original",
      ).choices(["labels", "original"]),
    )
    .option("--run <folder>", "run folder of --recover (default: runs/tune-<time>)")
    .option("--merge", "fold the adapter into the model, which is quantized after that")
    .option("--external", "write the weights to a file beside the model; from 1 GiB on they are anyway")
    .option("--json", "print JSON to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .option("--dry-run", "compress and measure, but write nothing and do not recover");
  return addTableOptions(command, "compress")
    .configureHelp(helpConfiguration)
    .addHelpText(
      "after",
      "\nExamples:\n" +
        "  lowrank compress model.onnx --out small.onnx --size 0.25 --quantize int8\n" +
        "  lowrank compress model.onnx --out small.onnx --rank 64 --data train.csv --recover --epochs 1 --merge",
    )
    .action(async (file: string, given: OwnFlags & Flags) => {
      const { own, shared } = divided(given);
      const options = resolveOptions("compress", { ...shared, model: file });
      const { json = false, quiet = false } = own;
      const terminal = createTerminal({ json, quiet });
      const voice = voiceOf(terminal, quiet);
      const summary = await withInterrupt((signal) => runCompress(options, requestOf(own), { voice, signal }));
      if (json) terminal.emit(JSON.stringify(summary, null, 2));
    });
}

/** The command's own flags, and those of the table: some names are in both, and mean other things there. */
function divided(given: OwnFlags & Flags): { own: OwnFlags; shared: Flags } {
  const { out, rank, energy, size, error, measure, quantize, target, samples, layerAccuracy, ...rest } = given;
  const { recover, run, merge, external, json, quiet, dryRun, ...shared } = rest;
  const first = { out, rank, energy, size, error, measure, quantize, target, samples, layerAccuracy };
  return { own: { ...first, recover, run, merge, external, json, quiet, dryRun } as OwnFlags, shared };
}

function requestOf(flags: OwnFlags): CompressRequest {
  const { out, samples, layerAccuracy, recover, run, merge = false, external, dryRun = false } = flags;
  return {
    compress: compressionOf(flags),
    out,
    dryRun,
    layers: layerAccuracy,
    merge,
    ...(external !== undefined && { external }),
    ...(samples !== undefined && { samples }),
    ...(recover !== undefined && { recover: recover === true ? "auto" : recover }),
    ...(run !== undefined && { run }),
  };
}

function compressionOf({ rank, energy, size, error, measure, quantize, target }: OwnFlags): CompressOptions {
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
