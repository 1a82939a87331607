import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { openMetrics, type StepRecord } from "./metrics.ts";

let folder = "";
let path = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-metrics-"));
  path = join(folder, "metrics.jsonl");
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const step = (n: number): StepRecord => ({
  kind: "step",
  phase: "p",
  step: n,
  loss: 0.5,
  lr: 0.001,
  stepsPerSecond: 9,
});
const text = (): string => readFileSync(path, "utf8");
const line = (n: number): string =>
  `{"kind":"step","phase":"p","step":${n},"loss":0.5,"lr":0.001,"stepsPerSecond":9}\n`;

it("starts empty and writes on flush and on close", () => {
  writeFileSync(path, "an earlier run\n");
  const log = openMetrics(path);
  expect(text()).toBe("");
  log.append(step(1));
  expect(text()).toBe("");
  log.flush();
  expect(text()).toBe(line(1));
  log.append({ kind: "evaluation", phase: "base", accuracy: 0.953, wrong: [1, 2] });
  log.close();
  log.close();
  expect(text()).toBe(`${line(1)}{"kind":"evaluation","phase":"base","accuracy":0.953,"wrong":[1,2]}\n`);
  expect(() => log.append(step(2))).toThrow(/^internal: .* is closed, got a record of p$/);
});

it("writes when enough is buffered or enough time has passed, always whole lines", () => {
  let time = 0;
  const log = openMetrics(path, { now: () => time, flushAtLength: 2 * line(1).length, flushAfterMs: 2_000 });
  log.append(step(1));
  expect(text()).toBe("");
  log.append(step(2));
  expect(text()).toBe(line(1) + line(2));
  time = 1_999;
  log.append(step(3));
  expect(text()).toBe(line(1) + line(2));
  time = 2_000;
  log.close();
  expect(text()).toBe(line(1) + line(2) + line(3));

  const slow = openMetrics(path, { now: () => time });
  time += 2_000;
  slow.append(step(4));
  expect(text()).toBe(line(4));
  slow.close();
});

it("writes what is buffered when the process exits, and takes its listener back", () => {
  const before = process.listeners("exit");
  const log = openMetrics(path);
  log.append(step(1));
  const [listener] = process.listeners("exit").filter((l) => !before.includes(l));
  listener!(130);
  expect(text()).toBe(line(1));
  log.close();
  process.off("exit", listener!);
  expect(process.listenerCount("exit")).toBe(before.length);
});

it("writes a loss that is not finite as null: every line stays JSON", () => {
  const log = openMetrics(path);
  log.append({ ...step(1), loss: Number.NaN });
  log.close();
  expect(JSON.parse(text())).toEqual({ ...step(1), loss: null });
});

it("adds to what is there and reports a folder that is gone", async () => {
  const log = openMetrics(path);
  log.append(step(1));
  log.flush();
  appendFileSync(path, "another's line\n");
  log.append(step(2));
  log.flush();
  expect(text()).toBe(`${line(1)}another's line\n${line(2)}`);
  await rm(folder, { recursive: true });
  log.append(step(3));
  expect(() => log.flush()).toThrow(/metrics\.jsonl: cannot write: the folder does not exist;/);
  log.close(); // what was refused is not tried again
});

it.skipIf(!existsSync("/dev/full"))("reports a full disk", () => {
  const log = openMetrics("/dev/full");
  log.append(step(1));
  expect(() => log.close()).toThrow("/dev/full: cannot write: no space left on device; free some space");
});
