import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
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

it("writes nothing with --dry-run, or for options that contradict one another", async () => {
  await run("--quantize", "int8", "--dry-run");
  expect(output).toContain("Weights: ");
  await expect(run("--rank", "1", "--energy", "0.9")).rejects.toThrow("choose one");
  expect(existsSync(join(folder, "small.onnx"))).toBe(false);
});
