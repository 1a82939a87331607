// Ctrl-C in the middle of `lowrank study`: it stops soon, says where things are, and leaves whole files only.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readAdapter } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { lowrank, startLowrank, until } from "./support/command.ts";
import { normalized, type SmallMnist, writeSmallMnist } from "./support/digits.ts";
import { filesBelow, temporaryFolder } from "./support/folders.ts";
import { runOnnxFile } from "./support/onnx.ts";
import { readFolder, readMetrics, readSummary, wrongCounts } from "./support/study.ts";

const work = temporaryFolder();
const interrupted = /(^|\n)lowrank: stopped on request: what was complete is in run\n$/;
let digits: SmallMnist;

function studyArgs(...args: string[]): string[] {
  return ["study", "--data", "digits", "--threads", "1", "--steps", "5", "--out", "run", ...args];
}

beforeAll(() => {
  digits = writeSmallMnist(join(work, "digits"), { train: 15, test: 12 });
});

// No signals of this kind on Windows: there Ctrl-C comes from the console.
describe.skipIf(process.platform === "win32")("Ctrl-C", () => {
  it("while the base is trained: what was measured is kept, and an earlier run's results are not mistaken for this one's", async () => {
    const earlier = await lowrank(studyArgs("--head", "linear", "--quiet"), { cwd: work });
    expect(earlier.code, earlier.stderr).toBe(0);
    expect(readSummary(join(work, "run")).complete).toBe(true);

    const running = startLowrank(studyArgs("--epochs", "1000", "--quiet"), { cwd: work });
    // The log is written every two seconds, so training is well under way when its first lines are there.
    await until(() => {
      try {
        return readMetrics(join(work, "run")).some(({ phase }) => phase === "relu/base");
      } catch {
        return false; // the earlier run's folder is just being cleared
      }
    }, running);
    const seen = readMetrics(join(work, "run")).length;
    running.process.kill("SIGINT");
    const { code, stdout, stderr } = await running.ended;
    expect([code, stdout]).toEqual([130, ""]);
    expect(stderr).toMatch(interrupted);
    expect(filesBelow(join(work, "run"))).toEqual([".lowrank-run", "config.json", "env.json", "metrics.jsonl"]);
    const steps = readMetrics(join(work, "run"));
    expect(steps.length).toBeGreaterThan(seen);
    expect(steps.map(({ phase, step }) => [phase, step])).toEqual(steps.map((_, index) => ["relu/base", index + 1]));
    expect(readdirSync(work).sort()).toEqual(["digits", "run"]);
  });

  it("in the second network: the first one is there, whole, with its summary and report", async () => {
    const running = startLowrank(studyArgs("--epochs", "8"), { cwd: work });
    await until(() => running.soFar.stdout.includes("The same network with a linear head"), running);
    running.process.kill("SIGINT");
    const { code, stdout, stderr } = await running.ended;
    expect(code).toBe(130);
    expect(stderr).toContain("stopping: saving what is complete; press Ctrl-C again to quit at once\n");
    expect(stderr).toMatch(interrupted);
    expect(stdout).not.toContain("\nDone\n");

    const run = join(work, "run");
    const summary = readSummary(run);
    expect([summary.complete, Object.keys(summary.heads)]).toEqual([false, ["relu"]]);
    const { files, base } = summary.heads.relu!;
    const folders = [files.adapter, files.replayAdapter!];
    expect(filesBelow(run)).toEqual(
      [
        ...[".lowrank-run", "config.json", "env.json", "metrics.jsonl", "report.html", "summary.json"],
        ...[files.base, files.merged],
        ...folders.flatMap((name) => [`${name}/adapter_config.json`, `${name}/adapter_model.safetensors`]),
      ].sort(),
    );
    for (const folder of folders) expect(readAdapter(readFolder(join(run, folder))).tensors.size).toBe(6);
    const logits = await runOnnxFile(join(run, files.base), normalized(digits.test.images), 784);
    expect(wrongCounts(logits, digits.test.labels)).toEqual(base.wrong);
    expect((await runOnnxFile(join(run, files.merged), normalized(digits.test.images), 784)).length).toBe(1200);
    expect(readFileSync(join(run, "report.html"), "utf8")).toMatch(/<\/html>\s*$/);
    expect(readMetrics(run).filter(({ kind }) => kind === "evaluation")).toHaveLength(4);
  });
});
