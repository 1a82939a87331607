// The `lowrank` command before any verb does its work: help, version, and what it says to nothing at all.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const run = (...args: string[]): Promise<Ended> => lowrank(args, { cwd: work });

describe("lowrank", () => {
  it("tells its version", async () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    expect(await run("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });

  it("lists its verbs with --help", async () => {
    const { code, stdout, stderr } = await run("--help");
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^ {2}study \[options\] /m);
    expect(stdout).toMatch(/^ {2}summary \[options\] <model> /m);
    expect(stdout).toContain("LOWRANK_DATA");
  });

  it("shows its help on stderr, and fails, when nothing is asked", async () => {
    const { code, stdout, stderr } = await run();
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(/^Usage: lowrank /);
  });

  it("explains each option of the study, with its default", async () => {
    const { code, stdout } = await run("study", "--help");
    expect(code).toBe(0);
    const text = stdout.replace(/\s+/g, " ");
    const defaults: Record<string, string | null> = {
      "--head <head>": '(choices: "relu", "linear", "both", default: "both")',
      "--rank <r>": "(default: 1)",
      "--alpha <alpha>": "(default: 1)",
      "--lr <rate>": "(default: 0.001)",
      "--batch <n>": "(default: 10)",
      "--epochs <n>": "(default: 1)",
      "--steps <n>": "(default: 100)",
      "--digit <d>": "(default: the one with the most wrong counts)",
      "--replay <share>": "(default: 0.5)",
      "--seed <n>": "(default: 0)",
      "--limit <n>": null,
      "--device <device>": 'default: "cpu")',
      "--data <dir>": "(default: LOWRANK_DATA, data/mnist, the cache, a download)",
      "--out <dir>": "(default: runs/study-<time>)",
      "--json": null,
      "--quiet": null,
    };
    for (const [flag, value] of Object.entries(defaults)) {
      const [, own] = new RegExp(` ${flag} (.*?)(?= --|$)`).exec(text) ?? [];
      expect(own, flag).toBeDefined();
      if (value !== null) expect(own, flag).toContain(value);
    }
  });
});
