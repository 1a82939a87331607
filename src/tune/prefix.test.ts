// The frozen prefix and recomputation as a run has them: told, switched off by a flag, and without effect on what is learnt.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { dryRun } from "./dry-run.ts";
import { linearNetwork } from "./network.ts";
import { runTune } from "./run.ts";
import { resolveOptions } from "./settings.ts";
import { silentVoice, type Voice } from "./voice.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-tune-prefix-"));
  const random = createRandom(3, "rows");
  const rows = Array.from({ length: 150 }, (_, index) => ({
    x: Array.from({ length: 8 }, () => random.normal() + (index % 2)),
    label: index % 2,
  }));
  writeFileSync(join(folder, "rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  writeFileSync(join(folder, "model.onnx"), writeModel(linearNetwork([8, 128, 128, 2], 1)));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function optionsOf(more: Record<string, string | boolean | string[]>) {
  return resolveOptions("tune", {
    model: join(folder, "model.onnx"),
    data: [join(folder, "rows.jsonl")],
    r: "2",
    threads: "1",
    epochs: "3",
    batchSize: "20",
    ...more,
  });
}

/** The lines that a voice is given. */
function listening(): { voice: Voice; said: string[] } {
  const said: string[] = [];
  return { said, voice: { ...silentVoice, say: (text = "") => void said.push(text) } };
}

async function tune(out: string, more: Record<string, string | boolean | string[]>) {
  const { voice, said } = listening();
  await runTune(optionsOf({ out: join(folder, out), ...more }), { voice });
  const lines = readFileSync(join(folder, out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  const records = lines.map((line) => JSON.parse(line) as { kind: string; loss: number });
  return {
    told: said.filter((line) => line.startsWith("Frozen prefix")),
    losses: records.filter(({ kind }) => kind === "step").map(({ loss }) => loss),
  };
}

const last = "fc3";

describe("tuning the last layer", () => {
  it("runs what is below once for each row, says so, and learns the same", async () => {
    const kept = await tune("kept", { targetModules: [last] });
    expect(kept.told).toEqual([
      expect.stringMatching(
        /^Frozen prefix: 5 of 7 nodes run once for each row; of each, 520 B are kept \(.* in memory\)\.$/,
      ),
    ]);
    const plain = await tune("plain", { targetModules: [last], prefixCache: false });
    expect(plain.told).toEqual([]);
    expect(plain.losses.length).toBe(kept.losses.length);
    for (const [at, loss] of plain.losses.entries()) expect(Math.abs(kept.losses[at]! - loss)).toBeLessThan(1e-6);
    expect(readdirSync(join(folder, "kept")).filter((name) => name.endsWith(".rows"))).toEqual([]);
  });

  it("with activations computed again: the same", async () => {
    const again = await tune("again", { targetModules: ["all-linear"], checkpointActivations: true });
    const plain = await tune("all", { targetModules: ["all-linear"] });
    expect(again.losses.length).toBe(plain.losses.length);
    for (const [at, loss] of plain.losses.entries()) expect(Math.abs(again.losses[at]! - loss)).toBeLessThan(1e-6);
  });

  it("a dry run tells what memory it will take, by its parts", async () => {
    const { voice, said } = listening();
    const { memoryEstimate, memoryBytes } = await dryRun("tune", optionsOf({ targetModules: [last] }), { voice });
    const { process, weights, activations, trained, batches, total } = memoryEstimate;
    expect(total).toBe(process + weights + activations + trained + batches);
    // A and B of rank 2, their gradients and Adam's two moments.
    expect(trained).toBe(4 * 4 * 2 * (128 + 2));
    expect(process).toBeLessThanOrEqual(memoryBytes);
    expect(said.some((line) => /^Memory: about .* \(estimated: .*measured/.test(line))).toBe(true);
  });
});
