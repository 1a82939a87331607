// The part of a checkpoint that is JSON, and what is checked when it is read.
import type { RandomState } from "../random.ts";
import type { DataPosition } from "./data-source.ts";
import type { EvaluationRecord, StoppingState, Watched } from "./evaluation.ts";
import type { LossScaleState } from "./loss-scale.ts";
import type { PlateauState } from "./schedules.ts";

export interface CheckpointState {
  /** What was trained: an adapter, or all weights. */
  readonly kind: "adapter" | "weights";
  /** Of an adapter: the scale at each module path, under which its tensors were trained. */
  readonly scales: Readonly<Record<string, number>>;
  readonly seed: number;
  /** Steps taken. */
  readonly step: number;
  /** Where in the data the next step begins. */
  readonly position: DataPosition;
  readonly optimizer: {
    readonly name: string;
    readonly hyperparameters: Readonly<Record<string, number>>;
    readonly slots: readonly string[];
  };
  /** What a plateau schedule has learnt; other schedules depend on the step alone. */
  readonly plateau: PlateauState | null;
  readonly ema: { readonly decay: number } | null;
  readonly best: (Watched & { readonly value: number; readonly step: number }) | null;
  readonly stopping: StoppingState | null;
  /** The scale of the loss, where training is in float16. */
  readonly scaling?: LossScaleState;
  readonly evaluations: readonly EvaluationRecord[];
  /** Of the generators that were given to training, by name. */
  readonly random: Readonly<Record<string, RandomState>>;
}

/** A check of one value: what was expected instead, or null when it is right. */
type Check = (value: unknown) => string | null;

/** Reads the JSON; null when there were faults, which are added to `faults`. */
export function readState(text: string, faults: string[]): CheckpointState | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    faults.push(`state: expected JSON: ${(error as SyntaxError).message}`);
    return null;
  }
  const before = faults.length;
  checkObject("state", value, stateChecks, faults);
  if (faults.length > before) return null;
  const state = value as CheckpointState;
  return { ...state, evaluations: state.evaluations.map(withNumbers) };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const count: Check = (value) => (Number.isSafeInteger(value) && (value as number) >= 0 ? null : "a whole number");
const integer: Check = (value) => (Number.isSafeInteger(value) ? null : "a whole number");
const number: Check = (value) => (Number.isFinite(value) ? null : "a number");
const text: Check = (value) => (typeof value === "string" ? null : "text");
const oneOf =
  (...allowed: string[]): Check =>
  (value) =>
    allowed.includes(value as string) ? null : allowed.join(" or ");
const nullable =
  (check: Check): Check =>
  (value) =>
    value === null ? null : check(value);

const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined ? null : check(value);

/** An object of these fields (others may be there). */
const object =
  (checks: Readonly<Record<string, Check>>): Check =>
  (value) => {
    const faults: string[] = [];
    checkObject("", value, checks, faults);
    return faults.length === 0 ? null : `an object in which ${faults.join(", ")}`;
  };

const recordOf =
  (check: Check): Check =>
  (value) =>
    isObject(value) && Object.values(value).every((item) => check(item) === null) ? null : "an object of such values";

const listOf =
  (check: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every((item) => check(item) === null) ? null : "a list of such values";

const mode = oneOf("min", "max");

const stateChecks: Readonly<Record<keyof CheckpointState, Check>> = {
  kind: oneOf("adapter", "weights"),
  scales: recordOf(number),
  seed: integer,
  step: count,
  position: object({ epoch: count, index: count }),
  optimizer: object({ name: text, hyperparameters: recordOf(number), slots: listOf(text) }),
  plateau: nullable(object({ best: nullable(number), bad: count, cooldown: count, scale: number })),
  ema: nullable(object({ decay: number })),
  best: nullable(object({ metric: text, mode, value: number, step: count })),
  stopping: nullable(object({ best: nullable(number), bad: count })),
  scaling: optional(object({ scale: number, good: count })),
  evaluations: listOf(object({ step: count, epoch: count, values: recordOf(nullable(number)) })),
  random: recordOf(object({ words: listOf(count), spareNormal: nullable(number) })),
};

function checkObject(where: string, value: unknown, checks: Readonly<Record<string, Check>>, faults: string[]): void {
  if (!isObject(value)) {
    faults.push(`${where}: expected an object, got ${JSON.stringify(value)}`);
    return;
  }
  for (const [key, check] of Object.entries(checks)) {
    const expected = check(value[key]);
    if (expected === null) continue;
    const got = value[key] === undefined ? "nothing" : JSON.stringify(value[key]).slice(0, 60);
    faults.push(`${where === "" ? "" : `${where}.`}${key}: expected ${expected}, got ${got}`);
  }
}

/** JSON has no NaN: a metric that was none (of no examples, say) stands there as null. */
function withNumbers(record: EvaluationRecord): EvaluationRecord {
  const values = Object.entries(record.values as Record<string, number | null>);
  return { ...record, values: Object.fromEntries(values.map(([name, value]) => [name, value ?? Number.NaN])) };
}
