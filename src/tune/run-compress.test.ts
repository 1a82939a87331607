// From options to files: measured with labels and without, recovered apart and merged, and refused.
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import type { Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import { createRandom } from "../random.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { loadModel } from "../runs/model-file.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import type { RunOptions } from "./option-table.ts";
import { runCompress } from "./run-compress.ts";
import { resolveOptions } from "./settings.ts";

let folder = "";
let base: Model;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-run-compress-"));
  base = twoLayers(); // x [batch, 3] -> fc1 (3 -> 5) -> Tanh -> fc2 (5 -> 4)
  writeFileSync(at("base.onnx"), writeModel(base));
  await writeRows();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => join(folder, name);

/** Rows with the class that the base gives them, so that the base is always right. */
async function writeRows(): Promise<void> {
  const random = createRandom(7, "rows");
  const rows = 160;
  const x = tensor(
    "float32",
    [rows, 3],
    Float32Array.from({ length: rows * 3 }, () => 2 * random.normal()),
  );
  const session = await openSession(base, { threads: 1 });
  const scores = [...(await session.run(new Map([[session.inputs[0]!, x]]))).values()][0] as Tensor<"float32">;
  await session.dispose();
  const lines = Array.from({ length: rows }, (_, row) => {
    const own = [...scores.data.subarray(row * 4, row * 4 + 4)];
    return { x: [...x.data.subarray(row * 3, row * 3 + 3)], label: own.indexOf(Math.max(...own)) };
  });
  const write = (name: string, list: readonly object[]): void =>
    writeFileSync(at(name), list.map((line) => `${JSON.stringify(line)}\n`).join(""));
  write("rows.jsonl", lines);
  write(
    "plain.jsonl",
    lines.map(({ x: values }) => ({ x: values })),
  );
}

function options(data: string | null, more: Record<string, string> = {}): RunOptions {
  return resolveOptions("compress", {
    model: at("base.onnx"),
    ...(data !== null && { data: [at(data)] }),
    threads: "1",
    split: "0.25",
    ...more,
  });
}

const fast = { learningRate: "0.02", epochs: "12", batchSize: "16" };

it("measures layers and steps on rows that it kept apart, and counts the files' bytes", async () => {
  const found = await runCompress(options("rows.jsonl"), {
    compress: { rank: 1, quantize: "int8" },
    out: at("small.onnx"),
    samples: 50,
  });
  expect(found.data).toMatchObject({ samples: 50, labels: "data" });
  expect(found.data!.measured).toBeGreaterThan(20);
  expect(found.steps.map(({ name }) => name)).toEqual(["original", "factorized", "factorized, int8"]);
  expect(found.steps[0]!.measure!.accuracy).toBe(1);
  expect(found.steps[0]!.bytes).toBe(statSync(at("base.onnx")).size);
  expect(found.steps[2]!.bytes).toBe(statSync(at("small.onnx")).size);
  expect(found.steps[1]!.measure!.accuracy).toBeLessThan(1);
  // One layer alone loses no more than what can be lost, and is measured beside the original.
  for (const { alone, dataError } of found.layers) {
    expect(alone!.original.accuracy).toBe(1);
    expect(alone!.measure.loss).not.toBe(alone!.original.loss);
    expect(dataError).toBeGreaterThan(0);
  }
  expect(found.recovery).toBeNull();
});

it("wins accuracy back on the original's outputs where there are no labels, with the adapter in a run folder", async () => {
  const found = await runCompress(options("plain.jsonl", fast), {
    compress: { quantize: "int4" },
    out: at("small.onnx"),
    recover: "auto",
    run: at("run"),
    layers: false,
  });
  expect(found.data!.labels).toBe("original");
  expect(found.recovery).toMatchObject({ learnt: "original", base: at("small.onnx"), merged: false });
  const [original, small, recovered] = found.steps.map(({ measure }) => measure!);
  expect(original!.accuracy).toBe(1); // agreement with itself
  const { before, after } = JSON.parse(readFileSync(at("run/summary.json"), "utf8"));
  expect(after["target/loss"]).toBeLessThan(0.5 * before["target/loss"]);
  expect(recovered!.accuracy).toBeGreaterThanOrEqual(small!.accuracy!);
  const { teacher, model } = JSON.parse(readFileSync(at("run/config.json"), "utf8"));
  expect([teacher, model]).toEqual([at("base.onnx"), at("small.onnx")]);
  expect(existsSync(at("run/report.html"))).toBe(true);
  // The adapter is one for the model that was written.
  const adapter = await loadAdapter(found.recovery!.adapter);
  const session = await createSession(attachLora(await loadModel(at("small.onnx")), adapter.config), { threads: 1 });
  const outputs = await session.run({ x: drawn("x", 2, 3) }, { adapter });
  expect([...outputs.values()][0]!.data.every(Number.isFinite)).toBe(true);
  await session.dispose();
});

it("merges what it learnt, and quantizes after that", async () => {
  const found = await runCompress(options("rows.jsonl", fast), {
    compress: { rank: 1, quantize: "int8" },
    out: at("small.onnx"),
    recover: "original",
    run: at("run"),
    merge: true,
  });
  expect(found.recovery).toMatchObject({ learnt: "original", base: at("small.base.onnx"), merged: true });
  const small = await loadModel(at("small.onnx"));
  expect(sites(small).map(({ modulePath }) => modulePath)).toEqual(["fc1.0", "fc1.1", "fc2.0", "fc2.1"]);
  expect(small.graph.nodes.filter(({ op }) => op === "DequantizeLinear")).toHaveLength(4);
  const last = found.steps.at(-1)!;
  expect(last.name).toBe("recovered, merged");
  expect(last.bytes).toBe(statSync(at("small.onnx")).size);
  expect(last.bytes).toBe(found.steps.at(-2)!.bytes);
  expect(last.measure!.accuracy).toBeGreaterThanOrEqual(found.steps.at(-2)!.measure!.accuracy!);
  const { before, after } = JSON.parse(readFileSync(at("run/summary.json"), "utf8"));
  expect(after["target/loss"]).toBeLessThan(before["target/loss"]);
});

it("refuses requests that contradict themselves, all faults at once, and writes nothing", async () => {
  const request = { compress: { rank: 1 }, out: at("small.onnx") };
  await expect(
    runCompress(options(null), { ...request, merge: true, run: at("run"), samples: 0.5 }),
  ).rejects.toMatchObject({ code: "config", faults: expect.objectContaining({ length: 3 }) });
  await expect(runCompress(options(null), { ...request, recover: "auto" })).rejects.toThrow(
    "--recover: expected --data",
  );
  await expect(runCompress(options("plain.jsonl"), { ...request, recover: "labels" })).rejects.toThrow(
    "expected data with labels",
  );
  await expect(runCompress(options(null), { ...request, out: at("base.onnx") })).rejects.toThrow("another file");
  const dry = await runCompress(options("rows.jsonl"), { ...request, dryRun: true, recover: "auto" });
  expect(dry.steps).toHaveLength(2);
  expect(existsSync(at("small.onnx")) || existsSync(at("run"))).toBe(false);
});
