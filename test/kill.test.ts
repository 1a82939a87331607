// A process that saves an adapter is killed: before each single system call that changes anything, and at random moments. What
// is read afterwards, by names as PEFT reads it, is the old adapter or the new one, and the next save goes through.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadAdapter, saveAdapter, tensor } from "lowrank";
import { describe, expect, it } from "vitest";
import { node } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const files = ["adapter_config.json", "adapter_model.safetensors"];
/** Less than the package's whole entry: dozens of processes load it. */
const load = ["runs/adapter-files.js", "tensor.js"]
  .map((file) => `...(await import(${JSON.stringify(join(root, "dist", file))}))`)
  .join(", ");

/** Adapters that can be told apart by either file alone: rank r, values r. */
const make = `(r) => ({
  config: { r, loraAlpha: r, targetModules: ["fc"], excludeModules: null, useRslora: false, rankPattern: {}, alphaPattern: {},
    fanInFanOut: false, initLoraWeights: true, loraDropout: 0, layersToTransform: null, layersPattern: null, useDora: false,
    loraBias: false, bias: "none", modulesToSave: null, trainableTokenIndices: null, baseModelNameOrPath: null, taskType: null,
    extra: {} },
  tensors: new Map([
    ["base_model.model.fc.lora_A.weight", tensor("float32", [r, 3], new Float32Array(3 * r).fill(r))],
    ["base_model.model.fc.lora_B.weight", tensor("float32", [2, r], new Float32Array(2 * r).fill(r))],
  ]),
})`;
const makeAdapter = new Function("tensor", `return ${make}`)(tensor) as (
  r: number,
) => Parameters<typeof saveAdapter>[1];

/** Saves rank 2, and dies before the system call number STOP that changes something. */
const dying = `
import { createRequire, syncBuiltinESMExports } from "node:module";
const require = createRequire(import.meta.url);
const fs = require("node:fs");
let left = Number(process.env.STOP);
const die = () => { if (left-- === 0) process.kill(process.pid, "SIGKILL"); };
const names = ["rename", "symlink", "link", "mkdir", "unlink", "rm", "copyFile", "open", "writeFile", "fsync"];
for (const name of names) {
  const sync = fs[name + "Sync"];
  fs[name + "Sync"] = (...args) => { die(); return sync(...args); };
  const later = fs.promises[name];
  if (later !== undefined) fs.promises[name] = (...args) => { die(); return later(...args); };
}
syncBuiltinESMExports();
const { saveAdapter, tensor } = { ${load} };
await saveAdapter("adapter", (${make})(2));
console.log("saved");
`;

/** Saves ranks 1 and 2 in turns until it is killed. */
const endless = `
const { saveAdapter, tensor } = { ${load} };
const make = ${make};
for (let i = 0; ; i++) {
  await saveAdapter("adapter", make(1 + (i % 2)));
  if (i === 0) console.log("ready");
}
`;

/** The rank that both files tell, read plainly by their names. */
function rankOf(folder: string): number {
  const config = JSON.parse(readFileSync(join(folder, files[0]!), "utf8")) as { r: number };
  const weights = readFileSync(join(folder, files[1]!));
  const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE())).toString()) as Record<
    string,
    { shape?: number[] }
  >;
  expect(header["base_model.model.fc.lora_A.weight"]!.shape).toEqual([config.r, 3]);
  return config.r;
}

describe("a killed save", () => {
  it.each(["a folder of plain files", "no folder", "an empty folder"])(
    "leaves the old adapter or the new one at each step, over %s",
    async (before) => {
      const folder = join(work, "adapter");
      const seen: (number | null)[] = [];
      for (let stop = 0; ; stop++) {
        rmSync(folder, { recursive: true, force: true });
        if (before === "an empty folder") mkdirSync(folder);
        if (before === "a folder of plain files") {
          await saveAdapter(folder, makeAdapter(1));
          writeFileSync(join(folder, "README.md"), "mine");
        }
        const { stdout, stderr } = await node(["--input-type=module", "-e", dying], {
          cwd: work,
          env: { STOP: String(stop) },
        });
        expect(stderr).toBe("");
        const isThere = files.filter((name) => existsSync(join(folder, name))).length;
        expect(isThere === 0 || isThere === files.length).toBe(true);
        seen.push(isThere === 0 ? null : rankOf(folder));
        // What was left does not stand in the way.
        await saveAdapter(folder, makeAdapter(3));
        expect(rankOf(folder)).toBe(3);
        const others = before === "a folder of plain files" ? ["README.md"] : [];
        expect(readdirSync(folder).sort()).toEqual([...others, ...files]);
        if (stdout === "saved\n") break;
      }
      const old = before === "a folder of plain files" ? 1 : null;
      const moment = seen.indexOf(2);
      expect(seen).toEqual(seen.map((_, i) => (i < moment ? old : 2)));
      expect(moment).toBeGreaterThan(3);
      expect(seen.length - moment).toBeGreaterThan(before === "no folder" ? 1 : 3);
    },
    120_000,
  );

  it("leaves one of them at random moments", async () => {
    const folder = join(work, "adapter");
    rmSync(folder, { recursive: true, force: true });
    for (let round = 0; round < 8; round++) {
      const child = spawn(process.execPath, ["--input-type=module", "-e", endless], { cwd: work });
      await new Promise((resolve) => child.stdout.once("data", resolve));
      await new Promise((resolve) => setTimeout(resolve, 1 + 40 * Math.random()));
      const closed = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGKILL");
      await closed;
      expect([1, 2]).toContain(rankOf(folder));
    }
  }, 60_000);

  it("shows a reader one adapter while another process replaces it", async () => {
    const folder = join(work, "adapter");
    rmSync(folder, { recursive: true, force: true });
    const child = spawn(process.execPath, ["--input-type=module", "-e", endless], { cwd: work });
    const closed = new Promise((resolve) => child.once("close", resolve));
    try {
      await new Promise((resolve) => child.stdout.once("data", resolve));
      const ranks = new Set<number>();
      for (let i = 0; i < 60; i++) {
        const { config, tensors } = await loadAdapter(folder);
        expect(tensors.get("base_model.model.fc.lora_A.weight")?.data[0]).toBe(config.r);
        ranks.add(config.r);
      }
      expect(ranks).toEqual(new Set([1, 2]));
    } finally {
      child.kill("SIGKILL");
      await closed;
    }
  }, 60_000);
});
