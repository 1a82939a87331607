// What every part of a study run shares.
import type { ImageSet } from "../data/idx.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { StudyOptions } from "./options.ts";
import type { Evaluation } from "./result.ts";
import type { Voice } from "./voice.ts";

export interface StudyContext {
  readonly options: StudyOptions;
  readonly train: ImageSet;
  readonly test: ImageSet;
  readonly run: RunFolder;
  readonly voice: Voice;
  readonly signal: AbortSignal;
  readonly session: SessionOptions;
  /** Where a file of the run lies. */
  pathOf(file: string): string;
  recordEvaluation(phase: string, evaluation: Evaluation): void;
}
