// Sweeps on a real Redis: workers killed without warning, Redis itself killed and started again, and still every training is done
// once, to the same bytes as on one machine. And through a real S3-compatible server.

import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank, type Running, startLowrank, until } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { freePort, type QueueServer, startRedis } from "./support/redis.ts";
import { expectUrgentFirst } from "./support/sweep-priorities.ts";
import { workersIn } from "./support/sweep-workers.ts";
import { halvingOf, readJson, type SweepFiles, sweepFiles, tune, writeBase, writeConfig } from "./support/sweeps.ts";

const work = temporaryFolder();
const redis = await startRedis(work);
const run = (text: string, env: Record<string, string> = {}): Promise<Ended> =>
  lowrank(text.split(" "), { cwd: work, env });
const minutes = (count: number): number => 60_000 * count;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const { workers, startWorker, trained } = workersIn(work);
afterAll(async () => {
  if (typeof redis !== "string") await redis.stop();
});

describe.skipIf(typeof redis === "string")(
  `sweeps on a queue${typeof redis === "string" ? ` (skipped: ${redis})` : ""}`,
  () => {
    const server = redis as QueueServer;
    let reference: SweepFiles;
    const place = (): string => `--queue ${server.url} --store store`;

    beforeAll(async () => {
      await writeBase(work);
      writeConfig(work, "asha.json", halvingOf(42));
      const local = await run("sweep asha.json --out local");
      expect(local.code, local.stderr).toBe(0);
      reference = sweepFiles(join(work, "local"));
      expect(Object.keys(reference.results).length).toBeGreaterThanOrEqual(60);
    }, minutes(5));

    it(
      "loses nothing and trains nothing twice while workers and Redis are killed, and ends as one machine does",
      async () => {
        const sweep = startLowrank(`sweep asha.json --out queued ${place()}`.split(" "), { cwd: work });
        const alive = [startWorker(place()), startWorker(place()), startWorker(place())];
        for (const [done, restart] of [
          [5, false],
          [15, true],
          [30, false],
          [45, true],
        ] as const) {
          await until(() => trained().size >= done, sweep, 120);
          if (restart) {
            await server.restart();
            await pause(300);
          }
          alive.shift()!.process.kill("SIGKILL");
          alive.push(startWorker(place()));
        }
        const { code, stdout, stderr } = await sweep.ended;
        expect(code, `${stderr}\n${workers.map(({ soFar }) => soFar.stdout).join("\n")}`).toBe(0);
        expect(stdout).toContain("winner     winner (trial-");
        expect(sweepFiles(join(work, "queued"))).toEqual(reference);
        expect([...trained().values()].filter((count) => count !== 1)).toEqual([]);
        expect(readJson(join(work, "queued", "summary.json"))).toMatchObject({ complete: true, failed: 0 });
      },
      minutes(8),
    );

    it("knows what is done: in another folder nothing is trained again", async () => {
      const before = trained().size;
      const again = await run(`sweep asha.json --out again ${place()}`);
      expect(again.code, again.stderr).toBe(0);
      expect(trained().size).toBe(before);
      expect(sweepFiles(join(work, "again"))).toEqual(reference);
    });

    it("trains a trial once that two sweeps have at the same time", async () => {
      const searched = (name: string, r: number[]): string =>
        writeConfig(work, name, { tune: { ...tune, steps: 3000 }, search: { type: "grid", space: { r } } });
      const both = [searched("some.json", [5]), searched("more.json", [5, 6])].map((name) =>
        run(`sweep ${name} --out of-${name} ${place()}`),
      );
      for (const { code, stderr } of await Promise.all(both)) expect(code, stderr).toBe(0);
      const ids = readdirSync(join(work, "of-more.json", "trials"));
      const said = workers.map(({ soFar }) => soFar.stdout).join("");
      expect(ids.map((id) => said.match(new RegExp(`-${id}: trained`, "g"))?.length)).toEqual([1, 1]);
    });

    it("takes the more urgent of two sweeps first", async () => {
      const alive = workers.filter(({ process }) => process.exitCode === null && process.signalCode === null);
      for (const { process } of alive.slice(1)) process.kill("SIGTERM");
      for (const { ended } of alive.slice(1)) await ended;
      await expectUrgentFirst(work, place(), alive[0]!);
    });

    it("hands jobs back when a worker is asked to stop, and cancels and resumes", async () => {
      writeConfig(work, "long.json", {
        tune: { ...tune, steps: 40_000, evalEvery: 50 },
        search: { type: "grid", space: { r: [2] } },
      });
      const sweep = startLowrank(`sweep long.json --out long ${place()}`.split(" "), { cwd: work });
      const atWork = (): Running | undefined =>
        workers.find(
          ({ process, soFar }) =>
            process.exitCode === null && process.signalCode === null && !soFar.stdout.includes("stopping"),
        );
      await until(() => readdirSync(work).includes("long") && JSON.stringify(readProgress()).includes("step"), sweep);
      for (let worker = atWork(); worker !== undefined; worker = atWork()) {
        worker.process.kill("SIGTERM");
        const { code, stderr } = await worker.ended;
        expect(code, stderr).toBe(0);
      }
      expect(workers.map(({ soFar }) => soFar.stdout).join("")).toContain(": handed back");
      startWorker(place());
      // The folder knows its queue: for whoever looks while nobody follows the workers, goes on, or ends it.
      sweep.process.kill("SIGKILL");
      await sweep.ended;
      let running: { step: number }[] = [];
      while (!running.some(({ step }) => step > 0)) {
        const { stdout, stderr } = await run("sweep status long --json");
        running = (JSON.parse(stdout || stderr) as { running: { step: number }[] }).running;
      }
      const resumed = startLowrank("sweep resume long".split(" "), { cwd: work });
      await until(() => resumed.soFar.stdout.includes("Sweep folder"), resumed);
      const cancelled = await run("sweep cancel long");
      expect(cancelled.code, cancelled.stderr).toBe(0);
      expect((await resumed.ended).code).toBe(130);
      writeConfig(work, "short.json", { tune: { ...tune, steps: 20 }, search: { type: "grid", space: { r: [2] } } });
      const other = await run(`sweep short.json --out short ${place()}`);
      expect(other.code, other.stderr).toBe(0);
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

describe.skipIf(typeof redis === "string")("a store in a bucket", () => {
  const server = redis as QueueServer;

  it("carries bases, data, checkpoints and results, to the same bytes", async () => {
    const port = await freePort();
    const S3rver = createRequire(import.meta.url)("s3rver") as new (
      options: object,
    ) => { run(): Promise<unknown>; close(): Promise<void> };
    const bucket = new S3rver({
      port,
      address: "127.0.0.1",
      silent: true,
      directory: join(work, "bucket"),
      configureBuckets: [{ name: "sweeps" }],
    });
    await bucket.run();
    try {
      const env = { AWS_ACCESS_KEY_ID: "S3RVER", AWS_SECRET_ACCESS_KEY: "S3RVER" };
      const place = `--queue ${server.url} --store s3://sweeps/tests?endpoint=http://127.0.0.1:${port}`;
      writeConfig(work, "grid.json", { tune: { ...tune, steps: 20 }, search: { type: "grid", space: { r: [1, 3] } } });
      for (const { process } of workers) process.kill("SIGKILL");
      startWorker(place, env);
      const queued = await run(`sweep grid.json --out in-bucket ${place}`, env);
      expect(queued.code, queued.stderr).toBe(0);
      const local = await run("sweep grid.json --out on-disk");
      expect(local.code, local.stderr).toBe(0);
      expect(sweepFiles(join(work, "in-bucket"))).toEqual(sweepFiles(join(work, "on-disk")));
    } finally {
      await bucket.close();
    }
  });
});
