// Real models, damaged: whatever is left is read, looked at and prepared for training, or refused with an error of ours, and
// quickly. Seeds are printed by fast-check when something fails.
import fc from "fast-check";
import { expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { support } from "./support.ts";

/** Milliseconds that a file of some hundred kilobytes may take. */
const patience = 2000;

const files = [
  "mlp/model.onnx",
  "cnn/model.onnx",
  "mixed/base.legacy.onnx",
  "distilbert/base.legacy.onnx",
  "../half/half.legacy.onnx",
  "../cache/llama.onnx",
].map((name) => goldenFile(name));

type Damage = (bytes: Uint8Array, at: number, size: number) => Uint8Array;

const damages: Readonly<Record<string, Damage>> = {
  overwritten: (bytes, at, size) => {
    const changed = bytes.slice();
    for (let index = 0; index < 1 + (size % 4); index++) changed[(at + index * 37) % bytes.length] = size + index;
    return changed;
  },
  "cut off": (bytes, at) => bytes.slice(0, at),
  "with a hole": (bytes, at, size) => new Uint8Array(Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + size)])),
  "with a part twice": (bytes, at, size) =>
    new Uint8Array(Buffer.concat([bytes.subarray(0, at + size), bytes.subarray(at)])),
  "with text swapped": (bytes, at, size) => {
    const changed = bytes.slice();
    const [from, to] = [at, (at * 7 + size) % bytes.length];
    changed.copyWithin(to, from, from + 1 + (size % 16));
    return changed;
  },
};

it("damaged models are refused, or used, and nothing takes long", { timeout: 60_000 }, () => {
  let refused = 0;
  let used = 0;
  fc.assert(
    fc.property(
      fc.constantFrom(...files),
      fc.constantFrom(...Object.keys(damages)),
      fc.nat(),
      fc.integer({ min: 0, max: 255 }),
      (file, kind, at, size) => {
        const bytes = damages[kind]!(file, at % file.length, size);
        const begin = performance.now();
        try {
          const model = readModel(bytes);
          support(model, { r: 2, targetModules: ".*" });
          used++;
        } catch (error) {
          if (!(error instanceof LowrankError)) throw error;
          refused++;
        }
        expect(performance.now() - begin, kind).toBeLessThan(patience);
      },
    ),
    { numRuns: 400 },
  );
  // Both kinds of end must have been met for this to say anything.
  expect(Math.min(refused, used)).toBeGreaterThan(20);
});
