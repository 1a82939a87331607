// lowrank adapter convert
import { type Command, Option } from "commander";
import { storageType } from "../adapter/storage.ts";
import { modulesOf } from "../lora/keys.ts";
import { type AdapterHome, adapterHome, convertAdapter, loadAdapter, writeConverted } from "../runs/adapter-files.ts";
import { createTerminal } from "./terminal.ts";

interface Flags {
  to: AdapterHome;
  dtype?: string;
  json?: boolean;
  dryRun?: boolean;
}

const homes: Readonly<Record<AdapterHome, string>> = {
  peft: "a PEFT directory",
  onnx: "an .onnx_adapter file",
  mlx: "an mlx-lm directory",
};

/** Adds `convert` to the `adapter` command. */
export function addConvert(command: Command): void {
  command
    .command("convert")
    .description(
      "Write an adapter as another tool reads it: PEFT (Python), ONNX Runtime, Olive and GenAI (.onnx_adapter), or mlx-lm.",
    )
    .argument("<from>", "a PEFT directory, an mlx-lm directory or an .onnx_adapter file")
    .argument("<path>", "the directory or file to write")
    .addOption(new Option("--to <home>", "what to write").choices(["peft", "onnx", "mlx"]).makeOptionMandatory())
    .option(
      "--dtype <type>",
      "store values as float32, float16, bfloat16 or (onnx) int8 (default: as they are stored; onnx: float32)",
    )
    .option("--dry-run", "say what would be written, and write nothing")
    .option("--json", "print JSON to stdout, and nothing else there")
    .addHelpText(
      "after",
      "\nExample:\n  lowrank adapter convert runs/first/adapter tuned.onnx_adapter --to onnx --dtype float16",
    )
    .action(async (from: string, path: string, { to, dtype, json = false, dryRun = false }: Flags) => {
      const terminal = createTerminal({ json });
      const home = await adapterHome(from);
      const adapter = await loadAdapter(from, { onWarning: (warning) => terminal.warn(warning) });
      const converted = convertAdapter(adapter, to, dtype === undefined ? {} : { dtype: storageType(dtype) });
      if (!dryRun) await writeConverted(path, converted);
      const { files, relativeError } = converted;
      const bytes = [...files.values()].reduce((sum, file) => sum + file.length, 0);
      const modules = modulesOf(adapter).length;
      const verb = dryRun ? "would write" : "wrote";
      terminal.say(`${from} (${homes[home]}, ${modules} modules): ${verb} ${path} (${homes[to]}, ${bytes} bytes)`);
      if (relativeError > 0) {
        terminal.say(
          `rounding to ${dtype} changes values by at most ${relativeError.toExponential(2)} of the largest of their tensor`,
        );
      }
      if (json) {
        const written = [...files].map(([name, file]) => ({ name: name === "" ? path : name, bytes: file.length }));
        const result = { from, fromHome: home, path, toHome: to, modules, dtype: dtype ?? null, relativeError, dryRun };
        terminal.emit(JSON.stringify({ ...result, files: written }, null, 2));
      }
    });
}
