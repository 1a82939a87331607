// How a run speaks. The commands give it a terminal; programs and tests give it whatever they like.
import type { Skipped } from "../data/source.ts";

export interface Voice {
  say(text?: string): void;
  heading(text: string): void;
  /** For warnings and notes that must be seen also when results are piped away. */
  warn(text: string): void;
  /** Shows the progress of a loop of `total` steps, `start` of which were done before. */
  progress(label: string, total: number, unit?: string, start?: number): VoiceProgress;
}

export interface VoiceProgress {
  update(step: number, values?: { readonly loss?: number }): void;
  done(): void;
  clear(): void;
}

const silentProgress: VoiceProgress = { update() {}, done() {}, clear() {} };

/** Says nothing. */
export const silentVoice: Voice = { say() {}, heading() {}, warn() {}, progress: () => silentProgress };

/** Rows that were left out, for a warning. */
export function leftOut({ count, faults }: Skipped): string {
  const more = count > faults.length ? "; …" : "";
  return `${count === 1 ? "1 row was" : `${count} rows were`} left out: ${faults.join("; ")}${more}`;
}
