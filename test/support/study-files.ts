// Whether a run's files are what its summary says: read back, run with the stock runtime, counted and compared.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { attachLora, createSession, type HeadSummary, readAdapter, readModel, sites, tensor } from "lowrank";
import { expect } from "vitest";
import { normalized, type SmallMnist } from "./digits.ts";
import { loraConfig } from "./journey.ts";
import { largestDifference, runOnnxFile } from "./onnx.ts";
import { readFolder, wrongCounts } from "./study.ts";

/** Enabled and merged take their sums in different orders. */
const mergedTolerance = 1e-4;

/** Reads one network's files back, and measures again what the summary says of them. */
export async function checkFiles(run: string, found: HeadSummary, { test }: SmallMnist): Promise<void> {
  const pixels = normalized(test.images);
  const x = tensor("float32", [test.labels.length, 784], pixels);
  const base = readModel(readFileSync(join(run, found.files.base)));
  const merged = readModel(readFileSync(join(run, found.files.merged)));
  const adapter = readAdapter(readFolder(join(run, found.files.adapter)));
  const replayed = readAdapter(readFolder(join(run, found.files.replayAdapter!)));

  const session = await createSession(attachLora(base, loraConfig(adapter)), { threads: 1 });
  const logits = async (own: typeof adapter | null): Promise<Float32Array> =>
    (await session.run({ x }, { adapter: own })).get("logits")!.data as Float32Array;
  const [enabled, disabled, replay] = [await logits(adapter), await logits(null), await logits(replayed)];
  await session.dispose();
  const [plain, mergedLogits] = [
    await runOnnxFile(join(run, found.files.base), pixels, 784),
    await runOnnxFile(join(run, found.files.merged), pixels, 784),
  ];
  expect(wrongCounts(plain, test.labels)).toEqual(found.base.wrong);
  expect(wrongCounts(enabled, test.labels)).toEqual(found.enabled.wrong);
  expect(wrongCounts(replay, test.labels)).toEqual(found.replay!.wrong);
  expect(found.disabled).toEqual({ accuracy: found.base.accuracy, wrong: found.base.wrong });
  expect(found.base.accuracy).toBe(1 - found.base.wrong.reduce((sum, count) => sum + count, 0) / test.labels.length);
  expect(largestDifference(disabled, plain)).toBeLessThanOrEqual(1e-5);
  expect(largestDifference(enabled, mergedLogits)).toBeLessThanOrEqual(mergedTolerance);
  expect(found.mergedMatchesEnabled.maxAbsDiff).toBeLessThanOrEqual(mergedTolerance);
  expect(found.effectiveWeightMatches.maxAbsDiff).toBeLessThanOrEqual(1e-6);
  expect([found.frozenWeightsUnchanged, found.disabledMatchesBase]).toEqual([true, true]);

  // Merged weights are W + (alpha / rank) B A with rank 1 and alpha 1; everything else is the base's, byte for byte.
  const adapted = new Set(sites(base).map(({ weight }) => weight));
  expect([...adapted]).toEqual(["fc1.weight", "fc2.weight", "fc3.weight"]);
  expect([...merged.graph.initializers.keys()]).toEqual([...base.graph.initializers.keys()]);
  for (const [name, { bytes, dims }] of base.graph.initializers) {
    const after = merged.graph.initializers.get(name)!.bytes;
    if (!adapted.has(name)) {
      expect(Buffer.compare(after, bytes), name).toBe(0);
      continue;
    }
    const key = `base_model.model.${name.replace(/\.weight$/, "")}`;
    const a = adapter.tensors.get(`${key}.lora_A.weight`)!.data as Float32Array; // [1, in]
    const b = adapter.tensors.get(`${key}.lora_B.weight`)!.data as Float32Array; // [out, 1]
    expect(dims).toEqual([b.length, a.length]);
    expect(largestDifference(floats(after), sum(floats(bytes), a, b)), name).toBeLessThanOrEqual(1e-6);
  }
}

/** W + b a, row by row. */
function sum(weight: Float32Array, a: Float32Array, b: Float32Array): Float32Array {
  return weight.map((value, at) => value + b[Math.floor(at / a.length)]! * a[at % a.length]!);
}

function floats(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}
