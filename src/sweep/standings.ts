// Where the trials of a sweep stand: the best first, each with what it was and what came of it.
import { metricOf, type Results, valueIn } from "./folder.ts";
import { ranking } from "./halving.ts";
import { halvingOf, jobKey, type SweepPlan } from "./trials.ts";

export interface Standing {
  readonly id: string;
  readonly names: readonly string[];
  readonly values: Readonly<Record<string, unknown>>;
  /** null while it has no result. */
  readonly state: "complete" | "failed" | null;
  readonly metric: string | null;
  readonly value: number | null;
  readonly steps: number;
  /** Of its training, all rungs together. */
  readonly seconds: number;
  readonly error: string | null;
}

/** All trials: of a search the best first, of a fleet as its rows stand. */
export function standingsOf(plan: SweepPlan, results: Results): Standing[] {
  const metric = metricOf(plan, results);
  const ranked = ranking(halvingOf(plan, metric), (job) => valueIn(results, plan, job));
  const order = plan.kind === "fleet" ? [...ranked].sort((a, b) => a.trial - b.trial) : ranked;
  return order.map(({ trial, rung }) => {
    const { id, names, values } = plan.trials[trial]!;
    const outcomes = plan.rungs.flatMap((_, at) => results.get(jobKey(plan, { trial, rung: at })) ?? []);
    const last = results.get(jobKey(plan, { trial, rung })) ?? outcomes.at(-1);
    const failed = outcomes.find(({ state }) => state === "failed");
    return {
      id,
      names,
      values,
      state: failed?.state ?? last?.state ?? null,
      metric,
      value: last?.value ?? null,
      steps: outcomes.reduce((most, { steps }) => Math.max(most, steps), 0),
      seconds: outcomes.reduce((sum, { seconds }) => sum + seconds, 0),
      error: failed?.error ?? null,
    };
  });
}

export function standingName({ names }: Pick<Standing, "names">): string {
  return names.length === 1 ? names[0]! : `${names[0]} (+ ${names.length - 1})`;
}

/** The options that are not the same in all trials. */
export function varyingOptions({ trials }: SweepPlan): string[] {
  const names = [...new Set(trials.flatMap(({ values }) => Object.keys(values)))].filter((name) => name !== "name");
  return names.filter((name) => new Set(trials.map(({ values }) => JSON.stringify(values[name] ?? null))).size > 1);
}

/** A value in a table. */
export function cellText(value: unknown): string {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
