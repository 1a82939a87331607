// What a sweep trains next, as a pure function of the results that there are: nothing else is remembered, so any process can
// take over at any moment, and all of them decide alike.
//
// Successive halving is ASHA (Li et al. 2018, arXiv:1810.05934, algorithm 2) by logical time: a rung's results count in the order
// in which its jobs came up, not in which they came in. A trial goes on as soon as it is among the best 1/eta of those
// that count. So which trials go on depends on their values alone, not on how many workers there are or which was faster.

/** A training up to the end of a rung; a sweep without halving has one rung. */
export interface Job {
  readonly trial: number;
  readonly rung: number;
}

export interface HalvingPlan {
  readonly trials: number;
  readonly rungs: number;
  readonly eta: number;
  readonly mode: "min" | "max";
}

/** The value of a job that has ended, null for one that failed; undefined while it has not. */
export type ValueOf = (job: Job) => number | null | undefined;

/** Jobs without a result that may be trained now: of the highest rung first, then in the order in which they came up. */
export function readyJobs(plan: HalvingPlan, valueAt: ValueOf): Job[] {
  const byRung: Job[][] = [];
  let arrivals = Array.from({ length: plan.trials }, (_, trial) => trial);
  for (let rung = 0; rung < plan.rungs && arrivals.length > 0; rung++) {
    const values = arrivals.map((trial) => valueAt({ trial, rung }));
    byRung.push(arrivals.flatMap((trial, at) => (values[at] === undefined ? [{ trial, rung }] : [])));
    const isLast = rung === plan.rungs - 1;
    arrivals = isLast ? [] : promoted(plan, arrivals, values);
  }
  return byRung.reverse().flat();
}

/** The trials that go on from a rung, in the order in which that became known. */
function promoted(
  { eta, mode }: HalvingPlan,
  arrivals: readonly number[],
  values: readonly (number | null | undefined)[],
) {
  const ranked: { trial: number; value: number }[] = [];
  const gone = new Set<number>();
  for (const [at, trial] of arrivals.entries()) {
    const value = values[at];
    if (value === undefined) break;
    // One that failed counts among those that were tried, and is never among the best.
    if (value !== null) insert(ranked, { trial, value }, mode);
    for (const { trial: one } of ranked.slice(0, Math.floor((at + 1) / eta))) gone.add(one);
  }
  return [...gone];
}

/** Keeps the list in order, best first; equals stay in the order in which they came. */
function insert<T extends { value: number }>(ranked: T[], item: T, mode: "min" | "max"): void {
  let low = 0;
  let high = ranked.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const isBetter = mode === "max" ? item.value > ranked[middle]!.value : item.value < ranked[middle]!.value;
    if (isBetter) high = middle;
    else low = middle + 1;
  }
  ranked.splice(low, 0, item);
}

/**
 * The results that a sweep compares: of each trial that of its highest rung, best first; a trial of a higher rung goes before all
 * of lower ones, since values at different steps say little about each other. Failed ones come last.
 */
export function ranking(plan: HalvingPlan, valueAt: ValueOf): { trial: number; rung: number; value: number | null }[] {
  const reached = Array.from({ length: plan.trials }, (_, trial) => {
    let rung = plan.rungs - 1;
    while (rung > 0 && typeof valueAt({ trial, rung }) !== "number") rung--;
    return { trial, rung, value: valueAt({ trial, rung }) ?? null };
  });
  const sign = plan.mode === "max" ? -1 : 1;
  return reached.sort((a, b) => {
    if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;
    return b.rung - a.rung || sign * ((a.value ?? 0) - (b.value ?? 0)) || a.trial - b.trial;
  });
}
