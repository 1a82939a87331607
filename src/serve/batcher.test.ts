// Batches over an engine that the test holds back and lets go.
import { describe, expect, it } from "vitest";
import { tensor } from "../tensor.ts";
import { type Answered, Batcher, type BatchOptions, type Work } from "./batcher.ts";
import type { Job, JobResult } from "./engine.ts";

/** An engine that answers with its input, one job at a time, when it is told to. */
class Held {
  readonly jobs: { job: Job; end: (error?: Error) => void }[] = [];
  running = 0;
  get isIdle(): boolean {
    return this.running === 0;
  }
  get hasRoom(): boolean {
    return this.running < 2;
  }
  async run(job: Job): Promise<JobResult> {
    this.running++;
    try {
      await new Promise<void>((resolve, reject) =>
        this.jobs.push({ job, end: (error) => (error === undefined ? resolve() : reject(error)) }),
      );
    } finally {
      this.running--;
    }
    let from = 0;
    const results = job.items.map(({ rows }) => {
      const { dims, data: all } = job.inputs.x!;
      const data = (all as Float32Array).filter((_, at) => at % dims[1]! === 0).slice(from, from + rows);
      from += rows;
      return { outputs: { y: tensor("float32", [rows, 1], data) } };
    });
    return { results, seconds: 0.001 };
  }
}

const usual: BatchOptions = { maxBatch: 4, maxDelay: 0, maxQueue: 100, sharesRuns: true };

function work(value: number, rows = 1, more: Partial<Work> = {}): Work & { released: number } {
  const counted = {
    inputs: { x: tensor("float32", [rows, 1], new Float32Array(rows).fill(value)) },
    rows,
    choices: [null],
    timeout: 10_000,
    released: 0,
    release() {
      counted.released++;
    },
    ...more,
  };
  return counted;
}

const first = ({ outputs }: Answered): number => Number(outputs.y!.data[0]);
const sizes = (engine: Held): number[] =>
  engine.jobs.map(({ job }) => job.items.reduce((sum, { rows }) => sum + rows, 0));
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("a batch", () => {
  it("is filled while the engine runs, and each request gets its own rows", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, usual);
    const works = [1, 2, 3, 4, 5, 6, 7].map((value) => work(value));
    const answers = works.map((one) => batcher.submit(one).answer);
    // The first goes alone, the next four fill a batch that waits behind it, two are left.
    expect(sizes(engine)).toEqual([1, 4]);
    expect(batcher.waitingRows).toBe(2);
    engine.jobs[0]!.end();
    await turn();
    expect(sizes(engine)).toEqual([1, 4]);
    engine.jobs[1]!.end();
    await turn();
    expect(sizes(engine)).toEqual([1, 4, 2]);
    engine.jobs[2]!.end();
    expect((await Promise.all(answers)).map(first)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(works.map(({ released }) => released)).toEqual([1, 1, 1, 1, 1, 1, 1]);
  });

  it("holds only requests of one form, the oldest first", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, usual);
    const wide = (value: number): Work => ({
      ...work(value),
      inputs: { x: tensor("float32", [1, 2], Float32Array.of(value, 0)) },
    });
    const answers = [work(1), wide(2), work(3), wide(4)].map((one) => batcher.submit(one).answer);
    for (const at of [0, 1, 2]) {
      engine.jobs[at]!.end();
      await turn();
    }
    expect(engine.jobs.map(({ job }) => job.inputs.x!.dims)).toEqual([
      [1, 1],
      [2, 2],
      [1, 1],
    ]);
    expect((await Promise.all(answers)).map(first)).toEqual([1, 2, 3, 4]);
  });

  it("waits for others as long as it may", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, { ...usual, maxDelay: 30 });
    const begun = performance.now();
    void batcher.submit(work(1)).answer;
    await turn();
    void batcher.submit(work(2)).answer;
    expect(sizes(engine)).toEqual([]);
    await expect.poll(() => sizes(engine), { interval: 2 }).toEqual([2]);
    expect(performance.now() - begun).toBeGreaterThan(28);
    void batcher.submit(work(3, 4)).answer;
    // A full one does not.
    expect(sizes(engine)).toEqual([2, 4]);
  });

  it("of a model whose rows are not apart is one request", () => {
    const engine = new Held();
    const batcher = new Batcher(engine, { ...usual, sharesRuns: false });
    for (const value of [1, 2, 3]) void batcher.submit(work(value)).answer;
    expect(sizes(engine)).toEqual([1, 1]);
  });

  it("may be one request of more rows than a batch has", () => {
    const engine = new Held();
    void new Batcher(engine, usual).submit(work(1, 9)).answer;
    expect(sizes(engine)).toEqual([9]);
  });
});

describe("a request", () => {
  it("is refused when too much waits, and releases what it holds", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, { ...usual, maxQueue: 3 });
    for (const value of [1, 2, 3, 4]) void batcher.submit(work(value)).answer;
    const refused = work(5);
    expect(() => batcher.submit(refused)).toThrow(expect.objectContaining({ status: 429, retryAfter: 1 }));
    expect(refused.released).toBe(1);
  });

  it("leaves the queue with its client, and its adapters when its run has ended", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, usual);
    const [running, waiting] = [work(1), work(2)];
    const [a, b] = [batcher.submit(running), batcher.submit(waiting)];
    a.cancel();
    b.cancel();
    await expect(a.answer).rejects.toMatchObject({ status: 499 });
    await expect(b.answer).rejects.toMatchObject({ status: 499 });
    expect([batcher.waitingRows, batcher.open, running.released, waiting.released]).toEqual([0, 0, 0, 1]);
    engine.jobs[0]!.end();
    await turn();
    expect(running.released).toBe(1);
    expect(engine.jobs).toHaveLength(1);
  });

  it("ends at its deadline, waiting or running", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, usual);
    const answers = [work(1, 1, { timeout: 30 }), work(2, 1, { timeout: 30 })].map((one) => batcher.submit(one).answer);
    const settled = await Promise.allSettled(answers);
    expect(settled.map((one) => (one as PromiseRejectedResult).reason)).toMatchObject([
      { status: 504, message: expect.stringContaining("ran past") },
      { status: 504, message: expect.stringContaining("waited in the queue") },
    ]);
  });

  it("fails with its batch when the engine is lost, and the next one runs", async () => {
    const engine = new Held();
    const batcher = new Batcher(engine, usual);
    const lost = work(1);
    const { answer } = batcher.submit(lost);
    engine.jobs[0]!.end(new Error("gone"));
    await expect(answer).rejects.toThrow("gone");
    expect(lost.released).toBe(1);
    const next = batcher.submit(work(2)).answer;
    engine.jobs[1]!.end();
    expect(first(await next)).toBe(2);
  });
});

it("drains: what was accepted is answered, what comes later is refused", async () => {
  const engine = new Held();
  const batcher = new Batcher(engine, { ...usual, maxDelay: 1000 });
  const answer = batcher.submit(work(1)).answer;
  const drained = batcher.drain(1000);
  expect(() => batcher.submit(work(2))).toThrow(expect.objectContaining({ status: 503 }));
  expect(sizes(engine)).toEqual([1]);
  engine.jobs[0]!.end();
  await drained;
  expect(first(await answer)).toBe(1);
});
