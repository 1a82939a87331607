// CSV files of numbers, held in memory: one row an example, a header with the names of its columns.
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { parse } from "csv-parse/sync";
import { LowrankError, throwFaults } from "../errors.ts";
import { createRandom } from "../random.ts";
import { readFileChecked } from "../runs/files.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { batchesOf } from "../train/data-source.ts";
import type { Batch } from "../train/step.ts";
import type { DataRequest, Match, RunData, RunSource } from "./run-data.ts";

interface Rows {
  readonly header: readonly string[];
  readonly cells: readonly (readonly string[])[];
  readonly sha256: Record<string, string>;
}

export async function openTableData({ model, options, chooseLoss }: DataRequest): Promise<RunData> {
  const rows = await readRows(options.data!);
  const input = model.graph.inputs[0]!;
  const width = Number(input.shape?.[1]);
  const label = rows.header.findIndex((name) => ["label", "labels", "target"].includes(name));
  const columns = rows.header.map((_, index) => index).filter((index) => index !== label);
  throwFaults("data", options.data!.join(", "), [
    ...(label >= 0 ? [] : ["expected a column label, labels or target, got none"]),
    ...(columns.length === width ? [] : [`${input.name}: expected ${width} columns, got ${columns.length}`]),
  ]);
  const loss = chooseLoss(rows.cells.every((row) => /^\d+$/.test(row[label]!)) ? "classes" : "numbers");
  const batchOf = (chosen: Rows["cells"]): Batch => ({
    inputs: {
      [input.name]: tensor(
        "float32",
        [chosen.length, width],
        Float32Array.from(chosen.flatMap((row) => columns.map((column) => Number(row[column])))),
      ),
    },
    labels: labelsOf(
      chosen.map((row) => row[label]!),
      loss === "cross_entropy",
    ),
  });
  const held = rows.cells.map((_, index) => createRandom(options.seed, `row ${index}`).uniform() < options.split);
  const source = (chosen: Rows["cells"], shuffle: boolean): RunSource =>
    batchesOf(batchOf(chosen), { batchSize: options.batchSize, seed: options.seed, shuffle }) as RunSource;
  const train = rows.cells.filter((_, index) => !held[index]);
  const other =
    options.evalData === null ? rows.cells.filter((_, index) => held[index]) : (await readRows(options.evalData)).cells;
  const matches: Match[] = [{ input: input.name, column: `${rows.header[columns[0]!]} …`, shape: [width] }];
  return {
    train: source(train, true),
    target: other.length === 0 ? null : source(other, false),
    retained: options.retainedData === null ? null : source((await readRows(options.retainedData)).cells, false),
    rows: { train: train.length, target: other.length, retained: 0, replay: 0 },
    matches,
    loss,
    labelNames: null,
    sha256: rows.sha256,
    close: () => Promise.resolve(),
  };
}

function labelsOf(values: readonly string[], areClasses: boolean): Tensor {
  return areClasses
    ? tensor("int64", [values.length], BigInt64Array.from(values, BigInt))
    : tensor("float32", [values.length, 1], Float32Array.from(values, Number));
}

async function readRows(paths: readonly string[]): Promise<Rows> {
  const sha256: Record<string, string> = {};
  const all: string[][] = [];
  let header: string[] = [];
  for (const path of paths) {
    const bytes = await readFileChecked(path);
    sha256[basename(path)] = createHash("sha256").update(bytes).digest("hex");
    const [first, ...cells] = parse(Buffer.from(bytes)) as string[][];
    if (first === undefined) throw new LowrankError("data", `${path}: expected a header, got an empty file`);
    header = first;
    all.push(...cells);
  }
  return { header, cells: all, sha256 };
}
