// lowrank sweep
import { Command } from "commander";
import { LowrankError } from "../errors.ts";
import { readFileChecked } from "../runs/files.ts";
import { formatDuration } from "../runs/table.ts";
import { readSweepConfig } from "../sweep/config.ts";
import { cancelFolder, readSweepFolder, type SweepFolder, type SweepView } from "../sweep/folder.ts";
import { readQueuedSweep } from "../sweep/queue-status.ts";
import { cancelQueuedSweep, resumeQueuedSweep, runQueuedSweep } from "../sweep/queue-sweep.ts";
import type { SweepWatcher } from "../sweep/run-local.ts";
import { resumeSweep, runSweep, type SweepContext, type SweepResult } from "../sweep/sweep.ts";
import { headline, outcomeLine, runningLines, standingsTable, waitingJobs } from "../sweep/table.ts";
import { parseConfigFile } from "../tune/settings.ts";
import { createLiveTable } from "./live-table.ts";
import { withInterrupt } from "./main-errors.ts";
import { parseWhole } from "./options.ts";
import { type PlaceFlags, placeOfSweep, queuePlace } from "./queue-place.ts";
import { createTerminal, type Terminal } from "./terminal.ts";

interface SweepFlags {
  readonly out?: string;
  readonly workers?: number;
  readonly queue?: string;
  readonly store?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export function sweepCommand(): Command {
  const command = withRunFlags(
    new Command("sweep")
      .description("Train many adapters: a search over options of tune, or one training for each row of a list.")
      .argument("<config>", "YAML or JSON: base options of tune, and a search or a fleet (schemas/sweep.schema.json)")
      .option("--out <folder>", "the sweep's folder; one that is there is gone on with (default: runs/sweep-<time>)"),
  )
    .addHelpText(
      "after",
      "\nExamples:\n  lowrank sweep sweep.yaml --out runs/sweep\n  lowrank sweep status runs/sweep\n  lowrank sweep resume runs/sweep\n  lowrank sweep sweep.yaml --queue redis://queue:6379 --store s3://adapters/sweeps",
    )
    .action(async (file: string, flags: SweepFlags) => {
      const parsed = readSweepConfig(parseConfigFile(file, new TextDecoder().decode(await readFileChecked(file))));
      const config = flags.out === undefined ? parsed : { ...parsed, out: flags.out };
      checkFlags(flags, flags.queue !== undefined);
      await runAndTell(flags, (context) =>
        flags.queue === undefined ? runSweep(config, context) : runQueuedSweep(config, queuePlace(flags), context),
      );
    });
  for (const sub of [statusCommand(), resumeCommand(), cancelCommand()]) {
    command.addCommand(sub.exitOverride().configureOutput({ outputError: () => {} }));
  }
  return command;
}

function withRunFlags(command: Command): Command {
  return command
    .option("--workers <n>", "trainings at a time on this machine (default: one for each core)", parseWhole)
    .option(
      "--queue <url>",
      "train on `lowrank worker` processes: redis://host:port of Redis or Valkey, or postgres://…",
    )
    .option(
      "--store <place>",
      "with --queue: a folder that all machines share, or s3://bucket/prefix (or LOWRANK_STORE)",
    )
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors");
}

function resumeCommand(): Command {
  return withRunFlags(
    new Command("resume")
      .description("Go on with a sweep: only what has no result is trained, and failed trials are tried again.")
      .argument("<folder>", "the folder of a sweep"),
  )
    .addHelpText("after", "\nExample:\n  lowrank sweep resume runs/sweep")
    .action(async (folder: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<SweepFlags>();
      const place = await placeOfSweep(folder, flags);
      checkFlags(flags, place !== null);
      await runAndTell(flags, (context) =>
        place === null ? resumeSweep(folder, context) : resumeQueuedSweep(folder, place, context),
      );
    });
}

/** A flag that would do nothing is a mistake. */
function checkFlags({ workers, store }: SweepFlags, isQueued: boolean): void {
  if (isQueued && workers !== undefined) {
    throw new LowrankError(
      "config",
      "--workers: expected none for a sweep on a queue; start as many `lowrank worker` as are wanted",
    );
  }
  if (!isQueued && store !== undefined)
    throw new LowrankError("config", "--store: expected --queue with it, got none; leave it out to train here");
}

function cancelCommand(): Command {
  return new Command("cancel")
    .description("Stop a sweep, wherever it runs; what was trained is kept, and resume goes on with it.")
    .argument("<folder>", "the folder of a sweep")
    .addHelpText("after", "\nExample:\n  lowrank sweep cancel runs/sweep")
    .option("--queue <url>", queueHelp)
    .action(async (folder: string, _: unknown, self: Command) => {
      const { queue } = self.optsWithGlobals<SweepFlags>();
      await readSweepFolder(folder);
      const address = queue ?? (await placeOfSweep(folder, {}))?.queue;
      if (address === undefined) await cancelFolder(folder);
      else await cancelQueuedSweep(folder, address);
      createTerminal().say(`Cancelled; go on with: lowrank sweep resume ${folder}`);
    });
}

function statusCommand(): Command {
  return new Command("status")
    .description("Where a sweep is: what is trained, what is being trained, who is ahead.")
    .argument("<folder>", "the folder of a sweep")
    .option("--queue <url>", queueHelp)
    .option("--json", "print JSON to stdout, and nothing else there")
    .addHelpText("after", "\nExample:\n  lowrank sweep status runs/sweep")
    .action(async (folder: string, _: unknown, self: Command) => {
      const { json = false, ...flags } = self.optsWithGlobals<SweepFlags>();
      const terminal = createTerminal({ json });
      const state = await lookAt(folder, flags, terminal);
      const isFine = waitingJobs(state) === 0 || (state.isWorkedOn && !state.cancelled);
      const rest = `; ${state.cancelled ? "cancelled" : "nobody trains it"}; go on with: lowrank sweep resume ${folder}`;
      terminal.say(`${headline(state)}${isFine ? "" : rest}`);
      for (const line of runningLines(state)) terminal.say(`  ${line}`);
      terminal.say(standingsTable(state.plan, state.results, 20));
      if (json) {
        const { plan, results, running, cancelled, isWorkedOn } = state;
        terminal.emit(
          JSON.stringify(
            { id: plan.id, trials: plan.trials.length, results: [...results.values()], running, cancelled, isWorkedOn },
            null,
            2,
          ),
        );
      }
    });
}

/** The folder, or what the queue knows beyond it: of workers whose results nobody fetches at the moment. */
async function lookAt(folder: string, flags: PlaceFlags, terminal: Terminal): Promise<SweepView> {
  const view = await readSweepFolder(folder);
  const place = view.isWorkedOn || waitingJobs(view) === 0 ? null : await placeOfSweep(folder, flags);
  if (place === null) return view;
  try {
    return await readQueuedSweep(folder, place);
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    terminal.warn(`${error.message}; this is what the folder knows`);
    return view;
  }
}

const queueHelp = "of a sweep on a queue: its address, where the folder's own lacks a password";

/** Runs a sweep with a live table, and says what came of it. */
async function runAndTell(
  { workers, json = false, quiet = false }: SweepFlags,
  run: (context: SweepContext) => Promise<SweepResult>,
): Promise<void> {
  const terminal = createTerminal({ json, quiet });
  const { watcher, onOpen, end } = tellOf(terminal, quiet);
  const { folder, summary } = await withInterrupt((signal) =>
    run({ signal, watcher, onOpen, ...(workers !== undefined && { workers }) }),
  ).finally(end);
  const state = await readSweepFolder(folder);
  terminal.heading("Done");
  terminal.say(standingsTable(state.plan, state.results, 10));
  const { winner, adapters, failed, trials, seconds } = summary;
  if (failed > 0) terminal.warn(`${failed} of ${trials} trials failed; report.html says why, resume tries them again`);
  terminal.say(`${trials} trials in ${formatDuration(seconds)}. In ${folder}:`);
  if (winner !== null)
    terminal.say(`  winner     ${winner.adapter} (${winner.name}, ${summary.metric} ${winner.value})`);
  if (adapters !== null) terminal.say(`  adapters   ${adapters}, one for each row`);
  terminal.say("  report     report.html");
  if (json) terminal.emit(JSON.stringify(summary, null, 2));
}

function tellOf(
  terminal: Terminal,
  quiet: boolean,
): { watcher: SweepWatcher; onOpen: (folder: SweepFolder) => void; end: () => void } {
  const live = quiet ? { show() {}, clear() {} } : createLiveTable();
  let folder: SweepFolder | null = null;
  const watcher: SweepWatcher = {
    running(running) {
      if (folder === null) return;
      const state = { plan: folder.plan, results: folder.results, running };
      live.show(() => [headline(state), ...runningLines(state), standingsTable(state.plan, state.results, 5)]);
    },
    ended(outcome) {
      live.clear();
      if (folder !== null) terminal.say(outcomeLine(folder.plan, folder.results, outcome));
    },
    warn(text) {
      live.clear();
      terminal.warn(text);
    },
  };
  const onOpen = (opened: SweepFolder): void => {
    folder = opened;
    terminal.say(`Sweep folder: ${opened.path}`);
    const known = opened.results.size;
    if (known > 0) terminal.say(`Going on: ${known} trainings have a result already.`);
  };
  return { watcher, onOpen, end: () => live.clear() };
}
