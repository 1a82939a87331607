// Where batches come from, so that training can stop after any of them and go on later with exactly the ones that would have
// come. A source is asked for its batches from a position; each batch says at which position the next one begins. Whatever
// is random is drawn from (seed, epoch), never from what was drawn before: then { epoch, index } is all there is to save.
import { throwFaults } from "../errors.ts";
import { createRandom } from "../random.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { Batch } from "./step.ts";

/** What JSON can hold. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

/** A place between two batches; plain JSON. */
export interface DataPosition {
  /** Passes over the data that are complete. */
  readonly epoch: number;
  /** How many examples of the present pass have been given, or whatever else tells the source where in it it is. */
  readonly index: number;
  /** What else the source needs, when the two numbers do not say all. */
  readonly state?: JsonValue;
}

/** The beginning of the data. */
export const startPosition: DataPosition = { epoch: 0, index: 0 };

export interface PositionedBatch {
  /** Stays as it is until the batch after the next one is asked for: a source that fills its arrays again needs two sets. */
  readonly batch: Batch;
  /** Where to go on after it; after the last batch of a pass, { epoch: epoch + 1, index: 0 }. */
  readonly next: DataPosition;
  /** How many examples it holds. */
  readonly examples: number;
  /**
   * Which examples they are, one number for each, where the same number means the same inputs in every pass, whatever else is
   * in the batch: then what a frozen part of a model makes of them can be kept. Absent where inputs are changed at random, or
   * filled up to the longest of their batch.
   */
  readonly keys?: ArrayLike<number>;
}

/** Data that can be entered at any position. */
export interface DataSource {
  /** Batches in one pass, where that is known: for schedules, and for progress. */
  readonly batchesPerEpoch?: number;
  /**
   * The batches from `position` on: the rest of that pass, then the passes after it. It may go on without end (training
   * says how long it takes) or end, and training ends with it. Training asks for the next batch while the engine runs.
   */
  batches(position: DataPosition): AsyncIterable<PositionedBatch>;
}

export interface BatchesOfOptions {
  /** Examples in a batch; default 32. */
  readonly batchSize?: number;
  /** A new order in each pass, from the seed and the pass alone. Default true. */
  readonly shuffle?: boolean;
  /** Default 0. */
  readonly seed?: number;
  /** Leave out what does not fill the last batch of a pass. Default false. */
  readonly dropLast?: boolean;
}

/**
 * A source of examples that are in memory: `examples` is one batch that holds them all, each tensor [examples, …].
 *
 * @throws LowrankError "data" when tensors hold different numbers of examples, or none; "config" for options out of range.
 * @example
 * const source = batchesOf({ inputs: { x }, labels }, { batchSize: 64, seed: 1 }); // x [60000, 784], labels [60000]
 * await train(adapted, source, { epochs: 3 });
 */
export function batchesOf(examples: Batch, options: BatchesOfOptions = {}): DataSource {
  const { batchSize = 32, shuffle = true, seed = 0, dropLast = false } = options;
  const count = countExamples(examples);
  const size = checkedSize(batchSize, dropLast ? count : Number.POSITIVE_INFINITY);
  const order = passOrder(count, shuffle ? seed : null);
  const usable = dropLast ? count - (count % size) : count;
  return {
    batchesPerEpoch: Math.ceil(usable / size),
    async *batches(position) {
      checkPosition(position, usable);
      const sets = [gatherer(examples, size), gatherer(examples, size)] as const;
      let { epoch, index } = position;
      for (let given = 0; ; given++) {
        const rows = order(epoch).subarray(index, Math.min(index + size, usable));
        const batch = sets[given % 2 === 0 ? 0 : 1](rows);
        // A copy: the order is shuffled in place for the next pass.
        const keys = rows.slice();
        index += rows.length;
        if (index === usable) [epoch, index] = [epoch + 1, 0];
        yield { batch, next: { epoch, index }, examples: rows.length, keys };
      }
    },
  };
}

/** A source of tensors by name, as loaders of files give them, that knows nothing of labels. */
export interface ColumnSource {
  readonly batchesPerEpoch?: number;
  batches(position: DataPosition): AsyncIterable<{
    readonly batch: Readonly<Record<string, Tensor>>;
    readonly next: DataPosition;
    readonly examples: number;
    readonly keys?: ArrayLike<number>;
  }>;
}

