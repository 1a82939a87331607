// What a run folder says of its run, read back from its files: config.json, metrics.jsonl, summary.json, and evaluation.json where
// there is one. Nothing in them is trusted to be what it should be: what is no number is no point of a curve.
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { fileError } from "./file-error.ts";
import { readFileChecked } from "./files.ts";

export interface StepPoint {
  readonly step: number;
  readonly loss: number;
  readonly lr: number;
}

export interface EvaluationPoint {
  readonly step: number;
  /** `target/loss`, `retained/accuracy`, …: to its value. */
  readonly values: Readonly<Record<string, number>>;
}

/** What one adapter, or the base, came to on the run's evaluation data. */
export interface ResultRecord {
  readonly name: string;
  /** `loss`, `accuracy`, …: to its value. */
  readonly values: Readonly<Record<string, number>>;
  readonly confusion: readonly (readonly number[])[] | null;
  /** The first examples that are read wrongly. */
  readonly wrong: readonly MisreadRecord[];
}

export interface MisreadRecord {
  readonly index: number;
  readonly label: number;
  readonly read: number;
}

/** An example that was read otherwise than by the base. */
export interface ChangedRecord {
  readonly index: number;
  readonly label: number;
  readonly base: number;
  readonly adapter: number;
}

export interface RunRecord {
  readonly path: string;
  readonly verb: string;
  /** "unfinished" has no summary: it runs still, or was killed. */
  readonly state: "complete" | "stopped" | "unfinished";
  readonly started: string | null;
  readonly seconds: number | null;
  /** Steps of training. */
  readonly steps: number;
  readonly best: { readonly metric: string; readonly value: number } | null;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly labels: readonly string[] | null;
  readonly points: readonly StepPoint[];
  readonly evaluations: readonly EvaluationPoint[];
  readonly results: readonly ResultRecord[];
  readonly changed: readonly ChangedRecord[];
  /** summary.json as it is. */
  readonly summary: Readonly<Record<string, unknown>> | null;
}

const marker = ".lowrank-run";

/**
 * Reads a run folder.
 *
 * @throws LowrankError "file" when it is none, or a file of it cannot be read.
 */
export async function readRun(path: string): Promise<RunRecord> {
  const names = await readdir(path).catch((error: unknown) => {
    throw fileError(path, "read", error);
  });
  if (!names.includes(marker)) {
    throw new LowrankError("file", `${path}: expected the folder of a run, got another (there is no ${marker} in it)`);
  }
  const read = async (name: string): Promise<Record<string, unknown> | null> =>
    names.includes(name) ? parseObject(join(path, name)) : null;
  const [summary, config, env, evaluation] = [
    await read("summary.json"),
    await read("config.json"),
    await read("env.json"),
    await read("evaluation.json"),
  ];
  // The summary of `lowrank eval` is an evaluation itself.
  const found = evaluation ?? summary;
  const records = names.includes("metrics.jsonl") ? await readLines(join(path, "metrics.jsonl")) : [];
  const points = records.flatMap(stepOf);
  const best = objectOf(summary?.best);
  return {
    path,
    verb: textOf(summary?.verb) ?? textOf(env?.verb) ?? (objectOf(summary?.heads) === null ? nameVerb(path) : "study"),
    state: summary === null ? "unfinished" : summary.complete === false ? "stopped" : "complete",
    started: textOf(summary?.started),
    seconds: numberOf(summary?.seconds),
    steps: numberOf(summary?.steps) ?? points.reduce((most, { step }) => Math.max(most, step), 0),
    best:
      textOf(best?.metric) !== null && numberOf(best?.value) !== null
        ? { metric: best!.metric as string, value: best!.value as number }
        : null,
    settings: objectOf(summary?.settings) ?? config ?? {},
    labels: listOf(objectOf(summary?.data)?.labels, (value) => typeof value === "string") as readonly string[] | null,
    points,
    evaluations: records.flatMap(evaluationOf),
    results: (Array.isArray(found?.results) ? found.results : []).flatMap(resultOf),
    changed: changedOf(found),
    summary,
  };
}

