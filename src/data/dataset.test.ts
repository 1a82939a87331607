import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors } from "../adapter/safetensors.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type Dataset, openDataset } from "./dataset.ts";
import type { InputShape } from "./fields.ts";
import { formatRecord } from "./formats/csv.ts";
import type { PositionedSourceBatch, RowSource, SourcePosition } from "./source.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-data-"));
});
afterAll(() => rm(folder, { recursive: true }));

let files = 0;
async function file(content: string | Uint8Array, ending: string): Promise<string> {
  const path = join(folder, `file${files++}${ending}`);
  await writeFile(path, content);
  return path;
}

const x2: InputShape = { name: "x", type: "float32", dims: ["batch", 2] };
const start: SourcePosition = { epoch: 0, index: 0 };

async function take(
  source: RowSource,
  count: number,
  from = start,
): Promise<(PositionedSourceBatch & { x: number[]; y: number[] })[]> {
  const taken = [];
  for await (const given of source.batches(from)) {
    const x = [...Object.values(given.batch.inputs)[0]!.data].map(Number);
    taken.push({ ...given, x, y: [...given.batch.labels.data].map(Number) });
    if (taken.length === count) break;
  }
  return taken;
}

async function allNamed(dataset: Dataset): Promise<unknown[]> {
  const rows = [];
  for await (const row of dataset.rows()) rows.push(row);
  return rows;
}

const idx = (dims: readonly number[], values: readonly number[]): Uint8Array =>
  Uint8Array.from([0, 0, 8, dims.length, ...dims.flatMap((dim) => [0, 0, 0, dim]), ...values]);

describe("CSV", () => {
  it("reads numbers by column names, and gives batches", async () => {
    const data = await openDataset(await file("label,x0,x1\n1,0.5,2\r\n0,-1,4\n", ".csv"));
    const source = await data.source({ inputs: [x2], shuffle: false, batchSize: 2 });
    const [first] = await take(source, 1);
    expect([first!.x, first!.y, first!.next]).toEqual([[0.5, 2, -1, 4], [1, 0], { epoch: 1, index: 0 }]);
    expect(source.batchesPerEpoch).toBe(1);
    await data.close();
  });

  it("finds the delimiter, quoted cells, and numbers without a header", async () => {
    const quoted = await openDataset(await file('name;text\n"a;b";"line one\nline ""two"""\n', ".csv"));
    expect(await allNamed(quoted)).toEqual([{ name: "a;b", text: 'line one\nline "two"' }]);
    const plain = await openDataset(await file("5,1,2\n6,3,4", ".csv"));
    expect(plain.columns.map(({ name }) => name)).toEqual(["c0", "c1", "c2"]);
    const source = await plain.source({ inputs: [x2], map: { labels: "c0" }, shuffle: false });
    expect((await take(source, 1)).map(({ x, y }) => [x, y])).toEqual([
      [
        [1, 2, 3, 4],
        [5, 6],
      ],
    ]);
    await quoted.close();
    await plain.close();
  });

  it("normalizes numbers that are kept in memory as those that are read in blocks", async () => {
    const rows = "label,x0,x1\n0,17,255\n1,3,0.25\n";
    const normalization = { scale: 1 / 255, mean: [0.1307], std: [0.3081] };
    const values: number[][] = [];
    for (const text of [rows, rows.replace("label,", "label,note,").replaceAll(/\n(\d),/g, "\n$1,text,")]) {
      const data = await openDataset(await file(text, ".csv"));
      const source = await data.source({ inputs: [x2], shuffle: false, normalization });
      values.push((await take(source, 1))[0]!.x);
      await data.close();
    }
    expect(values[0]).toEqual(values[1]);
    expect(values[0]![1]).toBeCloseTo((1 - 0.1307) / 0.3081, 6);
  });

  it("keeps codes and large whole numbers as they are", async () => {
    const data = await openDataset(await file("id,code\n16777217,007\n2,8\n", ".csv"));
    expect(await allNamed(data)).toEqual([
      { id: "16777217", code: "007" },
      { id: "2", code: "8" },
    ]);
    await data.close();
  });

  it("names faulty rows by file and line, all at once, or counts them", async () => {
    const path = await file('label,x0,x1\n1,2,3\n1,2\n\n1,2,3,4\n"a"b,2,3\n0,5,6\n', ".csv");
    await expect(openDataset(path)).rejects.toMatchObject({
      code: "data",
      faults: [
        `${path}:3: expected 3 cells as in the first record, got 2`,
        `${path}:5: expected 3 cells as in the first record, got 4`,
        `${path}:6: expected "," after a quoted cell, got "b"`,
      ],
    });
    const data = await openDataset(path, { onBadRow: "skip" });
    expect([data.length, data.skipped.count]).toEqual([2, 3]);
    const source = await data.source({ inputs: [x2], shuffle: false });
    expect((await take(source, 1))[0]!.x).toEqual([2, 3, 5, 6]);
    await data.close();
  });

  it("refuses an empty file, an open quote, equal column names", async () => {
    await expect(openDataset(await file("", ".csv"))).rejects.toThrow("expected a row or more, got none");
    await expect(openDataset(await file("a,b\n", ".csv"))).rejects.toThrow("expected a row or more, got none");
    await expect(openDataset(await file('a,b\n1,"2\n3,4\n', ".csv"))).rejects.toThrow(
      ":2: a quote is opened and never",
    );
    await expect(openDataset(await file("a,a\n1,2\n", ".csv"))).rejects.toThrow('two columns are called "a"');
  });

  it("gives back any cells that were written", async () => {
    const cell = fc.string({ unit: fc.constantFrom("a", "1", ",", ";", '"', "\n", "\r", " ", "é", "\t", "😀") });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(cell, cell), { minLength: 1, maxLength: 8 }), async (rows) => {
        const text = [["first", "second"], ...rows].map(formatRecord).join("\r\n");
        const data = await openDataset(await file(text, ".csv"), { header: true });
        const read = (await allNamed(data)) as { first: string; second: string }[];
        await data.close();
        const same = (value: unknown, written: string): boolean =>
          String(value) === written || (typeof value === "number" && value === Number(written));
        expect(read.length).toBe(rows.length);
        for (const [index, [first, second]] of rows.entries()) {
          expect(same(read[index]!.first, first) && same(read[index]!.second, second)).toBe(true);
        }
      }),
      { numRuns: 40 },
    );
  });
});

