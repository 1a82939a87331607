// Domains side by side: each is tuned on one thread of the runtime, as many at once as there are threads. Products as small
// as the study's gain more from that than from threads of their own, and transforms and optimizers run in parallel too.
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { type ErrorCode, LowrankError } from "../../errors.ts";
import { writeModel } from "../../onnx/write.ts";
import { runDomain } from "./folder.ts";
import type { Domain } from "./suite.ts";
import type { TuneContext } from "./tune.ts";
import type { WorkerAnswer, WorkerSetup } from "./worker.ts";

/**
 * Tunes all domains into the run folder; calls `onDone` after each.
 *
 * @throws the first error of a domain, when the others have been stopped; what is finished stays in the folder.
 */
export async function tuneDomains(
  out: string,
  domains: readonly Domain[],
  context: TuneContext,
  onDone: () => void,
): Promise<void> {
  const { options, base, train, test } = context;
  const { threads } = options;
  // A GPU is one: domains take turns on it.
  const workers = context.session.device === "cpu" ? Math.min(threads, domains.length) : 1;
  if (workers < 2) {
    for (const domain of domains) {
      await runDomain(out, domain, context);
      onDone();
    }
    return;
  }
  const failed = new AbortController();
  const signal = AbortSignal.any([context.signal, failed.signal]);
  const session = { ...context.session, threads: Math.floor(threads / workers) };
  const setup: WorkerSetup = { out, options, base: writeModel(base), train, test, session };
  // The suite ends with the digits, which are short, so that no worker is long alone at the end.
  const queue = [...domains];
  const ends = await Promise.allSettled(
    Array.from({ length: workers }, () =>
      work(setup, queue, signal, onDone).catch((error: unknown) => {
        failed.abort(error);
        throw error;
      }),
    ),
  );
  signal.throwIfAborted();
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

/** One worker: takes domains from the queue until it is empty. */
async function work(setup: WorkerSetup, queue: Domain[], signal: AbortSignal, onDone: () => void): Promise<void> {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { workerData: setup });
  const stop = (): void => worker.postMessage(null);
  signal.addEventListener("abort", stop);
  try {
    for (let domain = queue.shift(); domain !== undefined && !signal.aborted; domain = queue.shift()) {
      worker.postMessage(domain);
      const [answer] = (await once(worker, "message")) as [WorkerAnswer];
      if (answer !== null) throw errorOf(answer);
      onDone();
    }
  } finally {
    signal.removeEventListener("abort", stop);
    await worker.terminate();
  }
}

/** The error again, as it was thrown in the worker. */
function errorOf({ code, message, stack }: NonNullable<WorkerAnswer>): Error {
  const error = code === null ? new Error(message) : new LowrankError(code as ErrorCode, message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
