// LoRA+ (Hayou, Ghosh and Yu 2024, arXiv:2402.12354): B learns at a multiple of A's rate. The groups are those of PEFT 0.21
// (optimizers/loraplus.py, create_loraplus_optimizer).
import { throwFaults } from "../errors.ts";
import { adamw, type NamedArrays, type Optimizer, type OptimizerState } from "./optimizers.ts";

export interface LoraPlusOptions {
  /** The rate of B over that of A; 1 or more, about 16 in the paper. */
  readonly ratio: number;
  /** The rate of an Embedding's A and B, which no schedule changes; default 1e-6. */
  readonly embeddingLearningRate?: number;
  /** Of everything but biases; default 0. */
  readonly weightDecay?: number;
  /** What each group is updated by; default `adamw`. */
  readonly optimizer?: (options: { weightDecay: number }) => Optimizer;
}

/** Parameters that are updated alike. */
interface Group {
  readonly optimizer: Optimizer;
  /** Their rate, from that of the step. */
  readonly rate: (learningRate: number) => number;
}

/**
 * An optimizer for adapters: A (and whole modules) at the rate of the step; B, biases and magnitudes at `ratio` times that;
 * Embeddings at a rate of their own. Biases do not decay.
 *
 * @throws LowrankError "config" with all faults of the options.
 * @example
 * await train(adapted, batches, { optimizer: loraPlus({ ratio: 16 }), learningRate: 2e-4 });
 */
export function loraPlus(options: LoraPlusOptions): Optimizer {
  const { ratio, embeddingLearningRate = 1e-6, weightDecay = 0, optimizer: make = adamw } = options;
  throwFaults(
    "config",
    "loraPlus",
    Object.entries({ ratio, embeddingLearningRate }).flatMap(([name, value]) =>
      value >= 0 && Number.isFinite(value) ? [] : [`${name}: expected a number of 0 or more, got ${value}`],
    ),
  );
  const [decaying, plain] = [make({ weightDecay }), make({ weightDecay: 0 })];
  const groups: readonly (Group & { readonly holds: RegExp })[] = [
    { holds: /\.lora_embedding_[AB]$/, optimizer: decaying, rate: () => embeddingLearningRate },
    { holds: /\.bias$/, optimizer: plain, rate: (learningRate) => learningRate * ratio },
    { holds: /\.lora_B\.|\.lora_magnitude_vector/, optimizer: decaying, rate: (learningRate) => learningRate * ratio },
    { holds: /(?:)/, optimizer: decaying, rate: (learningRate) => learningRate },
  ];
  return {
    ...grouped((key) => groups.find(({ holds }) => holds.test(key))!, decaying),
    name: "loraPlus",
    hyperparameters: { ...decaying.hyperparameters, ratio, embeddingLearningRate, weightDecay },
  };
}

/** Each group's parameters with a state of their own over the same arrays; kept, as optimizers plan by what they are given. */
interface Part {
  readonly group: Group;
  readonly parameters: NamedArrays;
  readonly state: OptimizerState;
}

/** An optimizer with the state of `whole` that updates each parameter by the group of its key. */
function grouped(groupOf: (key: string) => Group, whole: Optimizer): Pick<Optimizer, "slots" | "init" | "update"> {
  const plans = new WeakMap<OptimizerState, { readonly parameters: NamedArrays; readonly parts: readonly Part[] }>();
  return {
    slots: whole.slots,
    init: (parameters, arena) => whole.init(parameters, arena),
    update(parameters, gradients, state, learningRate) {
      let plan = plans.get(state);
      if (plan?.parameters !== parameters) {
        plan = { parameters, parts: partsOf(parameters, state, groupOf) };
        plans.set(state, plan);
      }
      for (const { group, parameters: own, state: ownState } of plan.parts) {
        ownState.step = state.step;
        group.optimizer.update(own, gradients, ownState, group.rate(learningRate));
      }
      state.step += 1;
    },
  };
}

function partsOf(parameters: NamedArrays, state: OptimizerState, groupOf: (key: string) => Group): Part[] {
  const members = new Map<Group, [string, Float32Array][]>();
  for (const [key, values] of parameters) {
    const group = groupOf(key);
    members.set(group, [...(members.get(group) ?? []), [key, values]]);
  }
  return [...members].map(([group, own]) => ({
    group,
    parameters: new Map(own),
    state: { step: state.step, slots: state.slots },
  }));
}
