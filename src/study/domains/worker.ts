// A worker thread of the domain suite: gets domains one after the other, tunes each, and says when it is done.
import { parentPort, workerData } from "node:worker_threads";
import type { ImageSet } from "../../data/idx.ts";
import { LowrankError } from "../../errors.ts";
import { readModel } from "../../onnx/read.ts";
import type { SessionOptions } from "../../runtime/session.ts";
import { runDomain } from "./folder.ts";
import type { Domain, DomainOptions } from "./suite.ts";
import type { TuneContext } from "./tune.ts";

/** What all domains share. */
export interface WorkerSetup {
  /** The run folder. */
  readonly out: string;
  readonly options: DomainOptions;
  /** An ONNX file. */
  readonly base: Uint8Array;
  readonly train: ImageSet;
  readonly test: ImageSet;
  readonly session: SessionOptions;
}

/** null when a domain is done, or what went wrong; `code` is a LowrankError's. */
export type WorkerAnswer = {
  readonly code: string | null;
  readonly message: string;
  readonly stack: string | undefined;
} | null;

const { out, base, ...shared } = workerData as WorkerSetup;
const stop = new AbortController();
const context: TuneContext = { ...shared, base: readModel(base, "base.onnx"), signal: stop.signal };

// A domain to tune, or null to stop between two steps.
parentPort!.on("message", (domain: Domain | null) => {
  if (domain === null) stop.abort();
  else
    runDomain(out, domain, context).then(
      () => answer(null),
      (error: unknown) => answer(described(error)),
    );
});

function answer(value: WorkerAnswer): void {
  parentPort!.postMessage(value);
}

function described(error: unknown): WorkerAnswer {
  if (!(error instanceof Error)) return { code: null, message: String(error), stack: undefined };
  return { code: error instanceof LowrankError ? error.code : null, message: error.message, stack: error.stack };
}
