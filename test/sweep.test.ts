// `lowrank sweep` on this machine: searches, fleets, what a rerun trains, and that being killed changes nothing.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank, startLowrank, until } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { halving, readJson, type SweepFiles, sweepFiles, tune, writeBase, writeConfig } from "./support/sweeps.ts";

const work = temporaryFolder();
const run = (text: string): Promise<Ended> => lowrank(text.split(" "), { cwd: work });
const path = (...parts: string[]): string => join(work, ...parts);

describe("lowrank sweep", () => {
  let reference: SweepFiles;
  let said: Ended;

  beforeAll(async () => {
    await writeBase(work);
    writeConfig(work, "asha.json", halving);
    said = await run("sweep asha.json --out one --workers 1");
    expect(said.code, said.stderr).toBe(0);
    reference = sweepFiles(path("one"));
  });

  it("halves its trials: all in the first rung, the best in the last, and copies the winner out", () => {
    const steps = Object.keys(reference.results).map((name) => Number(/-(\d+)\.json$/.exec(name)![1]));
    expect(steps.filter((at) => at === 10)).toHaveLength(9);
    expect(steps.filter((at) => at === 30).length).toBeGreaterThanOrEqual(3);
    expect(steps.filter((at) => at === 90).length).toBeGreaterThanOrEqual(1);
    const summary = readJson(path("one", "summary.json")) as unknown as {
      winner: { id: string; value: number };
      metric: string;
    };
    const final = Object.values(reference.results) as { key: string; value: number; steps: number }[];
    const best = final.filter((one) => one.steps === 90).reduce((a, b) => (b.value > a.value ? b : a));
    expect(summary).toMatchObject({ metric: "target/accuracy", winner: { value: best.value } });
    expect(best.key).toBe(`${summary.winner.id}-90`);
    expect(reference.adapters["winner/adapter_model.safetensors"]).toBe(
      reference.adapters[`trials/${summary.winner.id}/best/adapter_model.safetensors`],
    );
    const report = readFileSync(path("one", "report.html"), "utf8");
    for (const part of ["Successive halving of 9 trials", "Parallel coordinates", "Training loss"]) {
      expect(report).toContain(part);
    }
    expect(said.stdout).toContain("winner     winner (trial-");
  });

  it("a trial that went through all rungs is, byte for byte, one that was trained in one go", async () => {
    const { winner } = readJson(path("one", "summary.json")) as unknown as { winner: { id: string } };
    const options = readJson(path("one", "trials", winner.id, "config.json"));
    writeConfig(work, "winner.json", { ...options, out: "alone" });
    const alone = await run("tune --config winner.json");
    expect(alone.code, alone.stderr).toBe(0);
    expect(readFileSync(path("alone", "best", "adapter_model.safetensors")).toString("base64")).toBe(
      reference.adapters["winner/adapter_model.safetensors"],
    );
  });

  it("trains nothing twice: a rerun has nothing to do, and keeps every result", async () => {
    const times = (): number[] =>
      readdirSync(path("one", "results")).map((name) => statSync(path("one", "results", name)).mtimeMs);
    const before = times();
    const again = await run("sweep asha.json --out one");
    expect(again.code, again.stderr).toBe(0);
    expect(again.stdout).toContain(`Going on: ${before.length} trainings have a result already.`);
    expect(times()).toEqual(before);
  });

  it("comes to the same with three processes that are killed, interrupted and resumed", async () => {
    const killed = startLowrank("sweep asha.json --out many --workers 3".split(" "), { cwd: work });
    await until(() => /trainings done/.test(killed.soFar.stdout), killed);
    killed.process.kill("SIGKILL");
    await killed.ended;
    const left = await run("sweep status many --json");
    expect(JSON.parse(left.stdout)).toMatchObject({ running: [], isWorkedOn: false });
    expect((await run("sweep status many")).stdout).toContain(
      "nobody trains it; go on with: lowrank sweep resume many",
    );
    const stopped = startLowrank("sweep resume many --workers 3".split(" "), { cwd: work });
    await until(() => (stopped.soFar.stdout.match(/trainings done/g) ?? []).length >= 2, stopped);
    stopped.process.kill("SIGINT");
    const { code, stderr } = await stopped.ended;
    expect([code, stderr]).toEqual([130, expect.stringContaining("go on with: lowrank sweep resume many")]);
    const status = await run("sweep status many --json");
    expect(JSON.parse(status.stdout)).toMatchObject({ trials: 9, running: [], cancelled: false });
    const last = await run("sweep resume many --workers 3");
    expect(last.code, last.stderr).toBe(0);
    expect(sweepFiles(path("many"))).toEqual(reference);
  });

  it("is cancelled from elsewhere, and goes on", async () => {
    const running = startLowrank("sweep asha.json --out off --workers 1".split(" "), { cwd: work });
    await until(() => running.soFar.stdout.includes("Sweep folder"), running);
    expect((await run("sweep cancel off")).code).toBe(0);
    expect((await running.ended).code).toBe(130);
    expect((await run("sweep status off")).stdout).toContain("; cancelled");
    expect(existsSync(path("off", "summary.json"))).toBe(false);
  });

  it("trains a fleet: one adapter for each row, by its name; one without data fails alone", async () => {
    writeFileSync(
      path("rows.csv"),
      'name,learningRate,keep\nann,0.01,"0,1"\nbob,0.02,"2,3"\ncleo,0.01,"0,1"\ndan,0.01,"7"\n',
    );
    const config = { tune: { ...tune, steps: 10, split: 0, filter: ["label in {keep}"] }, fleet: { file: "rows.csv" } };
    writeConfig(work, "fleet.json", config);
    const { code, stdout, stderr } = await run("sweep fleet.json --out fleet");
    expect(code, stderr).toBe(0);
    expect(readdirSync(path("fleet", "adapters"))).toEqual(["ann", "bob", "cleo"]);
    // ann and cleo mean the same training; dan has no rows.
    expect(readdirSync(path("fleet", "results"))).toHaveLength(3);
    expect(stderr).toContain("1 of 3 trials failed");
    expect(stdout).toContain("adapters   adapters, one for each row");
    const bytes = (name: string): string =>
      readFileSync(path("fleet", "adapters", name, "adapter_model.safetensors")).toString("base64");
    expect(bytes("ann")).toBe(bytes("cleo"));
    expect(bytes("ann")).not.toBe(bytes("bob"));
    // A shorter list in the same folder: whoever is gone from it is gone, what was trained stays for a longer one.
    writeConfig(work, "fewer.json", { ...config, fleet: [{ name: "ann", learningRate: 0.01, keep: "0,1" }] });
    const fewer = await run("sweep fewer.json --out fleet");
    expect(fewer.stdout).toContain("Going on: 1 trainings have a result already.");
    expect(readdirSync(path("fleet", "adapters"))).toEqual(["ann"]);
    expect(readdirSync(path("fleet", "results")).length).toBeGreaterThan(1);
  });

  it("does not leave what an earlier sweep of the folder ended with while another is trained", async () => {
    writeConfig(work, "first.json", { tune: { ...tune, steps: 10 }, search: { type: "grid", space: { r: [1] } } });
    writeConfig(work, "other.json", { tune: { ...tune, steps: 9000 }, search: { type: "grid", space: { r: [1] } } });
    expect((await run("sweep first.json --out shared")).code).toBe(0);
    const other = startLowrank("sweep other.json --out shared".split(" "), { cwd: work });
    await until(() => other.soFar.stdout.includes("Sweep folder"), other);
    other.process.kill("SIGKILL");
    await other.ended;
    expect(["winner", "summary.json", "report.html"].filter((name) => existsSync(path("shared", name)))).toEqual([]);
    const back = await run("sweep first.json --out shared");
    expect(back.stdout).toContain("Going on: 1 trainings have a result already.");
    expect(existsSync(path("shared", "winner"))).toBe(true);
  });

  it("tells all faults of a configuration, with the nearest names", async () => {
    writeConfig(work, "faulty.json", {
      tune: { ...tune, learningrate: 1, out: "x" },
      search: { type: "grid", space: { r: { uniform: [1, 2] }, steps: [1] } },
      metrik: "loss",
    });
    const { code, stderr } = await run("sweep faulty.json --out faulty");
    expect(code).toBe(2);
    for (const fault of [
      "metrik is no key; did you mean metric?",
      "tune.learningrate is no key; did you mean tune.learningRate?",
      "tune.out: a sweep decides this itself",
      "search.space.r: expected a list of values, since this is a grid",
      "search.space.steps: tune has a value for it as well",
    ]) {
      expect(stderr).toContain(fault);
    }
    writeConfig(work, "values.json", { tune, search: { type: "grid", space: { r: [-1, 2], optimizer: ["adamx"] } } });
    const values = await run("sweep values.json --out faulty");
    expect(values.stderr.match(/search\.space\.\w+: expected/g)).toEqual([
      "search.space.r: expected",
      "search.space.optimizer: expected",
    ]);
    for (const flags of ["--workers 0", "--store here", "--queue redis://127.0.0.1:1 --store here --workers 2"]) {
      expect((await run(`sweep asha.json --out faulty ${flags}`)).code).toBe(2);
    }
    expect(existsSync(path("faulty"))).toBe(false);
  });
});
