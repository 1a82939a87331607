// One job: a training up to the end of its rung in a folder, and what came of it.
import { LowrankError } from "../errors.ts";
import type { RunOptions } from "../tune/option-table.ts";
import { isPassing, type Trainer, type TrainWatch } from "./children.ts";
import { namedOptions } from "./inputs.ts";
import { failedOutcome, type Outcome, outcomeOf } from "./outcome.ts";

/** What a job needs to be known by, wherever it runs. */
export interface JobOrder {
  readonly key: string;
  /** Steps of the rung; null: all. */
  readonly steps: number | null;
  readonly metric: string | null;
  /** Options of tune, with paths where the files lie. */
  readonly options: RunOptions;
  /** The run folder; with a checkpoint in it the training goes on. */
  readonly folder: string;
  /** 1 for the first. */
  readonly attempt: number;
}

/**
 * Trains. Returns null when it was stopped on request: the folder has a checkpoint then.
 *
 * @throws what may be better at another attempt (a crash, a full disk); a failure of the training itself is an outcome.
 */
export async function runJob(order: JobOrder, trainer: Trainer, watch: TrainWatch): Promise<Outcome | null> {
  const { key, steps, metric, options, folder, attempt } = order;
  const begun = performance.now();
  const own = (): { key: string; seconds: number; attempts: number } => {
    return { key, seconds: (performance.now() - begun) / 1000, attempts: attempt };
  };
  try {
    const end = await trainer.train(
      {
        options: { ...options, out: folder, resume: true },
        named: namedOptions(options),
        pauseAfter: steps !== null && steps < (options.steps ?? 0) ? steps : null,
      },
      watch,
    );
    if (end === "stopped") return null;
    return await outcomeOf(folder, { ...own(), metric, upTo: steps });
  } catch (error) {
    if (isPassing(error)) throw error;
    return failedOutcome({ ...own(), error: failureText(error) });
  }
}

/** Why, in a line, without where: the same on every machine. */
export function failureText(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const text = error instanceof LowrankError && error.faults.length > 1 ? error.faults.join("; ") : message;
  return text.replace(/;[^;]*(checkpoint|--resume)[^;]*/g, "").replace(/\s*\n\s*/g, " ");
}
