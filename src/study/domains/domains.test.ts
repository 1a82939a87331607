// The domain suite on a few hundred digits: its numbers, its files, and going on where an earlier call stopped.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeSmallMnist } from "../../../test/support/digits.ts";
import { runDomains } from "./domains.ts";
import { median, shareWon } from "./report.ts";
import { allDomains } from "./suite.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-domains-"));
  writeSmallMnist(join(folder, "mnist"), { train: 60, test: 20 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const settings = { threads: 1, learningRate: 0.002, batch: 4 };
const run = (only: string[], more: object = {}) =>
  runDomains({ ...settings, only, ...more }, { data: join(folder, "mnist"), out: join(folder, "run") });

test("trains, keeps and goes on", { timeout: 120_000 }, async () => {
  const first = await run(["rotation:60"]);
  expect(first.summary.router).toBeNull();
  expect(first.summary.base).toBeGreaterThan(0.7);
  const [turned] = first.summary.domains;
  const { lora, full, head, replay } = turned!.methods;
  expect(lora.target).toBeGreaterThan(turned!.before + 0.1);
  expect(full.target).toBeGreaterThan(turned!.before + 0.1);
  expect(replay.plain).toBeGreaterThan(lora.plain);
  // r 8 on 784-1000-2000-10: 8 * (784 + 1000 + 1000 + 2000 + 2000 + 10); the head's 2000 * 10 + 10; all of them.
  expect([lora.parameters, head.parameters, full.parameters]).toEqual([54_352, 20_010, 2_807_010]);
  expect(lora.bytes).toBeGreaterThan(4 * lora.parameters);
  const path = join(folder, "run", "domain-rotation-60.json");
  const written = statSync(path).mtimeMs;

  const second = await run(["rotation:60", "invert"]);
  expect(statSync(path).mtimeMs).toBe(written);
  expect(second.summary.domains.map(({ name }) => name)).toEqual(["rotation:60", "invert"]);
  expect(second.summary.domains[0]).toEqual(turned);
  const router = second.summary.router!;
  expect(router.domains).toBe(3);
  expect(router.accuracy).toBeGreaterThan(0.8);
  expect(router.routed).toBeGreaterThan(router.known - 0.1);
  const plainAndOwn = [second.summary.base, ...second.summary.domains.map(({ methods }) => methods.lora.target)];
  expect(router.known).toBeCloseTo(plainAndOwn.reduce((a, b) => a + b, 0) / 3, 2);

  expect(readdirSync(join(folder, "run"))).toEqual(
    expect.arrayContaining(["adapter-invert", "adapter-rotation-60", "base.onnx", "summary.json"]),
  );
  const svg = readFileSync(join(folder, "run", "chart.svg"), "utf8");
  expect(svg.match(/<title>/g)).toHaveLength(8); // a mark for each domain and way of tuning
  expect(svg).toContain("rotation:60, LoRA: won");
  expect(readFileSync(join(folder, "run", "report.html"), "utf8")).toContain("rotation:60");

  const kept = statSync(join(folder, "run", "router.json")).mtimeMs;
  expect((await run(["rotation:60", "invert"])).summary).toEqual(second.summary);
  expect(statSync(join(folder, "run", "router.json")).mtimeMs).toBe(kept);

  await expect(run(["invert"], { rank: 4 })).rejects.toThrow(/expected the settings and data of this run/);
});

test("a folder of someone else's and bad options are refused", async () => {
  const other = mkdtempSync(join(folder, "other-"));
  writeFileSync(join(other, "note.txt"), "mine");
  const surroundings = { data: join(folder, "mnist"), out: other };
  await expect(runDomains({ only: ["invert"] }, surroundings)).rejects.toThrow(/got other files/);
  await expect(runDomains({ only: ["blur"], rank: 0 }, surroundings)).rejects.toThrow(/2 faults/);
  expect(readdirSync(other)).toEqual(["note.txt"]);
});

test("the suite has 23 image domains and ten digits", () => {
  expect(allDomains).toHaveLength(33);
  expect(new Set(allDomains.map(({ name }) => name)).size).toBe(33);
});

test("shares are of what all weights win, from five points on", () => {
  const method = (target: number) => ({ target, plain: 0, parameters: 0, bytes: 0, seconds: 0 });
  const domain = (lora: number, full: number) => ({
    name: "d",
    before: 0.5,
    methods: { lora: method(lora), full: method(full), head: method(0), replay: method(0) },
  });
  expect(shareWon(domain(0.6, 0.7))).toBeCloseTo(0.5, 10);
  expect(shareWon(domain(0.6, 0.54))).toBeNull();
  expect([median([3, 1, 2]), median([4, 1]), median([])]).toEqual([2, 2.5, null]);
});
