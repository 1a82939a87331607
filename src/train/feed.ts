// The batches of a training run, whatever they come from, as one sequence that says where it is. Of a source, the next batch
// is asked for before the present one is run, so that files are read while the engine works.
import { LowrankError } from "../errors.ts";
import { type DataPosition, type DataSource, isDataSource, type PositionedBatch } from "./data-source.ts";
import type { Batch } from "./step.ts";

/** Batches in the order of training. The same object may be filled again for each. */
export type Batches = Iterable<Batch> | AsyncIterable<Batch>;

/**
 * What can be trained on. An array is one pass, and may be gone over again; other iterables can be gone over once, and
 * training ends with them; a function gives the batches of each pass (0 for the first); a source can be entered anywhere.
 */
export type TrainingData = Batches | ((epoch: number) => Batches) | DataSource;

/** A batch, or (without one) only word that a pass has ended. */
export interface FeedItem {
  readonly batch: Batch | null;
  /** Where to go on after it. */
  readonly next: DataPosition;
  readonly endsPass: boolean;
}

export interface FeedOptions {
  readonly from: DataPosition;
  /** Passes over the data; may be infinite. */
  readonly epochs: number;
  /** Whether a source is asked for the next batch before the present one is done with. */
  readonly prefetch: boolean;
}

/**
 * The batches from a position on. Data that cannot be entered there is gone over from its beginning without being used.
 *
 * @throws LowrankError "config" for several passes over what can be gone over once.
 */
export function openFeed(data: TrainingData, options: FeedOptions): AsyncGenerator<FeedItem> {
  if (typeof data === "function") return passes(data, options);
  if (isDataSource(data)) return fromSource(data, options);
  if (Array.isArray(data)) return passes(() => data as readonly Batch[], options);
  if (options.epochs > 1 && Number.isFinite(options.epochs)) {
    throw new LowrankError(
      "config",
      `epochs: expected data for ${options.epochs} passes, got an iterable, which can be gone over once; ` +
        "give an array, a source, or a function that returns the batches of a pass",
    );
  }
  return passes(() => data as Batches, { ...options, epochs: 1 });
}

async function* passes(data: (epoch: number) => Batches, { from, epochs }: FeedOptions): AsyncGenerator<FeedItem> {
  for (let { epoch, index: skip } = from; epoch < epochs; epoch++, skip = 0) {
    let index = 0;
    for await (const batch of data(epoch)) {
      index++;
      if (index > skip) yield { batch, next: { epoch, index }, endsPass: false };
    }
    if (index === 0) {
      // Without end would be asked for batches without end.
      if (epochs === Number.POSITIVE_INFINITY) return;
    }
    yield { batch: null, next: { epoch: epoch + 1, index: 0 }, endsPass: true };
  }
}

async function* fromSource(source: DataSource, { from, epochs, prefetch }: FeedOptions): AsyncGenerator<FeedItem> {
  if (from.epoch >= epochs) return;
  const batches = source.batches(from);
  let { epoch } = from;
  let last: FeedItem | null = null;
  for await (const { batch, next } of prefetch ? oneAhead(batches) : batches) {
    const endsPass = next.epoch > epoch;
    epoch = next.epoch;
    last = { batch, next, endsPass };
    yield last;
    if (epoch >= epochs) return;
  }
  // It has ended in the middle of a pass.
  if (last !== null && !last.endsPass) yield { ...last, batch: null, endsPass: true };
}

/** Asks for the next value before it gives the present one. */
async function* oneAhead(values: AsyncIterable<PositionedBatch>): AsyncGenerator<PositionedBatch> {
  const iterator = values[Symbol.asyncIterator]();
  let open = true;
  try {
    let pending = iterator.next();
    for (;;) {
      const { value, done } = await pending;
      if (done === true) {
        open = false;
        return;
      }
      pending = iterator.next();
      // A failure is told when its turn comes; if training ends before, nobody asks.
      pending.catch(() => {});
      yield value;
    }
  } finally {
    if (open) await iterator.return?.();
  }
}
