// WebGPU in Node.js, on a Vulkan driver in software where there is no GPU: PyTorch's gradients, the study's steps, and the
// command. Each part runs in a process of its own, since the driver is looked for once, and may take the process with it.
// Without a driver on this machine it is skipped, and says so.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { type Ended, lowrank, node } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";
import { goldenCases, goldenScript } from "./support/golden.ts";
import { softwareDriver } from "./support/webgpu.ts";

const driver = softwareDriver();
if (typeof driver === "string") process.stderr.write(`WebGPU was not tested in Node.js: ${driver}\n`);

/** Shaders are compiled for a processor here. */
const patience = 180_000;

const work = temporaryFolder();

describe("WebGPU in Node.js", { timeout: patience }, () => {
  beforeEach((context) => {
    if (typeof driver === "string") context.skip(driver);
  });

  const withDriver = (args: readonly string[]): Promise<Ended> =>
    node(args, { cwd: work, env: driver as Readonly<Record<string, string>> });

  // `npm run golden -- --device webgpu DIR` runs all; this is a quick one that needs nodes kept on the CPU.
  it("gives PyTorch's loss and gradients", async () => {
    const name = "cnn";
    const { code, stdout, stderr } = await withDriver([goldenScript, "--device", "webgpu", join(goldenCases, name)]);
    expect([code, stdout, stderr]).toEqual([
      0,
      expect.stringMatching(new RegExp(`^${name}.* pass$`, "m")),
      expect.anything(),
    ]);
    expect(stdout).not.toMatch(/fail|not run/);
  });

  // `npm run device-steps` takes 50 steps of 10 images, which is minutes in software.
  it("takes the study's network through steps of LoRA as the CPU does, with only adapters and gradients crossing", async () => {
    const script = join(root, "scripts", "device-steps.js");
    const { code, stdout } = await withDriver([script, "--device", "webgpu", "--steps", "3", "--batch", "2"]);
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^3 steps of 2 rows at rank 1; largest relative/m)]);
    // A and B of 784-1000-2000-10 at rank 1, 2 images, 2 labels; the loss comes back beside the gradients.
    const parameters = 4 * (784 + 1000 + 1000 + 2000 + 2000 + 10);
    const uploaded = parameters + 2 * 784 * 4 + 2 * 8;
    expect(stdout).toContain(`a step uploads ${uploaded} bytes and downloads ${parameters + 4};`);
  });
});

describe("without a GPU", () => {
  // A list of drivers that names none: no Vulkan is found, whatever is installed.
  const env = { VK_DRIVER_FILES: join(work, "none.json"), VK_ICD_FILENAMES: join(work, "none.json") };

  it("says what was tried and what to do", async () => {
    mkdirSync(join(work, "data"), { recursive: true });
    writeFileSync(join(work, "model.onnx"), "");
    const { code, stdout, stderr } = await lowrank(["eval", "model.onnx", "--data", "data", "--device", "webgpu"], {
      cwd: work,
      env,
    });
    if (process.platform !== "linux") return;
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/device webgpu: no GPU adapter was found; Vulkan was tried on Linux.*or use cpu or auto/);
  });

  it("says that the runtime has no CUDA", async () => {
    const { code, stdout, stderr } = await lowrank(["study", "--device", "cuda", "--out", "study"], { cwd: work, env });
    if (code === 0) return; // a machine with CUDA
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(stderr).toMatch(/device cuda: the runtime has no CUDA provider.*ONNXRUNTIME_NODE_INSTALL=skip.*or auto/);
  });
});
