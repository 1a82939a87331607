#!/usr/bin/env node
// The `lowrank` command: verbs and their options. What a verb does lives in the rooms below.
import { Command, CommanderError } from "commander";
import { LowrankError } from "../errors.ts";
import { lowrankVersion } from "../runs/environment.ts";
import { adapterCommand } from "./adapter.ts";
import { compressCommand } from "./compress.ts";
import { domainsCommand } from "./domains.ts";
import { evalCommand } from "./eval.ts";
import { gradcheckCommand } from "./gradcheck.ts";
import { inspectCommand } from "./inspect.ts";
import { reportError } from "./main-errors.ts";
import { predictCommand } from "./predict.ts";
import { pretrainCommand } from "./pretrain.ts";
import { runsCommand } from "./runs.ts";
import { serveCommand } from "./serve.ts";
import { studyCommand } from "./study.ts";
import { summaryCommand } from "./summary.ts";
import { sweepCommand } from "./sweep.ts";
import { endOnClosedPipe } from "./terminal.ts";
import { tuneCommand } from "./tune.ts";
import { workerCommand } from "./worker.ts";

// Since 1.29 ONNX Runtime sends usage data and leaves a device id in the user's cache, unless this says no before it loads.
process.env.ORT_DISABLE_TELEMETRY ??= "1";

endOnClosedPipe([process.stdout, process.stderr]);

const program = new Command("lowrank")
  .description("LoRA fine-tuning for ONNX models, with no Python.")
  .version(lowrankVersion(), "-v, --version")
  .showSuggestionAfterError()
  .exitOverride()
  .configureOutput({ outputError: () => {} })
  .addHelpText(
    "after",
    "\nEnvironment: LOWRANK_DATA names the folder with MNIST, LOWRANK_DEBUG=1 adds stacks to errors, NO_COLOR is respected.",
  );

for (const command of [
  tuneCommand(),
  pretrainCommand(),
  evalCommand(),
  predictCommand(),
  runsCommand(),
  studyCommand(),
  sweepCommand(),
  workerCommand(),
  domainsCommand(),
  summaryCommand(),
  inspectCommand(),
  gradcheckCommand(),
  adapterCommand(),
  compressCommand(),
  serveCommand(),
]) {
  command.exitOverride().configureOutput({ outputError: () => {} });
  program.addCommand(command);
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

function exitCodeOf(error: unknown): number {
  if (!(error instanceof CommanderError)) return reportError(error, process.stderr);
  if (error.exitCode === 0) return 0;
  // Called with nothing: the help has been shown, which is not what a script wants.
  if (error.code === "commander.help") return 2;
  const message = error.message.replace(/^error: /, "").replaceAll("\n", " ");
  const verb = program.commands.find((command) => command.name() === process.argv[2])?.name();
  const help = ["lowrank", ...(verb === undefined ? [] : [verb]), "--help"].join(" ");
  return reportError(new LowrankError("config", `${message}; see ${help}`), process.stderr);
}
