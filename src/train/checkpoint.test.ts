import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { writeSafetensors } from "../adapter/safetensors.ts";
import { LowrankError } from "../errors.ts";
import { tensor } from "../tensor.ts";
import { type Checkpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";

const vector = (...values: number[]) => tensor("float32", [values.length], Float32Array.from(values));

/** One that has everything. */
const full: Checkpoint = {
  kind: "adapter",
  scales: { "a/b.c": 2 },
  seed: -3,
  step: 2,
  position: { epoch: 1, index: 64, state: { offset: [1, 2], name: "x" } },
  optimizer: {
    name: "adafactor",
    hyperparameters: { beta: 0.1 },
    slots: ["row", "variance"],
    state: {
      step: 2,
      slots: new Map([
        ["row", new Map([["a/b.c", Float32Array.of(1, 2)]])],
        ["variance", new Map([["a/b.c", new Float32Array(0)]])],
      ]),
    },
  },
  plateau: { best: 0.5, bad: 1, cooldown: 0, scale: 0.1 },
  ema: { decay: 0.9, parameters: new Map([["a/b.c", vector(5, 6)]]) },
  best: { metric: "t/loss", mode: "min", value: 0.5, step: 1, parameters: new Map([["a/b.c", vector(7, 8)]]) },
  stopping: { best: null, bad: 0 },
  evaluations: [{ step: 1, epoch: 0, values: { "t/loss": 0.5, "t/f1": Number.NaN } }],
  random: { noise: { words: [1, 2, 3, 4], spareNormal: null } },
  parameters: new Map([["a/b.c", tensor("float32", [1, 2], Float32Array.of(3, 4))]]),
  losses: Float32Array.of(0.75, 0.5),
};

/** The bytes of `full` with its JSON changed. */
function withState(change: (state: Record<string, unknown>) => void): Uint8Array {
  const bytes = writeCheckpoint(full);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as {
    __metadata__: { state: string };
  };
  const state = JSON.parse(header.__metadata__.state) as Record<string, unknown>;
  change(state);
  header.__metadata__.state = JSON.stringify(state);
  const text = new TextEncoder().encode(JSON.stringify(header));
  const changed = new Uint8Array(8 + text.length + bytes.length - 8 - length);
  new DataView(changed.buffer).setBigUint64(0, BigInt(text.length), true);
  changed.set(text, 8);
  changed.set(bytes.subarray(8 + length), 8 + text.length);
  return changed;
}

describe("a checkpoint's file", () => {
  it("gives back all of it, NaN and empty arrays included", () => {
    const bytes = writeCheckpoint(full);
    expect(readCheckpoint(bytes)).toEqual(full);
    expect(writeCheckpoint(readCheckpoint(bytes))).toEqual(bytes);
  });

  it("gives back one that has little", () => {
    const bare = { ...full, plateau: null, ema: null, best: null, stopping: null, evaluations: [], random: {} };
    expect(readCheckpoint(writeCheckpoint(bare))).toEqual(bare);
  });

  it("is refused when it is torn, wherever it is torn, and never read in part", () => {
    const bytes = writeCheckpoint(full);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: bytes.length - 1 }), (length) => {
        expect(() => readCheckpoint(bytes.slice(0, length), "last")).toThrow(/^last: /);
      }),
    );
  });

  it("is refused when it is foreign, or of another version", () => {
    const tensors = new Map([["w", vector(1)]]);
    expect(() => readCheckpoint(writeSafetensors(tensors, { format: "pt" }), "x.safetensors")).toThrow(
      "x.safetensors: expected a checkpoint of lowrank's training, version 1, got pt; is it another program's file?",
    );
    const later = writeSafetensors(tensors, { format: "lowrank-checkpoint", version: "9" });
    expect(() => readCheckpoint(later)).toThrow("version 1, got version 9");
    const unreadable = writeSafetensors(tensors, { format: "lowrank-checkpoint", version: "1", state: "{" });
    expect(() => readCheckpoint(unreadable)).toThrow(/state: expected JSON/);
  });

  it("is refused with every fault of its state", () => {
    const bytes = withState((state) => {
      state.kind = "model";
      state.step = -1;
      state.position = { epoch: 0.5, index: 1 };
      state.best = { metric: "t/loss", mode: "up", value: 1, step: 1 };
      delete state.random;
    });
    const read = () => readCheckpoint(bytes, "last");
    expect(read).toThrow(LowrankError);
    expect(read).toThrow(/^last: 5 faults/);
    expect(read).toThrow('state.kind: expected adapter or weights, got "model"');
    expect(read).toThrow("state.step: expected a whole number, got -1");
    expect(read).toThrow("state.position: expected an object in which epoch: expected a whole number, got 0.5");
    expect(read).toThrow('mode: expected min or max, got "up"');
    expect(read).toThrow("state.random: expected an object of such values, got nothing");
  });

  it("is refused when arrays and state disagree", () => {
    const bytes = withState((state) => {
      state.step = 7;
      state.ema = null;
      state.optimizer = { name: "adam", hyperparameters: {}, slots: ["row"] };
    });
    expect(() => readCheckpoint(bytes)).toThrow(
      [
        "checkpoint: 3 faults",
        "  - losses: expected 7, one for each step, got 2",
        "  - ema: expected 0 tensors, got 1",
        "  - optimizer: expected the slots row, got variance",
      ].join("\n"),
    );
  });
});
