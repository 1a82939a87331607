// A training step that is run many times: parameters and their gradients live in one arena, which the runtime reads from
// and writes to in place, and which the optimizer updates in place. A step allocates nothing that it could reuse.
import type { AdaptedModel } from "../lora/adapted.ts";
import { productsInFloat16 } from "../onnx/float16.ts";
import { type BoundRun, openSession, type Session, type SessionOptions } from "../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { type Arena, createArena } from "./arena.ts";
import { inputDefaults } from "./default-inputs.ts";
import { type DroppedModel, type MaskDrawer, maskDrawer, withDropout } from "./dropout.ts";
import { sumOfSquares } from "./gradients.ts";
import { type LossScaleState, nextScale, startScale, type TrainingPrecision, unscale } from "./loss-scale.ts";
import type { Loss } from "./losses.ts";
import { throwMisfits } from "./misfits.ts";
import { type NamedArrays, type Optimizer, stateLengths } from "./optimizers.ts";
import { buildStepGraph, type StepGraph } from "./step-graph.ts";

/** Inputs by name (a decoder's positions, mask and cache are made where they are left out), and labels. A step reads it and is done with it: the same buffers may be filled again for the next. */
export interface Batch {
  readonly inputs: Readonly<Record<string, Tensor>>;
  /** Class indices (int64) or targets (float32), as the loss has it. */
  readonly labels: Tensor;
}

/** A compiled step: the session, and the memory it works in. */
export interface TrainingStep {
  readonly arena: Arena;
  /** The values that the next run uses; change them in place. */
  readonly parameters: NamedArrays;
  /** The gradients of the last run. */
  readonly gradients: NamedArrays;
  /** The scale of the loss in float16, for the next run; null in float32. */
  scaling: LossScaleState | null;
  /** Whether the last run's scale was too large: its gradients are of no use. */
  readonly overflowed: boolean;
  /**
   * Forward, loss and backward for one batch. Returns the loss.
   *
   * @param index the number of this run among all of the training, from 0: it decides what dropout draws. Default: one more
   * than that of the run before.
   */
  run(batch: Batch, index?: number): Promise<number>;
  dispose(): Promise<void>;
}

export interface StepOptions extends SessionOptions {
  /** Seed of dropout (the adapter's loraDropout); default 0. */
  readonly seed?: number;
  /** Hold less in memory, and compute activations again for the backward pass; default false. */
  readonly checkpointActivations?: boolean;
  /** Default float32; see productsInFloat16. */
  readonly precision?: TrainingPrecision;
}

/**
 * Compiles the step of an adapted model, with its configuration's dropout.
 *
 * @param optimizer says how much state to leave room for in the arena; null when none will be used.
 */
export async function compileStep(
  adapted: AdaptedModel,
  loss: Loss,
  optimizer: Pick<Optimizer, "slots" | "slotLength"> | null,
  options: StepOptions = {},
): Promise<TrainingStep> {
  const rate = adapted.config?.loraDropout ?? 0;
  const dropped = rate === 0 ? null : withDropout(adapted);
  const masks = dropped && maskDrawer(dropped, rate, options.seed ?? 0, options);
  const isHalf = options.precision === "float16";
  const graph = buildStepGraph(dropped?.adapted ?? adapted, loss, {
    checkpointActivations: options.checkpointActivations ?? false,
    lossScale: isHalf,
  });
  const model = isHalf ? productsInFloat16(graph.model) : graph.model;
  const session = await openSession(model, { ...options, forBinding: true });
  try {
    const shapes = adapted.parameters.map(({ dims }) => dims);
    const state = optimizer === null ? [] : stateLengths(optimizer, shapes);
    return new CompiledStep(adapted, { graph, session, state, dropped, masks });
  } catch (error) {
    await session.dispose();
    throw error;
  }
}

interface CompiledParts {
  readonly graph: StepGraph;
  readonly session: Session;
  /** Lengths of the arrays of optimizer state. */
  readonly state: readonly number[];
  /** Null without dropout. */
  readonly dropped: DroppedModel | null;
  readonly masks: MaskDrawer | null;
}

class CompiledStep implements TrainingStep {
  readonly arena: Arena;
  readonly parameters: NamedArrays;
  readonly gradients: NamedArrays;
  scaling: LossScaleState | null;
  overflowed = false;
  readonly #graph: StepGraph;
  readonly #session: Session;
  /** The inputs that a batch brings. */
  readonly #names: readonly string[];
  readonly #complete: (inputs: Batch["inputs"]) => Batch["inputs"];
  readonly #values = new Map<string, Tensor>();
  readonly #results: Map<string, Tensor>;
  readonly #loss = new Float32Array(1);
  readonly #scale = new Float32Array(1);
  readonly #masks: MaskDrawer | null;
  #bound: BoundRun | undefined;
  #runs = 0;

