// An engine in a worker thread: the runtime blocks the thread that calls it, and the one that answers HTTP must never be blocked.
import { Worker } from "node:worker_threads";
import { type ErrorCode, LowrankError } from "../errors.ts";
import type { AdapterSource, Description, Engine, EngineOptions, Job } from "./engine.ts";
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
  let isOpen = false;
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
    if (isOpen && !isEnding) onEnd(reason);
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
    isOpen = true;
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
