// `lowrank domains` from end to end on a few hundred real digits: side by side on two threads, what it prints and leaves.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { readModel } from "lowrank";
import { beforeAll, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { writeSmallMnist } from "./support/digits.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const run = join(work, "run");

function domains(...args: string[]): Promise<Ended> {
  return lowrank(["domains", "--data", "digits", "--out", "run", "--lr", "0.002", "--batch", "8", ...args], {
    cwd: work,
  });
}

beforeAll(() => {
  writeSmallMnist(join(work, "digits"), { train: 40, test: 10 });
});

it("tunes domains side by side, and says so in JSON and pictures", { timeout: 120_000 }, async () => {
  const only = ["--only", "stripe,invert,digit:3"];
  const ended = await domains(...only, "--threads", "2", "--json");
  expect(ended.code, ended.stderr).toBe(0);
  expect(ended.stdout).toBe(readFileSync(join(run, "summary.json"), "utf8"));
  const summary = JSON.parse(ended.stdout);
  const schema = JSON.parse(readFileSync(join(root, "schemas", "domains-summary.schema.json"), "utf8"));
  const validate = new Ajv2020({ allErrors: true, strict: true, allowUnionTypes: true }).compile(schema);
  expect(validate(summary), JSON.stringify(validate.errors)).toBe(true);
  expect(validate({ ...summary, router: { ...summary.router, known: 2 } })).toBe(false);
  expect(summary.domains.map(({ name }: { name: string }) => name)).toEqual(["invert", "stripe", "digit:3"]);
  for (const file of ["chart.svg", "report.html", "adapter-invert/adapter_model.safetensors", "adapter-digit-3"])
    expect(existsSync(join(run, file)), file).toBe(true);
  const router = readModel(readFileSync(join(run, "router.onnx")), "router.onnx");
  expect(router.graph.outputs[0]!.shape).toEqual(["batch", 3]);

  // One thread, no worker: the finished domains are taken as they are, and the numbers are the same.
  const again = await domains(...only, "--threads", "1", "--json");
  expect(again.code, again.stderr).toBe(0);
  expect(JSON.parse(again.stdout).domains).toEqual(summary.domains);
});

it("says in a line what a worker met", { timeout: 60_000 }, async () => {
  const ended = await domains("--only", "invert,stripe", "--rank", "500", "--out", "high", "--threads", "2");
  expect(ended.code).toBe(1);
  expect(ended.stderr).toMatch(/lowrank: .*expected batches of at least 500 rows/s);
  expect(ended.stdout).toBe("");
});