  constructor(adapted: AdaptedModel, { graph, session, state, dropped, masks }: CompiledParts) {
    this.#graph = graph;
    this.#session = session;
    this.#masks = masks;
    const maskNames = dropped?.masks.map(({ input }) => input) ?? [];
    this.scaling = graph.lossScale === undefined ? null : startScale;
    const own = new Set([graph.labels, graph.lossScale, ...maskNames, ...adapted.parameters.map(({ key }) => key)]);
    this.#names = session.inputs.filter((name) => !own.has(name));
    this.#complete = inputDefaults(adapted.model, this.#names);
    const lengths = adapted.parameters.map(({ dims }) => elementCount(dims));
    this.arena = createArena([...lengths, ...lengths, ...state]);
    this.parameters = allocate(this.arena, adapted, lengths);
    this.gradients = allocate(this.arena, adapted, lengths);
    this.#results = new Map([[graph.loss, tensor("float32", [], this.#loss)]]);
    if (graph.lossScale !== undefined) this.#values.set(graph.lossScale, tensor("float32", [], this.#scale));
    for (const { key, dims } of adapted.parameters) {
      this.#values.set(key, tensor("float32", dims, this.parameters.get(key)!));
      this.#results.set(graph.gradients.get(key)!, tensor("float32", dims, this.gradients.get(key)!));
    }
  }

  async run(given: Batch, index: number = this.#runs): Promise<number> {
    this.#runs = index + 1;
    const batch = { ...given, inputs: this.#complete(given.inputs) };
    const masks = (await this.#masks?.draw(batch.inputs, index)) ?? new Map<string, Tensor>();
    this.#feed(batch, masks);
    this.#graph.checkLabels(batch.labels);
    if (this.scaling !== null) this.#scale[0] = this.scaling.scale;
    await this.#bound!.run();
    const loss = this.#loss[0]!;
    if (this.scaling !== null) this.scaling = this.#rescaled(this.scaling, loss);
    return loss;
  }

  /** Takes the scale out of the gradients again, and says what it is to be from now on. */
  #rescaled(scaling: LossScaleState, loss: number): LossScaleState {
    const gradients = [...this.gradients.values()];
    unscale(gradients, scaling);
    this.overflowed = !Number.isFinite(loss) || gradients.some((array) => !Number.isFinite(sumOfSquares(array)));
    return nextScale(scaling, !this.overflowed);
  }

  #feed({ inputs, labels }: Batch, masks: ReadonlyMap<string, Tensor>): void {
    if (this.#bound === undefined || this.#names.some((name) => inputs[name] === undefined)) {
      const feeds = new Map([
        ...this.#values,
        ...masks,
        ...Object.entries(inputs),
        [this.#graph.labels, labels] as const,
      ]);
      this.#bound = this.#session.bind(feeds, this.#results);
      return;
    }
    for (const name in inputs) this.#bound.feed(name, inputs[name]!);
    for (const [name, mask] of masks) this.#bound.feed(name, mask);
    this.#bound.feed(this.#graph.labels, labels);
  }

  async dispose(): Promise<void> {
    await this.#masks?.dispose();
    await this.#session.dispose();
  }
}

function allocate(arena: Arena, adapted: AdaptedModel, lengths: readonly number[]): Map<string, Float32Array> {
  return new Map(adapted.parameters.map(({ key }, index) => [key, arena.allocate(lengths[index]!)]));
}

/** Copies starting values into a step. Throws LowrankError "adapter" that lists what is missing, extra or misshapen. */
export function loadParameters(step: TrainingStep, adapted: AdaptedModel, tensors: ReadonlyMap<string, Tensor>): void {
  throwMisfits(parameterFaults(adapted, tensors));
  for (const { key } of adapted.parameters) step.parameters.get(key)!.set(tensors.get(key)!.data as Float32Array);
}

/** Which of a model's parameters are missing or misshapen among `tensors`, and what is extra. */
export function parameterFaults(adapted: AdaptedModel, tensors: ReadonlyMap<string, Tensor>): string[] {
  const faults: string[] = [];
  for (const { key, dims } of adapted.parameters) {
    const value = tensors.get(key);
    if (value === undefined) faults.push(`${key}: missing`);
    else if (value.type !== "float32" || value.dims.join() !== dims.join()) {
      faults.push(`${key}: expected float32 [${dims}], got ${value.type} [${value.dims}]`);
    }
  }
  const known = new Set(adapted.parameters.map(({ key }) => key));
  for (const key of tensors.keys()) if (!known.has(key)) faults.push(`${key}: the model has no such parameter`);
  return faults;
}

/** A copy of a step's parameters as tensors. */
export function copyParameters(step: TrainingStep, adapted: AdaptedModel): Map<string, Tensor> {
  return new Map(
    adapted.parameters.map(({ key, dims }) => [key, tensor("float32", dims, step.parameters.get(key)!.slice())]),
  );
}
