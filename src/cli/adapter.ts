// lowrank adapter show, merge, unmerge, combine, resize, extract, diff, convert
import { Command, Option } from "commander";
import type { RankChoice } from "../adapter/checks.ts";
import { type CombineMethod, type CombineOptions, combine, combineMethods } from "../adapter/combine.ts";
import { besideUpdates, compare, spectrum } from "../adapter/compare.ts";
import { extract } from "../adapter/extract.ts";
import { merge } from "../adapter/merge.ts";
import type { MajoritySignMethod } from "../adapter/prune.ts";
import { resize } from "../adapter/resize.ts";
import { unmerge } from "../adapter/unmerge.ts";
import type { Adapter } from "../lora/config.ts";
import { modulesOf } from "../lora/keys.ts";
import { rankOf, scaleOf } from "../lora/scale.ts";
import type { Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { formatComparison, formatLosses, formatSpectrum } from "../runs/adapter-table.ts";
import { foldedNote } from "../runs/inspect-table.ts";
import { loadModel } from "../runs/model-file.ts";
import { addConvert } from "./adapter-convert.ts";
import { saveAdapter, saveModel } from "./adapter-io.ts";
import { collect, parseNumber, parseTargets, targetsHelp } from "./options.ts";
import { createTerminal, supportsUnicode, type Terminal } from "./terminal.ts";

interface Flags {
  json?: boolean;
  dryRun?: boolean;
}

interface MergeFlags extends Flags {
  unsafe?: boolean;
  dequantize?: boolean;
  external?: boolean;
}

const externalHelp = "write the weights to a file beside the model; from 1 GiB on they are anyway";

export function adapterCommand(): Command {
  const command = new Command("adapter").description(
    "What can be done with adapters: look at them, merge, combine, resize, extract, compare and convert them.",
  );
  const verbs = [show(), merging(), unmerging(), combining(), resizing(), extracting(), diff()];
  for (const verb of verbs) command.addCommand(verb);
  addConvert(command);
  for (const verb of command.commands) verb.exitOverride().configureOutput({ outputError: () => {} });
  return command;
}

/** A verb with what all of them have: --json, and an example below the help. */
function verb(name: string, description: string, example: string): Command {
  return new Command(name)
    .description(description)
    .option("--json", "print JSON to stdout, and nothing else there")
    .addHelpText("after", `\nExample:\n  lowrank adapter ${example}`);
}

/** One that writes. */
function writer(name: string, description: string, example: string): Command {
  return verb(name, description, example).option("--dry-run", "do everything but write");
}

function show(): Command {
  return verb(
    "show",
    "The updates of an adapter: their singular values as bars, and how much of the rank they use.",
    "show runs/first/adapter",
  )
    .argument("<adapter>", "a PEFT adapter's folder")
    .action(async (folder: string, { json = false }: Flags) => {
      const terminal = createTerminal({ json });
      const adapter = await open(folder, terminal);
      const modules = spectrum(adapter);
      terminal.say(formatSpectrum(modules, { unicode: supportsUnicode(process.env) }));
      const beside = besideUpdates(adapter);
      if (beside.length > 0)
        terminal.say(`Beside these updates, the adapter has ${beside.length} tensors: ${beside.join(", ")}`);
      if (json) emit(terminal, { adapter: folder, modules, beside });
    });
}

function merging(): Command {
  return writer(
    "merge",
    "Write a model with an adapter merged into its weights.",
    "merge base.onnx adapter merged.onnx",
  )
    .argument("<model>", "an .onnx file")
    .argument("<adapter>", "a PEFT adapter's folder")
    .argument("<output>", "the .onnx file to write")
    .option("--unsafe", "write the model even where its weights are not finite")
    .option("--dequantize", "write quantized layers as float32 ones; without it they are refused")
    .option("--external", externalHelp)
    .action(async (model: string, folder: string, output: string, flags: MergeFlags) => {
      const terminal = createTerminal({ json: flags.json ?? false });
      const adapter = await open(folder, terminal);
      const base = await loadModel(model);
      const folded = foldedSites(base, adapter);
      if (folded.length > 0) terminal.warn(foldedNote(folded));
      const merged = merge(base, adapter, {
        safe: flags.unsafe !== true,
        dequantize: flags.dequantize ?? false,
      });
      const files = await saveModel(merged, output, flags);
      report(terminal, flags, { output, files, modules: described(adapter) }, `merged ${counted(adapter)} into`);
    });
}

function unmerging(): Command {
  return writer(
    "unmerge",
    "Take an adapter out of a model that it was merged into.",
    "unmerge merged.onnx adapter base.onnx",
  )
    .argument("<model>", "an .onnx file, written by merge")
    .argument("<adapter>", "the PEFT adapter's folder")
    .argument("<output>", "the .onnx file to write")
    .option("--external", externalHelp)
    .action(async (model: string, folder: string, output: string, flags: MergeFlags) => {
      const terminal = createTerminal({ json: flags.json ?? false });
      const adapter = await open(folder, terminal);
      const base = unmerge(await loadModel(model), adapter, { safe: true });
      const files = await saveModel(base, output, flags);
      report(terminal, flags, { output, files, modules: described(adapter) }, `took ${counted(adapter)} out, into`);
    });
}

interface CombineFlags extends Flags {
  output: string;
  weight?: readonly number[];
  method: CombineMethod;
  density?: number;
  majoritySign?: MajoritySignMethod;
  rank?: number;
  seed?: number;
}

function combining(): Command {
  return writer(
    "combine",
    "Join adapters into one, each with its weight, as PEFT's add_weighted_adapter does.",
    "combine style facts --weight 0.7 --weight 0.5 --method cat --output both",
  )
    .argument("<adapters...>", "PEFT adapters' folders")
    .requiredOption("--output <folder>", "the folder to write")
    .option("--weight <number>", "one for each adapter, in their order (default: 1 each)", collectNumbers)
    .addOption(new Option("--method <name>", "how").choices(combineMethods).default("linear"))
    .option("--density <fraction>", "of values that pruning keeps, for all but linear, cat and svd", parseNumber)
    .addOption(
      new Option("--majority-sign <method>", "for the ties methods (default: total)").choices(["total", "frequency"]),
    )
    .option("--rank <r>", "rank of the result, for the svd methods (default: the adapters' largest)", parseNumber)
    .option("--seed <n>", "of what the dare methods draw (default: 0)", parseNumber)
    .action(async (folders: string[], flags: CombineFlags) => {
      const terminal = createTerminal({ json: flags.json ?? false });
      const adapters = await Promise.all(folders.map((folder) => open(folder, terminal)));
      const { output, method, weight, density, majoritySign, rank, seed } = flags;
      const options: CombineOptions = {
        method,
        ...(weight !== undefined && { weights: weight }),
        ...(density !== undefined && { density }),
        ...(majoritySign !== undefined && { majoritySignMethod: majoritySign }),
        ...(rank !== undefined && { r: rank }),
        ...(seed !== undefined && { seed }),
      };
      const combined = combine(adapters, options);
      await saveAdapter(output, combined, { dryRun: flags.dryRun ?? false });
      report(terminal, flags, { output, modules: described(combined) }, `joined ${folders.length} adapters in`);
    });
}

interface RankFlags extends Flags {
  output: string;
  rank?: number;
  energy?: number;
}

/** --rank or --energy, and where to write. */
function ranked(command: Command): Command {
  return command
    .requiredOption("--output <folder>", "the folder to write")
    .option("--rank <r>", "rank of every module", parseNumber)
    .option("--energy <share>", "instead: the share of squared singular values to keep in each module", parseNumber);
}

function choiceOf({ rank, energy }: RankFlags): RankChoice {
  return { ...(rank !== undefined && { r: rank }), ...(energy !== undefined && { energy }) };
}

function resizing(): Command {
  const command = writer(
    "resize",
    "Give an adapter another rank: the best approximation of each update, with its error.",
    "resize adapter --rank 4 --output small",
  );
  return ranked(command.argument("<adapter>", "a PEFT adapter's folder")).action(
    async (folder: string, flags: RankFlags) => {
      const terminal = createTerminal({ json: flags.json ?? false });
      const { adapter, modules, relativeError } = resize(await open(folder, terminal), choiceOf(flags));
      await saveAdapter(flags.output, adapter, { dryRun: flags.dryRun ?? false });
      terminal.say(formatLosses(modules, relativeError));
      report(terminal, flags, { output: flags.output, modules, relativeError }, "resized adapter in");
    },
  );
}

interface ExtractFlags extends RankFlags {
  target?: readonly string[];
  fanInFanOut?: boolean;
}

function extracting(): Command {
  const command = writer(
    "extract",
    "Write the adapter that turns a base model into a tuned one, as far as its rank allows.",
    "extract base.onnx tuned.onnx --rank 8 --output adapter",
  );
  return ranked(command.argument("<base>", "an .onnx file").argument("<tuned>", "an .onnx file with the same layers"))
    .option("--target <modules>", `${targetsHelp} (default: all)`, collect)
    .option(
      "--fan-in-fan-out",
      "note that PyTorch's layers store their weights as [in, out] (default: as the base's names tell; GPT-2's Conv1D)",
    )
    .action(async (base: string, tuned: string, flags: ExtractFlags) => {
      const terminal = createTerminal({ json: flags.json ?? false });
      const { output, target } = flags;
      const { adapter, modules, relativeError, ...rest } = extract(await loadModel(base), await loadModel(tuned), {
        ...choiceOf(flags),
        ...(target !== undefined && { targetModules: parseTargets(target) }),
        ...(flags.fanInFanOut !== undefined && { config: { fanInFanOut: flags.fanInFanOut } }),
      });
      await saveAdapter(output, adapter, { dryRun: flags.dryRun ?? false });
      terminal.say(formatLosses(modules, relativeError));
      const { unread, others } = rest;
      if (unread.length > 0) terminal.warn(`not compared, as the graph computes their weights: ${unread.join(", ")}`);
      if (others.length > 0)
        terminal.warn(`in no adapter, though they differ: ${others.map(({ name }) => name).join(", ")}`);
      report(terminal, flags, { output, modules, relativeError, ...rest }, "extracted adapter in");
    });
}

function diff(): Command {
  return verb(
    "diff",
    "How far two adapters' updates are apart, and how far their subspaces overlap.",
    "diff first second",
  )
    .argument("<first>", "a PEFT adapter's folder")
    .argument("<second>", "another")
    .action(async (first: string, second: string, { json = false }: Flags) => {
      const terminal = createTerminal({ json });
      const compared = compare(await open(first, terminal), await open(second, terminal));
      terminal.say(formatComparison(compared));
      if (json) emit(terminal, { first, second, ...compared });
    });
}

/** The adapter's modules whose layers hold a BatchNorm as well. */
function foldedSites(model: Model, adapter: Adapter): string[] {
  const paths = new Set(modulesOf(adapter).map(({ path }) => path));
  return sites(model).flatMap(({ modulePath, foldedNorm }) =>
    foldedNorm && paths.has(modulePath) ? [modulePath] : [],
  );
}

function open(folder: string, terminal: Terminal): Promise<Adapter> {
  return loadAdapter(folder, { onWarning: (message) => terminal.warn(message) });
}

function collectNumbers(text: string, before: readonly number[] = []): readonly number[] {
  return [...before, parseNumber(text)];
}

function counted(adapter: Adapter): string {
  const count = modulesOf(adapter).length;
  return `${count} module${count === 1 ? "" : "s"}`;
}

function described(adapter: Adapter): { path: string; r: number; scale: number }[] {
  const { config } = adapter;
  return modulesOf(adapter).map(({ path }) => ({ path, r: rankOf(config, path), scale: scaleOf(config, path) }));
}

/** What was written, or would have been, to people and to programs. */
function report(
  terminal: Terminal,
  { json, dryRun = false }: Flags,
  result: { output: string; [key: string]: unknown },
  done: string,
): void {
  terminal.say(
    dryRun
      ? `Nothing written, as --dry-run says; else: ${done} ${result.output}`
      : sentence(`${done} ${result.output}`),
  );
  if (json) emit(terminal, { ...result, dryRun });
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function emit(terminal: Terminal, value: unknown): void {
  terminal.emit(JSON.stringify(value, null, 2));
}
