// lowrank runs
import { join } from "node:path";
import { Command } from "commander";
import { LowrankError } from "../errors.ts";
import { writeFileAtomic } from "../runs/files.ts";
import { renderComparison } from "../runs/report/compare-report.ts";
import { renderRunReport } from "../runs/report/run-report.ts";
import { findRuns, type RunRecord, readRun } from "../runs/run-record.ts";
import { differingSettings, formatComparison, formatRuns, runNames } from "../runs/run-table.ts";
import { createTerminal } from "./terminal.ts";

interface ListFlags {
  readonly json?: boolean;
}

interface CompareFlags extends ListFlags {
  readonly html?: string;
}

export function runsCommand(): Command {
  const command = new Command("runs")
    .description("List runs, compare them, or write a run's report again.")
    .argument("[folder]", "where run folders lie", "runs")
    .option("--json", "print JSON to stdout, and nothing else there")
    .action(async (folder: string, { json = false }: ListFlags) => {
      const terminal = createTerminal({ json });
      const runs = await Promise.all((await findRuns(folder)).map(readRun));
      if (runs.length === 0) terminal.warn(`${folder}: there is no run folder in it`);
      else terminal.say(formatRuns(runs));
      if (json) terminal.emit(JSON.stringify(runs.map(headOf), null, 2));
    });
  for (const sub of [compareCommand(), reportCommand()]) {
    command.addCommand(sub.exitOverride().configureOutput({ outputError: () => {} }));
  }
  return command;
}

function compareCommand(): Command {
  return new Command("compare")
    .description("What differs between runs, and what came of each.")
    .argument("<folders...>", "two run folders or more")
    .option("--html <file>", "write a page with their curves over each other")
    .option("--json", "print JSON to stdout, and nothing else there")
    .action(async (folders: string[], _: unknown, self: Command) => {
      const { html, json = false } = self.optsWithGlobals<CompareFlags>();
      if (folders.length < 2)
        throw new LowrankError("config", "runs compare: expected two run folders or more, got one");
      const runs = await Promise.all(folders.map(readRun));
      const terminal = createTerminal({ json });
      terminal.say(formatComparison(runs));
      if (html !== undefined) {
        await writeFileAtomic(html, renderComparison(runs));
        terminal.say(`\nThe page is ${html}.`);
      }
      if (json) {
        const differing = differingSettings(runs).map(({ name, values }) => ({
          name,
          values: values.map((value) => value ?? null),
        }));
        terminal.emit(JSON.stringify({ names: runNames(runs), differing, runs: runs.map(headOf) }, null, 2));
      }
    });
}

function reportCommand(): Command {
  return new Command("report")
    .description("Write report.html of a run again, from the files in its folder.")
    .argument("<folder>", "a run folder of lowrank tune, pretrain or eval")
    .action(async (folder: string) => {
      const run = await readRun(folder);
      if (!["tune", "pretrain", "eval"].includes(run.verb)) {
        throw new LowrankError("config", `${folder}: expected a run of tune, pretrain or eval, got one of ${run.verb}`);
      }
      const path = join(folder, "report.html");
      await writeFileAtomic(path, renderRunReport(run));
      createTerminal().say(path);
    });
}

/** A run without its curves. */
function headOf({ path, verb, state, started, seconds, steps, best, settings, evaluations }: RunRecord): object {
  return { path, verb, state, started, seconds, steps, best, last: evaluations.at(-1)?.values ?? null, settings };
}
