// What crosses between the processor and the device in a training step. Frozen weights are constants of the graph, which a
// session uploads once; a step feeds what is trained and the batch, and fetches the loss and the gradients, nothing else.
import type { AdaptedModel } from "../lora/adapted.ts";
import { elementCount } from "../tensor.ts";
import type { Batch } from "./step.ts";

/** In bytes. */
export interface StepTraffic {
  /** Parameters, inputs and labels: goes to the device in each step. */
  readonly uploaded: number;
  /** The loss and the gradients: comes back in each step. */
  readonly downloaded: number;
  /** Frozen weights: goes there once, when the session is made. */
  readonly resident: number;
}

const floatBytes = 4;

/**
 * The bytes that a step of `train` moves for a batch. Training all weights (`attachAll`) moves them all, both ways.
 *
 * @example const { uploaded, downloaded } = stepTraffic(attachLora(model, { r: 8 }), batch);
 */
export function stepTraffic(adapted: AdaptedModel, { inputs, labels }: Batch): StepTraffic {
  const trained = adapted.parameters.reduce((sum, { dims }) => sum + elementCount(dims) * floatBytes, 0);
  const batch = [...Object.values(inputs), labels].reduce((sum, { data }) => sum + data.byteLength, 0);
  let resident = 0;
  for (const { bytes } of adapted.model.graph.initializers.values()) resident += bytes.byteLength;
  return { uploaded: trained + batch, downloaded: trained + floatBytes, resident };
}