describe("JSON Lines", () => {
  it("reads arrays, class names, and whatever keys lines have", async () => {
    const lines = ['{"x":[1,2],"label":"dog"}', '{"label":"cat","x":[[3],[4]],"note":null}'];
    const data = await openDataset(await file(lines.join("\n"), ".jsonl"));
    expect(await allNamed(data)).toEqual([
      { x: [1, 2], label: "dog", note: null },
      { x: [[3], [4]], label: "cat", note: null },
    ]);
    const source = await data.source({ inputs: [x2], shuffle: false });
    expect(source.labels).toEqual(["cat", "dog"]);
    const [first] = await take(source, 1);
    expect([first!.x, first!.y]).toEqual([
      [1, 2, 3, 4],
      [1, 0],
    ]);
    await data.close();
  });

  it("names every line that is broken or hostile", async () => {
    const path = await file(
      Buffer.concat([
        Buffer.from('{"x":[1,2],"label":0}\n[1]\n{"x":\nnull\n'),
        Buffer.from([0x7b, 0xff, 0x7d, 10]),
        Buffer.from('{"x":[1,2],"label":0,"__proto__":{"label":7}}\n'),
      ]),
      ".jsonl",
    );
    const error = await openDataset(path).catch((caught: unknown) => caught as { faults: string[] });
    const faults = (error as { faults: string[] }).faults;
    expect(faults.map((fault) => fault.slice(path.length, path.length + 26))).toEqual(
      [
        ":2: expected a JSON object,",
        ":3: expected a JSON object:",
        ":4: expected a JSON object,",
        ":5: expected UTF-8 text, g",
      ].map((text) => text.slice(0, 26)),
    );
    const data = await openDataset(path, { onBadRow: "skip" });
    expect([data.length, data.skipped.count]).toEqual([2, 4]);
    await data.close();
  });

  it("names rows that do not fit the model, before any batch", async () => {
    const lines = [
      '{"x":[1,2],"label":0}',
      '{"x":[1],"label":0}',
      '{"x":[1,"a"],"label":0}',
      '{"x":[1,2],"label":9}',
      '{"label":1}',
    ];
    const path = await file(`${lines.join("\n")}\n`, ".jsonl");
    const data = await openDataset(path);
    const options = { inputs: [x2], labels: { classes: 3 } };
    await expect(data.source(options)).rejects.toMatchObject({
      faults: [
        `${path}:2: x: expected 2 numbers, got 1`,
        `${path}:3: x: expected numbers for float32, got "a" as element 1`,
        `${path}:4: label: expected a class, 0 to 2, got 9`,
        `${path}:5: x: expected 2 numbers, got nothing`,
      ],
    });
    await data.close();
    const lenient = await openDataset(path, { onBadRow: "skip" });
    const source = await lenient.source(options);
    expect([source.examples, source.skipped.count]).toEqual([1, 4]);
    await lenient.close();
  });

  it("reads files of many blocks, each row once in a pass, from any position on", async () => {
    const count = 3000; // some 3 MB: a dozen blocks
    const lines = Array.from({ length: count }, (_, i) =>
      JSON.stringify({ x: [i, -i], label: i, pad: "é".repeat(500) }),
    );
    const data = await openDataset(await file(lines.join("\n"), ".jsonl"));
    const source = await data.source({ inputs: [x2], batchSize: 64, seed: 3 });
    const twoPasses = await take(source, 2 * source.batchesPerEpoch!);
    const pass = (from: number): number[] => twoPasses.slice(from, from + 47).flatMap(({ y }) => y);
    expect([...pass(0)].sort((a, b) => a - b)).toEqual([...Array(count).keys()]);
    expect([...pass(47)].sort((a, b) => a - b)).toEqual([...Array(count).keys()]);
    expect(pass(0)).not.toEqual(pass(47));
    for (const at of [0, 13, 46, 60]) {
      const again = await take(source, 3, twoPasses[at]!.next);
      expect(again.map(({ y }) => y)).toEqual(twoPasses.slice(at + 1, at + 4).map(({ y }) => y));
    }
    await data.close();
  });
});

