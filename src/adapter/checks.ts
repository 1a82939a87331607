// Option values that several operations on adapters take.
import { LowrankError } from "../errors.ts";

/** How many singular values to keep: a rank, or as many as hold a share of the energy (their sum of squares). */
export interface RankChoice {
  /** Rank of each module. */
  readonly r?: number;
  /** Above 0, at most 1: ranks differ from module to module. */
  readonly energy?: number;
}

/** Throws LowrankError "config" unless exactly one of `r` and `energy` is given, in its range. */
export function checkRankChoice({ r, energy }: RankChoice, where: string): void {
  if ((r === undefined) === (energy === undefined)) {
    throw new LowrankError(
      "config",
      `${where}: expected one of r and energy, got ${r === undefined ? "none" : "both"}`,
    );
  }
  if (r !== undefined && (!Number.isInteger(r) || r < 1)) {
    throw new LowrankError("config", `${where}: r: expected a whole number of 1 or more, got ${r}`);
  }
  if (energy !== undefined && !(energy > 0 && energy <= 1)) {
    throw new LowrankError("config", `${where}: energy: expected a share above 0, at most 1, got ${energy}`);
  }
}
