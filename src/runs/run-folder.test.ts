import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createRunFolder, namesOfRun, type RunFolder, reopenRunFolder, timeForName } from "./run-folder.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-run-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const now = new Date(2026, 10, 23, 20, 41, 7);
const isRoot = process.getuid?.() === 0;

function create(path: string): Promise<RunFolder> {
  return createRunFolder(path, { prefix: "study", now });
}

async function finished(path: string): Promise<RunFolder> {
  const run = await create(path);
  await run.writeJson("config.json", { seed: 0 });
  await run.writeFolder("adapter", new Map([["adapter_config.json", "{}"]]));
  await run.writeJson("summary.json", { version: 1 });
  run.metrics.append({ kind: "evaluation", phase: "base", accuracy: 1 });
  run.metrics.close();
  return run;
}

describe("a default folder", () => {
  it("is named after the local time, and after a number where that is taken", async () => {
    const parent = join(folder, "runs");
    const at = (): Promise<RunFolder> => createRunFolder(undefined, { prefix: "study", now, parent });
    const runs = [await at(), ...(await Promise.all([at(), at()]))];
    const name = "study-2026-11-23T20-41-07";
    expect(runs.map((run) => run.path).sort()).toEqual(["", "-2", "-3"].map((end) => join(parent, name + end)));
    expect(readdirSync(runs[0]!.path).sort()).toEqual([".lowrank-run", "metrics.jsonl"]);
    for (const run of runs) run.metrics.close();
  });

  it("pads every part of the time", () => {
    expect(timeForName(new Date(2027, 0, 2, 3, 4, 5))).toBe("2027-01-02T03-04-05");
  });

  it("says when its parent is a file", async () => {
    writeFileSync(join(folder, "runs"), "");
    await expect(createRunFolder(undefined, { prefix: "study", parent: join(folder, "runs") })).rejects.toThrow(
      `${folder}/runs: expected a folder, got a file; choose another name`,
    );
  });
});

describe("what a run writes", () => {
  it("is JSON with indent 2 in the given order, bytes, and folders", async () => {
    const run = await create(join(folder, "a", "b"));
    await run.writeJson("config.json", { seed: 1, alpha: [1] });
    await run.write("base.onnx", new Uint8Array([8, 9]));
    await run.writeFolder("adapter", new Map([["adapter_config.json", "{}"]]));
    run.metrics.close();
    expect(readFileSync(join(run.path, "config.json"), "utf8")).toBe('{\n  "seed": 1,\n  "alpha": [\n    1\n  ]\n}\n');
    expect([...readFileSync(join(run.path, "base.onnx"))]).toEqual([8, 9]);
    expect(readFileSync(join(run.path, "adapter", "adapter_config.json"), "utf8")).toBe("{}");
    expect(readFileSync(join(run.path, ".lowrank-run"), "utf8")).toBe(
      "lowrank run 1\nmetrics.jsonl\nconfig.json\nbase.onnx\nadapter\n",
    );
    await expect(run.write("../escape", "")).rejects.toThrow(/^internal: "..\/escape" is no plain file name$/);
  });
});

