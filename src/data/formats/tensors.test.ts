// IDX and safetensors files that are read in blocks give what those in memory give, and the same faults.
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors } from "../../adapter/safetensors.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { Row, Table } from "../table.ts";
import { openIdx, openSafetensors } from "./tensors.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-tensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function written(name: string, content: Uint8Array): Promise<string> {
  await writeFile(join(folder, name), content);
  return join(folder, name);
}

/** Big-endian int32, as IDX has it. */
const wide = (values: readonly number[]): number[] =>
  values.flatMap((value) => [value >> 24, value >> 16, value >> 8, value]);
const idx = (code: number, dims: readonly number[], bytes: readonly number[]): Uint8Array =>
  Uint8Array.from([0, 0, code, dims.length, ...wide(dims), ...bytes]);

async function rowsOf(table: Table): Promise<readonly Row[]> {
  const blocks = [...table.blocks.keys()].slice(1).map((block) => table.read(block - 1));
  return (await Promise.all(blocks)).flat() as Row[];
}

const rows = 700;
const values = Array.from({ length: rows * 300 }, (_, at) => ((at * 7919) % 100_003) - 50_000);
const tensors = new Map<string, Tensor>([
  [
    "x",
    tensor(
      "float32",
      [rows, 3, 100],
      Float32Array.from(values, (value) => value / 7),
    ),
  ],
  [
    "n",
    tensor(
      "int64",
      [rows, 2],
      BigInt64Array.from({ length: rows * 2 }, (_, at) => BigInt(at) - 9n),
    ),
  ],
  [
    "label",
    tensor(
      "uint8",
      [rows],
      Uint8Array.from({ length: rows }, (_, row) => row % 10),
    ),
  ],
]);

describe("arrays that are too large for memory", () => {
  it("of a safetensors file have the same rows in blocks", async () => {
    const path = await written("rows.safetensors", writeSafetensors(tensors));
    const [whole, parts] = [await openSafetensors(path), await openSafetensors(path, { memoryBytes: 1000 })];
    expect([whole.at === undefined, parts.at === undefined]).toEqual([false, true]);
    expect(parts.blocks.length).toBeGreaterThan(3);
    expect(parts.columns).toEqual(whole.columns);
    expect(await rowsOf(parts)).toEqual(await rowsOf(whole));
    expect(await parts.where(5)).toBe(`${path}: row 5`);
    await parts.close();
  });

  it("of IDX files have the same rows in blocks, beside labels in memory or packed", async () => {
    const images = await written("a-images-idx3", idx(12, [rows, 3, 100], wide(values)));
    const labels = idx(
      8,
      [rows],
      Array.from({ length: rows }, (_, row) => row % 10),
    );
    const plain = await written("a-labels-idx1", labels);
    const packed = await written("b-labels-idx1.gz", gzipSync(labels));
    const whole = await rowsOf(await openIdx([images, plain]));
    expect(whole[699]![1]).toBe(9);
    for (const [second, memoryBytes] of [
      [plain, 10],
      [plain, 1000],
      [packed, 10],
    ] as const) {
      const table = await openIdx([images, second], { memoryBytes });
      expect([table.length, table.at]).toEqual([rows, undefined]);
      expect(await rowsOf(table)).toEqual(whole);
      await table.close();
    }
  });

  it("have the faults that they have in memory, before a row is read", async () => {
    const good = writeSafetensors(tensors);
    const endless = Uint8Array.from(good);
    endless.set([255, 255, 255, 255], 4);
    const files: [string, Uint8Array, (path: string, memoryBytes?: number) => Promise<Table>][] = [
      [
        "cut.safetensors",
        good.subarray(0, good.length - 4),
        (path, memoryBytes = 1e9) => openSafetensors(path, { memoryBytes }),
      ],
      ["header.safetensors", good.subarray(0, 60), (path, memoryBytes = 1e9) => openSafetensors(path, { memoryBytes })],
      ["length.safetensors", endless, (path, memoryBytes = 1e9) => openSafetensors(path, { memoryBytes })],
      ["cut-idx1", idx(8, [9], [1, 2]), (path, memoryBytes = 1e9) => openIdx([path], { memoryBytes })],
      ["more-idx1", idx(8, [1], [1, 2]), (path, memoryBytes = 1e9) => openIdx([path], { memoryBytes })],
      ["type-idx1", idx(7, [1], [1]), (path, memoryBytes = 1e9) => openIdx([path], { memoryBytes })],
    ];
    for (const [name, content, open] of files) {
      const path = await written(name, content);
      const fault = (error: unknown): unknown => (error as { faults: unknown }).faults;
      const inMemory = await open(path).catch(fault);
      expect(inMemory).toEqual([expect.stringMatching(/expected|bad/)]);
      expect(await open(path, 0).catch(fault)).toEqual(inMemory);
    }
  });

  it("of a file that became shorter say so", async () => {
    const path = await written("short.safetensors", writeSafetensors(tensors));
    const table = await openSafetensors(path, { memoryBytes: 0 });
    await truncate(path, 5000);
    await expect(table.read(1)).rejects.toThrow("became shorter while it was read");
    await table.close();
  });
});
