// Batches from rows: what training reads. Everything is derived from (seed, pass), so that a position { epoch, index } is
// enough to go on with exactly the batches that would have come. All rows are checked before the first batch is given:
// nothing is trained on half of a faulty file.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { rowOrder } from "./order.ts";
import { rowsOf, type Selection } from "./selection.ts";
import type { Reads, Row, Table } from "./table.ts";

/** A place between two batches; plain JSON. As train/data-source.ts has it. */
export interface SourcePosition {
  readonly epoch: number;
  /** Rows of the pass that have been given. */
  readonly index: number;
  /** What else is needed: the batch within a group of texts, positions of replayed data. */
  readonly state?: PositionState;
}

export type PositionState =
  | null
  | boolean
  | number
  | string
  | readonly PositionState[]
  | { readonly [key: string]: PositionState };

export interface SourceBatch {
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly labels: Tensor;
}

export interface PositionedSourceBatch {
  /** Stays as it is until the batch after the next one is asked for. */
  readonly batch: SourceBatch;
  readonly next: SourcePosition;
  readonly examples: number;
  /** The rows' numbers in the data, for messages and predictions; a packed batch has those of all its texts. */
  readonly rows: readonly number[];
  /** As train/data-source.ts has them: absent where the same row can become other inputs in another batch. */
  readonly keys?: readonly number[];
}

/** Fits `train`: a DataSource. */
export interface RowSource {
  /** Batches in a pass; absent where packing decides it. */
  readonly batchesPerEpoch?: number;
  /** Rows in a pass. */
  readonly examples: number;
  readonly batchSize: number;
  /** Names of the classes, where there are any. */
  readonly labels: readonly string[] | null;
  /** Rows that were left out (onBadRow "skip"). */
  readonly skipped: Skipped;
  /** Values that fill up rows of unequal length, by input; `labels` for the labels. */
  readonly padding: Readonly<Record<string, number>>;
  /** All keys of batches are below it; absent where batches have none. */
  readonly keysBelow?: number;
  batches(position: SourcePosition): AsyncIterable<PositionedSourceBatch>;
  /** The same rows in batches of another size; with `whole`, rows that do not fill a batch wait for a later pass. */
  resized(batchSize: number, whole?: boolean): RowSource;
}

/** Rows that were left out: how many, and the first of them by file and line. */
export interface Skipped {
  readonly count: number;
  readonly faults: readonly string[];
}

export interface BatchingOptions {
  /** Rows in a batch; default 32. */
  readonly batchSize?: number;
  /** A new order in each pass. Default true. */
  readonly shuffle?: boolean;
  /** Default 0. */
  readonly seed?: number;
  /** Leave out what does not fill the last batch of a pass. Default false. */
  readonly dropLast?: boolean;
  /** Passes after which the batches end; default: never. */
  readonly passes?: number;
}

/** Makes batches of rows: of arrays (examples.ts) or of texts (text.ts). */
export interface Encoder {
  readonly padding: Readonly<Record<string, number>>;
  labels(): readonly string[] | null;
  /** What is wrong with a row, or null. */
  check(row: Row): string | null | Promise<string | null>;
  /** A place to make batches in, two of which are valid at a time. */
  begin(batchSize: number): Assembler;
  /** Rows are taken together in groups of so many batches, and divided among them by the assembler (bucketing, packing). */
  readonly groupBatches: number;
  /** Whether a group of rows gives ceil(rows / batchSize) batches. */
  readonly regular: boolean;
  /** What batches are made from; absent where it is all of a row. */
  readonly reads?: Reads;
  /** Whether a row becomes the same inputs in every pass and batch: nothing random is done to it, and it is not filled up. */
  readonly fixed?: boolean;
}

/** Divides the rows of a group into batches. `random` names the group for whatever is drawn. */
export type Assembler = (
  rows: readonly Row[],
  numbers: readonly number[],
  random: string,
) => Promise<readonly Assembled[]>;

/** One batch; made when it is asked for, since arrays are used again. */
export interface Assembled {
  readonly examples: number;
  readonly rows: readonly number[];
  make(): Promise<SourceBatch>;
}

/** Faults that are told one by one; the others are counted. */
const toldFaults = 20;

/**
 * Checks all chosen rows.
 *
 * @returns the rows that are fit, and what was left out.
 * @throws LowrankError "data" with the first 20 faults, by file and line, when `onBadRow` is "stop" and there are any, or no row is fit.
 */