/** The runs in a folder: itself, if it is one, or those directly below it, by name. */
export async function findRuns(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw fileError(folder, "read", error);
  });
  if (entries.some(({ name }) => name === marker)) return [folder];
  const found: string[] = [];
  for (const name of entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : [])).sort()) {
    const inside = await readdir(join(folder, name)).catch((): string[] => []);
    if (inside.includes(marker)) found.push(join(folder, name));
  }
  return found;
}

async function parseObject(path: string): Promise<Record<string, unknown>> {
  const text = new TextDecoder().decode(await readFileChecked(path));
  try {
    return objectOf(JSON.parse(text)) ?? {};
  } catch (cause) {
    throw new LowrankError("file", `${path}: expected JSON; it was not written by a run`, { cause });
  }
}

/** The objects of a file of lines; the last line may be half written still. */
async function readLines(path: string): Promise<Record<string, unknown>[]> {
  const lines = new TextDecoder().decode(await readFileChecked(path)).split("\n");
  return lines.flatMap((line) => {
    try {
      const value = objectOf(JSON.parse(line));
      return value === null ? [] : [value];
    } catch {
      return [];
    }
  });
}

function stepOf({ kind, step, loss, lr }: Record<string, unknown>): StepPoint[] {
  if (kind !== "step" || typeof step !== "number") return [];
  return [{ step, loss: numberOf(loss) ?? Number.NaN, lr: numberOf(lr) ?? Number.NaN }];
}

function evaluationOf({ kind, step, ...rest }: Record<string, unknown>): EvaluationPoint[] {
  if (kind !== "evaluation" || typeof step !== "number") return [];
  const values = Object.entries(rest).filter(([name, value]) => name.includes("/") && numberOf(value) !== null);
  return [{ step, values: Object.fromEntries(values) as Record<string, number> }];
}

/** What an evaluation measures of each adapter. */
const measures = ["loss", "perplexity", "accuracy", "meanAbsoluteError"] as const;

function resultOf(value: unknown): ResultRecord[] {
  const result = objectOf(value);
  const name = textOf(result?.name);
  if (name === null) return [];
  const rows = listOf(result?.confusion, (row) => listOf(row, (cell) => numberOf(cell) !== null) !== null);
  const confusion = rows as readonly (readonly number[])[] | null;
  const isSquare = confusion?.every((row) => row.length === confusion.length) === true;
  const wrong = examplesOf(result?.wrong, ["index", "label", "read"]) as readonly MisreadRecord[];
  const values = Object.fromEntries(
    measures.flatMap((measure) => {
      const number = numberOf(result?.[measure]);
      return number === null ? [] : [[measure, number]];
    }),
  );
  return [{ name, values, confusion: isSquare && confusion.length > 0 ? confusion : null, wrong }];
}

function changedOf(evaluation: Record<string, unknown> | null): readonly ChangedRecord[] {
  const changes = Array.isArray(evaluation?.changes) ? evaluation.changes : [];
  return examplesOf(objectOf(changes[0])?.examples, ["index", "label", "base", "adapter"]) as readonly ChangedRecord[];
}

/** Those of a list that have a number under each name. */
function examplesOf(list: unknown, names: readonly string[]): readonly unknown[] {
  const isExample = (value: unknown): boolean => {
    const example = objectOf(value);
    return names.every((name) => numberOf(example?.[name]) !== null);
  };
  return (Array.isArray(list) ? list : []).filter(isExample);
}

/** `runs/tune-2026-11-23T…` is a tune. */
function nameVerb(path: string): string {
  return /^([a-z]+)-\d{4}-/.exec(basename(path))?.[1] ?? "run";
}

function objectOf(value: unknown): Record<string, unknown> | null {
  return value !== null && typeof value === "object" && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function listOf(value: unknown, isItem: (item: unknown) => boolean): readonly unknown[] | null {
  return Array.isArray(value) && value.every(isItem) ? value : null;
}
