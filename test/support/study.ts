// What the study's journeys share: reading a run folder, and the table that STUDY.md begins with.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { StudySummary } from "lowrank";

/** The documented network, in the words and numbers that were published for it. */
export const reluTable = `Layer (type)  Output shape    Param #
-------------------------------------
Linear-1      [-1, 1000]      785,000
ReLU-2        [-1, 1000]            0
Linear-3      [-1, 2000]    2,002,000
ReLU-4        [-1, 2000]            0
Linear-5      [-1, 10]         20,010
ReLU-6        [-1, 10]              0
=====================================
Total params: 2,807,010
Input size (MB): 0.00
Forward/backward pass size (MB): 0.05
Params size (MB): 10.71
Estimated total size (MB): 10.76
`;

/** The same with a linear head. */
export const linearTable: string = reluTable.replace(/^ReLU-6.*\n/m, "");

export type MetricsLine = { kind: string; phase: string } & Record<string, unknown>;

/** Every line of metrics.jsonl; throws when one is not whole. */
export function readMetrics(run: string): MetricsLine[] {
  const text = readFileSync(join(run, "metrics.jsonl"), "utf8");
  if (text !== "" && !text.endsWith("\n")) throw new Error(`metrics.jsonl ends in half a line: ${text.slice(-100)}`);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as MetricsLine);
}

export function readSummary(run: string): StudySummary {
  return JSON.parse(readFileSync(join(run, "summary.json"), "utf8")) as StudySummary;
}

/** A folder's files by name, as readAdapter takes them. */
export function readFolder(folder: string): Map<string, Uint8Array> {
  return new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
}

/** Wrongly read images of each digit: the first of the largest logits is the prediction. */
export function wrongCounts(logits: Float32Array, labels: Uint8Array): number[] {
  const wrong = Array<number>(10).fill(0);
  labels.forEach((label, row) => {
    const own = logits.subarray(10 * row, 10 * row + 10);
    if (own.indexOf(Math.max(...own)) !== label) wrong[label]!++;
  });
  return wrong;
}
