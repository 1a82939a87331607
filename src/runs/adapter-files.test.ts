// Adapters found where they are, whatever kind of home that is.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { writeMlxAdapter } from "../adapter/mlx.ts";
import { writeOnnxAdapter } from "../adapter/onnx-adapter.ts";
import { LowrankError } from "../errors.ts";
import { adapterHome, loadAdapter, saveAdapter } from "./adapter-files.ts";
import { writeFilesAtomic } from "./files.ts";

const golden = new URL("../../test/fixtures/golden/gpt2/adapter/", import.meta.url).pathname;
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-adapters-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function message(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => null,
    (e: unknown) => e,
  );
  if (!(error instanceof LowrankError)) throw error;
  return error.message.replaceAll(folder, "DIR");
}

describe("loadAdapter and saveAdapter", () => {
  it("write PEFT's own files again, byte for byte", async () => {
    const adapter = await loadAdapter(golden);
    for (let i = 0; i < 2; i++) await saveAdapter(join(folder, "a"), adapter);
    for (const name of readdirSync(join(folder, "a"))) {
      expect(readFileSync(join(folder, "a", name)).equals(readFileSync(join(golden, name)))).toBe(true);
    }
    expect(readdirSync(folder)).toEqual(["a"]);
  });

  it("read each kind of home", async () => {
    const { tensors } = await loadAdapter(golden);
    const adapter = await loadAdapter(golden);
    await writeFilesAtomic(join(folder, "mlx"), writeMlxAdapter(adapter));
    writeFileSync(join(folder, "x.onnx_adapter"), writeOnnxAdapter(adapter));
    expect([
      await adapterHome(golden),
      await adapterHome(join(folder, "mlx")),
      await adapterHome(join(folder, "x.onnx_adapter")),
    ]).toEqual(["peft", "mlx", "onnx"]);
    for (const home of ["mlx", "x.onnx_adapter"]) {
      const read = await loadAdapter(join(folder, home));
      expect(new Set(read.tensors.keys())).toEqual(new Set(tensors.keys()));
    }
  });

  it("say what is wrong, and where", async () => {
    expect(await message(loadAdapter(join(folder, "absent")))).toBe(
      "DIR/absent: cannot read: no such file; check the path",
    );
    expect(await message(loadAdapter(folder))).toMatch(/^DIR: expected an adapter's directory/);
    mkdirSync(join(folder, "pickled"));
    writeFileSync(join(folder, "pickled", "adapter_config.json"), "{}");
    writeFileSync(join(folder, "pickled", "adapter_model.bin"), "anything");
    expect(await message(loadAdapter(join(folder, "pickled")))).toContain("got adapter_model.bin, which can run code");
    writeFileSync(join(folder, "x"), "neither");
    expect(await message(loadAdapter(join(folder, "x")))).toMatch(/^DIR\/x: expected the header within 7 bytes/);
  });
});
