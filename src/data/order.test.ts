import fc from "fast-check";
import { expect, test } from "vitest";
import { rowOrder } from "./order.ts";
import type { RowMemory } from "./row-memory.ts";
import { allRows } from "./selection.ts";
import type { Floats, Row, Table } from "./table.ts";

/** Row n is [n, n + 0.1], in the memory that is given. */
function numbersTable(blockRows: readonly number[], windowBlocks: number): Table {
  const blocks = Float64Array.from([
    0,
    ...blockRows.map((_, at) => blockRows.slice(0, at + 1).reduce((a, b) => a + b, 0)),
  ]);
  const length = blocks.at(-1)!;
  return {
    format: "test",
    columns: [{ name: "x" }],
    length,
    blocks,
    windowBlocks,
    faulty: [],
    labels: null,
    read: async (block, memory?: RowMemory) =>
      Array.from({ length: blocks[block + 1]! - blocks[block]! }, (_, at): Row => {
        const row = blocks[block]! + at;
        return [memory!.float64([row, row + 0.1], 2)];
      }),
    where: async (row) => `row ${row}`,
    close: async () => {},
  };
}

const shapes = fc.record({
  blockRows: fc.array(fc.nat(6), { minLength: 1, maxLength: 12 }),
  windowBlocks: fc.integer({ min: 1, max: 4 }),
  batch: fc.integer({ min: 1, max: 15 }),
  seed: fc.option(fc.nat()),
});

test("rows of a read stay until the read after the next, whatever windows and batches are, and each comes once in a pass", async () => {
  await fc.assert(
    fc.asyncProperty(shapes, async ({ blockRows, windowBlocks, batch, seed }) => {
      const table = numbersTable(blockRows, windowBlocks);
      const order = rowOrder(table, allRows(table), { seed });
      const [reader, other] = [order.begin(), order.begin()];
      type Read = Awaited<ReturnType<typeof reader.read>>;
      const intact = ({ rows, numbers }: Read): void => {
        const values = rows.map((row) => [...(row[0] as Floats)]);
        expect(values).toEqual(numbers.map((number) => [number, number + 0.1]));
      };
      let before: Read = { rows: [], numbers: [] };
      for (let epoch = 0; epoch < 3; epoch++) {
        const seen: number[] = [];
        for (let from = 0; from < order.count; from += batch) {
          const to = Math.min(order.count, from + batch);
          const read = await reader.read(epoch, from, to);
          intact(read);
          intact(before);
          // Somebody else reads the same rows, with a memory of their own.
          intact(await other.read(epoch, from, to));
          intact(read);
          seen.push(...read.numbers);
          before = read;
        }
        expect([...seen].sort((a, b) => a - b)).toEqual([...Array(order.count).keys()]);
      }
    }),
    { numRuns: 300 },
  );
});
