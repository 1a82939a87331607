// The order of rows in a pass, from (seed, pass) alone: the n-th row of any pass can be had without the ones before it.
// A table in memory is permuted whole. A table in blocks is shuffled in two levels, as WebDataset and the shuffle buffers of
// tf.data do: the blocks are permuted, then the rows within windows of 32 blocks (8 MB of lines), so that reading stays
// sequential within blocks and memory stays bounded; a format with large blocks has fewer in a window. A file smaller than one window is permuted whole.
import { createRandom } from "../random.ts";
import { type RowMemory, turningMemory } from "./row-memory.ts";
import { chosenRows, isChosen, type Selection } from "./selection.ts";
import { blockOf, type Row, type Table } from "./table.ts";

/** Rows of a pass, with their numbers in the table. */
export interface OrderedRows {
  readonly rows: readonly Row[];
  readonly numbers: readonly number[];
}

export interface RowOrder {
  /** Rows in a pass. */
  readonly count: number;
  /** Begins to read; what is read at one time shares memory. */
  begin(): RowReader;
}

export interface RowReader {
  /** Rows from … to - 1 of a pass. They stay as they are until the rows after the next ones are asked for. */
  read(epoch: number, from: number, to: number): Promise<OrderedRows>;
}

export interface OrderOptions {
  /** Seed of the shuffling; null: the table's own order. */
  readonly seed: number | null;
}

/** Blocks that are shuffled together, at most. */
const mostBlocks = 32;

/** The order of a table's chosen rows. */
export function rowOrder(table: Table, selection: Selection, { seed }: OrderOptions): RowOrder {
  return table.at === undefined ? blockOrder(table, selection, seed) : memoryOrder(table, table.at, selection, seed);
}

function memoryOrder(
  table: Table,
  at: (row: number) => Row | null,
  selection: Selection,
  seed: number | null,
): RowOrder {
  const chosen = new Int32Array(selection.count);
  let found = 0;
  for (let row = 0; row < table.length; row++) if (isChosen(selection, row)) chosen[found++] = row;
  const order = chosen.slice();
  let held: number | null = null;
  const reader: RowReader = {
    read(epoch, from, to) {
      if (seed !== null && held !== epoch) {
        order.set(chosen);
        createRandom(seed, `shuffle ${epoch}`).shuffle(order);
        held = epoch;
      }
      const numbers = Array.from(order.subarray(from, to));
      return Promise.resolve({ rows: numbers.map((row) => at(row)!), numbers });
    },
  };
  return { count: selection.count, begin: () => reader };
}

interface Pass {
  readonly epoch: number;
  readonly blocks: Int32Array;
  /** Where each window's rows begin, and at the end their number. */
  readonly starts: readonly number[];
}

function blockOrder(table: Table, selection: Selection, seed: number | null): RowOrder {
  const { blocks } = table;
  const windowBlocks = Math.min(mostBlocks, table.windowBlocks ?? mostBlocks);
  const counts = Array.from({ length: blocks.length - 1 }, (_, block) =>
    countChosen(selection, blocks[block]!, blocks[block + 1]!),
  );
  const filled = Int32Array.from(counts.keys()).filter((block) => counts[block]! > 0);
  let pass: Pass | null = null;

  const passOf = (epoch: number): Pass => {
    if (pass?.epoch === epoch) return pass;
    const order = filled.slice();
    if (seed !== null) createRandom(seed, `shuffle ${epoch}`).shuffle(order);
    const starts = [0];
    for (let first = 0; first < order.length; first += windowBlocks) {
      let rows = starts.at(-1)!;
      for (const block of order.subarray(first, first + windowBlocks)) rows += counts[block]!;
      starts.push(rows);
    }
    pass = { epoch, blocks: order, starts };
    return pass;
  };

  const readWindow = async (current: Pass, window: number, memory: RowMemory): Promise<OrderedRows> => {
    const rows: Row[] = [];
    const numbers: number[] = [];
    for (const block of current.blocks.subarray(window * windowBlocks, (window + 1) * windowBlocks)) {
      const content = await table.read(block, memory);
      for (const number of chosenRows(selection, blocks[block]!, blocks[block + 1]!)) {
        rows.push(content[number - blocks[block]!]!);
        numbers.push(number);
      }
    }
    const places = Int32Array.from(rows.keys());
    if (seed !== null) createRandom(seed, `shuffle ${current.epoch} window ${window}`).shuffle(places);
    return {
      rows: Array.from(places, (place) => rows[place]!),
      numbers: Array.from(places, (place) => numbers[place]!),
    };
  };

  return { count: selection.count, begin: () => windowReader(passOf, readWindow) };
}

/** Reads windows one after the other, and holds the last. */
function windowReader(
  passOf: (epoch: number) => Pass,
  readWindow: (pass: Pass, window: number, memory: RowMemory) => Promise<OrderedRows>,
): RowReader {
  const memory = turningMemory();
  let held: { readonly epoch: number; readonly window: number; readonly content: OrderedRows } | null = null;
  let reads = 0;
  /** The last read that gave rows of what is in memory since it was turned. */
  let lastRead = 0;
  return {
    async read(epoch, from, to) {
      reads++;
      const pass = passOf(epoch);
      const rows: Row[] = [];
      const numbers: number[] = [];
      let turned = false;
      for (let at = from; at < to; ) {
        const window = blockOf(pass.starts, at);
        const start = pass.starts[window]!;
        const end = Math.min(to, pass.starts[window + 1]!);
        if (held?.epoch !== epoch || held.window !== window) {
          held = null; // the old rows can be freed while new ones are read
          // Once, however many windows these rows are from. Rows of the read before this one are still in use.
          if (!turned) memory.turn(lastRead, reads - 1);
          turned = true;
          held = { epoch, window, content: await readWindow(pass, window, memory) };
        }
        lastRead = reads;
        rows.push(...held.content.rows.slice(at - start, end - start));
        numbers.push(...held.content.numbers.slice(at - start, end - start));
        at = end;
      }
      return { rows, numbers };
    },
  };
}

function countChosen(selection: Selection, first: number, end: number): number {
  let count = 0;
  for (let row = first; row < end; row++) if (isChosen(selection, row)) count++;
  return count;
}
