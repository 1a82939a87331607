import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { openDataset } from "./dataset.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-parquet-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const rows = 25;
const numbers = Array.from({ length: rows }, (_, row) => row / 4);
const labels = Array.from({ length: rows }, (_, row) => row % 3);
const names = Array.from({ length: rows }, (_, row) => (row === 7 ? null : `row ${row}`));

async function fileOf(
  name: string,
  rowGroupSize: number,
  codec: "SNAPPY" | "UNCOMPRESSED" = "SNAPPY",
): Promise<string> {
  const path = join(folder, name);
  const bytes = parquetWriteBuffer({
    columnData: [
      { name: "x", data: numbers, type: "DOUBLE" },
      { name: "label", data: labels, type: "INT32" },
      { name: "text", data: names, type: "STRING" },
    ],
    rowGroupSize,
    codec,
  });
  await writeFile(path, new Uint8Array(bytes));
  return path;
}

async function faultOf(promise: Promise<unknown>): Promise<LowrankError> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof LowrankError) return error;
  throw error ?? new Error("nothing was thrown");
}

describe("Parquet", () => {
  it.each([
    ["one row group", 100, "SNAPPY"],
    ["row groups of ten", 10, "SNAPPY"],
    ["row groups of one", 1, "UNCOMPRESSED"],
  ] as const)("gives every row in its order: %s", async (name, size, codec) => {
    const data = await openDataset(await fileOf(`${name}.parquet`, size, codec));
    expect([data.format, data.length, data.columns.map((column) => column.name)]).toEqual([
      "parquet",
      rows,
      ["x", "label", "text"],
    ]);
    const source = await data.source({
      inputs: [{ name: "x", type: "float32", dims: ["batch"] }],
      batchSize: 8,
      shuffle: false,
      passes: 1,
    });
    const given: number[] = [];
    const classes: bigint[] = [];
    for await (const { batch } of source.batches({ epoch: 0, index: 0 })) {
      given.push(...(batch.inputs.x!.data as Float32Array));
      classes.push(...(batch.labels.data as BigInt64Array));
    }
    expect(given).toEqual(numbers);
    expect(classes.map(Number)).toEqual(labels);
    await data.close();
  });

  it("gives each row once in a shuffled pass, and filters", async () => {
    const data = await openDataset(await fileOf("shuffled.parquet", 4));
    const only = await data.filter("label=1");
    expect(only.length).toBe(8);
    const source = await only.source({
      inputs: [{ name: "x", type: "float32", dims: ["batch"] }],
      batchSize: 3,
      seed: 5,
      passes: 1,
    });
    const given: number[] = [];
    for await (const { batch } of source.batches({ epoch: 0, index: 0 }))
      given.push(...(batch.inputs.x!.data as Float32Array));
    expect(given.sort((a, b) => a - b)).toEqual(numbers.filter((_, row) => row % 3 === 1));
    await only.close();
  });

  it("shuffles few row groups together where they are large", async () => {
    const path = join(folder, "large.parquet");
    const text = Array.from({ length: 40 }, (_, row) => `${row} ${"x".repeat(2 ** 20)}`);
    const columnData = [
      { name: "x", data: Array.from(text.keys()), type: "INT32" as const },
      { name: "text", data: text, type: "STRING" as const },
    ];
    // 4 groups of 10 MiB: three are shuffled together.
    const bytes = parquetWriteBuffer({ columnData, rowGroupSize: 10, codec: "UNCOMPRESSED" });
    await writeFile(path, new Uint8Array(bytes));
    const data = await openDataset(path);
    const inputs = [{ name: "x", type: "float32", dims: ["batch"] }] as const;
    const source = await data.source({ inputs, labels: { kind: "none" }, batchSize: 10, passes: 1 });
    const groups: number[] = [];
    for await (const { rows: given } of source.batches({ epoch: 0, index: 0 })) {
      groups.push(new Set(given.map((row) => Math.floor(row / 10))).size);
    }
    expect(groups.slice(0, 3).every((count) => count > 1)).toBe(true);
    expect(groups[3]).toBe(1);
    await data.close();
  });

  it("is known by its first bytes, whatever its name", async () => {
    const data = await openDataset(await fileOf("without-an-ending", 100));
    expect([data.format, data.length]).toEqual(["parquet", rows]);
    await data.close();
  });

  it.each([0, 3, 100, 400, 800, 1100])("refuses a file that is cut after %i bytes, and names it", async (length) => {
    const whole = await readFile(await fileOf("whole.parquet", 10));
    const cut = join(folder, "cut.parquet");
    await writeFile(cut, whole.subarray(0, length));
    const { code, message } = await faultOf(openDataset(cut));
    expect([code, message]).toEqual([
      "data",
      expect.stringMatching(/cut\.parquet: (no Parquet file that can be read: |expected a row or more)/),
    ]);
  });

  /** What must not be asked of a damaged file: a right answer takes half a second of processor time at most; the rest is for a busy machine. */
  const patienceMs = 5_000;

  it("never hangs, crashes or gives other than all rows, whichever bit of a file is turned", {
    timeout: 120_000,
  }, async () => {
    const whole = await readFile(await fileOf("flipped.parquet", 10, "UNCOMPRESSED"));
    const damaged = join(folder, "damaged.parquet");
    const flip = fc.record({ at: fc.nat(whole.length - 1), bit: fc.nat(7) });
    // Turned there, a count or a size loops for hours or fills memory.
    const known = [13, 277, 668, 671].map((at): [{ at: number; bit: number }] => [{ at, bit: 7 }]);
    await fc.assert(
      fc.asyncProperty(flip, async ({ at, bit }) => {
        const bytes = new Uint8Array(whole);
        bytes[at]! ^= 1 << bit;
        await writeFile(damaged, bytes);
        const begun = performance.now();
        const outcome = await readAll(damaged).catch((error: unknown) => error);
        expect(performance.now() - begun).toBeLessThan(patienceMs);
        if (outcome instanceof LowrankError) {
          expect(outcome.code).toBe("data");
          expect(outcome.message).toMatch(/damaged\.parquet.*: ./);
        } else expect(outcome).toHaveLength(rows);
      }),
      { numRuns: 24, examples: known },
    );
  });
});

async function readAll(path: string): Promise<unknown[]> {
  const data = await openDataset(path);
  const all: unknown[] = [];
  for await (const row of data.rows()) all.push(row);
  await data.close();
  return all;
}