export async function checkRows(
  table: Table,
  selection: Selection,
  encoder: Pick<Encoder, "check">,
  onBadRow: "stop" | "skip",
): Promise<{ readonly selection: Selection; readonly skipped: Skipped }> {
  const bits = selection.bits.slice();
  const faults: string[] = [];
  let faulty = 0;
  for await (const { row, number } of rowsOf(table, selection)) {
    const fault = encoder.check(row);
    const found = fault === null || typeof fault === "string" ? fault : await fault;
    if (found === null) continue;
    bits[Math.floor(number / 8)]! &= ~(1 << (number % 8));
    if (faulty++ < toldFaults) faults.push(`${await table.where(number)}: ${found}`);
  }
  const count = selection.count - faulty;
  if (onBadRow === "stop") throwFaulty(faults, faulty);
  if (count === 0) {
    throw new LowrankError(
      "data",
      `data: expected a row or more, got none that is fit${faults.length > 0 ? `; the first fault: ${faults[0]}` : ""}`,
    );
  }
  return { selection: { bits, count }, skipped: { count: faulty, faults } };
}

/** Throws LowrankError "data" with the first of `count` faults, or returns when there are none. */
export function throwFaulty(faults: readonly string[], count: number): void {
  if (count === 0) return;
  const more = count > faults.length ? [`and ${count - faults.length} rows more`] : [];
  throwFaults("data", "data: rows that cannot be used (onBadRow: skip leaves them out)", [...faults, ...more]);
}

/** The source of checked rows. */
export function createSource(
  table: Table,
  checked: { readonly selection: Selection; readonly skipped: Skipped },
  encoder: Encoder,
  options: BatchingOptions,
): RowSource {
  const { batchSize = 32, shuffle = true, seed = 0, dropLast = false, passes = Number.POSITIVE_INFINITY } = options;
  const { count } = checked.selection;
  checkOptions(batchSize, dropLast ? count : Number.POSITIVE_INFINITY, passes);
  const read = (encoder.reads && table.reader?.(encoder.reads)) ?? table.read;
  const order = rowOrder({ ...table, read }, checked.selection, { seed: shuffle ? seed : null });
  const usable = dropLast ? count - (count % batchSize) : count;
  const groupRows = batchSize * encoder.groupBatches;
  return {
    ...(encoder.regular ? { batchesPerEpoch: Math.ceil(usable / batchSize) } : {}),
    examples: usable,
    batchSize,
    labels: encoder.labels(),
    skipped: checked.skipped,
    padding: encoder.padding,
    ...(encoder.fixed === true && { keysBelow: table.length }),
    resized: (size, whole = false) => {
      const drop = whole ? count >= size : dropLast;
      return createSource(table, checked, encoder, { ...options, batchSize: size, dropLast: drop });
    },
    async *batches(position) {
      checkPosition(position, usable);
      const assemble = encoder.begin(batchSize);
      const reader = order.begin();
      let { epoch, index } = position;
      let skip = typeof position.state === "number" ? position.state : 0;
      while (epoch < passes) {
        const end = Math.min(index + groupRows, usable);
        const { rows, numbers } = await reader.read(epoch, index, end);
        const group = await assemble(rows, numbers, `${epoch} ${index}`);
        if (skip > 0 && skip >= group.length) throw unknownPosition(position, usable);
        for (let at = skip; at < group.length; at++) {
          const { examples, rows: used, make } = group[at]!;
          const over = end === usable ? { epoch: epoch + 1, index: 0 } : { epoch, index: end };
          const next = at + 1 < group.length ? { epoch, index, state: at + 1 } : over;
          yield { batch: await make(), next, examples, rows: used, ...(encoder.fixed === true && { keys: used }) };
        }
        skip = 0;
        [epoch, index] = end === usable ? [epoch + 1, 0] : [epoch, end];
      }
    },
  };
}

function checkOptions(batchSize: number, most: number, passes: number): void {
  const faults: string[] = [];
  if (!(Number.isSafeInteger(batchSize) && batchSize >= 1)) {
    faults.push(`batchSize: expected a whole number of 1 or more, got ${batchSize}`);
  } else if (batchSize > most)
    faults.push(`batchSize: expected at most the ${most} rows with dropLast, got ${batchSize}`);
  if (!(passes >= 0)) faults.push(`passes: expected 0 or more, got ${passes}`);
  throwFaults("config", "data", faults);
}

function checkPosition(position: SourcePosition, usable: number): void {
  const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
  if (!(isCount(position.epoch) && isCount(position.index) && position.index < usable))
    throw unknownPosition(position, usable);
}

function unknownPosition({ epoch, index }: SourcePosition, usable: number): LowrankError {
  return new LowrankError(
    "data",
    `data: position: expected a pass and a row below ${usable}, got epoch ${epoch}, index ${index}; is it another data set's?`,
  );
}
