// The page's end of protocol.ts: a worker as an object whose `ask` gives promises. Long work is the worker's, so that no frame
// waits for it.
import type { Device, Failure, Method, Methods, Reply } from "./protocol.ts";

/** What a worker answered instead of a result. */
export class WorkerError extends Error {
  override readonly name = "WorkerError";
  readonly code: string;

  constructor({ code, message }: Failure) {
    super(message);
    this.code = code;
  }
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
  tell: ((value: unknown) => void) | undefined;
}

export interface Client {
  ask<M extends Method>(
    method: M,
    argument: Methods[M]["argument"],
    tell?: (progress: Methods[M]["progress"]) => void,
  ): Promise<Methods[M]["answer"]>;
  /** Ends the worker; what it was asked is never answered. */
  end(): void;
}

/** Starts a worker. `role` tells people who look at the browser's list of threads what it is for. */
export function startWorker(role: string, device: Device): Client {
  // A literal address and a literal type: the bundler recognises workers by their form.
  const worker = new Worker(new URL("./worker/main.ts", import.meta.url), {
    type: "module",
    name: `${role} ${device}`,
  });
  const pending = new Map<number, Pending>();
  let count = 0;
  worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => {
    const asked = pending.get(data.id);
    if (asked === undefined) return;
    if (data.kind === "progress") return asked.tell?.(data.value);
    pending.delete(data.id);
    if (data.kind === "answer") asked.resolve(data.value);
    else asked.reject(new WorkerError(data.failure));
  });
  let broken: WorkerError | undefined;
  worker.addEventListener("error", (event) => {
    broken = new WorkerError({
      code: "internal",
      message: event.message || "A part of the page could not be started.",
    });
    for (const { reject } of pending.values()) reject(broken);
    pending.clear();
  });
  return {
    end: () => worker.terminate(),
    ask: <M extends Method>(
      method: M,
      argument: Methods[M]["argument"],
      tell?: (progress: Methods[M]["progress"]) => void,
    ) =>
      new Promise<Methods[M]["answer"]>((resolve, reject) => {
        if (broken !== undefined) return reject(broken);
        const id = count++;
        pending.set(id, {
          resolve: resolve as (value: unknown) => void,
          reject,
          tell: tell as ((value: unknown) => void) | undefined,
        });
        worker.postMessage({ id, method, argument });
      }),
  };
}
