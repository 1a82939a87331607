// What the study can be asked for; the defaults are STUDY's own numbers.
import { availableParallelism } from "node:os";
import { throwFaults } from "../errors.ts";
import { type DeviceChoice, deviceChoices } from "../runtime/session.ts";
import type { Head } from "./result.ts";

export interface StudyOptions {
  /** Which networks: the documented one (relu), the one with a linear head, or both. */
  readonly head: Head | "both";
  readonly rank: number;
  readonly alpha: number;
  readonly learningRate: number;
  /** Images in a batch, of the base's training and of the fine-tune alike. */
  readonly batch: number;
  /** Passes over the training images for the base. */
  readonly epochs: number;
  /** Batches of the fine-tune. */
  readonly steps: number;
  /** The digit to tune; null takes the one that the base gets wrong most often. */
  readonly digit: number | null;
  /** Share of each batch that the second fine-tune draws from all digits; 0 leaves that run out. */
  readonly replay: number;
  readonly seed: number;
  /** At most this many training images and as many test images; null takes all. */
  readonly limit: number | null;
  readonly device: DeviceChoice;
  readonly threads: number;
}

/** More threads than this only wait for each other on products as small as the study's. */
const maxThreads = 4;

export const studyDefaults: StudyOptions = {
  head: "both",
  rank: 1,
  alpha: 1,
  learningRate: 0.001,
  batch: 10,
  epochs: 1,
  steps: 100,
  digit: null,
  replay: 0.5,
  seed: 0,
  limit: null,
  device: "cpu",
  threads: Math.min(availableParallelism(), maxThreads),
};

/** The networks to run, the documented one first. */
export function headsOf(options: StudyOptions): Head[] {
  return options.head === "both" ? ["relu", "linear"] : [options.head];
}

/** What is wrong with the name of a device. */
export function deviceFaults(device: string): string[] {
  if (deviceChoices.some((choice) => choice === device)) return [];
  return [`--device: expected ${deviceChoices.join(", ")}, got ${device}`];
}

/** Throws LowrankError "config" that lists every option out of range. */
export function checkOptions(options: StudyOptions): void {
  const faults: string[] = [];
  const whole = (name: string, value: number, from: number, to: number): void => {
    if (!Number.isInteger(value) || value < from || value > to)
      faults.push(`--${name}: expected a whole number from ${from} to ${to}, got ${value}`);
  };
  const positive = (name: string, value: number): void => {
    if (!Number.isFinite(value) || value <= 0) faults.push(`--${name}: expected a number above 0, got ${value}`);
  };
  if (!["relu", "linear", "both"].includes(options.head))
    faults.push(`--head: expected relu, linear or both, got ${options.head}`);
  whole("rank", options.rank, 1, 1000);
  positive("alpha", options.alpha);
  positive("lr", options.learningRate);
  whole("batch", options.batch, 1, 10_000);
  whole("epochs", options.epochs, 1, 1000);
  whole("steps", options.steps, 1, 1_000_000);
  if (options.digit !== null) whole("digit", options.digit, 0, 9);
  if (!(options.replay >= 0 && options.replay < 1))
    faults.push(`--replay: expected a share from 0 up to (not including) 1, got ${options.replay}`);
  whole("seed", options.seed, 0, Number.MAX_SAFE_INTEGER);
  if (options.limit !== null) whole("limit", options.limit, 100, 1_000_000);
  faults.push(...deviceFaults(options.device));
  whole("threads", options.threads, 1, 1024);
  throwFaults("config", "study", faults);
}
