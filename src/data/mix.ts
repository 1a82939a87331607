// Replay: rows of other data mixed into every batch, so that a model keeps what it knows while it learns something new.
// Each source goes through its own passes at its own speed; the position of the mixture holds theirs.
import { LowrankError, throwFaults } from "../errors.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { PositionedSourceBatch, PositionState, RowSource, SourcePosition } from "./source.ts";

export interface Replayed {
  readonly source: RowSource;
  /** Share of each batch that comes from it, between 0 and 1. */
  readonly share: number;
}

/**
 * A source whose batches are made of rows of `main` and, in fixed shares, of others. A pass is one over `main`.
 *
 * @param batchSize rows in a batch, default that of `main`; each source gives at least one of them.
 * @throws LowrankError "config" when shares leave `main` no row; "data" when class names differ.
 * @example
 * const mixed = mix(await target.source(options), [{ source: await general.source(options), share: 0.5 }]);
 */
export function mix(main: RowSource, replayed: readonly Replayed[], batchSize: number = main.batchSize): RowSource {
  const faults = replayed.flatMap(({ share }) =>
    share > 0 && share < 1 ? [] : [`expected a share between 0 and 1, got ${share}`],
  );
  throwFaults("config", "mix", faults);
  const counts = replayed.map(({ share }) => Math.max(1, Math.round(share * batchSize)));
  const own = batchSize - counts.reduce((sum, count) => sum + count, 0);
  if (own < 1) {
    throw new LowrankError(
      "config",
      `mix: a batch of ${batchSize} has no row left for the data itself; lower the shares`,
    );
  }
  checkLabels(main, replayed);
  const bounds = boundsOf([main, ...replayed.map(({ source }) => source)]);
  const sources = [main.resized(own), ...replayed.map(({ source }, index) => source.resized(counts[index]!, true))];
  return {
    ...(sources[0]!.batchesPerEpoch === undefined ? {} : { batchesPerEpoch: sources[0]!.batchesPerEpoch }),
    examples: main.examples,
    batchSize,
    labels: main.labels,
    skipped: main.skipped,
    padding: main.padding,
    ...(bounds !== null && { keysBelow: bounds.reduce((sum, bound) => sum + bound, 0) }),
    resized: (size) => mix(main, replayed, size),
    batches: (position) => mixedBatches(sources, position),
  };
}

async function* mixedBatches(
  sources: readonly RowSource[],
  position: SourcePosition,
): AsyncGenerator<PositionedSourceBatch> {
  const positions = startPositions(position, sources.length);
  const iterators = sources.map((source, index) => source.batches(positions[index]!)[Symbol.asyncIterator]());
  const { padding } = sources[0]!;
  try {
    for (;;) {
      const given: PositionedSourceBatch[] = [];
      for (const iterator of iterators) {
        const { value, done } = await iterator.next();
        if (done) return;
        given.push(value as PositionedSourceBatch);
      }
      const [first, ...others] = given as [PositionedSourceBatch, ...PositionedSourceBatch[]];
      const join = (name: string, tensors: readonly (Tensor | undefined)[]): Tensor =>
        joinRows(name, tensors, padding[name]);
      const names = Object.keys(first.batch.inputs);
      const inputs = names.map(
        (name) =>
          [
            name,
            join(
              name,
              given.map(({ batch }) => batch.inputs[name]),
            ),
          ] as const,
      );
      const states = [first.next.state ?? null, ...others.map(({ next }) => ({ ...next }) as PositionState)];
      yield {
        batch: {
          inputs: Object.fromEntries(inputs),
          labels: join(
            "labels",
            given.map(({ batch }) => batch.labels),
          ),
        },
        next: { epoch: first.next.epoch, index: first.next.index, state: states },
        examples: given.reduce((sum, { examples }) => sum + examples, 0),
        rows: first.rows,
        ...joinKeys(sources, given),
      };
    }
  } finally {
    for (const iterator of iterators) await iterator.return?.();
  }
}

/** What the keys of each source are below; null when one of them has none. */
function boundsOf(sources: readonly RowSource[]): number[] | null {
  const bounds = sources.map(({ keysBelow }) => keysBelow ?? -1);
  return bounds.includes(-1) ? null : bounds;
}

/** The keys of each source behind those of the sources before it. */
function joinKeys(
  sources: readonly RowSource[],
  given: readonly PositionedSourceBatch[],
): Pick<PositionedSourceBatch, "keys"> {
  const bounds = boundsOf(sources);
  if (bounds === null) return {};
  let first = 0;
  const keys = given.flatMap(({ keys: own = [] }, index) => {
    const from = first;
    first += bounds[index]!;
    return own.map((key) => from + key);
  });
  return { keys };
}

/** Where each source goes on: all from their beginnings without a state. */
function startPositions({ epoch, index, state }: SourcePosition, count: number): SourcePosition[] {
  if (state === undefined) {
    return Array.from({ length: count }, (_, at) => (at === 0 ? { epoch, index } : { epoch: 0, index: 0 }));
  }
  if (!(Array.isArray(state) && state.length === count)) {
    throw new LowrankError("data", `mix: expected the positions of ${count} sources; is it another data set's?`);
  }
  const [own, ...others] = state as [PositionState, ...SourcePosition[]];
  return [own === null ? { epoch, index } : { epoch, index, state: own }, ...others];
}

function checkLabels(main: RowSource, replayed: readonly Replayed[]): void {
  const names = main.labels?.join("\n");
  for (const { source } of replayed) {
    if (main.labels === null || source.labels === null || source.labels.join("\n") === names) continue;
    throw new LowrankError(
      "data",
      `mix: expected the classes ${main.labels.join(", ")}, got ${source.labels.join(", ")}; give both sources the same names`,
    );
  }
}

/** Tensors one below the other; rows of unequal length are filled up with `pad`. */
function joinRows(name: string, tensors: readonly (Tensor | undefined)[], pad: number | undefined): Tensor {
  const { type, dims } = tensors[0]!;
  const rest = dims.slice(1).map((_, axis) => Math.max(...tensors.map((part) => part?.dims[axis + 1] ?? 0)));
  const fits = tensors.every(
    (part) =>
      part?.type === type &&
      part.dims.length === dims.length &&
      (part.dims.slice(1).join() === rest.join() || (pad !== undefined && rest.length === 1)),
  );
  if (!fits) {
    const shapes = tensors.map((part) => (part ? `${part.type} [${part.dims.slice(1)}]` : "nothing")).join(" and ");
    throw new LowrankError("data", `mix: ${name}: expected examples of one shape, got ${shapes}`);
  }
  const rows = tensors.reduce((sum, part) => sum + part!.dims[0]!, 0);
  const width = rest.reduce((product, dim) => product * dim, 1);
  const whole = fromBytes(type, new Uint8Array(rows * width * elementBytes(type))) as BigInt64Array;
  if (pad !== undefined) whole.fill((whole instanceof BigInt64Array ? BigInt(pad) : pad) as bigint);
  let row = 0;
  for (const part of tensors) {
    const { data, dims: own } = part!;
    const length = data.length / own[0]!;
    for (let at = 0; at < own[0]!; at++) {
      whole.set((data as BigInt64Array).subarray(at * length, (at + 1) * length), row++ * width);
    }
  }
  return tensor<TensorType>(type, [rows, ...rest], whole);
}
