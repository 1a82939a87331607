// Successive halving against a plain simulation of one worker, and its promise: any number of workers, finishing in any order,
// train the same jobs.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createRandom } from "../random.ts";
import { type HalvingPlan, type Job, ranking, readyJobs } from "./halving.ts";

const key = ({ trial, rung }: Job): string => `${trial}@${rung}`;

/** Runs a sweep with so many workers, whose jobs end in an order drawn from the seed. */
function simulate(plan: HalvingPlan, valueAt: (job: Job) => number | null, workers: number, seed: number): string[] {
  const random = createRandom(seed, "order");
  const results = new Map<string, number | null>();
  const running: Job[] = [];
  const trained: string[] = [];
  for (;;) {
    const busy = new Set(running.map(key));
    const next = readyJobs(plan, (job) => results.get(key(job))).filter((job) => !busy.has(key(job)));
    running.push(...next.slice(0, workers - running.length));
    if (running.length === 0) return trained;
    const [ended] = running.splice(random.integer(running.length), 1);
    results.set(key(ended!), valueAt(ended!));
    trained.push(key(ended!));
  }
}

describe("successive halving", () => {
  const plan: HalvingPlan = { trials: 9, rungs: 3, eta: 3, mode: "max" };
  const quality = [0.1, 0.5, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.6];

  it("promotes a trial once it is among the best third of those that count", () => {
    const done = new Map<string, number>();
    const ready = (): string[] => readyJobs(plan, (job) => done.get(key(job))).map(key);
    expect(ready()).toEqual(quality.map((_, trial) => `${trial}@0`));
    done.set("0@0", 0.1).set("1@0", 0.5);
    expect(ready()).not.toContain("1@1"); // two results: a third of them is none
    done.set("3@0", 0.9);
    expect(ready()).not.toContain("3@1"); // trial 2 came up before it, and has no value yet
    done.set("2@0", 0.2);
    expect(ready().slice(0, 2)).toEqual(["1@1", "3@1"]); // 1 was the best of three, 3 is the best of four
    done.set("4@0", 0.3).set("5@0", 0.8);
    expect(ready().slice(0, 3)).toEqual(["1@1", "3@1", "5@1"]); // of six, two
  });

  it("trains what one worker of the paper's algorithm trains, and finds the best", () => {
    const trained = simulate(plan, ({ trial }) => quality[trial]!, 1, 0);
    expect(trained.slice(0, 4)).toEqual(["0@0", "1@0", "2@0", "1@1"]);
    expect(trained.filter((job) => job.endsWith("@2"))).toEqual(["3@2"]);
    expect(new Set(trained).size).toBe(trained.length);
    const results = new Map(trained.map((job) => [job, quality[Number(job.split("@")[0])]!]));
    expect(ranking(plan, (job) => results.get(key(job)))[0]).toEqual({ trial: 3, rung: 2, value: 0.9 });
  });

  it("trains the same jobs with any number of workers, in whatever order they end", () => {
    const cases = fc.record({
      rungs: fc.integer({ min: 1, max: 3 }),
      eta: fc.integer({ min: 2, max: 4 }),
      mode: fc.constantFrom("min" as const, "max" as const),
      values: fc.array(fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 8 }), {
        minLength: 1,
        maxLength: 40,
      }),
      workers: fc.integer({ min: 2, max: 7 }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(cases, ({ values, workers, seed, ...rest }) => {
        const own = { ...rest, trials: values.length };
        const valueAt = ({ trial, rung }: Job): number | null =>
          values[trial] === null ? null : values[trial]! * (1 + 0.1 * rung * (trial % 3));
        const alone = simulate(own, valueAt, 1, 0);
        expect(simulate(own, valueAt, workers, seed).sort()).toEqual([...alone].sort());
      }),
    );
  });

  it("puts failed trials last and never promotes them", () => {
    const values = [null, 0.4, null, 0.2];
    const own: HalvingPlan = { trials: 4, rungs: 2, eta: 2, mode: "min" };
    const trained = simulate(own, ({ trial }) => values[trial]!, 1, 0);
    expect(trained.filter((job) => job.endsWith("@1"))).toEqual(["1@1", "3@1"]);
    const results = new Map(trained.map((job) => [job, values[Number(job.split("@")[0])]!]));
    expect(ranking(own, (job) => results.get(key(job))).map(({ trial }) => trial)).toEqual([3, 1, 0, 2]);
  });
});
