// Broken and hostile data files of each kind: the file, the line and the reason are named, and nothing comes of them.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDataset } from "./dataset.ts";
import type { InputShape } from "./fields.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-hostile-"));
});
afterAll(() => rm(folder, { recursive: true }));

const inputs: InputShape[] = [{ name: "x", type: "float32", dims: ["batch", 2] }];

/** What is said of a file with this content, without the folder. */
async function faultOf(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  const read = async (): Promise<string> => {
    const data = await openDataset(path);
    await data.source({ inputs }).finally(() => data.close());
    return "it was taken";
  };
  const said = await read().catch((error: unknown) => (error as Error).message);
  return said.replaceAll(`${folder}/`, "");
}

const csv = (cell: string): string => `a,b,label\n1,2,0\n${cell},3,1\n`;
const jsonl = (x: string): string => `{"x":[1,2],"label":0}\n{"x":${x},"label":1}\n`;
const deep = "[".repeat(100_000) + "]".repeat(100_000);

describe("a broken file", () => {
  const cases: [name: string, content: string | Uint8Array, said: string][] = [
    ["nan.csv", csv("NaN"), 'nan.csv:3: a: expected a number for float32, got "NaN"'],
    ["infinite.csv", csv("1e999"), "infinite.csv:3: a: expected a number for float32, got Infinity"],
    ["large.csv", csv("1e39"), 'large.csv:3: a: expected a number for float32, got "1e39"'],
    ["empty.csv", csv(""), 'empty.csv:3: a: expected a number for float32, got ""'],
    ["short.csv", "a,b,label\n1,2,0\n1,2\n", "short.csv:3: expected 3 cells as in the first record, got 2"],
    ["mac.csv", "a,b,label\r1,2,0\r3,4,1\r", "mac.csv:1: a carriage return stands in a cell"],
    ["returns.csv", csv("1\r2"), "returns.csv:3: a carriage return stands in a cell"],
    ["large.jsonl", jsonl("[1e39,0]"), "large.jsonl:2: x: expected numbers for float32, got 1e+39 as element 0"],
    ["infinite.jsonl", jsonl("[1,-1e999]"), "got -Infinity as element 1"],
    ["first.jsonl", '{"x":[1],"label":0}\n{"x":[1,2],"label":0}\n', "first.jsonl:1: x: expected 2 numbers, got 1"],
    ["deep.jsonl", jsonl(deep), "deep.jsonl:2: expected at most 64 lists and objects in each other, got more"],
    ["list.jsonl", "[1]\n", "list.jsonl:1: expected a JSON object on each line, got an array"],
    ["rows.json", '[{"x":[1,2]}]', "rows.json: of no known format; a JSON list; write its rows as JSON Lines"],
    ["notes.txt", "some words", "notes.txt: of no known format; name it by its format: .csv, "],
    ["none.parquet", "", "none.parquet: no Parquet file that can be read: it has 0 bytes"],
  ];
  it.each(cases)("%s", async (name, content, said) => {
    expect(await faultOf(name, content)).toContain(said);
  });

  it("of no readable row says why, also where faulty rows are left out", async () => {
    const path = join(folder, "all.jsonl");
    await writeFile(path, "1\n2\n");
    await expect(openDataset(path, { onBadRow: "skip" })).rejects.toThrow(
      /expected a row or more, got none that can be read; the first fault: .*all\.jsonl:1: expected a JSON object/,
    );
  });

  it("may be mended: lists within bounds, and line ends in quotes, are data", async () => {
    const nested = `${"[".repeat(60)}1${"]".repeat(60)}`;
    expect(await faultOf("nested.jsonl", jsonl("[1,2]").replace('"label":1', `"label":1,"n":${nested}`))).toBe(
      "it was taken",
    );
    expect(await faultOf("quoted.csv", 'a,b,label,note\n1,2,0,"one\rtwo"\n1,2,0,x\n')).toContain("expected [2]");
  });
});

describe("normalization", () => {
  it("by a std of 0, or a mean that is no number, is refused", async () => {
    await writeFile(join(folder, "fine.jsonl"), jsonl("[1,2]"));
    const data = await openDataset(join(folder, "fine.jsonl"));
    for (const normalization of [{ std: [0] }, { mean: [Number.NaN] }]) {
      await expect(data.source({ inputs, normalization })).rejects.toThrow(
        "x: expected finite numbers for the mean, and for the std others than 0",
      );
    }
    await data.close();
  });
});

describe("images in an IDX file", () => {
  it("find their labels beside them, whichever of the two is packed", async () => {
    const images = Uint8Array.from([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4]);
    const labels = Uint8Array.from([0, 0, 8, 1, 0, 0, 0, 2, 7, 5]);
    await writeFile(join(folder, "a-images-idx3-ubyte.gz"), gzipSync(images));
    await writeFile(join(folder, "a-labels-idx1-ubyte"), labels);
    await writeFile(join(folder, "b-images-idx3-ubyte"), images);
    await writeFile(join(folder, "b-labels-idx1-ubyte.gz"), gzipSync(labels));
    for (const name of ["a-images-idx3-ubyte.gz", "b-images-idx3-ubyte"]) {
      const data = await openDataset(join(folder, name));
      expect(data.columns.map((column) => column.name)).toEqual(["image", "label"]);
      await data.close();
    }
  });
});
