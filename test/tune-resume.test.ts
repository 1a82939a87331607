// `lowrank tune` killed by SIGKILL at ten random moments (while it opens, trains, evaluates or saves) and resumed: it ends in the
// same bytes as one that was left alone, but for the fields that hold times. So do two runs of one seed.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank, startLowrank, until } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { comparableFiles, records } from "./support/run-folders.ts";
import { writeClusters } from "./support/tables.ts";

const work = temporaryFolder();
const points = { features: 12, classes: 4 };
const steps = 900;

/** Dropout, a moving average, a plateau, replay's own order: all that a run has to remember. */
const command = [
  ..."tune ../base/model.onnx --data ../special.csv --retained-data ../general.csv --out run --resume".split(" "),
  ..."--lora-dropout 0.1 --ema 0.99 --schedule plateau --accumulate 2 --merge --threads 1".split(" "),
  ...`--steps ${steps} --eval-every 45 --checkpoint-every 20 --learning-rate 0.003`.split(" "),
];

function folderOf(name: string): string {
  mkdirSync(join(work, name), { recursive: true });
  return join(work, name);
}

async function finish(name: string): Promise<Ended> {
  const ended = await lowrank(command, { cwd: folderOf(name) });
  expect(ended.code, ended.stderr).toBe(0);
  return ended;
}

const files = (name: string): Map<string, unknown> => comparableFiles(join(work, name, "run"));

describe("a run of lowrank tune", () => {
  let milliseconds: number;

  beforeAll(async () => {
    writeClusters(work, "general.csv", { ...points, rows: 300, seed: 1 });
    writeClusters(work, "special.csv", { ...points, rows: 300, seed: 2, turn: 1 });
    const base = await lowrank(
      "pretrain --layers 12,32,4 --data general.csv --out base --learning-rate 0.01 --threads 1".split(" "),
      { cwd: work },
    );
    expect(base.code, base.stderr).toBe(0);
    const running = startLowrank(command, { cwd: folderOf("whole") });
    const begun = performance.now();
    const { code, stderr } = await running.ended;
    expect(code, stderr).toBe(0);
    milliseconds = performance.now() - begun;
  });

  it("leaves all of its files, and a record of each step", () => {
    const expected = [
      ".lowrank-run",
      "adapter/adapter_config.json",
      "adapter/adapter_model.safetensors",
      "best/adapter_config.json",
      "best/adapter_model.safetensors",
      "checkpoint.safetensors",
      "config.json",
      "env.json",
      "evaluation.json",
      "merged.onnx",
      "metrics.jsonl",
      "summary.json",
    ];
    expect([...files("whole").keys()]).toEqual(expect.arrayContaining(expected));
    const recorded = records(join(work, "whole", "run", "metrics.jsonl")).filter(({ kind }) => kind === "step");
    expect(recorded.map(({ step }) => step)).toEqual(Array.from({ length: steps }, (_, index) => index + 1));
  });

  it("is the same in another process", async () => {
    await finish("again");
    expect(files("again")).toEqual(files("whole"));
  });

  it("ends in the same bytes after being killed at ten random moments", async () => {
    const seed = Date.now();
    const random = createRandom(seed, "kills");
    const moments: string[] = [];
    for (let kill = 0; kill < 10; kill++) {
      const running = startLowrank(command, { cwd: folderOf("killed") });
      // Every fifth is killed before it has begun to train.
      if (kill % 5 !== 0) await until(() => /before training|Going on after/.test(running.soFar.stdout), running);
      const moment = (random.uniform() * milliseconds) / 8;
      await new Promise((resolve) => setTimeout(resolve, moment));
      running.process.kill("SIGKILL");
      const { code, stdout } = await running.ended;
      const step = /Going on after step (\d+)/.exec(stdout)?.[1] ?? "0";
      moments.push(`${moment.toFixed(0)} ms from step ${step}`);
      expect(code, `alive at the kill; seed ${seed}, ${moments.join(", ")}`).toBeNull();
    }
    const { stdout } = await finish("killed");
    expect(stdout, `seed ${seed}: ${moments.join(", ")}`).toContain("Going on after step");
    expect(files("killed"), `seed ${seed}: ${moments.join(", ")}`).toEqual(files("whole"));
  });

  it("changes nothing when it is resumed at its end", async () => {
    const before = files("whole");
    await finish("whole");
    expect(files("whole")).toEqual(before);
  });

  it("stops on SIGTERM with what it has, and goes on to the same end", async () => {
    const running = startLowrank(command, { cwd: folderOf("stopped") });
    await until(() => running.soFar.stdout.includes("step 90:"), running);
    running.process.kill("SIGTERM");
    const { code, stderr } = await running.ended;
    expect(code).toBe(130);
    expect(stderr).toMatch(/lowrank: stopped on request after step \d+ of 900; go on with the same command, --resume/);
    const partial = JSON.parse(readFileSync(join(work, "stopped", "run", "summary.json"), "utf8")) as object;
    expect(partial).toMatchObject({ complete: false, end: "signal" });
    await finish("stopped");
    expect(files("stopped")).toEqual(files("whole"));
  });
});
