// Requests of all adapters gathered into batches: a batch is run when it is full, or when its oldest request has waited long
// enough and an engine is idle. What waits is bounded; each request has a deadline, and leaves when its client does. Requests
// share a batch when their inputs have the same names, types and sizes beside the first axis.

import type { Tensor } from "../tensor.ts";
import type { Job, JobItem, JobResult, RowChoice } from "./engine.ts";
import { concatRows } from "./rows.ts";
import { ServeError } from "./serve-error.ts";

/** What runs batches: a pool of engines. */
export interface Runner {
  readonly isIdle: boolean;
  /** Whether a batch may be handed over that would have to wait for the one before it. */
  readonly hasRoom: boolean;
  run(job: Job): Promise<JobResult>;
}

export interface BatchOptions {
  /** Rows in a batch; a request of more is run alone. */
  readonly maxBatch: number;
  /** How long the first request of a batch waits for others, in milliseconds. */
  readonly maxDelay: number;
  /** Rows that may wait. */
  readonly maxQueue: number;
  /** Whether requests share batches at all. */
  readonly sharesRuns: boolean;
  /** Told of each batch: its rows, its requests and the seconds that the model ran. */
  readonly onBatch?: (rows: number, requests: number, seconds: number) => void;
}

export interface Work {
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly rows: number;
  readonly choices: readonly RowChoice[];
  /** Milliseconds from now until which it must be answered. */
  readonly timeout: number;
  /** Called once, when what the request holds is no longer in use. */
  readonly release: () => void;
}

/** A request's answer, and how long it waited and ran, in seconds. */
export interface Answered {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly waited: number;
  readonly ran: number;
}

export interface Submitted {
  readonly answer: Promise<Answered>;
  /** The client has left: what still waits is dropped, what runs is not answered. */
  cancel(): void;
}

interface Entry extends Work {
  readonly arrived: number;
  readonly deadline: number;
  state: "waiting" | "running" | "done";
  resolve(answer: Answered): void;
  reject(error: unknown): void;
}

/** Requests that may share a batch, in the order in which they came. */
interface Line {
  entries: Entry[];
  /** Of those that still wait. */
  rows: number;
}

/** How often deadlines are looked at, in milliseconds. */
const deadlineStep = 20;

export class Batcher {
  readonly #runner: Runner;
  readonly #options: BatchOptions;
  readonly #lines = new Map<string, Line>();
  readonly #open = new Set<Entry>();
  #waitingRows = 0;
  #timer: NodeJS.Timeout | undefined;
  #clock: NodeJS.Timeout | undefined;
  #alone = 0;
  /** Rows a second, as the last batches went. */
  #rate = 0;
  #isClosed: boolean = false;

  constructor(runner: Runner, options: BatchOptions) {
    this.#runner = runner;
    this.#options = options;
  }

  /** Rows that wait. */
  get waitingRows(): number {
    return this.#waitingRows;
  }

  /** Requests that are neither answered nor refused. */
  get open(): number {
    return this.#open.size;
  }

