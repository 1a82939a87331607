// What an adapter buys and what it costs: every digit's count of wrong answers before and after, and how much of it each rank
// would give.
import type { Adapter } from "lowrank";
import type { Examples, Measured, Mix, RankPoint } from "../protocol.ts";
import type { Base } from "./base.ts";
import { largestRank, type Shelf } from "./mix.ts";
import { type Runner, readings, tally } from "./runner.ts";
import type { Pause } from "./serve.ts";

/** The base's wrong counts stay as they are: they are taken once. */
const baseWrong = new WeakMap<Base, readonly number[]>();

/** On the kept digits; an adapter with symbols of its own is measured on the examples of them. */
export async function measure(
  base: Base,
  runner: Runner,
  adapter: Adapter | null,
  examples: Examples | null,
  pause: Pause,
): Promise<Measured> {
  const labels = adapter?.labels;
  if (labels !== undefined) {
    const nothing = { images: new Uint8Array(0), labels: new Uint8Array(0) };
    const set = examples ?? nothing;
    const logits = set.labels.length === 0 ? new Float32Array(0) : await runner.logits(set.images, adapter, pause);
    const { counts, wrong } = tally(set, readings(logits, labels.length), labels.length);
    return { base: null, adapted: wrong, counts };
  }
  const { kept } = base;
  const wrongWith = async (choice: Adapter | null): Promise<number[]> =>
    tally(kept, readings(await runner.logits(kept.images, choice, pause), 10), 10).wrong;
  const before = baseWrong.get(base) ?? (await wrongWith(null));
  baseWrong.set(base, before);
  const { counts } = tally(kept, kept.labels, 10);
  return { base: before, adapted: adapter === null ? before : await wrongWith(adapter), counts };
}

/** The same mix cut to rank 1, 2, … up to its own. */
export async function ranks(
  base: Base,
  runner: Runner,
  shelf: Shelf,
  mix: Mix,
  examples: Examples | null,
  pause: Pause,
): Promise<RankPoint[]> {
  const whole = shelf.mix({ ...mix, rank: null }).adapter;
  if (whole === null) return [];
  const most = largestRank(whole);
  const points: RankPoint[] = [];
  for (const rank of ranksUpTo(most)) {
    await pause();
    const { adapter, composed } = shelf.mix({ ...mix, rank });
    const { adapted, counts } = await measure(base, runner, adapter, examples, pause);
    const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
    points.push({
      rank,
      accuracy: total(counts) === 0 ? 0 : 1 - total(adapted) / total(counts),
      examples: await shareRight(runner, adapter, examples),
      relativeError: composed.relativeError,
      parameters: composed.parameters,
    });
  }
  return points;
}

/** Each up to eight, then in doublings: a curve needs no more. */
function ranksUpTo(most: number): number[] {
  const ranks = Array.from({ length: Math.min(8, most) }, (_, index) => index + 1);
  for (let rank = 16; rank < most; rank *= 2) ranks.push(rank);
  if (most > 8) ranks.push(most);
  return ranks;
}

async function shareRight(runner: Runner, adapter: Adapter | null, examples: Examples | null): Promise<number | null> {
  if (examples === null || examples.labels.length === 0) return null;
  const classes = adapter?.labels?.length ?? 10;
  const read = readings(await runner.logits(examples.images, adapter), classes);
  return 1 - tally(examples, read, classes).wrong.reduce((sum, value) => sum + value, 0) / read.length;
}
