// What came of a job: the value that it is compared by, from the records that its training left, or why it failed.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readRun } from "../runs/run-record.ts";

/** The result of one training, up to the end of its rung. Plain JSON; of equal trainings equal but for `seconds` and `attempts`. */
export interface Outcome {
  readonly key: string;
  readonly state: "complete" | "failed";
  /** What `value` is, `target/accuracy`; null without data to evaluate on. */
  readonly metric: string | null;
  readonly value: number | null;
  /** The step of the adapter that it belongs to. */
  readonly bestStep: number | null;
  /** All that the evaluation at that step measured. */
  readonly values: Readonly<Record<string, number>>;
  /** Steps that were trained in all. */
  readonly steps: number;
  readonly seconds: number;
  readonly attempts: number;
  readonly error: string | null;
}

/** What the trainer measured at its best evaluation up to a step, read from a run folder's records. */
export async function outcomeOf(
  folder: string,
  own: Pick<Outcome, "key" | "seconds" | "attempts"> & { readonly metric: string | null; readonly upTo: number | null },
): Promise<Outcome> {
  const { metric, upTo, ...rest } = own;
  const run = await readRun(folder);
  const limit = upTo ?? Number.POSITIVE_INFINITY;
  const best = (await bestEvaluations(folder)).findLast(({ step }) => step <= limit) ?? null;
  const watched = metric ?? run.best?.metric ?? null;
  const value = watched === null ? null : (best?.values[watched] ?? null);
  const missing = metric !== null && value === null;
  return {
    ...rest,
    state: missing ? "failed" : "complete",
    metric: watched,
    value,
    bestStep: best?.step ?? null,
    values: best?.values ?? {},
    steps: Math.min(run.steps, limit),
    error: missing ? `metric: expected ${metric}, got ${Object.keys(best?.values ?? {}).join(", ") || "none"}` : null,
  };
}

/** A job that came to nothing. */
export function failedOutcome(
  own: Pick<Outcome, "key" | "seconds" | "attempts"> & { readonly error: string },
): Outcome {
  return { ...own, state: "failed", metric: null, value: null, bestStep: null, values: {}, steps: 0 };
}

interface Evaluated {
  readonly step: number;
  readonly values: Readonly<Record<string, number>>;
}

/** Evaluations that were the best so far. */
async function bestEvaluations(folder: string): Promise<Evaluated[]> {
  const lines = (await readFile(join(folder, "metrics.jsonl"), "utf8")).split("\n");
  return lines.flatMap((line) => {
    if (line === "") return [];
    const { kind, step, best, ...rest } = JSON.parse(line) as Record<string, unknown>;
    if (kind !== "evaluation" || best !== true || typeof step !== "number") return [];
    const values = Object.entries(rest).filter(([name, value]) => name.includes("/") && typeof value === "number");
    return [{ step, values: Object.fromEntries(values) as Record<string, number> }];
  });
}
