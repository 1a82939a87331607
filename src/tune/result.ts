// summary.json of a run: what was trained, on what, and what came of it. Of equal runs it is the same but for the fields
// that hold times: `started`, `seconds`, `stepsPerSecond`.
import { parameterCount } from "../lora/init.ts";
import { summary } from "../onnx/summary.ts";
import type { EvaluationRecord } from "../train/evaluation.ts";
import type { BestOf, History } from "../train/train.ts";
import type { Prepared } from "./prepare.ts";

export interface RunSummary {
  readonly version: 1;
  readonly verb: "tune" | "pretrain";
  /** False when it was stopped on request. */
  readonly complete: boolean;
  /** When it was begun or, last, resumed. */
  readonly started: string;
  readonly model: string | null;
  readonly data: {
    readonly rows: Prepared["data"]["rows"];
    readonly matches: Prepared["data"]["matches"];
    readonly labels: readonly string[] | null;
    readonly sha256: Readonly<Record<string, string>>;
  };
  readonly parameters: { readonly base: number; readonly trained: number };
  /** Module paths that have an adapter; of whole weights none. */
  readonly sites: readonly string[];
  readonly loss: string;
  readonly learningRate: number;
  readonly steps: number;
  readonly epochs: number;
  /** What ended it: its steps, the data, a signal, or the patience of early stopping. */
  readonly end: History["end"];
  /** Mean loss of the last steps of training, 50 at most. */
  readonly trainingLoss: number | null;
  /** `set/metric`: before the first step, and at the end. */
  readonly before: EvaluationRecord["values"] | null;
  readonly after: EvaluationRecord["values"] | null;
  readonly best: { readonly metric: string; readonly value: number; readonly step: number } | null;
  /** What lies in the folder, by what it is. */
  readonly files: Readonly<Record<string, string>>;
  /** As in config.json. */
  readonly settings: Readonly<Record<string, unknown>>;
  readonly seconds: number;
  readonly stepsPerSecond: number;
}

export interface RunResult {
  /** The run folder. */
  readonly folder: string;
  readonly summary: RunSummary;
}

/** What training gave, and the names of the files that it is in now. */
export interface Outcome {
  readonly history: History;
  readonly best: BestOf<object> | null;
  readonly files: RunSummary["files"];
}

/** Steps that the last loss is the mean of: one batch says little. */
const lastSteps = 50;

export function summaryOf(
  prepared: Prepared,
  { history, best, files }: Outcome,
  own: Pick<RunSummary, "started" | "seconds" | "settings"> & { readonly stepsBefore: number },
): RunSummary {
  const { verb, named, data, adapted, model, learningRate, stepsPerEpoch } = prepared;
  const { losses, evaluations, end, stopped } = history;
  const last = losses.subarray(Math.max(0, losses.length - lastSteps));
  return {
    version: 1,
    verb,
    complete: !stopped,
    started: own.started,
    model: named.model,
    data: { rows: data.rows, matches: data.matches, labels: data.labelNames, sha256: data.sha256 },
    parameters: { base: summary(model).parameters, trained: parameterCount(adapted) },
    sites: adapted.sites.map(({ site }) => site.modulePath),
    loss: data.loss,
    learningRate,
    steps: losses.length,
    epochs: losses.length / stepsPerEpoch,
    end,
    trainingLoss: last.length === 0 ? null : last.reduce((sum, loss) => sum + loss, 0) / last.length,
    before: evaluations[0]?.step === 0 ? evaluations[0].values : null,
    after: evaluations.at(-1)?.values ?? null,
    best: best && { metric: best.metric, value: best.value, step: best.step },
    files,
    settings: own.settings,
    seconds: own.seconds,
    stepsPerSecond: history.seconds > 0 ? (losses.length - own.stepsBefore) / history.seconds : 0,
  };
}
