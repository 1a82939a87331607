// Two sweeps that share one worker: the more urgent one goes first, and a trial of both is trained once.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { type Running, startLowrank, until } from "./command.ts";
import { tune, writeConfig } from "./sweeps.ts";

/** `worker` is the only one at work on the queue; `place` is `--queue … --store …`. */
export async function expectUrgentFirst(work: string, place: string, worker: Running): Promise<void> {
  const write = (name: string, r: number[], priority: number): string =>
    writeConfig(work, name, { tune: { ...tune, steps: 1000 }, search: { type: "grid", space: { r } }, priority });
  const before = worker.soFar.stdout.length;
  const start = (config: string, out: string): Running =>
    startLowrank(`sweep ${config} --out ${out} ${place}`.split(" "), { cwd: work });
  const late = start(write("late.json", [5, 6, 7, 8], 9), "late");
  await until(() => existsSync(join(work, "late", "progress.json")), late);
  const soon = start(write("soon.json", [5, 3, 2], 0), "soon");
  for (const { ended } of [late, soon]) {
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(0);
  }
  const said = worker.soFar.stdout.slice(before);
  const trained = [...said.matchAll(/^\w+-(\w+)\S*: trained/gm)].map(([, trial]) => trial!);
  const [ofSoon, ofLate] = ["soon", "late"].map((name) => new Set(readdirSync(join(work, name, "trials"))));
  expect([...trained].sort()).toEqual([...new Set([...ofSoon!, ...ofLate!])].sort());
  // Whatever is at work when the urgent sweep comes is brought to its end; the next ones are the urgent ones.
  const lastOfSoon = Math.max(...trained.flatMap((trial, at) => (ofSoon!.has(trial) ? [at] : [])));
  const waited = trained.slice(0, lastOfSoon).filter((trial) => !ofSoon!.has(trial));
  expect(waited.length, `trained in this order: ${trained.join(", ")}`).toBeLessThanOrEqual(2);
}
