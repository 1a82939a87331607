// The process that trains: asked by the one that started it (children.ts), one training after the other. It ends when that one is
// gone, so that nothing trains for nobody.
import { LowrankError } from "../errors.ts";
import { runTune } from "../tune/run.ts";
import { silentVoice } from "../tune/voice.ts";
import type { Answer, Question } from "./children.ts";
import { systemCode } from "./place-failure.ts";

/** Milliseconds between two words of progress. */
const tellEvery = 250;

let current: AbortController | null = null;

// Ctrl-C goes to every process of a terminal: what is to be done then, the one that asked decides.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(1));
process.on("message", (question: Question) => {
  if (question.type === "stop") current?.abort();
  else void train(question);
});

function answer(message: Answer): void {
  if (process.connected) process.send?.(message);
}

async function train({ options, named, pauseAfter }: Extract<Question, { type: "train" }>): Promise<void> {
  const controller = new AbortController();
  current = controller;
  let reached = 0;
  let told = Number.NEGATIVE_INFINITY;
  const progress = (steps: number) => (step: number) => {
    reached = step;
    const now = performance.now();
    if (now - told < tellEvery) return;
    told = now;
    answer({ type: "progress", step, steps });
  };
  const voice = {
    ...silentVoice,
    progress: (_label: string, total: number, _unit?: string, start = 0) => {
      reached = start;
      return { update: progress(total), done() {}, clear() {} };
    },
  };
  try {
    await runTune(options, {
      voice,
      signal: controller.signal,
      named,
      ...(pauseAfter !== null && { pauseAfter }),
    });
    answer({ type: "ended", end: "complete" });
  } catch (error) {
    const isPaused = pauseAfter !== null && reached >= pauseAfter;
    if (error instanceof LowrankError && error.code === "aborted") {
      answer({ type: "ended", end: isPaused ? "paused" : "stopped" });
    } else if (error instanceof LowrankError) {
      const { code, message, faults } = error;
      answer({ type: "failed", code, message, faults, system: systemCode(error) });
    } else {
      answer({
        type: "failed",
        code: null,
        message: error instanceof Error ? error.message : String(error),
        faults: [],
        system: null,
      });
    }
  } finally {
    current = null;
  }
}
