// What a table's reader gives of rows is what they hold, however they are written, from text or from memory.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Cell, Row, Table } from "../table.ts";
import { formatRecord, openCsv } from "./csv.ts";
import { openJsonl } from "./jsonl.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-reader-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function written(name: string, text: string): Promise<string> {
  await writeFile(join(folder, name), text);
  return join(folder, name);
}

async function rowsOf(table: Table, read: Table["read"]): Promise<readonly Row[]> {
  const blocks = await Promise.all([...table.blocks.keys()].slice(1).map((block) => read(block - 1)));
  return blocks.flat() as Row[];
}

const plainCell = (cell: Cell): unknown => (ArrayBuffer.isView(cell) ? Array.from(cell as Float64Array) : cell);

describe("a reader of JSON Lines", () => {
  const number = fc.oneof(
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer({ min: 0, max: 255 }),
  );
  const value = fc.oneof(fc.array(number, { maxLength: 40 }), number, fc.jsonValue({ maxDepth: 2 }));
  const key = fc.constantFrom("x", "label", "note", "é", 'a"b', "__proto", "");

  it("gives what JSON.parse gives of the wanted keys", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.dictionary(key, value, { noNullPrototype: true }), { minLength: 1, maxLength: 10 }),
        fc.constantFrom(undefined, 1),
        fc.constantFrom(0, undefined),
        async (lines, indent, memoryBytes) => {
          // With an indent, line breaks stand for the spaces that other writers put between.
          const text = lines.map((line) => JSON.stringify(line, null, indent).replaceAll("\n", " ")).join("\n");
          const table = await openJsonl(
            await written("rows.jsonl", text),
            memoryBytes === undefined ? {} : { memoryBytes },
          );
          const whole = await rowsOf(table, table.read);
          const columns = [...table.columns.keys()];
          const read = table.reader!({ numbers: columns.slice(0, 1), cells: columns.slice(2) });
          for (let pass = 0; pass < 2; pass++) {
            const rows = await rowsOf(table, read);
            for (const [index, row] of whole.entries()) {
              const wanted = Array.from(row, (cell, column) => (column === 1 ? null : cell));
              expect(Array.from(rows[index]!, plainCell)).toEqual(wanted);
            }
          }
          await table.close();
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe("a reader of CSV", () => {
  const cell = fc.oneof(
    fc.integer({ min: -300, max: 300 }).map(String),
    fc.double({ noNaN: true }).map(String),
    fc.constantFrom("007", " 5", "5.", "1e5", "0x10", "a,b", 'a"b', "é", "note"),
  );

  it("gives the numbers that Number gives, and wanted cells as text", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(cell, { minLength: 4, maxLength: 4 }), { minLength: 1, maxLength: 20 }),
        async (records) => {
          const text = [["a", "b", "c", "d"], ...records, ["text", "1", "2", "3"]].map(formatRecord).join("\n");
          const table = await openCsv(await written("rows.csv", text), { header: true });
          const rows = await rowsOf(table, table.reader!({ numbers: [1, 2], cells: [0, 3] }));
          for (const [index, [a, b, c, d]] of records.entries()) {
            const { numbers, ...row } = rows[index]!;
            expect([row[0], numbers![1], numbers![2], row[3]]).toEqual([a, Number(b), Number(c), d]);
          }
          await table.close();
        },
      ),
      { numRuns: 60 },
    );
  });

  it("keeps what fits in memory, and no more", async () => {
    const path = await written("kept.csv", `a,b,note\n${"1,2,x\n".repeat(100)}`);
    for (const [memoryBytes, keeps] of [
      [100 * 450, true],
      [100 * 350, false],
    ] as const) {
      const table = await openCsv(path, { memoryBytes });
      const read = table.reader!({ numbers: [0, 1], cells: [2] });
      const [first, second] = [await read(0), await read(0)];
      expect(first === second).toBe(keeps);
      expect(table.reader!({ numbers: [0, 1], cells: [2] })).toBe(read);
      await table.close();
    }
  });
});
