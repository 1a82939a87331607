// JSON Lines of any content are read back as they were written.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDataset } from "./dataset.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-jsonl-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** What JSON can hold; `-0` is written as 0. */
const cell = fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const key = fc.string({ unit: "binary", maxLength: 6 }).filter((name) => name !== "__proto__");
const row = fc.dictionary(key, cell, { minKeys: 1, maxKeys: 5, noNullPrototype: true });

/** Fills rows up to more than the quarter megabyte that is read at a time; 3 bytes a character, so that borders cut some. */
const padding = fc.integer({ min: 0, max: 120_000 }).map((length) => "€".repeat(length));

async function readBack(text: string): Promise<{ rows: Record<string, unknown>[]; columns: string[] }> {
  const path = join(folder, "rows.jsonl");
  await writeFile(path, text);
  const data = await openDataset(path);
  const rows: Record<string, unknown>[] = [];
  for await (const one of data.rows()) rows.push(one);
  const columns = data.columns.map(({ name }) => name);
  await data.close();
  return { rows, columns };
}

describe("JSON Lines", () => {
  it("any rows are read back the same, over the borders of blocks and with any line ends", async () => {
    const ends = fc.constantFrom("\n", "\r\n", "\n\n", "\n \t\n");
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(row, padding), { minLength: 1, maxLength: 12 }),
        ends,
        fc.boolean(),
        async (written, end, endsOpen) => {
          const wanted = written.map(([cells, pad]) => ({ ...cells, "€ padding": pad }));
          const text = wanted.map((one) => JSON.stringify(one)).join(end) + (endsOpen ? "" : end);
          const { rows, columns } = await readBack(text);
          expect(columns).toEqual([...new Set(wanted.flatMap((one) => Object.keys(one)))]);
          // What a line lacks is null.
          const filled = wanted.map((one) =>
            Object.fromEntries(columns.map((name) => [name, Object.hasOwn(one, name) ? one[name as never] : null])),
          );
          expect(rows).toEqual(filled);
        },
      ),
      { numRuns: 40 },
    );
  });
});
