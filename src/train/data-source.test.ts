import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tensor } from "../tensor.ts";
import {
  type BatchesOfOptions,
  batchesOf,
  type ColumnSource,
  type DataPosition,
  type DataSource,
  type PositionedBatch,
  startPosition,
  withLabels,
} from "./data-source.ts";
import type { Batch } from "./step.ts";

/** Example i is x = [i, -i], label i. */
function counted(count: number): Batch {
  const x = Float32Array.from({ length: 2 * count }, (_, at) => (at % 2 === 0 ? at / 2 : -(at - 1) / 2));
  const labels = BigInt64Array.from({ length: count }, (_, i) => BigInt(i));
  return { inputs: { x: tensor("float32", [count, 2], x) }, labels: tensor("int64", [count], labels) };
}

interface Seen {
  readonly rows: number[];
  readonly next: DataPosition;
}

/** The first batches from a position; checks that inputs and labels belong together. */
async function take(count: number, options: BatchesOfOptions, from: DataPosition, batches: number): Promise<Seen[]> {
  const seen: Seen[] = [];
  for await (const { batch, next, examples } of batchesOf(counted(count), options).batches(from)) {
    const rows = [...batch.labels.data].map(Number);
    expect(batch.inputs.x!.dims).toEqual([rows.length, 2]);
    expect([...batch.inputs.x!.data].map(Number)).toEqual(rows.flatMap((row) => [row, row === 0 ? -0 : -row]));
    expect(examples).toBe(rows.length);
    seen.push({ rows, next });
    if (seen.length === batches) break;
  }
  return seen;
}

describe("batchesOf", () => {
  it("gives examples in their order, pass after pass, the last batch of a pass being smaller", async () => {
    const seen = await take(5, { batchSize: 2, shuffle: false }, startPosition, 4);
    expect(seen).toEqual([
      { rows: [0, 1], next: { epoch: 0, index: 2 } },
      { rows: [2, 3], next: { epoch: 0, index: 4 } },
      { rows: [4], next: { epoch: 1, index: 0 } },
      { rows: [0, 1], next: { epoch: 1, index: 2 } },
    ]);
    expect(batchesOf(counted(5), { batchSize: 2 }).batchesPerEpoch).toBe(3);
  });

  it("drops what does not fill a batch when told to", async () => {
    const seen = await take(5, { batchSize: 2, shuffle: false, dropLast: true }, startPosition, 3);
    expect(seen.map(({ rows }) => rows)).toEqual([
      [0, 1],
      [2, 3],
      [0, 1],
    ]);
    expect(seen[1]!.next).toEqual({ epoch: 1, index: 0 });
    expect(batchesOf(counted(5), { batchSize: 2, dropLast: true }).batchesPerEpoch).toBe(2);
  });

  it("gives every example once in each pass, in an order that the seed and the pass decide", async () => {
    const passes = async (seed: number) => {
      const rows = (await take(20, { batchSize: 20, seed }, startPosition, 3)).map((seen) => seen.rows);
      for (const pass of rows) expect([...pass].sort((a, b) => a - b)).toEqual([...Array(20).keys()]);
      return rows;
    };
    const [first, second] = [await passes(1), await passes(2)];
    expect(first[0]).not.toEqual(first[1]);
    expect(first[0]).not.toEqual(second[0]);
    expect(await passes(1)).toEqual(first);
  });

  it("goes on from any position with the batches that would have come", async () => {
    const any = fc.record({
      count: fc.integer({ min: 1, max: 30 }),
      batchSize: fc.integer({ min: 1, max: 9 }),
      shuffle: fc.boolean(),
      seed: fc.integer(),
      dropLast: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(any, fc.integer({ min: 0, max: 12 }), async ({ count, ...options }, after) => {
        fc.pre(!options.dropLast || options.batchSize <= count);
        const whole = await take(count, options, startPosition, 16);
        const position = after === 0 ? startPosition : whole[after - 1]!.next;
        const resumed = await take(count, options, JSON.parse(JSON.stringify(position)) as DataPosition, 4);
        expect(resumed).toEqual(whole.slice(after, after + 4));
      }),
      { numRuns: 60 },
    );
  });

  it("leaves a batch alone until the one after the next is asked for", async () => {
    const iterator = batchesOf(counted(9), { batchSize: 3, shuffle: false })
      .batches(startPosition)
      [Symbol.asyncIterator]();
    const first = (await iterator.next()).value!.batch as Batch;
    await iterator.next();
    expect([...first.labels.data]).toEqual([0n, 1n, 2n]);
    await iterator.return?.();
  });

  it("takes the labels from a source of named tensors", async () => {
    const columns: ColumnSource = {
      batchesPerEpoch: 3,
      async *batches(position) {
        for await (const { batch, ...rest } of batchesOf(counted(9), { batchSize: 3 }).batches(position)) {
          yield { batch: { ...batch.inputs, digit: batch.labels }, ...rest };
        }
      },
    };
    const source = withLabels(columns, "digit");
    expect(source.batchesPerEpoch).toBe(3);
    const first = async (batches: DataSource) =>
      (await batches.batches(startPosition)[Symbol.asyncIterator]().next()).value as PositionedBatch;
    expect(await first(source)).toEqual(await first(batchesOf(counted(9), { batchSize: 3 })));
    await expect(first(withLabels(columns))).rejects.toMatchObject({
      code: "data",
      message: "batch: expected a tensor called labels, got x, digit",
    });
  });

  it("refuses tensors that disagree, and options and positions out of range", async () => {
    const { inputs, labels } = counted(4);
    const wrong = { inputs: { ...inputs, mask: tensor("float32", [3], new Float32Array(3)) }, labels };
    expect(() => batchesOf(wrong)).toThrow("batchesOf: mask: expected 4 examples, as many as labels, got [3]");
    expect(() => batchesOf({ inputs: {}, labels: tensor("int64", [0], new BigInt64Array(0)) })).toThrow(
      "labels: expected [examples, …] with an example or more, got [0]",
    );
    expect(() => batchesOf(counted(4), { batchSize: 0 })).toThrow(
      "batchSize: expected a whole number of 1 or more, got 0",
    );
    expect(() => batchesOf(counted(4), { batchSize: 5, dropLast: true })).toThrow("at most the 4 examples");
    await expect(take(4, {}, { epoch: 0, index: 4 }, 1)).rejects.toMatchObject({ code: "data" });
  });
});
