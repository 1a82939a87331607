// All that the page knows, as signals. What people change is state; what follows from it by the network is asked of the worker,
// one question of a kind at a time: while one is answered, only the newest next one waits.
import { batch, computed, effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { type Client, startWorker, WorkerError } from "../client.ts";
import { pixelCount } from "../digit/bytes.ts";
import { digitOf } from "../digit/drawing.ts";
import type {
  AdapterInfo,
  Cell,
  Composed,
  Files,
  LayerPicture,
  LoadProgress,
  Measured,
  Mix,
  Opened,
  Prediction,
  RankPoint,
  Trace,
} from "../protocol.ts";
import { defaults, type SharedState, type Subject } from "./address.ts";
import { device } from "./device.ts";

export interface ShelfItem {
  readonly id: string;
  readonly name: string;
  /** One line on where it came from. */
  readonly note: string;
  readonly files: Files;
  readonly info: AdapterInfo;
}

export interface Example {
  readonly pixels: Uint8Array;
  /** A digit, or the index of a symbol. */
  readonly label: number;
}

export interface Notice {
  readonly kind: "error" | "info";
  readonly text: string;
}

export type Status =
  | { readonly kind: "loading"; readonly progress: LoadProgress | null }
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly message: string };

export const status: Signal<Status> = signal<Status>({ kind: "loading", progress: null });
export const opened: Signal<Opened | null> = signal<Opened | null>(null);
export const notice: Signal<Notice | null> = signal<Notice | null>(null);

export const subject: Signal<Subject> = signal<Subject>(defaults.subject);
export const shelf: Signal<readonly ShelfItem[]> = signal<readonly ShelfItem[]>([]);
export const blend: Signal<SharedState["blend"]> = signal(defaults.blend);
export const isOn: Signal<boolean> = signal(true);
export const strength: Signal<number> = signal(1);
export const rank: Signal<number | null> = signal<number | null>(null);
export const layer: Signal<string> = signal(defaults.layer);
export const mode: Signal<SharedState["mode"]> = signal(defaults.mode);
export const training: Signal<SharedState["training"]> = signal(defaults.training);
/** Examples of digits, and of one's own symbols. */
export const examples: Signal<Readonly<Record<SharedState["mode"], readonly Example[]>>> = signal<
  Readonly<Record<SharedState["mode"], readonly Example[]>>
>({ digits: [], symbols: [] });
export const symbols: Signal<readonly string[]> = signal<readonly string[]>(["star", "heart", "arrow"]);

/** The digit that is looked at, as bytes; null for an empty board. */
export const pixels: ReadonlySignal<Uint8Array | null> = computed(() => {
  const current = subject.value;
  if (current.kind === "strokes") return digitOf(current.strokes);
  if (current.kind === "photo") return current.pixels;
  const set = opened.value?.[current.set];
  if (set === undefined) return null;
  const at = Math.min(current.index, set.labels.length - 1);
  return set.images.subarray(at * pixelCount, (at + 1) * pixelCount);
});

/** What the digit is, where that is known. */
export const truth: ReadonlySignal<number | null> = computed(() => {
  const current = subject.value;
  return current.kind === "digit" ? (opened.value?.[current.set].labels[current.index] ?? null) : null;
});

/** Adapters that are on the shelf and switched on. */
export const parts: ReadonlySignal<Mix["parts"]> = computed(() => {
  const known = new Set(shelf.value.map(({ id }) => id));
  return blend.value.filter(({ id }) => known.has(id));
});

/** What runs: nothing, where the adapter is switched off. */
export const mix: ReadonlySignal<Mix> = computed(() => ({
  parts: isOn.value ? parts.value : [],
  strength: strength.value,
  rank: rank.value,
}));

/** The same, whether or not it is switched on: what Understand and Take home are about. */
export const chosenMix: ReadonlySignal<Mix> = computed(() => ({
  parts: parts.value,
  strength: strength.value,
  rank: rank.value,
}));

/** The first adapter's, since those with a head of their own run alone. */
export const labels: ReadonlySignal<readonly string[] | null> = computed(() => {
  const [first] = mix.value.parts;
  return shelf.value.find(({ id }) => id === first?.id)?.info.labels ?? null;
});

export const prediction: Signal<Prediction | null> = signal<Prediction | null>(null);
export const composed: Signal<Composed | null> = signal<Composed | null>(null);
export const picture: Signal<LayerPicture | null> = signal<LayerPicture | null>(null);
/** The place of the shown layer that is pointed at; null for the one that does most for this digit. */
export const pointed: Signal<{ readonly row: number; readonly column: number } | null> = signal<{
  readonly row: number;
  readonly column: number;
} | null>(null);
export const cell: Signal<Cell | null> = signal<Cell | null>(null);
export const traced: Signal<Trace | null> = signal<Trace | null>(null);
export const measured: Signal<Measured | null> = signal<Measured | null>(null);
export const rankCurve: Signal<readonly RankPoint[]> = signal<readonly RankPoint[]>([]);

/**
 * A worker's: up to three, since a network this small gains nothing from more, and one core fewer than there are, which stays the
 * page's, so that frames come in time. Threads need an isolated page.
 */
const threads: number = crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency) - 1) : 1;

export const engine: Client = startWorker("predictions", device);

let trainer: Client | undefined;

/** The second worker, started when it is first needed. */
export function trainerClient(): Client {
  if (trainer === undefined) {
    trainer = startWorker("training", device);
    trainer.ask("open", { device, threads }).catch(() => undefined);
  }
  return trainer;
}

/** Gets the trainer ready while people still collect, so that they need not wait for it later. */
export function warmUpTrainer(): void {
  if (trainer !== undefined || status.value.kind !== "ready") return;
  // What fails here fails again, and is told, when something is trained.
  trainerClient()
    .ask("warmUp", null)
    .catch(() => undefined);
}

