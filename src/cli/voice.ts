// A terminal as a run's voice: words on stdout, progress and warnings on stderr.
import type { Voice } from "../tune/voice.ts";
import { createProgress, nullProgress } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

export function voiceOf(terminal: Terminal, quiet: boolean): Voice {
  return {
    say: (text) => terminal.say(text),
    heading: (text) => terminal.heading(text),
    warn: (text) => terminal.warn(text),
    progress: (label, total, unit, start) =>
      quiet
        ? nullProgress
        : createProgress({ label, total, ...(unit !== undefined && { unit }), ...(start !== undefined && { start }) }),
  };
}
