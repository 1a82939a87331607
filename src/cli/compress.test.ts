import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { stack } from "../lora/testing/models.ts";
import { sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import { loadModel } from "../runs/model-file.ts";
import { compressCommand } from "./compress.ts";

let folder: string;
let output: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-compress-"));
  writeFileSync(join(folder, "base.onnx"), writeModel(stack(["fc1", "fc2"])));
  output = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    output += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

const run = (...args: string[]): Promise<unknown> =>
  compressCommand().parseAsync([join(folder, "base.onnx"), "--out", join(folder, "small.onnx"), ...args], {
    from: "user",
  });

it("writes a model with two thin layers, and says what became of each", async () => {
  await run("--rank", "1", "--target", "fc2", "--json");
  const { layers, bytes } = JSON.parse(output);
  expect(layers).toMatchObject([{ modulePath: "fc2", rank: 1, parameters: { before: 16, after: 8 } }]);
  expect(bytes).toEqual({ before: 160, after: 128 });
  const small = await loadModel(join(folder, "small.onnx"));
  expect(sites(small).map(({ modulePath }) => modulePath)).toEqual(["fc1", "fc2.0", "fc2.1"]);
});

it("measures on data, and recovers on its labels", async () => {
  const rows = Array.from({ length: 60 }, (_, row) => {
    const x = [0, 1, 2, 3].map((at) => Math.sin(row * 5 + at));
    return JSON.stringify({ x, label: x.indexOf(Math.max(...x)) });
  });
  writeFileSync(join(folder, "rows.jsonl"), rows.join("\n"));
  const data = ["--data", join(folder, "rows.jsonl"), "--split", "0.3", "--threads", "1", "--json"];
  const recovery = ["--recover", "--run", join(folder, "run"), "--epochs", "2", "--learning-rate", "0.01", "--r", "2"];
  await run("--quantize", "int4", ...data, ...recovery);
  const { steps, recovery: found, layers } = JSON.parse(output);
  expect(steps.map(({ name }: { name: string }) => name)).toEqual(["original", "int4", "recovered, with its adapter"]);
  expect(found).toMatchObject({ learnt: "labels", folder: join(folder, "run"), merged: false });
  expect(layers[0].alone.measure.accuracy).toBeLessThanOrEqual(1);
  const config = JSON.parse(readFileSync(join(folder, "run", "config.json"), "utf8"));
  expect(config).toMatchObject({ r: 2, epochs: 2, learningRate: 0.01, teacher: null });
});

it("writes nothing with --dry-run, or for options that contradict one another", async () => {
  await run("--quantize", "int8", "--dry-run");
  expect(output).toContain("Weights: ");
  await expect(run("--rank", "1", "--energy", "0.9")).rejects.toThrow("choose one");
  await expect(run("--rank", "1", "--out", `${folder}/./base.onnx`)).rejects.toThrow("expected another file");
  expect(existsSync(join(folder, "small.onnx"))).toBe(false);
});

it("refuses a place that cannot be written to before any work begins", async () => {
  await expect(run("--rank", "1", "--out", join(folder, "absent", "small.onnx"))).rejects.toThrow(
    "the folder does not exist",
  );
  expect(output).toBe("");
  await run("--rank", "1", "--out", join(folder, "absent", "small.onnx"), "--dry-run");
  expect(output).toContain("not written (--dry-run)");
});
