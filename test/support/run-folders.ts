// What a run of `lowrank tune` or `pretrain` has left, without the fields that hold times.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { filesBelow } from "./folders.ts";

const times: readonly string[] = ["started", "seconds", "stepsPerSecond"];

/** Made of the other files, and of their times. */
const derived = /^(report\.html|events\.out\..*)$/;

/** Every file of a run folder by name; JSON without times, all else as base64. */
export function comparableFiles(folder: string): Map<string, unknown> {
  const files = filesBelow(folder).filter((file) => !derived.test(file));
  return new Map(files.map((file) => [file, comparable(join(folder, file))]));
}

function comparable(path: string): unknown {
  if (path.endsWith(".jsonl")) return records(path).map(withoutTimes);
  if (path.endsWith("summary.json")) return withoutTimes(JSON.parse(readFileSync(path, "utf8")) as object);
  return readFileSync(path).toString("base64");
}

/** The lines of a metrics.jsonl. */
export function records(path: string): Record<string, unknown>[] {
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Record<string, unknown>);
}

function withoutTimes(record: object): object {
  return Object.fromEntries(Object.entries(record).filter(([key]) => !times.includes(key)));
}
