// Processes that train, started when they are needed and used again: a session runs on the thread that calls it, so each training
// has a process of its own, and a crash of one is nobody else's.
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type ErrorCode, LowrankError } from "../errors.ts";
import type { RunOptions } from "../tune/option-table.ts";
import { withCode } from "./place-failure.ts";

export interface TrainRequest {
  /** With paths where the files lie, and the run folder as `out`. */
  readonly options: RunOptions;
  /** As the run's own files have them. */
  readonly named: RunOptions;
  /** The last step of the rung; null: train to the end. */
  readonly pauseAfter: number | null;
}

/** How a training ended that did not fail: at its end, at the end of its rung, or on request with a checkpoint. */
export type TrainEnd = "complete" | "paused" | "stopped";

export interface TrainWatch {
  /** Stops between two steps. */
  readonly signal: AbortSignal;
  onProgress(step: number, steps: number): void;
}

/** Trains, some at a time. Each call takes a free process, or starts one; callers keep to the number that they want. */
export interface Trainer {
  /**
   * @throws LowrankError as `runTune` does, "runtime" when the process died.
   */
  train(request: TrainRequest, watch: TrainWatch): Promise<TrainEnd>;
  /** Ends the processes; what they train is stopped first. */
  close(): Promise<void>;
}

export type Question = ({ readonly type: "train" } & TrainRequest) | { readonly type: "stop" };

export type Answer =
  | { readonly type: "progress"; readonly step: number; readonly steps: number }
  | { readonly type: "ended"; readonly end: TrainEnd }
  | {
      readonly type: "failed";
      /** null: a bug of ours. */
      readonly code: ErrorCode | null;
      readonly message: string;
      readonly faults: readonly string[];
      /** What the system said, "ENOSPC"; null where it said nothing. */
      readonly system: string | null;
    };

interface Child {
  readonly process: ChildProcess;
  trainings: number;
  /** The end of what it wrote to stderr, for the message when it dies. */
  errors: string;
}

/** Native code may keep memory: a process is replaced after so many trainings. */
const mostTrainings = 64;

/** Starts no process yet. */
export function createTrainer(): Trainer {
  const free: Child[] = [];
  const all = new Set<Child>();
  const start = (): Child => {
    const path = fileURLToPath(new URL("./trial-process.js", import.meta.url));
    const env = { ...process.env, ORT_DISABLE_TELEMETRY: "1" };
    const child: Child = {
      process: fork(path, [], { stdio: ["ignore", "ignore", "pipe", "ipc"], env, execArgv: [] }),
      trainings: 0,
      errors: "",
    };
    child.process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      child.errors = (child.errors + text).slice(-2000);
    });
    child.process.on("error", () => {}); // told by "exit" or by the failed send
    all.add(child);
    child.process.on("exit", () => {
      all.delete(child);
      const at = free.indexOf(child);
      if (at >= 0) free.splice(at, 1);
    });
    return child;
  };
  return {
    async train(request, watch) {
      const child = free.pop() ?? start();
      try {
        return await ask(child, request, watch);
      } finally {
        // One that answered, be it with a failure, is as good as before.
        child.trainings++;
        if (child.trainings < mostTrainings && child.process.connected) free.push(child);
        else if (child.process.connected) child.process.disconnect();
      }
    },
    async close() {
      const ended = [...all].map(
        (child) => new Promise<void>((resolve) => child.process.once("exit", () => resolve())),
      );
      for (const child of all) if (child.process.connected) child.process.disconnect();
      await Promise.all(ended);
    },
  };
}

function ask(child: Child, request: TrainRequest, { signal, onProgress }: TrainWatch): Promise<TrainEnd> {
  return new Promise((resolve, reject) => {
    const stop = (): void => send({ type: "stop" });
    const finish = (): void => {
      signal.removeEventListener("abort", stop);
      child.process.off("message", onMessage);
      child.process.off("exit", onExit);
    };
    const onExit = (code: number | null, by: NodeJS.Signals | null): void => {
      finish();
      const how = by === null ? `with exit code ${code}` : `by ${by}`;
      const last = child.errors.trim().split("\n").at(-1) ?? "";
      const message = `the process that trained it was ended ${how}${last === "" ? "" : ` (${last})`}`;
      reject(new LowrankError("runtime", message));
    };
    const onMessage = (message: Answer): void => {
      if (message.type === "progress") {
        onProgress(message.step, message.steps);
        return;
      }
      finish();
      if (message.type === "ended") resolve(message.end);
      else reject(asError(message));
    };
    const send = (question: Question): void => {
      // A process that has gone tells so by its exit.
      if (child.process.connected) child.process.send(question, () => {});
    };
    child.process.on("message", onMessage);
    child.process.on("exit", onExit);
    signal.addEventListener("abort", stop);
    send({ type: "train", ...request });
    if (signal.aborted) stop();
  });
}

function asError({ code, message, faults, system }: Extract<Answer, { type: "failed" }>): Error {
  if (code === null) return new Error(message);
  return new LowrankError(code, message, { faults, ...(system !== null && { cause: withCode(system, message) }) });
}

/** Whether a training that failed so may do better when it is tried again; its own options and data never will. */
export function isPassing(error: unknown): boolean {
  return error instanceof LowrankError && (error.code === "runtime" || error.code === "file");
}
