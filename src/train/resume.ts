// From a run to a checkpoint and back. What is restored is checked first: a checkpoint of another model, optimizer or data
// would go on, but not as if it had never stopped.
import { throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { MovingAverage } from "./averaging.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { LoopState, Run } from "./loop.ts";
import { copyState, type NamedArrays, type OptimizerState, restoreState, stateFaults } from "./optimizers.ts";
import { copyParameters, parameterFaults } from "./step.ts";

/** A copy of all that a run depends on. */
export function captureCheckpoint(run: Run, state: LoopState): Checkpoint {
  const { adapted, step, optimizer, options } = run;
  return {
    kind: kindOf(adapted),
    scales: scalesOf(adapted),
    seed: options.seed ?? 0,
    step: state.step,
    position: state.position,
    optimizer: {
      name: optimizer.name,
      hyperparameters: optimizer.hyperparameters,
      slots: optimizer.slots,
      state: copyState(state.optimizer),
    },
    plateau: state.plateau,
    ema: state.average && { decay: state.average.decay, parameters: asTensors(adapted, state.average.values) },
    best: state.best,
    stopping: state.stopping,
    ...(step.scaling !== null && { scaling: step.scaling }),
    evaluations: [...state.evaluations],
    random: Object.fromEntries(Object.entries(options.random ?? {}).map(([name, random]) => [name, random.state()])),
    parameters: copyParameters(step, adapted),
    losses: Float32Array.from(state.losses),
  };
}

/**
 * Puts a fresh run where a checkpoint was taken.
 *
 * @throws LowrankError "config" with all that differs from the run that the checkpoint is of; nothing is changed then.
 */
export function restoreCheckpoint(run: Run, state: LoopState, checkpoint: Checkpoint): void {
  throwFaults("config", "resume: the checkpoint does not fit this run", misfits(run, state, checkpoint));
  copyInto(run.step.parameters, checkpoint.parameters);
  restoreState(state.optimizer, withEmpty(state.optimizer, checkpoint.optimizer.state));
  if (state.average !== null) copyInto(state.average.values, checkpoint.ema!.parameters);
  for (const [name, random] of Object.entries(run.options.random ?? {})) random.restore(checkpoint.random[name]!);
  state.step = checkpoint.step;
  state.position = checkpoint.position;
  state.plateau = checkpoint.plateau;
  state.stopping = checkpoint.stopping;
  state.best = checkpoint.best;
  if (checkpoint.scaling !== undefined) run.step.scaling = checkpoint.scaling;
  for (const loss of checkpoint.losses) state.losses.push(loss);
  state.evaluations.push(...checkpoint.evaluations);
}

/** Copies of a model's parameters as tensors. */
export function asTensors(adapted: AdaptedModel, values: NamedArrays): Map<string, Tensor> {
  return new Map(adapted.parameters.map(({ key, dims }) => [key, tensor("float32", dims, values.get(key)!.slice())]));
}

function misfits(run: Run, state: LoopState, checkpoint: Checkpoint): string[] {
  const { adapted, optimizer, evaluator, options } = run;
  const faults: string[] = [];
  const compare = (what: string, expected: unknown, got: unknown): void => {
    const [wanted, found] = [JSON.stringify(expected), JSON.stringify(got)];
    if (wanted !== found) faults.push(`${what}: expected ${wanted}, got ${found}`);
  };
  compare("what is trained", kindOf(adapted), checkpoint.kind);
  compare("scales", scalesOf(adapted), checkpoint.scales);
  compare("seed", options.seed ?? 0, checkpoint.seed);
  compare("optimizer", optimizer.name, checkpoint.optimizer.name);
  if (optimizer.name === checkpoint.optimizer.name) {
    compare(`${optimizer.name}`, optimizer.hyperparameters, checkpoint.optimizer.hyperparameters);
    const saved = withEmpty(state.optimizer, checkpoint.optimizer.state);
    faults.push(...stateFaults(state.optimizer, saved).map((fault) => `optimizer ${fault}`));
  }
  faults.push(...parameterFaults(adapted, checkpoint.parameters));
  compare("ema", averageOf(state.average), averageOf(checkpoint.ema));
  if (checkpoint.ema !== null) faults.push(...parameterFaults(adapted, checkpoint.ema.parameters));
  if (checkpoint.best !== null) {
    compare("best", evaluator?.watched.metric ?? null, checkpoint.best.metric);
    compare("best", evaluator?.watched.mode ?? null, checkpoint.best.mode);
    faults.push(...parameterFaults(adapted, checkpoint.best.parameters));
  }
  compare("a plateau schedule", state.plateau !== null, checkpoint.plateau !== null);
  compare("float16", run.step.scaling !== null, checkpoint.scaling !== undefined);
  compare("early stopping", state.stopping !== null, checkpoint.stopping !== null);
  compare("random", Object.keys(options.random ?? {}).sort(), Object.keys(checkpoint.random).sort());
  return faults;
}

function averageOf(average: MovingAverage | Checkpoint["ema"]): { decay: number } | null {
  return average && { decay: average.decay };
}

function kindOf({ config }: AdaptedModel): Checkpoint["kind"] {
  return config === null ? "weights" : "adapter";
}

/** The scale at each adapted site. */
function scalesOf({ sites }: AdaptedModel): Record<string, number> {
  return Object.fromEntries(sites.map(({ site, scale }) => [site.modulePath, scale]));
}

function copyInto(arrays: NamedArrays, values: ReadonlyMap<string, Tensor>): void {
  for (const [key, array] of arrays) array.set(values.get(key)!.data as Float32Array);
}

/** A saved state in which arrays without elements are there, whether they were written or not. */
function withEmpty(state: OptimizerState, saved: OptimizerState): OptimizerState {
  const slots = [...state.slots].map(([slot, arrays]) => {
    const empty = [...arrays].filter(([, array]) => array.length === 0);
    return [slot, new Map([...empty, ...(saved.slots.get(slot) ?? [])])] as const;
  });
  const others = [...saved.slots].filter(([slot]) => !state.slots.has(slot));
  return { step: saved.step, slots: new Map([...slots, ...others]) };
}
