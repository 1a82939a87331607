// Everything that training needs to go on as if it had never stopped, as a value, and as the bytes of one file: safetensors for
// the arrays, with JSON for the rest in its metadata. One file, so that replacing it is one rename and what it says always
// belongs together. Reading checks all of it and reports all faults at once; no field holds a time, so that equal runs give
// equal bytes.
import { scanSafetensors, writeSafetensors } from "../adapter/safetensors.ts";
import { throwFaults } from "../errors.ts";
import type { RandomState } from "../random.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type CheckpointState, readState } from "./checkpoint-state.ts";
import type { NamedArrays, OptimizerState } from "./optimizers.ts";

export type { CheckpointState } from "./checkpoint-state.ts";

/** A training run between two steps. Its arrays are copies: they stay as they are while training goes on. */
export interface Checkpoint extends Omit<CheckpointState, "optimizer" | "ema" | "best"> {
  /** The adapter's tensors, or the weights, by key. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly optimizer: CheckpointState["optimizer"] & { readonly state: OptimizerState };
  /** The moving average of the parameters. */
  readonly ema: (NonNullable<CheckpointState["ema"]> & { readonly parameters: ReadonlyMap<string, Tensor> }) | null;
  /** The best evaluation, and what was evaluated. */
  readonly best: (NonNullable<CheckpointState["best"]> & { readonly parameters: ReadonlyMap<string, Tensor> }) | null;
  /** The loss of each step so far. */
  readonly losses: Float32Array;
  readonly random: Readonly<Record<string, RandomState>>;
}

const format = "lowrank-checkpoint";
const version = "1";

/**
 * The bytes of a checkpoint's file.
 *
 * @example
 * await saveCheckpoint("runs/first", writeCheckpoint(checkpoint)); // saveCheckpoint: Node.js
 */
export function writeCheckpoint(checkpoint: Checkpoint): Uint8Array {
  const { parameters, optimizer, ema, best, losses, ...state } = checkpoint;
  const tensors = new Map<string, Tensor>([["losses", tensor("float32", [losses.length], losses)]]);
  const put = (prefix: string, values: ReadonlyMap<string, Tensor>): void => {
    for (const [key, value] of values) tensors.set(`${prefix}/${key}`, value);
  };
  put("parameters", parameters);
  for (const [slot, arrays] of optimizer.state.slots) put(`optimizer/${slot}`, asVectors(arrays));
  if (ema !== null) put("ema", ema.parameters);
  if (best !== null) put("best", best.parameters);
  const { state: _slots, ...optimizerState } = optimizer;
  const plain: CheckpointState = {
    ...state,
    optimizer: optimizerState,
    ema: ema && { decay: ema.decay },
    best: best && { metric: best.metric, mode: best.mode, value: best.value, step: best.step },
  };
  return writeSafetensors(tensors, { format, version, state: JSON.stringify(plain) });
}

/**
 * Reads a checkpoint's file. Tensors are views of `bytes` where its alignment allows it: do not change `bytes` afterwards.
 *
 * @param name stands before each message.
 * @throws LowrankError "file" with every fault of a file that is torn, foreign, or of another version.
 * @example
 * const checkpoint = readCheckpoint(bytes, "runs/first/checkpoint.safetensors");
 */
export function readCheckpoint(bytes: Uint8Array, name = "checkpoint"): Checkpoint {
  const faults: string[] = [];
  const { metadata, tensors } = scanSafetensors(bytes, faults);
  throwFaults("file", name, faults);
  const found = metadata.get("format");
  if (found !== format || metadata.get("version") !== version) {
    const got = found === format ? `version ${metadata.get("version")}` : `${found ?? "no format"}`;
    throwFaults("file", name, [
      `expected a checkpoint of lowrank's training, version ${version}, got ${got}; is it another program's file?`,
    ]);
  }
  const state = readState(metadata.get("state") ?? "", faults);
  const groups = groupTensors(tensors, faults);
  const losses = tensors.get("losses");
  if (losses?.type !== "float32") faults.push("losses: expected float32 [steps], got none");
  if (state !== null) checkGroups(state, groups, losses?.data.length ?? 0, faults);
  throwFaults("file", name, faults);
  return assemble(state!, groups, losses!.data as Float32Array);
}

function asVectors(arrays: NamedArrays): Map<string, Tensor> {
  return new Map([...arrays].map(([key, array]) => [key, tensor("float32", [array.length], array)]));
}

interface Groups {
  readonly parameters: Map<string, Tensor>;
  readonly ema: Map<string, Tensor>;
  readonly best: Map<string, Tensor>;
  readonly optimizer: Map<string, Map<string, Float32Array>>;
}

/** The tensors by what their names begin with. */
function groupTensors(tensors: ReadonlyMap<string, Tensor>, faults: string[]): Groups {
  const groups: Groups = { parameters: new Map(), ema: new Map(), best: new Map(), optimizer: new Map() };
  for (const [name, value] of tensors) {
    if (name === "losses") continue;
    const [, group = "", rest = ""] = /^([^/]+)\/(.*)$/s.exec(name) ?? [];
    if (value.type !== "float32") faults.push(`${name}: expected float32, got ${value.type}`);
    else if (group === "optimizer") {
      const [, slot = "", key = ""] = /^([^/]+)\/(.*)$/s.exec(rest) ?? [];
      const arrays = groups.optimizer.get(slot) ?? new Map<string, Float32Array>();
      groups.optimizer.set(slot, arrays.set(key, value.data));
    } else if (group === "parameters" || group === "ema" || group === "best") groups[group].set(rest, value);
    else faults.push(`${name}: expected parameters, optimizer, ema, best or losses`);
  }
  return groups;
}

function checkGroups(state: CheckpointState, groups: Groups, losses: number, faults: string[]): void {
  if (groups.parameters.size === 0) faults.push("parameters: expected tensors, got none");
  if (losses !== state.step) faults.push(`losses: expected ${state.step}, one for each step, got ${losses}`);
  for (const name of ["ema", "best"] as const) {
    const expected = state[name] === null ? 0 : groups.parameters.size;
    if (groups[name].size !== expected) faults.push(`${name}: expected ${expected} tensors, got ${groups[name].size}`);
  }
  const slots = [...groups.optimizer.keys()].filter((slot) => !state.optimizer.slots.includes(slot));
  if (slots.length > 0) faults.push(`optimizer: expected the slots ${state.optimizer.slots.join(", ")}, got ${slots}`);
}

function assemble(state: CheckpointState, groups: Groups, losses: Float32Array): Checkpoint {
  const { optimizer, ema, best } = state;
  const slots = new Map(optimizer.slots.map((slot) => [slot, groups.optimizer.get(slot) ?? new Map()]));
  return {
    ...state,
    parameters: groups.parameters,
    optimizer: { ...optimizer, state: { step: state.step, slots } },
    ema: ema && { ...ema, parameters: groups.ema },
    best: best && { ...best, parameters: groups.best },
    losses,
  };
}
