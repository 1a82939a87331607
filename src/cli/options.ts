// Reading option values: a number that is none is refused with the option's name; ranges are the rooms' matter.
import { InvalidArgumentError } from "commander";

/** For commander: the text as a number. */
export function parseNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number.");
  return value;
}
