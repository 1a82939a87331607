// lowrank worker
import { mkdir } from "node:fs/promises";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { LowrankError } from "../errors.ts";
import { createTrainer } from "../sweep/children.ts";
import { runWorker } from "../sweep/worker.ts";
import { withInterrupt } from "./main-errors.ts";
import { parseNumber, parseWhole } from "./options.ts";
import { queuePlace } from "./queue-place.ts";
import { createTerminal } from "./terminal.ts";

interface WorkerFlags {
  readonly queue?: string;
  readonly store?: string;
  readonly concurrency?: number;
  readonly cache: string;
  readonly stalledAfter: number;
  readonly publishEvery: number;
  readonly quiet?: boolean;
}

export function workerCommand(): Command {
  return new Command("worker")
    .description(
      "Train jobs of sweeps from a queue, until it is stopped; then they are handed back with their checkpoints.",
    )
    .option("--queue <url>", "redis://host:port of Redis or Valkey, or postgres://… (or LOWRANK_QUEUE)")
    .option("--store <place>", "a folder that all machines share, or s3://bucket/prefix (or LOWRANK_STORE)")
    .option("--concurrency <n>", "trainings at a time (default: one for each core)", parseWhole)
    .option("--cache <folder>", "where inputs are kept and trainings are at work", defaultCache())
    .option(
      "--stalled-after <s>",
      "seconds without a sign of life after which a job goes to another worker",
      parseNumber,
      30,
    )
    .option("--publish-every <s>", "seconds between two checkpoints in the store", parseNumber, 30)
    .option("--quiet", "say nothing but warnings and errors")
    .addHelpText(
      "after",
      "\nExample:\n  lowrank worker --queue redis://queue:6379 --store s3://adapters/sweeps --concurrency 2",
    )
    .action(async (flags: WorkerFlags) => {
      const { quiet = false, concurrency = availableParallelism(), ...options } = flags;
      const terminal = createTerminal({ quiet });
      const { queue, store } = queuePlace(flags);
      if (!(options.stalledAfter >= 1) || !(options.publishEvery >= 0)) {
        throw new LowrankError("config", "worker: expected --stalled-after from 1, --publish-every from 0");
      }
      await mkdir(options.cache, { recursive: true });
      await withInterrupt((signal) =>
        runWorker({
          ...options,
          ...{ concurrency, queue, store, trainer: createTrainer(), signal },
          log: (line) => terminal.say(line),
        }),
      );
    });
}

function defaultCache(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lowrank", "worker");
}