describe("a given folder", () => {
  it("may be an earlier run: its results go, other files stay", async () => {
    const path = join(folder, "out");
    await finished(path);
    writeFileSync(join(path, "notes.txt"), "mine");
    const run = await create(path);
    run.metrics.close();
    expect(readdirSync(path).sort()).toEqual([".lowrank-run", "metrics.jsonl", "notes.txt"]);
    expect(readFileSync(join(path, "metrics.jsonl"), "utf8")).toBe("");
    expect(readFileSync(join(path, "notes.txt"), "utf8")).toBe("mine");
    await finished(path);
    expect(JSON.parse(readFileSync(join(path, "summary.json"), "utf8"))).toEqual({ version: 1 });
  });

  it("may be empty, but not someone else's, which stays as it is", async () => {
    const path = join(folder, "out");
    mkdirSync(path);
    (await create(path)).metrics.close();
    const home = join(folder, "home");
    mkdirSync(home);
    for (const name of ["summary.json", "config.json"]) writeFileSync(join(home, name), "mine");
    await expect(create(home)).rejects.toThrow(
      `${home}: expected a new or empty folder or that of an earlier run, got a folder with other files (config.json, …); choose another folder`,
    );
    expect(readFileSync(join(home, "summary.json"), "utf8")).toBe("mine");
  });

  it("is refused when its marker is not ours or names paths outside", async () => {
    writeFileSync(join(folder, "precious"), "mine");
    for (const text of ["", "lowrank run 1\n../precious\n", "lowrank run 1\n..\n", "something else\n"]) {
      const path = join(folder, "out");
      mkdirSync(path, { recursive: true });
      writeFileSync(join(path, ".lowrank-run"), text);
      await expect(create(path)).rejects.toThrow(/expected a new or empty folder/);
    }
    expect(readFileSync(join(folder, "precious"), "utf8")).toBe("mine");
  });

  // Only Linux has a file system in which no folder can be made, whoever asks.
  it.skipIf(process.platform !== "linux")(
    "is refused where no folder can be made, and does not try for ever",
    async () => {
      await expect(createRunFolder("/proc/none/of/these", { prefix: "tune" })).rejects.toMatchObject({
        code: "file",
        message: expect.stringMatching(/^\/proc\/none: cannot write/),
      });
    },
  );

  it("is refused before any work when it cannot be written", async () => {
    writeFileSync(join(folder, "file"), "mine");
    await expect(create(join(folder, "file"))).rejects.toMatchObject({
      code: "file",
      message: `${folder}/file: expected a folder, got a file; choose another name`,
    });
    await expect(create(join(folder, "file", "out"))).rejects.toMatchObject({
      code: "file",
      message: `${folder}/file/out: cannot write: a part of the path is a file, not a folder; check the path`,
    });
    await expect(create("")).rejects.toMatchObject({ code: "config" });
  });

  it.skipIf(isRoot || process.platform === "win32")(
    "is refused without permission (not testable as root)",
    async () => {
      chmodSync(folder, 0o555);
      await expect(create(join(folder, "out"))).rejects.toThrow("cannot write: permission denied");
      await expect(create(folder)).rejects.toThrow("cannot write: permission denied");
      chmodSync(folder, 0o755);
    },
  );
});

describe("going on with a run", () => {
  it("keeps what is there, and of the metrics what comes before the checkpoint", async () => {
    const path = join(folder, "run");
    const run = await create(path);
    await run.writeJson("config.json", { seed: 0 });
    for (let step = 1; step <= 4; step++) run.metrics.append({ kind: "evaluation", phase: "tune", step });
    run.metrics.close();
    // A line that a killed process has left unfinished.
    writeFileSync(join(path, "metrics.jsonl"), '{"kind":"eval', { flag: "a" });
    const again = await reopenRunFolder(path, ({ step }) => Number(step) <= 2);
    again!.metrics.append({ kind: "evaluation", phase: "tune", step: 3, again: true });
    again!.metrics.close();
    await again!.write("summary.json", "{}");
    expect(readFileSync(join(path, "metrics.jsonl"), "utf8")).toBe(
      '{"kind":"evaluation","phase":"tune","step":1}\n{"kind":"evaluation","phase":"tune","step":2}\n' +
        '{"kind":"evaluation","phase":"tune","step":3,"again":true}\n',
    );
    expect(readFileSync(join(path, "config.json"), "utf8")).toContain("seed");
    expect(await namesOfRun(path)).toEqual(["metrics.jsonl", "config.json", "summary.json"]);
  });

  it("finds nothing to go on with in a folder that is no run's", async () => {
    expect(await reopenRunFolder(join(folder, "absent"), () => true)).toBeNull();
    writeFileSync(join(folder, ".lowrank-run"), "something else\n");
    expect(await reopenRunFolder(folder, () => true)).toBeNull();
  });

  it("begins anew over what a killed process has left half written", async () => {
    mkdirSync(join(folder, "run"));
    writeFileSync(join(folder, "run", ".lowrank-0123456789ab.tmp"), "half");
    const run = await create(join(folder, "run"));
    run.metrics.close();
    expect(readdirSync(join(folder, "run")).sort()).toEqual([".lowrank-run", "metrics.jsonl"]);
  });
});
