// What compression lost, won back: an adapter is tuned on the compressed base, by default until its outputs are those of the
// original (distillation: Hinton, Vinyals and Dean 2015, arXiv:1503.02531), for which no labels are needed. Quantized layers stay
// as they are below the adapter (Dettmers et al. 2023, QLoRA, arXiv:2305.14314).
import { LowrankError } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { attachLora } from "../lora/attach.ts";
import type { LoraConfig } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import { openSession, type Session } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { distillation } from "../train/losses.ts";
import type { Batch } from "../train/step.ts";
import { type Trained, type TrainOptions, train } from "../train/train.ts";

type Inputs = Pick<Batch, "inputs"> & Partial<Pick<Batch, "labels">>;

/** Batches, in an array or by a function for each pass; labels are read where a loss is given. */
export type RecoveryData = readonly Inputs[] | ((epoch: number) => Iterable<Inputs> | AsyncIterable<Inputs>);

export interface RecoverOptions extends TrainOptions {
  /** The adapter; default r 8 on all Linear layers, the halves of factorized ones among them. */
  readonly config?: LoraConfig;
  /** Of the distillation; default 1. Not read where `loss` is given. */
  readonly temperature?: number;
}

export interface Recovered extends Trained {
  /** The compressed model with its branches. */
  readonly adapted: AdaptedModel;
}

/**
 * Tunes an adapter on a compressed model. Without a `loss` it learns the original's first output on the batches' inputs; with
 * one it learns the batches' labels. `merge` folds the adapter into factors that are stored in floats, at no cost.
 *
 * @throws LowrankError as `train`; "model" when the original's output is no float32, "data" for batches without the labels
 * that `loss` needs.
 * @example
 * const { model: small } = compress(model, { rank: 64 });
 * const { adapter } = await recover(model, small, batches, { learningRate: 1e-3 });
 * const recovered = merge(small, adapter);
 */
export async function recover(
  original: Model,
  compressed: Model,
  data: RecoveryData,
  options: RecoverOptions = {},
): Promise<Recovered> {
  const { config = {}, temperature = 1, ...training } = options;
  const adapted = attachLora(compressed, config);
  const passes = typeof data === "function" ? data : () => data;
  if (training.loss !== undefined) {
    const result = await train(adapted, (epoch) => labelled(passes(epoch)), training);
    return { ...result, adapted };
  }
  const output = original.graph.outputs[0]!.name;
  const loss = distillation({ temperature });
  const session = await openSession(original, {
    ...(training.device !== undefined && { device: training.device }),
    ...(training.threads !== undefined && { threads: training.threads }),
  });
  try {
    const result = await train(adapted, (epoch) => taught(session, output, passes(epoch)), { ...training, loss });
    return { ...result, adapted };
  } finally {
    await session.dispose();
  }
}

/** The original's output as labels. */
async function* taught(
  session: Session,
  output: string,
  batches: Iterable<Inputs> | AsyncIterable<Inputs>,
): AsyncGenerator<Batch> {
  for await (const { inputs } of batches) {
    const feeds = new Map<string, Tensor>(
      session.inputs.flatMap((name) => (inputs[name] ? [[name, inputs[name]] as const] : [])),
    );
    const labels = (await session.run(feeds, [output])).get(output)!;
    if (labels.type !== "float32")
      throw new LowrankError("model", `recover: expected float32 outputs to learn, got ${labels.type}; give a loss`);
    yield { inputs, labels };
  }
}

async function* labelled(batches: Iterable<Inputs> | AsyncIterable<Inputs>): AsyncGenerator<Batch> {
  for await (const { inputs, labels } of batches) {
    if (labels === undefined) throw new LowrankError("data", "recover: expected batches with labels for the loss");
    yield { inputs, labels };
  }
}
