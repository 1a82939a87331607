// The domains of the suite, and what a run of it can be asked for.

import { corruptionNames } from "../../data/transforms/transforms.ts";
import { throwFaults } from "../../errors.ts";
import type { DeviceChoice } from "../../runtime/session.ts";
import { deviceFaults, studyDefaults } from "../options.ts";

/** A task to tune on: images of one digit, or all images transformed. */
export interface Domain {
  readonly name: string;
  /** For parseTransform; null for a digit's images as they are. */
  readonly transform: string | null;
  /** null: all digits. */
  readonly digit: number | null;
}

export interface DomainOptions {
  /** Names of the domains to run; null for all. */
  readonly only: readonly string[] | null;
  readonly rank: number;
  readonly alpha: number;
  readonly learningRate: number;
  /** Images in a batch of the tuning; the base is trained as the study trains it. */
  readonly batch: number;
  readonly seed: number;
  /** At most this many training images and as many test images; null takes all. */
  readonly limit: number | null;
  readonly device: DeviceChoice;
  readonly threads: number;
}

export const domainDefaults: DomainOptions = {
  only: null,
  rank: 8,
  alpha: 16,
  learningRate: 0.001,
  batch: 64,
  seed: 0,
  limit: null,
  device: studyDefaults.device,
  threads: studyDefaults.threads,
};

const transforms = [
  ...[15, 30, 45, 60, 75].map((degrees) => `rotation:${degrees}`),
  "invert",
  "thick",
  "thin",
  ...corruptionNames,
];

/** The whole suite: the image transforms, then the ten digits. */
export const allDomains: readonly Domain[] = [
  ...transforms.map((name) => ({ name, transform: name, digit: null })),
  ...Array.from({ length: 10 }, (_, digit) => ({ name: `digit:${digit}`, transform: null, digit })),
];

/** Throws LowrankError "config" that lists every option out of range. */
export function checkDomainOptions(options: DomainOptions): void {
  const faults: string[] = [];
  const whole = (name: string, value: number, from: number, to: number): void => {
    if (!Number.isInteger(value) || value < from || value > to)
      faults.push(`--${name}: expected a whole number from ${from} to ${to}, got ${value}`);
  };
  const positive = (name: string, value: number): void => {
    if (!Number.isFinite(value) || value <= 0) faults.push(`--${name}: expected a number above 0, got ${value}`);
  };
  const known = new Set(allDomains.map(({ name }) => name));
  for (const name of options.only ?? [])
    if (!known.has(name)) faults.push(`--only: expected names of ${[...known].join(", ")}; got ${name}`);
  whole("rank", options.rank, 1, 784);
  positive("alpha", options.alpha);
  positive("lr", options.learningRate);
  whole("batch", options.batch, 2, 10_000);
  whole("seed", options.seed, 0, Number.MAX_SAFE_INTEGER);
  if (options.limit !== null) whole("limit", options.limit, 100, 1_000_000);
  faults.push(...deviceFaults(options.device));
  whole("threads", options.threads, 1, 1024);
  throwFaults("config", "domains", faults);
}

/** The domains that were asked for, in the suite's order. */
export function chosenDomains({ only }: DomainOptions): Domain[] {
  return allDomains.filter(({ name }) => only === null || only.includes(name));
}
