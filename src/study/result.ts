// What the study found, as data: what summary.json holds, and beside it what only the report draws.

import type { StudyOptions } from "./options.ts";

export type Head = "relu" | "linear";

/** Counts over the test images. */
export interface Evaluation {
  /** Share of test images that are predicted right, 0 to 1. */
  accuracy: number;
  /** Wrongly predicted test images of each digit. */
  wrong: number[]; // [10]
}

export interface LayerRow {
  /** As torchsummary prints it: "Linear-1". */
  name: string;
  /** [-1, features]: -1 is the batch. */
  outputShape: number[];
  parameters: number;
  /** What LoRA adds to this layer; 0 where there is none. */
  lora: number;
}

export interface DeadOutput {
  digit: number;
  /** Test images of this digit that the base gets wrong, of all that there are. */
  wrong: number;
  images: number;
}

/** The base, made smaller without training. */
export interface CompressionPoint {
  /** Of the largest layer, as two thin ones; null where it is whole. */
  rank: number | null;
  /** Whether the two are the nearest on training images, rather than of all weights of the rank. */
  weighedWithData: boolean;
  quantized: "int8" | "int4" | null;
  /** Of the file. */
  bytes: number;
  accuracy: number;
}

/** One head's part of summary.json. */
export interface HeadSummary {
  parameters: { base: number; lora: number; total: number; percent: number };
  layers: LayerRow[];
  base: Evaluation & { meanLoss: number; stepsPerSecond: number; steps: number; deadOutputs: DeadOutput[] };
  /** The digit that was tuned, and why it was taken. */
  digit: number;
  digitChosen: "most wrong" | "by option";
  /** Fine-tuned on that digit alone. */
  enabled: Evaluation & { meanLoss: number; stepsPerSecond: number; steps: number };
  /** The adapter switched off: must be the base again. */
  disabled: Evaluation;
  disabledMatchesBase: boolean;
  /** The same fine-tune with images of all digits mixed in; null when it was switched off. */
  replay: (Evaluation & { meanLoss: number; fraction: number }) | null;
  frozenWeightsUnchanged: boolean;
  /** The largest difference between the effective weight and W + (alpha / rank) B A, over all layers. */
  effectiveWeightMatches: { maxAbsDiff: number };
  mergedMatchesEnabled: { maxAbsDiff: number };
  /** Size against accuracy; of the network with the linear head. */
  compression: CompressionPoint[] | null;
  /** Paths below the run folder. */
  files: { base: string; adapter: string; replayAdapter: string | null; merged: string };
  seconds: number;
}

export interface StudySummary {
  version: 1;
  /** False when the run was stopped: only finished networks are in it. */
  complete: boolean;
  /** When the run began, ISO 8601. */
  started: string;
  data: { source: string; train: number; test: number; sha256: Record<string, string> };
  settings: StudyOptions;
  heads: Partial<Record<Head, HeadSummary>>;
  seconds: number;
}

/** A test image that the base misreads. */
export interface Misread {
  index: number;
  pixels: Uint8Array; // [28 * 28], 0 is background
  label: number;
  base: number;
  enabled: number;
  replay: number | null;
}

/** What the report draws beyond the summary. */
export interface HeadDetail {
  /** Running means of the loss: step (1-based) and loss. */
  lossCurves: { base: LossPoint[]; tuned: LossPoint[]; replay: LossPoint[] | null };
  /** rows: label, columns: prediction. */
  confusion: { base: number[][]; enabled: number[][]; replay: number[][] | null };
  misread: Misread[];
  /** Singular values of (alpha / rank) B A by module path, largest first. */
  singularValues: { module: string; values: number[] }[];
  bytes: { base: number; adapter: number };
}

export interface LossPoint {
  step: number;
  loss: number;
}

/** Everything that the report tells. */
export interface StudyResult {
  summary: StudySummary;
  details: Partial<Record<Head, HeadDetail>>;
}
