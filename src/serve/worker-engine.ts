// Engines in worker threads: the runtime blocks the thread that calls it, and the one that answers HTTP must never be blocked.
// Every worker holds the base and all resident adapters; loads and unloads go to all of them, in one order. A worker that
// dies is replaced, empty: whoever holds adapters is told, and loads them again when they are asked for.
import { Worker } from "node:worker_threads";
import { type ErrorCode, LowrankError } from "../errors.ts";
import type { AdapterSource, Description, Engine, EngineOptions, Job, JobResult, LoadedInfo } from "./engine.ts";
import { ServeError } from "./serve-error.ts";

export type Order =
  | { readonly kind: "load"; readonly key: string; readonly label: string; readonly source: AdapterSource }
  | { readonly kind: "unload"; readonly key: string }
  | { readonly kind: "run"; readonly job: Job }
  | { readonly kind: "dispose" };

export interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: {
    readonly message: string;
    readonly code?: ErrorCode;
    readonly faults?: readonly string[];
    readonly stack?: string | undefined;
  };
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** The file that runs in the thread; beside this one in dist/. */
const workerFile = new URL("./worker.js", import.meta.url);

/**
 * An engine in a thread of its own.
 *
 * @param onEnd told when the thread has ended without being asked to
 */
export async function openWorkerEngine(options: EngineOptions, onEnd: (reason: string) => void): Promise<Engine> {
  const worker = new Worker(workerFile, { workerData: options });
  const waiting = new Map<number, Waiting>();
  let count = 0;
  let isEnding = false;
  const receive = ({ id, value, error }: Answer): void => {
    const one = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) one?.resolve(value);
    else one?.reject(revived(error));
  };
  const end = (reason: string): void => {
    const error = new ServeError(503, "the worker that ran this request has ended; try again", { retryAfter: 1 });
    for (const one of waiting.values()) one.reject(error);
    waiting.clear();
    if (!isEnding) onEnd(reason);
    isEnding = true;
  };
  const opened = new Promise<unknown>((resolve, reject) => waiting.set(count++, { resolve, reject }));
  worker.on("message", receive);
  worker.on("error", (error) => end(error.message));
  worker.on("exit", (code) => end(`it ended with code ${code}`));
  const send = <T>(order: Order, transfer: ArrayBuffer[] = []): Promise<T> => {
    if (isEnding)
      return Promise.reject(new ServeError(503, "the server is stopping, or its worker has ended", { retryAfter: 1 }));
    const id = count++;
    return new Promise<T>((resolve, reject) => {
      waiting.set(id, { resolve: resolve as Waiting["resolve"], reject });
      worker.postMessage({ id, order }, transfer);
    });
  };
  let description: Description;
  try {
    description = (await opened) as Description;
  } catch (error) {
    isEnding = true;
    await worker.terminate();
    throw error;
  }
  return {
    description,
    load: (key, label, source) => send({ kind: "load", key, label, source }),
    unload: (key) => send({ kind: "unload", key }),
    run: (job) =>
      send(
        { kind: "run", job },
        Object.values(job.inputs).map(({ data }) => data.buffer as ArrayBuffer),
      ),
    async dispose() {
      if (isEnding) return;
      const done = send<void>({ kind: "dispose" });
      isEnding = true;
      await done.catch(() => undefined);
      await worker.terminate();
    },
  };
}

function revived({ message, code, faults, stack }: NonNullable<Answer["error"]>): Error {
  if (code !== undefined) return new LowrankError(code, message, faults === undefined ? {} : { faults });
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}

export type OpenOne = (options: EngineOptions, onEnd: (reason: string) => void) => Promise<Engine>;

/** Several engines that hold the same adapters. */
export interface Pool {
  readonly description: Description;
  /** Engines that run, or could. */
  readonly size: number;
  /** Loads into all of them, or none. */
  load(key: string, label: string, source: AdapterSource): Promise<LoadedInfo>;
  unload(key: string): Promise<void>;
  /** Whether a job would be begun at once. */
  readonly isIdle: boolean;
  /** Whether every engine has no more than one job. */
  readonly hasRoom: boolean;
  run(job: Job): Promise<JobResult>;
  dispose(): Promise<void>;
}

export interface PoolOptions extends EngineOptions {
  readonly workers: number;
  /** Told when an engine has ended and all adapters are gone. */
  readonly onLost: (reason: string) => void;
  readonly open?: OpenOne;
}

interface Slot {
  engine: Engine | null;
  jobs: number;
}

/** Between the attempts to replace a worker, in milliseconds: a model that kills it at once must not keep a core busy. */
const restartDelay = 1000;

/** Opens `workers` engines. Throws as opening one does. */
export async function openPool({ workers, onLost, open = openWorkerEngine, ...options }: PoolOptions): Promise<Pool> {
  const slots: Slot[] = Array.from({ length: workers }, () => ({ engine: null, jobs: 0 }));
  let isClosed = false;
  const start = async (slot: Slot): Promise<Engine> => {
    const engine = await open(options, (reason) => void replace(slot, reason));
    slot.engine = engine;
    return engine;
  };
  const replace = async (slot: Slot, reason: string): Promise<void> => {
    if (isClosed) return;
    // The others would hold adapters that this one has not: all begin again, so that one list tells what is resident.
    const lost = slots.filter(({ engine }) => engine !== null);
    const engines = lost.map(({ engine }) => engine!);
    for (const one of lost) one.engine = null;
    onLost(reason);
    await Promise.all(engines.map((engine) => engine.dispose().catch(() => undefined)));
    for (const one of new Set([slot, ...lost])) {
      while (!isClosed && one.engine === null) {
        await new Promise((resolve) => setTimeout(resolve, restartDelay));
        await start(one).catch(() => undefined);
      }
    }
  };
  const first = await start(slots[0]!);
  await Promise.all(slots.slice(1).map(start));
  const live = (): (Slot & { engine: Engine })[] =>
    slots.filter((slot): slot is Slot & { engine: Engine } => slot.engine !== null);
  const someone = (): Slot & { engine: Engine } => {
    const [best] = live().sort((a, b) => a.jobs - b.jobs);
    if (best === undefined) throw new ServeError(503, "the workers are starting; try again", { retryAfter: 1 });
    return best;
  };
  return {
    description: first.description,
    get size() {
      return live().length;
    },
    get isIdle() {
      return live().some(({ jobs }) => jobs === 0);
    },
    get hasRoom() {
      return live().some(({ jobs }) => jobs < 2);
    },
    async load(key, label, source) {
      someone();
      const engines = live().map(({ engine }) => engine);
      const results = await Promise.allSettled(engines.map((engine) => engine.load(key, label, source)));
      const failed = results.find((result) => result.status === "rejected");
      if (failed === undefined) return (results[0] as PromiseFulfilledResult<LoadedInfo>).value;
      await Promise.allSettled(
        results.map((result, at) => (result.status === "fulfilled" ? engines[at]!.unload(key) : undefined)),
      );
      throw failed.reason;
    },
    async unload(key) {
      await Promise.allSettled(live().map(({ engine }) => engine.unload(key)));
    },
    async run(job) {
      const slot = someone();
      slot.jobs++;
      try {
        return await slot.engine.run(job);
      } finally {
        slot.jobs--;
      }
    },
    async dispose() {
      isClosed = true;
      await Promise.all(live().map(({ engine }) => engine.dispose()));
    },
  };
}