/**
 * A source for training from one of named tensors: the one called `labels` is the labels, all others are inputs.
 *
 * @throws LowrankError "data", when batches are asked for, for one without such a tensor.
 * @example
 * await train(adapted, withLabels(columns, "label"), { epochs: 3 });
 */
export function withLabels(source: ColumnSource, labels = "labels"): DataSource {
  const { batchesPerEpoch } = source;
  return {
    ...(batchesPerEpoch !== undefined && { batchesPerEpoch }),
    async *batches(position) {
      for await (const { batch, ...about } of source.batches(position)) {
        const { [labels]: own, ...inputs } = batch;
        if (own === undefined) {
          throwFaults("data", "batch", [`expected a tensor called ${labels}, got ${Object.keys(batch).join(", ")}`]);
        } else yield { ...about, batch: { inputs, labels: own } };
      }
    },
  };
}

/** Whether `data` is a source, and no plain iterable of batches. */
export function isDataSource(data: object): data is DataSource {
  return typeof (data as Partial<DataSource>).batches === "function";
}

/** How many examples the tensors of a batch hold: the first axis of all of them. */
function countExamples({ inputs, labels }: Batch): number {
  const count = labels.dims[0] ?? 0;
  const faults = count > 0 ? [] : [`labels: expected [examples, …] with an example or more, got [${labels.dims}]`];
  for (const [name, { dims }] of Object.entries(inputs)) {
    if (dims[0] !== count) faults.push(`${name}: expected ${count} examples, as many as labels, got [${dims}]`);
  }
  throwFaults("data", "batchesOf", faults);
  return count;
}

function checkedSize(batchSize: number, most: number): number {
  if (!(Number.isInteger(batchSize) && batchSize >= 1)) {
    throwFaults("config", "batchesOf", [`batchSize: expected a whole number of 1 or more, got ${batchSize}`]);
  }
  if (batchSize > most) {
    throwFaults("config", "batchesOf", [
      `batchSize: expected at most the ${most} examples with dropLast, got ${batchSize}`,
    ]);
  }
  return batchSize;
}

function checkPosition({ epoch, index }: DataPosition, examples: number): void {
  const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
  if (isCount(epoch) && isCount(index) && index < examples) return;
  throwFaults("data", "batchesOf", [
    `position: expected a pass and an example below ${examples}, got epoch ${epoch}, index ${index}; is it another data set's?`,
  ]);
}

/** The order of a pass, kept until another pass is asked for; in their own order without a seed. */
function passOrder(count: number, seed: number | null): (epoch: number) => Int32Array {
  const order = new Int32Array(count);
  let held: number | null = null;
  return (epoch) => {
    if (held === epoch || (held !== null && seed === null)) return order;
    for (let i = 0; i < count; i++) order[i] = i;
    if (seed !== null) createRandom(seed, `shuffle ${epoch}`).shuffle(order);
    held = epoch;
    return order;
  };
}

/** Copies chosen examples into arrays that are made once. */
function gatherer({ inputs, labels }: Batch, size: number): (rows: Int32Array) => Batch {
  const columns = Object.entries(inputs).map(([name, column]) => [name, rowsOf(column, size)] as const);
  const labelRows = rowsOf(labels, size);
  return (rows) => {
    const own = rows.slice();
    let inputs: Batch["inputs"] | undefined;
    return {
      // Only when they are asked for: behind a frozen prefix they are not.
      get inputs(): Batch["inputs"] {
        inputs ??= Object.fromEntries(columns.map(([name, gather]) => [name, gather(own)]));
        return inputs;
      },
      labels: labelRows(rows),
    };
  };
}

function rowsOf({ type, dims, data }: Tensor, size: number): (rows: Int32Array) => Tensor {
  const [, ...rest] = dims;
  const width = rest.reduce((product, dim) => product * dim, 1);
  // A typed array of any kind, as numbers: rows are copied bit by bit, whatever they mean.
  const source = data as Float32Array;
  const target = fromBytes(type, new Uint8Array(size * width * elementBytes(type))) as Float32Array;
  return (rows) => {
    for (let at = 0; at < rows.length; at++) {
      const row = rows[at]!;
      target.set(source.subarray(row * width, (row + 1) * width), at * width);
    }
    const filled = rows.length === size ? target : target.subarray(0, rows.length * width);
    return tensor<TensorType>(type, [rows.length, ...rest], filled);
  };
}
