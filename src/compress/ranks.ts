// Which rank each layer gets. For a size of the whole model, ranks are given out one by one, each to the layer where it saves
// the largest share of that layer's squared norm for what it costs (the greedy solution of a knapsack of divisible items).
import { LowrankError } from "../errors.ts";
import type { CompressOptions } from "./options.ts";
import { errorAt, type Spectrum } from "./spectrum.ts";

/** A layer as the choice sees it. */
export interface Choice {
  readonly path: string;
  readonly out: number;
  readonly into: number;
  readonly spectrum: Spectrum;
  /** What the layer costs in the compressed model: at a rank, or (null) whole. */
  cost(rank: number | null): number;
}

/** What layers may cost together, and the share of the whole model that it was computed from. */
export interface Budget {
  readonly budget: number;
  readonly whole: number;
  readonly size: number;
}

/** The largest rank at which two thin layers have fewer parameters than one: r (in + out) < in out. */
export function largestRank(out: number, into: number): number {
  return Math.max(0, Math.ceil((out * into) / (out + into)) - 1);
}

/** The rank that a layer gets by itself: what `rank`, `energy` or `error` asks for, however large. */
export function ownRank({ spectrum }: Choice, { rank, energy, error = 0 }: CompressOptions): number {
  if (rank !== undefined) return rank;
  const allowed = energy === undefined ? error : Math.sqrt(1 - energy);
  // The rounding of float32 must not ask for one more.
  for (let r = 1; r < spectrum.s.length; r++) if (errorAt(spectrum, r) <= allowed + 1e-7) return r;
  return errorAt(spectrum, spectrum.s.length) <= allowed + 1e-7
    ? Math.max(1, spectrum.s.length)
    : Number.POSITIVE_INFINITY;
}

/**
 * Ranks of layers (null: whole) whose costs sum up to the budget at most.
 *
 * @throws LowrankError "config" when rank 1 everywhere is more than that.
 */
export function ranksWithin(choices: readonly Choice[], { budget, whole, size }: Budget): (number | null)[] {
  const states = choices.map((choice): State => start(choice));
  let left = budget - states.reduce((sum, { choice, rank }) => sum + choice.cost(rank), 0);
  if (left < 0) {
    throw new LowrankError(
      "config",
      `compress: size: expected at least ${Math.ceil((size - left / whole) * 1e4) / 1e4}, which rank 1 in every chosen layer and all else take, got ${size}; choose more layers, or quantize`,
    );
  }
  for (;;) {
    const open = states.filter(({ next }) => next !== null && next.cost <= left);
    const best = open.reduce<State | null>(
      (found, state) => (found === null || state.next!.worth > found.next!.worth ? state : found),
      null,
    );
    if (best === null) return states.map(({ rank }) => rank);
    left -= best.next!.cost;
    best.rank = best.next!.rank;
    best.next = nextStep(best.choice, best.rank);
  }
}

/** Whether a rank might have been larger, had more of the spectrum been known. */
export function isShort({ spectrum, out, into }: Choice, rank: number | null): boolean {
  const known = spectrum.s.length;
  return !spectrum.isComplete && known < largestRank(out, into) && rank !== null && rank >= known;
}

/** A share of the squared norm that is rounding. */
const nothing = 1e-13;

interface Step {
  readonly rank: number | null;
  readonly cost: number;
  /** The share of the layer's squared norm that it saves, for each unit of cost. */
  readonly worth: number;
}

interface State {
  readonly choice: Choice;
  rank: number | null;
  next: Step | null;
}

function start(choice: Choice): State {
  const rank = largestRank(choice.out, choice.into) < 1 || choice.cost(1) >= choice.cost(null) ? null : 1;
  return { choice, rank, next: nextStep(choice, rank) };
}

/** One rank more, or the layer as it was once that is no larger. */
function nextStep(choice: Choice, rank: number | null): Step | null {
  if (rank === null) return null;
  const { spectrum, out, into } = choice;
  const more = rank + 1;
  const before = errorAt(spectrum, rank) ** 2;
  if (before < nothing) return null;
  // What the next rank would save is not known yet: see `isShort`.
  if (rank >= spectrum.s.length && !spectrum.isComplete && more <= largestRank(out, into)) return null;
  const fits = more <= Math.min(largestRank(out, into), spectrum.s.length) && choice.cost(more) < choice.cost(null);
  const next = fits ? more : null;
  const cost = choice.cost(next) - choice.cost(rank);
  const saved = before - (next === null ? 0 : errorAt(spectrum, next) ** 2);
  return { rank: next, cost, worth: cost > 0 ? saved / cost : Number.POSITIVE_INFINITY };
}
