import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { checkpointName, loadCheckpoint, saveCheckpoint } from "./checkpoints.ts";

const work = mkdtempSync(join(tmpdir(), "lowrank-checkpoints-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe("a folder's checkpoint", () => {
  it("is none, then the last that was saved", async () => {
    const folder = join(work, "deep", "run");
    expect(await loadCheckpoint(folder)).toBeNull();
    await saveCheckpoint(folder, Uint8Array.of(1, 2));
    await saveCheckpoint(folder, Uint8Array.of(3));
    expect(await loadCheckpoint(folder)).toEqual(Uint8Array.of(3));
    expect(readdirSync(folder)).toEqual([checkpointName]);
  });

  it("is loaded without what a killed process has left half written, and other files stay", async () => {
    const folder = join(work, "killed");
    await saveCheckpoint(folder, Uint8Array.of(1));
    writeFileSync(join(folder, ".lowrank-0123456789ab.tmp"), "half");
    writeFileSync(join(folder, ".lowrank-notes"), "mine");
    expect(await loadCheckpoint(folder)).toEqual(Uint8Array.of(1));
    expect(readdirSync(folder).sort()).toEqual([".lowrank-notes", checkpointName]);
  });

  it("stays as it was when the next one cannot be written", async () => {
    const folder = join(work, "blocked");
    await saveCheckpoint(folder, Uint8Array.of(7));
    const file = join(work, "file");
    writeFileSync(file, "");
    await expect(saveCheckpoint(join(file, "run"), Uint8Array.of(8))).rejects.toMatchObject({ code: "file" });
    const failing = new Proxy(Uint8Array.of(9), {
      get: (target, key) => {
        if (key === "byteLength") throw new Error("cannot be written");
        return Reflect.get(target, key) as unknown;
      },
    });
    await expect(saveCheckpoint(folder, failing)).rejects.toThrow();
    expect([...readFileSync(join(folder, checkpointName))]).toEqual([7]);
    expect(readdirSync(folder)).toEqual([checkpointName]);
  });

  it("that is a folder is refused", async () => {
    const folder = join(work, "odd");
    mkdirSync(join(folder, checkpointName), { recursive: true });
    await expect(loadCheckpoint(folder)).rejects.toMatchObject({ code: "file" });
  });
});
