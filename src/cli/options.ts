// Reading option values: a number that is none is refused with the option's name; ranges are the rooms' matter.
import { InvalidArgumentError } from "commander";

/** For commander: the text as a number. */
export function parseNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number.");
  return value;
}

/** For commander: how many of something, at least one. */
export function parseWhole(text: string): number {
  const value = parseNumber(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError("expected a whole number from 1.");
  return value;
}

/** For commander: a number of threads. */
export function parseThreads(text: string): number {
  const value = parseNumber(text);
  if (!Number.isInteger(value) || value < 1 || value > 1024) {
    throw new InvalidArgumentError("expected a whole number from 1 to 1024.");
  }
  return value;
}

export const targetsHelp =
  'the layers to adapt: module paths or their last segments (q_proj,v_proj; the option may be repeated), "all-linear", or a regular expression between slashes';

/** For commander: the values of an option that may be repeated. */
export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

/** What --target says, as a configuration's targetModules. */
export function parseTargets(values: readonly string[]): readonly string[] | string {
  const [first = "", ...others] = values;
  if (others.length === 0 && first === "all-linear") return first;
  if (others.length === 0 && /^\/.+\/$/s.test(first)) return first.slice(1, -1);
  return values.flatMap((value) => value.split(",")).filter((entry) => entry !== "");
}
