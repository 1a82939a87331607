// A training run as the page sees it: its curves, its checkpoint, and what becomes of its adapter.
import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { SavedProgress, TrainingProgress, TrainingRequest } from "../protocol.ts";
import type { SharedState } from "./address.ts";
import {
  addToShelf,
  endTrainer,
  examples,
  examplesOf,
  isInternal,
  mode,
  report,
  setTraining,
  shelf,
  symbols,
  trainerClient,
  training,
} from "./store.ts";

export interface Curves {
  readonly losses: readonly number[];
  /** Accuracy at some steps, on one's own examples and on kept digits (null for symbols). */
  readonly evaluations: readonly { readonly step: number; readonly own: number; readonly kept: number | null }[];
}

export interface Run {
  readonly state: "running" | "stopped" | "done";
  readonly steps: number;
  readonly step: number;
  readonly stepsPerSecond: number;
  readonly seconds: number;
  /** The adapter on the shelf that it trains: a new run makes a new one, so that hands can be blended. */
  readonly id: string;
  /** What was asked, to be able to go on. */
  readonly request: TrainingRequest;
  readonly mode: SharedState["mode"];
}

const noCurves: Curves = { losses: [], evaluations: [] };

export const run: Signal<Run | null> = signal<Run | null>(null);
export const curves: Signal<Curves> = signal(noCurves);
/** What the trainer saved last of the run that is going on. */
export const saved: Signal<SavedProgress | null> = signal<SavedProgress | null>(null);

/** The run that is going on as if it had been stopped when it was saved: what a reload finds. */
export function stoppedAt({ step: last, checkpoint }: SavedProgress): { readonly run: Run; readonly curves: Curves } {
  const [current, { losses, evaluations }] = [run.peek()!, curves.peek()];
  return {
    run: { ...current, state: "stopped", step: last, request: { ...current.request, resume: checkpoint } },
    curves: { losses: losses.slice(0, last), evaluations: evaluations.filter(({ step }) => step <= last) },
  };
}

/** How many examples there must be, and what is missing; null when training can begin. */
export const obstacle: ReadonlySignal<string | null> = computed(() => {
  const own = examples.value[mode.value];
  if (mode.value === "digits") return own.length === 0 ? "Add an example first: draw, then press what it is." : null;
  const missing = symbols.value.filter((_, index) => !own.some(({ label }) => label === index));
  return missing.length === 0 ? null : `Draw an example of each symbol; missing: ${missing.join(", ")}.`;
});

/** What a run with the present examples and settings asks for. */
export function requestOf(): TrainingRequest {
  return {
    settings: { ...training.value, seed: 1 },
    examples: examplesOf(examples.value[mode.value]) ?? { images: new Uint8Array(0), labels: new Uint8Array(0) },
    labels: mode.value === "symbols" ? symbols.value : null,
    resume: null,
  };
}

/** Trains anew, from the settings and examples that are there. */
export async function startTraining(): Promise<void> {
  const request = requestOf();
  curves.value = noCurves;
  await train(request, freshId(request.labels === null ? "hand" : "symbols"));
}

/** Goes on from where a run was stopped. */
export async function resumeTraining(): Promise<void> {
  const before = run.value;
  if (before?.state === "stopped") await train(before.request, before.id);
}

export function stopTraining(): void {
  trainerClient().ask("stop", null).catch(report);
}

/** The first of `hand-1`, `hand-2`, … that is not on the shelf. */
function freshId(kind: "hand" | "symbols"): string {
  const taken = new Set(shelf.value.map(({ id }) => id));
  let number = 1;
  while (taken.has(`${kind}-${number}`)) number++;
  return `${kind}-${number}`;
}

async function train(request: TrainingRequest, id: string): Promise<void> {
  const before = run.value;
  saved.value = null;
  const { steps } = request.settings;
  run.value = {
    ...{ state: "running", steps, step: curves.value.losses.length, stepsPerSecond: 0, request, id },
    ...{
      seconds: request.resume === null ? 0 : (before?.seconds ?? 0),
      mode: request.labels === null ? "digits" : "symbols",
    },
  };
  setTraining(true);
  try {
    const result = await trainerClient().ask("train", request, follow);
    const own = request.examples.labels.length;
    const name = id.replace("hand-", "Hand ").replace("symbols-", "Symbols ");
    const note = `${own} examples, ${result.step} steps, rank ${request.settings.r}`;
    await addToShelf({ id, name, note, files: result.files }, { isChosen: true });
    const running = run.value!;
    run.value = {
      ...running,
      ...{ state: result.stopped ? "stopped" : "done", step: result.step, seconds: running.seconds + result.seconds },
      request: { ...request, resume: result.checkpoint },
    };
  } catch (error) {
    run.value = before?.state === "running" ? null : before;
    report(error);
    // Out of memory, say: what is left of that worker is not to be trusted.
    if (isInternal(error)) endTrainer();
  } finally {
    setTraining(false);
  }
}

function follow(progress: TrainingProgress | SavedProgress): void {
  if (progress.kind === "saved") {
    saved.value = progress;
    return;
  }
  const { kind, step, losses, stepsPerSecond, own, kept } = progress;
  const current = curves.value;
  batch(() => {
    if (kind === "steps") {
      // A resumed run takes its last steps since the checkpoint once more.
      curves.value = { ...current, losses: [...current.losses.slice(0, step - losses.length), ...losses] };
      run.value = { ...run.value!, step, stepsPerSecond };
    } else if (own !== null) {
      const others = current.evaluations.filter((evaluation) => evaluation.step < step);
      curves.value = { ...current, evaluations: [...others, { step, own, kept }] };
    }
  });
}

/** What was kept of a run, if it still is one that can go on or be shown. */
export function asStopped(value: unknown): { readonly run: Run; readonly curves: Curves } | null {
  const { run: kept, curves: lines } = (value ?? {}) as { run?: Partial<Run>; curves?: Partial<Curves> };
  const fits =
    (kept?.state === "stopped" || kept?.state === "done") &&
    Number.isInteger(kept.step) &&
    kept.request?.examples.labels instanceof Uint8Array &&
    Array.isArray(lines?.losses) &&
    Array.isArray(lines?.evaluations);
  return fits ? { run: kept as Run, curves: lines as Curves } : null;
}
