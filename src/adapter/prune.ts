// Task tensors (the values of several adapters at one place) thinned out and joined, as PEFT 0.21 does it (utils/merge_utils.py):
// magnitude pruning and sign election of TIES (Yadav et al. 2023, arXiv:2306.01708, section 4), random pruning of DARE
// (Yu et al. 2023, arXiv:2311.03099, section 3.2). Values are flat arrays of one length; sums are taken in double precision.

/** Of which values a sign is elected: the sum of the values, or of their signs. */
export type MajoritySignMethod = "total" | "frequency";

type Values = Float64Array;

/** The fraction `density` of values that are largest in size; of equal ones the first. */
export function keepLargest(values: Values, density: number): Values {
  if (density >= 1) return values;
  // The product in float64 and its whole part, as Python's int() takes it.
  const kept = Math.trunc(density * values.length);
  const order = Array.from(values.keys()).sort((i, j) => Math.abs(values[j]!) - Math.abs(values[i]!) || i - j);
  const pruned = new Float64Array(values.length);
  for (const index of order.slice(0, kept)) pruned[index] = values[index]!;
  return pruned;
}

/** The values where `mask` is 1, divided by `density`, so that their expectation stays. */
export function keepMasked(values: Values, mask: ArrayLike<number>, density: number): Values {
  return values.map((value, index) => (mask[index] === 0 ? 0 : value / density));
}

/** The weighted sum. */
export function weightedSum(tasks: readonly Values[], weights: readonly number[]): Values {
  const sum = new Float64Array(tasks[0]!.length);
  for (const [task, values] of tasks.entries()) {
    const weight = weights[task]!;
    for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + weight * values[i]!;
  }
  return sum;
}

/**
 * The mean of the weighted values whose sign is the majority's; signs are elected before weights are applied, and an even
 * vote is positive.
 */
export function electedMean(tasks: readonly Values[], weights: readonly number[], method: MajoritySignMethod): Values {
  return tasks[0]!.map((_, index) => {
    let vote = 0;
    for (const values of tasks) vote += method === "total" ? values[index]! : Math.sign(values[index]!);
    const majority = vote >= 0 ? 1 : -1;
    let [sum, count] = [0, 0];
    for (const [task, values] of tasks.entries()) {
      if (Math.sign(values[index]!) !== majority) continue;
      sum += weights[task]! * values[index]!;
      count++;
    }
    return sum / Math.max(count, 1);
  });
}
