// The data of a run: what is trained on, what is held out, what must not be forgotten, as the sources that the trainer takes.
import type { Model } from "../onnx/model.ts";
import type { Tensor } from "../tensor.ts";
import type { DataSource, JsonValue, PositionedBatch } from "../train/data-source.ts";
import type { LabelKind, LossName } from "./method.ts";
import type { RunOptions, Verb } from "./option-table.ts";
import { openTableData } from "./table-data.ts";
import type { Voice } from "./voice.ts";

/** Batches without end, of passes of known length. */
export interface RunSource extends DataSource {
  readonly batchesPerEpoch: number;
}

export interface RunData {
  readonly train: RunSource;
  /** Held out of the data, or evalData; null with `split` 0. */
  readonly target: RunSource | null;
  readonly retained: RunSource | null;
  /** Rows of each, after filters. */
  readonly rows: {
    readonly train: number;
    readonly target: number;
    readonly retained: number;
    readonly replay: number;
  };
  /** What feeds which input. */
  readonly matches: readonly Match[];
  readonly loss: LossName;
  /** Class names in the order of their numbers, where the data has names. */
  readonly labelNames: readonly string[] | null;
  /** SHA-256 of the files, by name. */
  readonly sha256: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

export interface Match {
  readonly input: string;
  readonly column: string;
  /** Of one example. */
  readonly shape: readonly (number | string)[];
}

export interface DataRequest {
  readonly verb: Verb;
  readonly model: Model;
  readonly options: RunOptions;
  readonly voice: Voice;
  readonly signal: AbortSignal;
  /** Decides for a loss, once it is known what the labels are. */
  chooseLoss(labels: LabelKind): LossName;
}

/**
 * Opens and checks the data of a run, and matches its columns with the model's inputs.
 *
 * @throws LowrankError "data" with all faults of the files, "config" for options that do not fit them.
 */
export function openRunData(request: DataRequest): Promise<RunData> {
  return openTableData(request);
}

/**
 * Each batch with rows of another source behind its own. The other source goes on by itself, in passes of its own length.
 */
export function mixed(own: RunSource, other: RunSource): RunSource {
  return {
    batchesPerEpoch: own.batchesPerEpoch,
    async *batches(position) {
      const state = position.state as { readonly epoch: number; readonly index: number } | undefined;
      const others = other.batches(state ?? { epoch: 0, index: 0 })[Symbol.asyncIterator]();
      try {
        for await (const { batch, next, examples } of own.batches({ epoch: position.epoch, index: position.index })) {
          const { value } = (await others.next()) as { value: PositionedBatch };
          yield {
            batch: {
              inputs: Object.fromEntries(
                Object.entries(batch.inputs).map(([name, rows]) => [name, joined(rows, value.batch.inputs[name]!)]),
              ),
              labels: joined(batch.labels, value.batch.labels),
            },
            next: { ...next, state: { ...value.next } as JsonValue },
            examples: examples + value.examples,
          };
        }
      } finally {
        await others.return?.();
      }
    },
  };
}

/** Rows of one tensor behind those of another. */
function joined(first: Tensor, second: Tensor): Tensor {
  const data = new (first.data.constructor as new (length: number) => Float32Array)(
    first.data.length + second.data.length,
  );
  data.set(first.data as Float32Array);
  data.set(second.data as Float32Array, first.data.length);
  return {
    type: first.type,
    dims: [first.dims[0]! + second.dims[0]!, ...first.dims.slice(1)],
    data,
  } as unknown as Tensor;
}
