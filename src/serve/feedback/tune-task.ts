// An adapter tuned from a tenant's examples: it goes on from the one that is served, the epoch is chosen on one part of the
// held-out examples, and both are judged on the other, which neither has ever seen.
import { writeAdapter } from "../../adapter/peft.ts";
import { attachLora } from "../../lora/attach.ts";
import type { Adapter } from "../../lora/config.ts";
import { loadModel } from "../../runs/model-file.ts";
import { type Tensor, type TensorType, tensor } from "../../tensor.ts";
import { batchesOf } from "../../train/data-source.ts";
import { crossEntropy } from "../../train/losses/cross-entropy.ts";
import { meanSquaredError } from "../../train/losses/elementwise.ts";
import type { Loss } from "../../train/losses.ts";
import type { Batch } from "../../train/step.ts";
import { train } from "../../train/train.ts";
import { type Evaluated, evaluateAdapters } from "../../tune/evaluate.ts";
import { emptyArray } from "../datatypes.ts";
import type { AdapterSource, Port } from "../engine.ts";
import { readSource } from "../read-source.ts";
import type { Side, StoredExample } from "./examples.ts";

export interface TuneTask {
  /** The base's file. */
  readonly model: string;
  readonly name: string;
  /** What is served now. */
  readonly source: AdapterSource;
  readonly examples: readonly StoredExample[];
  readonly inputs: readonly Port[];
  readonly maxRank: number;
  readonly threads: number;
}

/** How well an adapter does on the examples that judge. */
export interface Score {
  readonly loss: number;
  /** For classes, 0 to 1. */
  readonly accuracy?: number;
}

export interface TuneOutcome {
  readonly before: Score;
  readonly after: Score;
  readonly isBetter: boolean;
  /** Steps to the epoch that was chosen. */
  readonly steps: number;
  /** The new adapter's files. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

const settings = { learningRate: 1e-3, batchSize: 32, epochs: 30, patience: 5, clipNorm: 1 } as const;

/**
 * Tunes.
 *
 * @throws LowrankError as training does.
 */
export async function tuneFromExamples(task: TuneTask): Promise<TuneOutcome> {
  const adapter = readSource(task.source, `adapter ${JSON.stringify(task.name)}`, task.maxRank);
  const model = await loadModel(task.model);
  const loss: Loss = isClassified(task.examples) ? crossEntropy() : meanSquaredError();
  const session = { threads: task.threads };
  const of = (side: Side): Batch =>
    batchOf(
      task.examples.filter((one) => one.side === side),
      task.inputs,
    );
  const adapted = attachLora(model, adapter.config);
  const { best } = await train(adapted, batchesOf(of("train"), { batchSize: settings.batchSize }), {
    ...session,
    adapter,
    loss,
    learningRate: settings.learningRate,
    clipNorm: settings.clipNorm,
    epochs: settings.epochs,
    evaluation: { sets: { chosen: batchesOf(of("choose"), { shuffle: false }) }, every: { epochs: 1 }, atStart: true },
    earlyStopping: { patience: settings.patience },
  });
  const tuned: Adapter = best!.adapter;
  const { results } = await evaluateAdapters(
    model,
    [
      { name: "before", adapter },
      { name: "after", adapter: tuned },
    ],
    [of("judge")],
    { ...session, loss },
  );
  const [before, after] = [scoreOf(results[1]!), scoreOf(results[2]!)];
  const isBetter = best!.step > 0 && after.loss < before.loss && (after.accuracy ?? 0) >= (before.accuracy ?? 0);
  return { before, after, isBetter, steps: best!.step, files: writeAdapter(tuned) };
}

function scoreOf({ loss, accuracy }: Evaluated): Score {
  return { loss, ...(accuracy !== undefined && { accuracy }) };
}

/** Examples as one batch: inputs [n, ...], labels int64 [n] or float32 [n, width]. */
export function batchOf(examples: readonly StoredExample[], inputs: readonly Port[]): Batch {
  const count = examples.length;
  const columns = inputs.map(({ name, type, shape }) => {
    const rows = examples.map((example) => example.inputs[name]!);
    return [name, column(type as TensorType, [count, ...(shape!.slice(1) as number[])], rows)] as const;
  });
  const labels = examples.flatMap(({ label }) => label);
  return {
    inputs: Object.fromEntries(columns),
    labels: isClassified(examples)
      ? tensor("int64", [count], BigInt64Array.from(labels, BigInt))
      : tensor("float32", [count, labels.length / count], Float32Array.from(labels)),
  };
}

/** Whether labels are classes, and not numbers that the model should give. */
function isClassified(examples: readonly StoredExample[]): boolean {
  return examples.every(({ label }) => typeof label === "number");
}

function column(type: TensorType, dims: readonly number[], rows: readonly (readonly number[])[]): Tensor {
  const data = emptyArray(
    type,
    dims.reduce((product, dim) => product * dim, 1),
  );
  let at = 0;
  for (const row of rows) {
    for (const value of row) {
      if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[at++] = BigInt(Math.trunc(value));
      else data[at++] = value;
    }
  }
  return tensor<TensorType>(type, dims, data);
}
