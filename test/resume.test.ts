// A training run that is killed and goes on: at ten random moments, by SIGKILL, and it ends in the same bytes as one that
// was left alone; so do two runs of one seed in two processes.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { node, startNode, until } from "./support/command.ts";
import { filesBelow, root, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const script = join(root, "test", "support", "train-process.js");
const steps = "1200";

/** Every file of a run, by name. */
function contents(name: string): Map<string, string> {
  const folder = join(work, name);
  return new Map(filesBelow(folder).map((file) => [file, readFileSync(join(folder, file)).toString("base64")]));
}

async function finish(name: string): Promise<void> {
  const { code, stderr } = await node([script, name, steps], { cwd: work });
  expect(code, stderr).toBe(0);
}

describe("a run of training", () => {
  let milliseconds: number;
  beforeAll(async () => {
    const running = startNode([script, "whole", steps], { cwd: work });
    await until(() => running.soFar.stdout.includes("training"), running);
    const begun = performance.now();
    const { code, stderr } = await running.ended;
    expect(code, stderr).toBe(0);
    milliseconds = performance.now() - begun;
  });

  it("has learnt, and left all of its files", () => {
    const history = JSON.parse(readFileSync(join(work, "whole", "history.json"), "utf8")) as {
      losses: number[];
      best: number;
    };
    expect(history.losses).toHaveLength(Number(steps));
    expect(history.best).toBeGreaterThan(0.8);
    expect([...contents("whole").keys()]).toEqual([
      "adapter/adapter_config.json",
      "adapter/adapter_model.safetensors",
      "averaged/adapter_config.json",
      "averaged/adapter_model.safetensors",
      "best/adapter_config.json",
      "best/adapter_model.safetensors",
      "checkpoint.safetensors",
      "history.json",
    ]);
  });

  it("is the same in another process", async () => {
    await finish("again");
    expect(contents("again")).toEqual(contents("whole"));
  });

  it("ends in the same bytes after being killed at ten random moments", async () => {
    const seed = Date.now();
    const random = createRandom(seed, "kills");
    const moments: number[] = [];
    for (let kill = 0; kill < 10; kill++) {
      const running = startNode([script, "killed", steps], { cwd: work });
      await until(() => running.soFar.stdout.includes("training"), running);
      // On the average, ten lives take half of the whole run.
      const moment = (random.uniform() * milliseconds) / 10;
      moments.push(moment);
      await new Promise((resolve) => setTimeout(resolve, moment));
      running.process.kill("SIGKILL");
      expect((await running.ended).code, `alive at the kill; seed ${seed}, ${moments}`).toBeNull();
    }
    await finish("killed");
    expect(contents("killed"), `seed ${seed}, killed after ${moments} ms`).toEqual(contents("whole"));
  });
});
