// Sweeps on a real PostgreSQL, for those who have no Redis: the same promises as in sweep-queue.test.ts, with fewer trainings.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank, startLowrank, until } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { startPostgres } from "./support/postgres.ts";
import type { QueueServer } from "./support/redis.ts";
import { expectUrgentFirst } from "./support/sweep-priorities.ts";
import { workersIn } from "./support/sweep-workers.ts";
import { halvingOf, readJson, type SweepFiles, sweepFiles, tune, writeBase, writeConfig } from "./support/sweeps.ts";

const work = temporaryFolder();
const postgres = await startPostgres();
const run = (text: string): Promise<Ended> => lowrank(text.split(" "), { cwd: work });
const minutes = (count: number): number => 60_000 * count;

const { workers, startWorker, trained } = workersIn(work);
afterAll(async () => {
  if (typeof postgres !== "string") await postgres.stop();
});

describe.skipIf(typeof postgres === "string")(
  `sweeps on PostgreSQL${typeof postgres === "string" ? ` (skipped: ${postgres})` : ""}`,
  () => {
    const server = postgres as QueueServer;
    let reference: SweepFiles;
    const place = (): string => `--queue ${server.url} --store store`;

    beforeAll(async () => {
      await writeBase(work);
      writeConfig(work, "asha.json", halvingOf(12));
      const local = await run("sweep asha.json --out local");
      expect(local.code, local.stderr).toBe(0);
      reference = sweepFiles(join(work, "local"));
    }, minutes(3));

    it(
      "loses nothing and trains nothing twice while a worker and PostgreSQL are killed, and ends as one machine does",
      async () => {
        const sweep = startLowrank(`sweep asha.json --out queued ${place()}`.split(" "), { cwd: work });
        const first = startWorker(place());
        startWorker(place());
        await until(() => trained().size >= 4, sweep, 120);
        await server.restart();
        first.process.kill("SIGKILL");
        const { code, stderr } = await sweep.ended;
        expect(code, `${stderr}\n${workers.map(({ soFar }) => soFar.stdout).join("\n")}`).toBe(0);
        expect(sweepFiles(join(work, "queued"))).toEqual(reference);
        expect([...trained().values()].filter((count) => count !== 1)).toEqual([]);
        expect(readJson(join(work, "queued", "summary.json"))).toMatchObject({ complete: true, failed: 0 });
      },
      minutes(4),
    );

    it("trains a trial once that two sweeps have at the same time, the more urgent sweep first", async () => {
      const alive = workers.filter(({ process }) => process.exitCode === null && process.signalCode === null);
      expect(alive).toHaveLength(1);
      await expectUrgentFirst(work, place(), alive[0]!);
    });

    it("hands a job back when its worker is asked to stop, and cancels", async () => {
      const long = { tune: { ...tune, steps: 40_000, evalEvery: 50 }, search: { type: "grid", space: { r: [2] } } };
      writeConfig(work, "long.json", long);
      const sweep = startLowrank(`sweep long.json --out long ${place()}`.split(" "), { cwd: work });
      const steps = (): string => JSON.stringify(readProgress());
      await until(() => steps().includes("step"), sweep);
      for (const { process } of workers) process.kill("SIGTERM");
      for (const { ended } of workers) await ended;
      expect(workers.map(({ soFar }) => soFar.stdout).join("")).toContain(": handed back");
      const next = startWorker(place());
      await until(() => next.soFar.stdout.includes("at a time") && steps().includes(`:${next.process.pid}`), sweep);
      const cancelled = await run(`sweep cancel long --queue ${server.url}`);
      expect(cancelled.code, cancelled.stderr).toBe(0);
      expect((await sweep.ended).code).toBe(130);
    });

    function readProgress(): unknown {
      try {
        return readJson(join(work, "long", "progress.json"));
      } catch {
        return null;
      }
    }
  },
);
