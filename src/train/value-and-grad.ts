// One evaluation of loss and gradients, for people who write their own loop, and for checking against other libraries.
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { openSession, type Session, type SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { inputDefaults } from "./default-inputs.ts";
import type { Loss } from "./losses.ts";
import { throwMisfits } from "./misfits.ts";
import { placedOn } from "./place.ts";
import { type Batch, parameterFaults } from "./step.ts";
import { buildStepGraph, type StepGraph } from "./step-graph.ts";

export interface ValueAndGrad {
  readonly loss: number;
  /** The model's outputs by name. */
  readonly outputs: Map<string, Tensor>;
  /** d loss / d parameter, by the key that the adapter has for it, in its shape. */
  readonly grads: Map<string, Tensor>;
}

interface Held {
  readonly graph: StepGraph;
  readonly session: Session;
  dispose(): Promise<void>;
}

/**
 * Loss, outputs and gradients for one batch. The session is kept on `adapted` for the next call with the same loss object;
 * `adapted.dispose()` frees it.
 *
 * @throws LowrankError "model" when an operator has no gradient rule, "adapter" when the adapter does not fit, "data" when
 * the batch does not.
 * @example
 * const loss = crossEntropy(); // one object for all calls
 * const { grads } = await valueAndGrad(adapted, adapter, { inputs: { x }, labels }, loss);
 */
export async function valueAndGrad(
  adapted: AdaptedModel,
  adapter: Pick<Adapter, "tensors">,
  batch: Batch,
  loss: Loss,
  options: SessionOptions = {},
): Promise<ValueAndGrad> {
  const { graph, session } = await adapted.hold(
    `step ${keyOf(loss)} ${options.device} ${options.threads}`,
    async (): Promise<Held> => {
      const built = buildStepGraph(adapted, loss);
      const opened = await openSession(built.model, options);
      return { graph: built, session: opened, dispose: () => opened.dispose() };
    },
  );
  const { adapter: placed, ownKeys, faults } = placedOn(adapted, adapter);
  throwMisfits([...faults, ...parameterFaults(adapted, placed.tensors)]);
  const complete = inputDefaults(adapted.model, session.inputs);
  const feeds = new Map<string, Tensor>([...placed.tensors, ...Object.entries(complete(batch.inputs))]);
  feeds.set(graph.labels, batch.labels);
  graph.checkLabels(batch.labels);
  const results = await session.run(feeds);
  return {
    loss: Number(results.get(graph.loss)!.data[0]),
    outputs: new Map(graph.outputs.map((name) => [name, results.get(name)!])),
    grads: new Map([...graph.gradients].map(([key, name]) => [ownKeys.get(key) ?? key, results.get(name)!])),
  };
}

const keys = new WeakMap<Loss, number>();
let count = 0;

/** A number for each loss object: two of the same name may differ in their options. */
function keyOf(loss: Loss): number {
  const key = keys.get(loss) ?? count++;
  keys.set(loss, key);
  return key;
}