describe("arrays", () => {
  it("reads IDX files, bytes scaled and normalized", async () => {
    const images = await file(idx([2, 1, 2], [0, 255, 51, 102]), "-idx3-ubyte");
    const labels = await file(idx([2], [7, 3]), "-idx1-ubyte");
    const data = await openDataset([images, labels]);
    const flat = await data.source({ inputs: [x2], shuffle: false });
    expect((await take(flat, 1)).map(({ x, y }) => [x, y])).toEqual([
      [
        [0, 1, Math.fround(0.2), Math.fround(0.4)],
        [7, 3],
      ],
    ]);
    const shaped = await data.source({
      inputs: [{ name: "image", type: "float32", dims: [-1, 1, 1, 2] }],
      shuffle: false,
      normalization: { mean: [0.5], std: [0.5] },
    });
    const [batch] = await take(shaped, 1);
    expect(batch!.batch.inputs.image!.dims).toEqual([2, 1, 1, 2]);
    expect(batch!.x.map((value) => Math.round(value * 1e6) / 1e6)).toEqual([-1, 1, -0.6, -0.2]);
    const wrong = [{ name: "x", type: "float32", dims: ["B", 3] }] as const;
    await expect(data.source({ inputs: wrong })).rejects.toThrow(
      "x: expected [3] for each example, got [1,2] (2 values)",
    );
    await data.close();
  });

  it("reads safetensors, and refuses tensors that disagree", async () => {
    const x = tensor("float32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6));
    const tensors = (rows: number) =>
      writeSafetensors(
        new Map<string, Tensor>([
          ["x", x],
          ["labels", tensor("int64", [rows], new BigInt64Array(rows).fill(1n))],
        ]),
      );
    const data = await openDataset(await file(tensors(3), ".safetensors"));
    const source = await data.source({ inputs: [x2], shuffle: false, batchSize: 2 });
    expect((await take(source, 2)).map((batch) => batch.x)).toEqual([
      [1, 2, 3, 4],
      [5, 6],
    ]);
    await expect(openDataset(await file(tensors(2), ".safetensors"))).rejects.toMatchObject({ code: "data" });
    await expect(openDataset(await file(Uint8Array.of(1, 2), ".safetensors"))).rejects.toMatchObject({ code: "data" });
  });
});

describe("filters and splits", () => {
  it("keeps the rows for which all filters hold", async () => {
    const rows = Array.from({ length: 10 }, (_, i) => `${i},${i % 2 === 0 ? "even" : "odd"}`);
    const data = await openDataset(await file(`n,kind\n${rows.join("\n")}\n`, ".csv"));
    const numbers = async (...filters: string[]): Promise<number[]> =>
      ((await allNamed(await data.filter(...filters))) as { n: string }[]).map(({ n }) => Number(n));
    expect(await numbers("n=9")).toEqual([9]);
    expect(await numbers("n<3", "kind=even")).toEqual([0, 2]);
    expect(await numbers("kind!=even", "n>=5")).toEqual([5, 7, 9]);
    expect(await numbers("n in 3, 8")).toEqual([3, 8]);
    await expect(data.filter("knd=odd")).rejects.toThrow("there is no column knd (near: kind");
    await expect(data.filter("n")).rejects.toThrow("expected a column, one of");
    await expect(data.filter("n>90")).rejects.toThrow("none of 10 rows passes n>90");
    expect((await allNamed(data.limit(2))).length).toBe(2);
    await data.close();
  });

  it("splits into two parts that share no row and miss none, equal rows on one side", async () => {
    const rows = Array.from({ length: 400 }, (_, i) => `${i % 200},0`);
    const data = await openDataset(await file(`n,label\n${rows.join("\n")}\n`, ".csv"));
    const numbers = async (part: Dataset): Promise<number[]> =>
      ((await allNamed(part)) as { n: number }[]).map(({ n }) => n);
    const { rest, heldOut } = await data.split(0.25, 5);
    const [left, right] = [await numbers(rest), await numbers(heldOut)];
    expect([...left, ...right].sort((a, b) => a - b)).toEqual((await numbers(data)).sort((a, b) => a - b));
    expect(right.filter((n) => left.includes(n))).toEqual([]);
    expect(right.length / 400).toBeGreaterThan(0.15);
    expect(right.length / 400).toBeLessThan(0.35);
    expect(await numbers((await data.split(0.25, 5)).heldOut)).toEqual(right);
    await data.close();
  });
});
