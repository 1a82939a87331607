// Engines that hold the same adapters, over ones that only count and die when they are told to.
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { tensor } from "../tensor.ts";
import type { AdapterSource, Engine, Job } from "./engine.ts";
import { type OpenOne, Pool } from "./pool.ts";

const source: AdapterSource = { home: "peft", files: new Map() };
const job: Job = { inputs: { x: tensor("float32", [1], Float32Array.of(1)) }, items: [{ rows: 1, choices: [null] }] };

interface Fake {
  readonly keys: Set<string>;
  jobs: number;
  isDisposed: boolean;
  die(): void;
}

function fakes(refuses: (at: number, key: string) => boolean = () => false): { all: Fake[]; open: OpenOne } {
  const all: Fake[] = [];
  const open: OpenOne = async (_, onEnd) => {
    const fake: Fake = { keys: new Set(), jobs: 0, isDisposed: false, die: () => onEnd("told to") };
    const at = all.push(fake) - 1;
    const engine: Engine = {
      description: { inputs: [], outputs: [], sharesRuns: true, modules: [] },
      async load(key) {
        if (refuses(at, key)) throw new LowrankError("adapter", `${key}: refused`);
        fake.keys.add(key);
        return { bytes: 10 };
      },
      async unload(key) {
        fake.keys.delete(key);
      },
      async run() {
        fake.jobs++;
        await new Promise((resolve) => setTimeout(resolve, 5));
        return { results: [{ outputs: {} }], seconds: 0.005 };
      },
      async dispose() {
        fake.isDisposed = true;
      },
    };
    return engine;
  };
  return { all, open };
}

function poolOf(open: OpenOne, lost: string[] = []): Promise<Pool> {
  return Pool.open({ workers: 2, model: "", maxRank: 1, maxSessions: 1, onLost: (reason) => lost.push(reason), open });
}

describe("a pool", () => {
  it("loads into all of its engines, and shares jobs out", async () => {
    const { all, open } = fakes();
    const pool = await poolOf(open);
    expect(await pool.load("a", "a", source)).toEqual({ bytes: 10 });
    expect(all.map(({ keys }) => [...keys])).toEqual([["a"], ["a"]]);
    expect([pool.isIdle, pool.hasRoom]).toEqual([true, true]);
    const runs = [1, 2, 3, 4].map(() => pool.run(job));
    expect([pool.isIdle, pool.hasRoom]).toEqual([false, false]);
    await Promise.all(runs);
    expect(all.map(({ jobs }) => jobs)).toEqual([2, 2]);
    await pool.unload("a");
    expect(all.map(({ keys }) => keys.size)).toEqual([0, 0]);
  });

  it("loads into none when one refuses", async () => {
    const { all, open } = fakes((at, key) => at === 1 && key === "bad");
    const pool = await poolOf(open);
    await expect(pool.load("bad", "bad", source)).rejects.toThrow("bad: refused");
    expect(all.map(({ keys }) => keys.size)).toEqual([0, 0]);
  });

  it("uses no engine that was opened before another death", async () => {
    const { all, open } = fakes();
    const lost: string[] = [];
    // The third engine, the first of the second start, brings a death with it.
    let count = 0;
    const pool = await poolOf(async (options, onEnd) => {
      const at = ++count;
      const engine = await open(options, onEnd);
      if (at === 3) onEnd("at once");
      return engine;
    }, lost);
    all[0]!.die();
    await expect.poll(() => pool.size, { timeout: 5000 }).toBe(2);
    expect(lost).toEqual(["told to", "at once"]);
    expect(all.map(({ isDisposed }) => isDisposed)).toEqual([true, true, true, true, false, false]);
  });

  it("begins anew with all engines when one dies, and says so", async () => {
    const { all, open } = fakes();
    const lost: string[] = [];
    const pool = await poolOf(open, lost);
    await pool.load("a", "a", source);
    all[0]!.die();
    expect(lost).toEqual(["told to"]);
    expect(pool.size).toBe(0);
    await expect(pool.run(job)).rejects.toMatchObject({ status: 503, retryAfter: 1 });
    await expect(pool.load("b", "b", source)).rejects.toMatchObject({ status: 503 });
    expect(all[1]!.isDisposed).toBe(true);
    await expect.poll(() => pool.size, { timeout: 5000 }).toBe(2);
    expect(all).toHaveLength(4);
    await pool.load("a", "a", source);
    expect(all.slice(2).map(({ keys }) => [...keys])).toEqual([["a"], ["a"]]);
    await pool.dispose();
    expect(all.slice(2).map(({ isDisposed }) => isDisposed)).toEqual([true, true]);
  });
});