/** Whether something is being trained: measurements leave the processor to it. */
export const isTraining: Signal<boolean> = signal(false);

export function setTraining(isGoingOn: boolean): void {
  isTraining.value = isGoingOn;
  engine.ask("hold", { isHeld: isGoingOn }).catch(report);
}

/** The next run starts with a fresh one. */
export function endTrainer(): void {
  trainer?.end();
  trainer = undefined;
}

/** Whether it is the page's own fault, or the machine's: out of memory, a download that broke off. */
export function isInternal(error: unknown): boolean {
  return error instanceof WorkerError && error.code === "internal";
}

/** Says in the page what went wrong. */
export function report(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  notice.value = { kind: "error", text: isInternal(error) ? `${text} Reload the page; what you made is kept.` : text };
}

/** Loads the base; the page draws already meanwhile. */
export async function open(): Promise<void> {
  try {
    const answer = await engine.ask("open", { device, threads }, (progress) => {
      status.value = { kind: "loading", progress };
    });
    batch(() => {
      opened.value = answer;
      status.value = { kind: "ready" };
    });
  } catch (error) {
    status.value = { kind: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}

/** Puts an adapter on the shelf, and runs it alone if `isChosen`. Throws what is wrong with it. */
export async function addToShelf(
  item: Omit<ShelfItem, "info">,
  { isChosen = false }: { readonly isChosen?: boolean } = {},
): Promise<ShelfItem> {
  const info = await engine.ask("load", { id: item.id, files: item.files });
  const added = { ...item, info };
  // At one moment, so that nothing is asked about what runs in between.
  batch(() => {
    shelf.value = [...shelf.value.filter(({ id }) => id !== item.id), added];
    if (isChosen) choose(item.id);
  });
  return added;
}

export function removeFromShelf(id: string): void {
  batch(() => {
    blend.value = blend.value.filter((part) => part.id !== id);
    shelf.value = shelf.value.filter((item) => item.id !== id);
  });
  engine.ask("unload", { id }).catch(report);
}

/** Runs this adapter alone, as it was trained. */
export function choose(id: string): void {
  batch(() => {
    blend.value = [{ id, weight: 1 }];
    rank.value = null;
    strength.value = 1;
    isOn.value = true;
  });
}

/** The examples of the present mode as the worker takes them; null where there are none. */
export function examplesOf(list: readonly Example[]): { images: Uint8Array; labels: Uint8Array } | null {
  if (list.length === 0) return null;
  const images = new Uint8Array(list.length * pixelCount);
  for (const [at, example] of list.entries()) images.set(example.pixels, at * pixelCount);
  return { images, labels: Uint8Array.from(list, ({ label }) => label) };
}

/** The examples that the running adapter is about. */
function ownExamples(): { images: Uint8Array; labels: Uint8Array } | null {
  const [first] = parts.value;
  const hasSymbols = shelf.value.some(({ id, info }) => id === first?.id && info.labels !== null);
  const count = shelf.value.find(({ id }) => id === first?.id)?.info.labels?.length ?? 10;
  return examplesOf(examples.value[hasSymbols ? "symbols" : "digits"].filter(({ label }) => label < count));
}

interface FollowOptions {
  /** How long to wait for more changes, in ms. */
  readonly wait?: number;
  /** It is not asked while something is trained. */
  readonly isPatient?: boolean;
}

/** Asks whenever what `question` reads has changed, and puts the newest answer into `into`. */
function follow<T>(
  into: Signal<T>,
  question: () => () => Promise<T>,
  { wait = 0, isPatient = false }: FollowOptions = {},
): void {
  let isAsking = false;
  let next: (() => Promise<T>) | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const turn = async (): Promise<void> => {
    isAsking = true;
    while (next !== null) {
      const ask = next;
      next = null;
      try {
        const answer = await ask();
        // An answer to what nobody asks any more is shown all the same: the newer one follows at once.
        into.value = answer;
      } catch (error) {
        report(error);
      }
    }
    isAsking = false;
  };
  effect(() => {
    if (opened.value === null || (isPatient && isTraining.value)) return;
    next = question();
    if (isAsking) return;
    clearTimeout(timer);
    if (wait === 0) void turn();
    else timer = setTimeout(() => void turn(), wait);
  });
}

/** Starts asking. */
export function followAll(): void {
  const empty: Prediction | null = null;
  follow(prediction, () => {
    const [current, asked] = [pixels.value, mix.value];
    return async () => (current === null ? empty : engine.ask("predict", { pixels: current, mix: asked }));
  });
  follow(composed, () => {
    const asked = chosenMix.value;
    return () => engine.ask("compose", { mix: asked });
  });
  follow(traced, () => {
    const [current, asked] = [pixels.value, chosenMix.value];
    return async () => (current === null ? null : engine.ask("trace", { pixels: current, mix: asked }));
  });
  follow(cell, () => {
    const asked = { mix: chosenMix.value, layer: layer.value, at: pointed.value, pixels: pixels.value };
    return () => engine.ask("cell", asked);
  });
  follow(
    picture,
    () => {
      const [asked, path] = [chosenMix.value, layer.value];
      return () => engine.ask("picture", { mix: asked, layer: path });
    },
    { wait: 30 },
  );
  follow(
    measured,
    () => {
      const [asked, own] = [chosenMix.value, ownExamples()];
      return () => engine.ask("measure", { mix: asked, examples: own });
    },
    { wait: 60, isPatient: true },
  );
  follow(
    rankCurve,
    () => {
      const asked = { ...chosenMix.value, rank: null };
      const own = ownExamples();
      return () => engine.ask("ranks", { mix: asked, examples: own });
    },
    { wait: 400, isPatient: true },
  );
}
