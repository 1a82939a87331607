// From each home to each other and back again: the same updates; --dry-run writes nothing; --json says what was done.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Adapter } from "../lora/config.ts";
import { modulesOf } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { addConvert } from "./adapter-convert.ts";

const golden = new URL("../../test/fixtures/golden/distilbert/adapter/", import.meta.url).pathname;
let folder = "";
let stdout = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-convert-"));
  stdout = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

async function convert(...args: string[]): Promise<void> {
  const command = new Command("adapter").exitOverride().configureOutput({ outputError: () => {} });
  addConvert(command);
  await command.parseAsync(["convert", ...args], { from: "user" });
}

/** The largest difference of s B A over all modules, relative to the largest value. */
function difference(one: Adapter, other: Adapter): number {
  const updates = (adapter: Adapter): Map<string, Float64Array> =>
    new Map(
      modulesOf(adapter).map(({ path, a, b }) => {
        const [r, inFeatures, outFeatures] = [a.dims[0]!, a.dims[1]!, b.dims[0]!];
        const scale = scaleOf(adapter.config, path);
        const product = Float64Array.from({ length: outFeatures * inFeatures }, (_, i) => {
          let sum = 0;
          for (let k = 0; k < r; k++) {
            sum += b.data[Math.floor(i / inFeatures) * r + k]! * a.data[k * inFeatures + (i % inFeatures)]!;
          }
          return scale * sum;
        });
        return [path, product];
      }),
    );
  const [first, second] = [updates(one), updates(other)];
  expect([...second.keys()].sort()).toEqual([...first.keys()].sort());
  let [largest, off] = [0, 0];
  for (const [path, values] of first) {
    for (const [i, value] of values.entries()) {
      largest = Math.max(largest, Math.abs(value));
      off = Math.max(off, Math.abs(value - second.get(path)![i]!));
    }
  }
  return off / largest;
}

describe("lowrank adapter convert", () => {
  it("keeps the updates on the way through every home", async () => {
    const original = await loadAdapter(golden);
    await convert(golden, join(folder, "a.onnx_adapter"), "--to", "onnx");
    await convert(join(folder, "a.onnx_adapter"), join(folder, "mlx"), "--to", "mlx");
    await convert(join(folder, "mlx"), join(folder, "peft"), "--to", "peft");
    for (const home of ["a.onnx_adapter", "mlx", "peft"]) {
      expect(difference(original, await loadAdapter(join(folder, home)))).toBeLessThan(1e-6);
    }
    await convert(golden, join(folder, "same"), "--to", "peft");
    for (const name of readdirSync(golden)) {
      expect(readFileSync(join(folder, "same", name)).equals(readFileSync(join(golden, name)))).toBe(true);
    }
    expect(stdout).toContain("(a PEFT directory, 6 modules): wrote");
  });

  it("rounds on request, and says by how much", async () => {
    const original = await loadAdapter(golden);
    for (const [to, dtype, tolerance] of [
      ["onnx", "int8", 2e-2],
      ["onnx", "float16", 1e-3],
      ["peft", "bfloat16", 1e-2],
      ["mlx", "float16", 1e-3],
    ] as const) {
      const path = join(folder, `${to}-${dtype}`);
      await convert(golden, path, "--to", to, "--dtype", dtype);
      const read = await loadAdapter(path);
      expect(new Set(read.storage?.values())).toEqual(new Set([dtype]));
      const off = difference(original, read);
      expect(off).toBeGreaterThan(0);
      expect(off).toBeLessThan(tolerance);
      expect(stdout).toContain(`rounding to ${dtype} changes values by at most`);
    }
    // Back to float32: the values stay rounded, the type is wide.
    await convert(join(folder, "peft-bfloat16"), join(folder, "wide"), "--to", "peft", "--dtype", "float32");
    const wide = await loadAdapter(join(folder, "wide"));
    expect(wide.storage).toBeUndefined();
    expect(wide.tensors).toEqual((await loadAdapter(join(folder, "peft-bfloat16"))).tensors);
  });

  it("writes nothing with --dry-run, and JSON with --json", async () => {
    await convert(golden, join(folder, "x"), "--to", "mlx", "--dry-run", "--json", "--dtype", "float16");
    expect(existsSync(join(folder, "x"))).toBe(false);
    const result: unknown = JSON.parse(stdout);
    expect(result).toMatchObject({
      ...{
        from: golden,
        fromHome: "peft",
        path: join(folder, "x"),
        toHome: "mlx",
        modules: 6,
        dtype: "float16",
        dryRun: true,
      },
      files: [{ name: "adapter_config.json" }, { name: "adapters.safetensors" }],
    });
  });

  it("refuses what a home cannot hold, and words that it does not know", async () => {
    await expect(convert(golden, join(folder, "x"), "--to", "peft", "--dtype", "int8")).rejects.toThrow(
      "which PEFT's files cannot hold",
    );
    await expect(convert(golden, join(folder, "x"), "--to", "onnx", "--dtype", "int4")).rejects.toThrow(
      'dtype: expected float32, float16, bfloat16 or int8, got "int4"',
    );
    await expect(convert(golden, join(folder, "x"), "--to", "gguf")).rejects.toThrow(
      "Allowed choices are peft, onnx, mlx",
    );
    expect(existsSync(join(folder, "x"))).toBe(false);
  });
});
