// The thread in which an adapter is tuned. It asks for the least share of the cores that it can get, so that requests go first.
import { setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { type TuneTask, tuneFromExamples } from "./tune-task.ts";

process.env.ORT_DISABLE_TELEMETRY ??= "1";

try {
  // On Linux 0 is the thread that calls, and threads that it starts are as patient as it is.
  if (process.platform === "linux") setPriority(0, 19);
} catch {
  // Then it shares as others do.
}

try {
  parentPort!.postMessage({ outcome: await tuneFromExamples(workerData as TuneTask) });
} catch (error) {
  parentPort!.postMessage({ error: error instanceof Error ? error.message : String(error) });
}
