// The answers of PyTorch and PEFT: logits, losses and gradients of the golden cases, and `npm run golden` as a gate.
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readSafetensors, type Tensor, writeSafetensors } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, node } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { type GoldenRow, goldenCases, goldenScript, loadGolden } from "./support/golden.ts";

/** Every export of every case. */
const names = [
  "cnn",
  "distilbert/base.onnx",
  "distilbert/base.legacy.onnx",
  "gpt2",
  "llama/base.onnx",
  "llama/base.legacy.onnx",
  "mixed/base.onnx",
  "mixed/base.legacy.onnx",
  "mlp",
  "neox",
  "packed/base.onnx",
  "packed/base.legacy.onnx",
  "reg",
  "shared/base.onnx",
  "shared/base.legacy.onnx",
  "swin",
];

describe("the golden cases", () => {
  let rows: GoldenRow[];

  beforeAll(async () => {
    rows = await (await loadGolden()).runGolden([goldenCases]);
  });

  it("are all there, in both layouts", () => {
    expect(rows.map(({ name }) => name)).toEqual(names);
  });

  for (const name of names) {
    it(`${name} agrees with PyTorch`, () => {
      const row = rows.find((other) => other.name === name)!;
      expect(row).toMatchObject({ verdict: "pass", reason: "" });
      expect(row.loss).toBeLessThan(1e-5);
      expect(Math.max(row.outputs!, row.gradients!)).toBeLessThanOrEqual(1);
    });
  }

  it("are held to the tolerance that their README names", async () => {
    expect((await loadGolden()).tolerance).toEqual({ absolute: 1e-5, relative: 1e-4 });
  });
});

describe("npm run golden", () => {
  const work = temporaryFolder();
  const golden = (...directories: string[]): Promise<Ended> => node([goldenScript, ...directories], { cwd: work });

  beforeAll(() => {
    const copy = (name: string): void => cpSync(join(goldenCases, "mlp"), join(work, name, "mlp"), { recursive: true });
    const change = (name: string, key: string, by: number): void => {
      copy(name);
      const path = join(work, name, "mlp", "tensors.safetensors");
      const { tensors } = readSafetensors(readFileSync(path), path);
      const changed = new Map<string, Tensor>(tensors);
      const { dims, data } = tensors.get(key)!;
      changed.set(key, { type: "float32", dims, data: moved(data as Float32Array, by) });
      writeFileSync(path, writeSafetensors(changed));
    };
    copy("whole");
    change("one-gradient", "grad.fc2.lora_B", 1e-3);
    change("one-logit", "logits", 1e-3);
    change("not-a-number", "grad.fc1.lora_A", Number.NaN);
    mkdirSync(join(work, "empty"));
  });

  it("exits 0 when every case that can run passes", async () => {
    const { code, stdout } = await golden("whole");
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^mlp .* pass$/m)]);
  });

  it("exits 0 on the project's own cases", async () => {
    const { code, stdout } = await golden(goldenCases);
    expect(code).toBe(0);
    for (const name of names) expect(stdout).toMatch(new RegExp(`^${name} .* pass$`, "m"));
  });

  for (const [name, reason] of [
    ["one-gradient", "gradient of base_model.model.fc2.lora_B.weight"],
    ["one-logit", "logits"],
    ["not-a-number", "gradient of base_model.model.fc1.lora_A.weight"],
  ] as const) {
    it(`exits 1 when a case fails by ${name}, and names what is off`, async () => {
      const { code, stdout } = await golden("whole", name);
      expect([code, stdout]).toEqual([1, expect.stringMatching(/^mlp .* fail$/m)]);
      expect(stdout).toContain(`mlp: ${reason}: `);
    });
  }

  it("exits 1 when there is no case, and 2 when no directory is given", async () => {
    const [empty, nothing] = [await golden("empty"), await golden()];
    expect([empty.code, empty.stderr]).toEqual([1, "no case.json below empty\n"]);
    expect([nothing.code, nothing.stderr]).toEqual([2, "usage: npm run golden -- DIR...\n"]);
  });
});

/** The values with one of them changed. */
function moved(values: Float32Array, by: number): Float32Array {
  const copy = values.slice();
  copy[copy.length >> 1]! += by;
  return copy;
}
