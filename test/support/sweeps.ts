// Sweeps for the tests: a small base, data, configurations, and what two sweeps' folders have in common.
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { lowrank } from "./command.ts";
import { writeClusters } from "./tables.ts";

const points = { features: 12, classes: 4 };

/** Writes base.onnx and special.csv into a folder. */
export async function writeBase(work: string): Promise<void> {
  writeClusters(work, "general.csv", { ...points, rows: 200, seed: 1 });
  writeClusters(work, "special.csv", { ...points, rows: 200, seed: 2, turn: 1 });
  const command = "pretrain --layers 12,16,4 --data general.csv --out base --steps 40 --learning-rate 0.01 --threads 1";
  const { code, stderr } = await lowrank(command.split(" "), { cwd: work });
  expect(code, stderr).toBe(0);
  copyFileSync(join(work, "base", "model.onnx"), join(work, "base.onnx"));
}

export const tune: Readonly<Record<string, unknown>> = {
  model: "base.onnx",
  data: ["special.csv"],
  steps: 90,
  loraDropout: 0.1,
  batchSize: 16,
};

/** So many trials in three rungs. */
export function halvingOf(trials: number): object {
  const space = { learningRate: { loguniform: [0.0003, 0.1] }, r: { integer: [1, 8] }, optimizer: ["adamw", "lion"] };
  return { tune, search: { type: "asha", trials, minSteps: 10, space } };
}

export const halving: object = halvingOf(9);

/** Writes a configuration as JSON; returns its name. */
export function writeConfig(work: string, name: string, config: object): string {
  writeFileSync(join(work, name), JSON.stringify(config));
  return name;
}

export interface SweepFiles {
  readonly results: Record<string, unknown>;
  /** The adapters of all trials and the winner, as base64 by path. */
  readonly adapters: Record<string, string>;
}

/** All of a sweep's folder that must be the same wherever and however often it was trained. */
export function sweepFiles(folder: string): SweepFiles {
  const results: Record<string, unknown> = {};
  for (const name of readdirSync(join(folder, "results"))) {
    const { seconds: _, attempts: __, ...rest } = readJson(join(folder, "results", name));
    results[name] = rest;
  }
  const adapters: Record<string, string> = {};
  const all = readdirSync(folder, { recursive: true, withFileTypes: true });
  for (const entry of all.filter(({ name }) => /^adapter_(config\.json|model\.safetensors)$/.test(name))) {
    const path = join(entry.parentPath, entry.name);
    adapters[path.slice(folder.length + 1).replaceAll("\\", "/")] = readFileSync(path).toString("base64");
  }
  return { results, adapters };
}

export function readJson(path: string): Record<string, unknown> {
  return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
}
