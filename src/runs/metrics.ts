// metrics.jsonl: what was measured while a run went on, one JSON object a line, so that any tool can follow or plot it.
// Lines are collected in memory and written in whole, synchronously: at 64 KiB, after 2 s, on flush, on close and at
// process exit. So an interrupted run loses nothing that was measured, and its last line is never half a line.
import { appendFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { atExit } from "./at-exit.ts";
import { fileError } from "./file-error.ts";

/** One training step. Further keys are welcome. */
export interface StepRecord {
  kind: "step";
  /** What is being trained: "linear/base", "linear/tuned". */
  phase: string;
  /** 1-based, within the phase. */
  step: number;
  /** Mean loss of the step's batch; written as null when it is not finite, since JSON has no NaN. */
  loss: number;
  /** Learning rate of this step. */
  lr: number;
  stepsPerSecond: number;
  [more: string]: unknown;
}

/** One evaluation: accuracy, wrong counts and whatever else it found. */
export interface EvaluationRecord {
  kind: "evaluation";
  phase: string;
  [more: string]: unknown;
}

export type MetricsRecord = StepRecord | EvaluationRecord;

/** An open metrics file. `append` and `flush` throw a LowrankError "file" when the disk refuses. */
export interface MetricsLog {
  readonly path: string;
  append(record: MetricsRecord): void;
  flush(): void;
  /** Writes what is left; a closed log takes no more records. Closing twice is harmless. */
  close(): void;
}

export interface MetricsOptions {
  /** Milliseconds, monotonic; for tests. */
  now?: () => number;
  /** Go on with the file that is there. Default false: it begins empty. */
  append?: boolean;
  /** Buffered characters that are written at the next record; default 65,536. */
  flushAtLength?: number;
  /** Milliseconds after which the next record writes what is buffered; default 2,000. */
  flushAfterMs?: number;
}

/**
 * Starts an empty metrics file at `path`, replacing one that is there. The file is open only while it is written to,
 * and no timer runs, so a log that nobody closes keeps neither the process alive nor a descriptor.
 *
 * @example
 * const metrics = openMetrics("runs/first/metrics.jsonl");
 * metrics.append({ kind: "step", phase: "base", step: 1, loss: 2.31, lr: 0.001, stepsPerSecond: 190 });
 * metrics.close();
 */
export function openMetrics(path: string, options: MetricsOptions = {}): MetricsLog {
  const { append = false, now = () => performance.now(), flushAtLength = 65_536, flushAfterMs = 2_000 } = options;
  let buffered = "";
  let lastFlush = now();
  let open = true;

  const flush = (): void => {
    lastFlush = now();
    if (buffered === "") return;
    const lines = buffered;
    buffered = ""; // before the write: lines that a full disk has refused are not tried again at exit
    appendWhole(path, lines);
  };

  write(path, () => writeFileSync(path, "", { flag: append ? "a" : "w" }));
  const forget = atExit(flush);
  return {
    path,
    append(record) {
      if (!open) throw new Error(`internal: ${path} is closed, got a record of ${record.phase}`);
      buffered += `${JSON.stringify(record)}\n`;
      if (buffered.length >= flushAtLength || now() - lastFlush >= flushAfterMs) flush();
    },
    flush,
    close() {
      if (!open) return;
      open = false;
      forget();
      flush();
    },
  };
}

/** Appends `lines`, or, when the disk fills up in the middle of them, leaves the file as it was. */
function appendWhole(path: string, lines: string): void {
  write(path, () => {
    const before = statSync(path);
    try {
      appendFileSync(path, lines);
    } catch (error) {
      if (before.isFile()) truncateSync(path, before.size);
      throw error;
    }
  });
}

function write(path: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw fileError(path, "write", error);
  }
}