  /** Throws ServeError 429 when as much is waiting as may, 503 when the server is stopping. `work.release` is called then, too. */
  submit(work: Work): Submitted {
    try {
      this.#admit(work.rows);
    } catch (error) {
      work.release();
      throw error;
    }
    const arrived = performance.now();
    let entry: Entry | undefined;
    const answer = new Promise<Answered>((resolve, reject) => {
      entry = { ...work, arrived, deadline: arrived + work.timeout, state: "waiting", resolve, reject };
    });
    this.#enqueue(entry!);
    this.#pump();
    return { answer, cancel: () => this.#drop(entry!, new ServeError(499, "the client has left")) };
  }

  /** Refuses what comes from now on, and waits until all that was accepted is answered, at most `timeout` milliseconds. */
  async drain(timeout: number): Promise<void> {
    this.#isClosed = true;
    const end = performance.now() + timeout;
    this.#pump();
    while (this.#open.size > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 5));
    const late = new ServeError(503, "the server is stopping", { retryAfter: 1 });
    for (const entry of [...this.#open]) this.#drop(entry, late);
    clearTimeout(this.#timer);
    clearInterval(this.#clock);
  }

  #admit(rows: number): void {
    if (this.#isClosed) throw new ServeError(503, "the server is stopping", { retryAfter: 1 });
    const { maxQueue } = this.#options;
    if (this.#waitingRows === 0 || this.#waitingRows + rows <= maxQueue) return;
    const seconds = this.#rate === 0 ? 1 : Math.ceil(this.#waitingRows / this.#rate);
    throw new ServeError(
      429,
      `the queue is full: ${this.#waitingRows} of ${maxQueue} rows are waiting; try again later`,
      {
        retryAfter: Math.min(60, Math.max(1, seconds)),
      },
    );
  }

  #enqueue(entry: Entry): void {
    const signature = this.#options.sharesRuns ? signatureOf(entry.inputs) : `alone ${this.#alone++}`;
    const line = this.#lines.get(signature);
    if (line === undefined) this.#lines.set(signature, { entries: [entry], rows: entry.rows });
    else {
      line.entries.push(entry);
      line.rows += entry.rows;
    }
    this.#waitingRows += entry.rows;
    this.#open.add(entry);
    this.#clock ??= setInterval(() => this.#checkDeadlines(), deadlineStep).unref();
  }

  /** Hands over what is ripe. */
  #pump(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#waitingRows > 0 && this.#runner.hasRoom) {
      const now = performance.now();
      const next = this.#ripest(now);
      if (next === undefined) return;
      if (next.wait > 0) {
        // setTimeout counts whole milliseconds.
        this.#timer = setTimeout(() => this.#pump(), Math.ceil(next.wait));
        return;
      }
      // A batch that is not full gains by waiting for an engine; a full one has nothing to wait for.
      if (!next.isFull && !this.#runner.isIdle) return;
      void this.#dispatch(next.signature, next.line);
    }
  }

  /** The line whose turn it is: a full one, else the one whose first request came first; `wait` is how long it has still to wait. */
  #ripest(now: number): { signature: string; line: Line; isFull: boolean; wait: number } | undefined {
    const { maxBatch, maxDelay } = this.#options;
    let best: { signature: string; line: Line; isFull: boolean; arrived: number } | undefined;
    for (const [signature, line] of this.#lines) {
      const { arrived } = line.entries.find(({ state }) => state === "waiting")!;
      const isFull = line.rows >= maxBatch || !this.#options.sharesRuns;
      // What has waited its time comes before what is full but came later.
      if (best === undefined || arrived < best.arrived) best = { signature, line, isFull, arrived };
    }
    if (best === undefined) return undefined;
    const wait = best.isFull || this.#isClosed ? 0 : Math.max(0, best.arrived + maxDelay - now);
    if (wait === 0) return { ...best, wait };
    for (const [signature, line] of this.#lines) {
      if (line.rows >= maxBatch) return { signature, line, isFull: true, wait: 0 };
    }
    return { ...best, wait };
  }

  async #dispatch(signature: string, line: Line): Promise<void> {
    const entries = this.#take(signature, line);
    const rows = entries.reduce((sum, entry) => sum + entry.rows, 0);
    const begun = performance.now();
    try {
      const { results, seconds } = await this.#runner.run(jobOf(entries));
      this.#note(rows, (performance.now() - begun) / 1000);
      this.#options.onBatch?.(rows, entries.length, seconds);
      for (const [at, entry] of entries.entries()) {
        const result = results[at]!;
        if ("failure" in result) {
          const { status, message } = result.failure;
          this.#settle(entry, () =>
            entry.reject(status === 500 ? new Error(message) : new ServeError(status, message)),
          );
        } else {
          const { outputs } = result;
          this.#settle(entry, () => entry.resolve({ outputs, waited: (begun - entry.arrived) / 1000, ran: seconds }));
        }
      }
    } catch (error) {
      for (const entry of entries) this.#settle(entry, () => entry.reject(error));
    } finally {
      for (const { release } of entries) release();
      this.#pump();
    }
  }

  /** The first requests of a line, up to a batch; at least one. */
  #take(signature: string, line: Line): Entry[] {
    const taken: Entry[] = [];
    let rows = 0;
    let at = 0;
    for (; at < line.entries.length; at++) {
      const entry = line.entries[at]!;
      if (entry.state !== "waiting") continue;
      if (taken.length > 0 && rows + entry.rows > this.#options.maxBatch) break;
      entry.state = "running";
      taken.push(entry);
      rows += entry.rows;
    }
    line.entries.splice(0, at);
    this.#forget(signature, line, rows);
    return taken;
  }

  #forget(signature: string, line: Line, rows: number): void {
    line.rows -= rows;
    this.#waitingRows -= rows;
    if (line.rows === 0) this.#lines.delete(signature);
  }

  #settle(entry: Entry, tell: () => void): void {
    this.#open.delete(entry);
    if (entry.state === "done") return;
    entry.state = "done";
    tell();
  }

  /** Ends a request before its answer is there. */
  #drop(entry: Entry, error: ServeError): void {
    if (entry.state === "done") return;
    const wasWaiting = entry.state === "waiting";
    this.#settle(entry, () => entry.reject(error));
    // What runs holds its adapters until the run has ended.
    if (!wasWaiting) return;
    for (const [signature, line] of this.#lines) {
      if (!line.entries.includes(entry)) continue;
      line.entries = line.entries.filter((one) => one !== entry);
      this.#forget(signature, line, entry.rows);
      break;
    }
    entry.release();
  }

  #checkDeadlines(): void {
    const now = performance.now();
    for (const entry of [...this.#open]) {
      if (entry.deadline > now) continue;
      const doing = entry.state === "waiting" ? "waited in the queue" : "ran";
      this.#drop(entry, new ServeError(504, `the request ${doing} past its deadline`));
    }
    if (this.#open.size > 0) return;
    clearInterval(this.#clock);
    this.#clock = undefined;
  }

  #note(rows: number, seconds: number): void {
    const rate = rows / Math.max(seconds, 1e-4);
    this.#rate = this.#rate === 0 ? rate : 0.9 * this.#rate + 0.1 * rate;
  }
}

function signatureOf(inputs: Readonly<Record<string, Tensor>>): string {
  return Object.keys(inputs)
    .sort()
    .map((name) => `${JSON.stringify(name)} ${inputs[name]!.type} ${inputs[name]!.dims.slice(1).join("x")}`)
    .join(";");
}

function copyOf<T extends Tensor>(value: T): T {
  return { ...value, data: value.data.slice() };
}

/** The requests' rows joined. Nothing of it is shared with them, so that it can be handed over. */
function jobOf(entries: readonly Entry[]): Job {
  const [first] = entries;
  const inputs = Object.entries(first!.inputs).map(([name, value]) => {
    const joined = entries.length === 1 ? copyOf(value) : concatRows(entries.map((entry) => entry.inputs[name]!));
    return [name, joined] as const;
  });
  const items = entries.map(({ rows, choices }): JobItem => ({ rows, choices }));
  return { inputs: Object.fromEntries(inputs), items };
}
