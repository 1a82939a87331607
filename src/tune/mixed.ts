// Sources made of sources: batches with rows of another source behind their own (replay, against forgetting), and labels in the
// shape that a loss wants.
import type { Dim } from "../onnx/model.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { DataPosition, DataSource, JsonValue } from "../train/data-source.ts";

/**
 * Each batch of `own` with one of `other` behind it. The other source goes through passes of its own; where it is in them is
 * kept in the position's state. Rows of unequal length are filled up with `padding`, by input.
 */
export function mixed(
  own: DataSource,
  other: DataSource,
  padding: Readonly<Partial<Record<string, number>>> = {},
): DataSource {
  return {
    ...(own.batchesPerEpoch !== undefined && { batchesPerEpoch: own.batchesPerEpoch }),
    async *batches(position) {
      const { ownState, otherPosition } = statesOf(position);
      const others = other.batches(otherPosition)[Symbol.asyncIterator]();
      try {
        const from = { epoch: position.epoch, index: position.index, ...(ownState !== null && { state: ownState }) };
        for await (const { batch, next, examples } of own.batches(from)) {
          const { value, done } = await others.next();
          if (done === true) return;
          const { state = null, ...place } = next;
          yield {
            batch: {
              inputs: Object.fromEntries(
                Object.entries(batch.inputs).map(([name, rows]) => [
                  name,
                  joined(rows, value.batch.inputs[name]!, padding[name] ?? 0),
                ]),
              ),
              labels: joined(batch.labels, value.batch.labels, padding.labels ?? 0),
            },
            next: { ...place, state: { own: state, other: { ...value.next } as JsonValue } },
            examples: examples + value.examples,
          };
        }
      } finally {
        await others.return?.();
      }
    },
  };
}

function statesOf({ state }: DataPosition): { ownState: JsonValue | null; otherPosition: DataPosition } {
  const held = state as { readonly own: JsonValue | null; readonly other: DataPosition } | undefined;
  return { ownState: held?.own ?? null, otherPosition: held?.other ?? { epoch: 0, index: 0 } };
}

/** Rows of one tensor behind those of another, filled up to the longer ones on every other axis. */
function joined(first: Tensor, second: Tensor, fill: number): Tensor {
  const rest = first.dims.slice(1).map((dim, axis) => Math.max(dim, second.dims[axis + 1]!));
  const width = rest.reduce((product, dim) => product * dim, 1);
  const rows = first.dims[0]! + second.dims[0]!;
  // Any typed array, as numbers: rows are copied as they are.
  const data = fromBytes(first.type, new Uint8Array(rows * width * elementBytes(first.type))) as Float32Array;
  const areBig = first.type === "int64" || first.type === "uint64";
  if (fill !== 0) data.fill((areBig ? BigInt(fill) : fill) as number);
  copyRows(first, data, rest, 0);
  copyRows(second, data, rest, first.dims[0]!);
  return tensor<TensorType>(first.type, [rows, ...rest], data);
}

/** Copies [rows, …] into [more, …rest] from row `at` on; only the last axes of rows may be shorter than `rest`. */
function copyRows({ dims, data }: Tensor, into: Float32Array, rest: readonly number[], at: number): void {
  const source = data as Float32Array;
  const [length = 1, full = 1] = [dims[1] ?? 1, rest[0] ?? 1];
  const inner = rest.slice(1).reduce((product, dim) => product * dim, 1);
  for (let row = 0; row < dims[0]!; row++) {
    into.set(source.subarray(row * length * inner, (row + 1) * length * inner), (at + row) * full * inner);
  }
}

/** Values [batch] as [batch, 1], where the output that they are compared with has a last axis of one. */
export function labelsLike(source: DataSource, output: readonly Dim[] | undefined): DataSource {
  if (output?.at(-1) !== 1) return source;
  return {
    ...source,
    async *batches(position) {
      for await (const given of source.batches(position)) {
        const { labels } = given.batch;
        const isFlat = labels.type !== "int64" && labels.dims.length === output.length - 1;
        const shaped = isFlat ? tensor<TensorType>(labels.type, [...labels.dims, 1], labels.data) : labels;
        yield { ...given, batch: { ...given.batch, labels: shaped } };
      }
    },
  };
}
