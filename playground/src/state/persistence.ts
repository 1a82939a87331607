// Nothing is lost on reload: what is short is in the address, the rest in IndexedDB.
import { batch, effect } from "@preact/signals";
import { pixelCount } from "../digit/bytes.ts";
import { isSymbolNames } from "../digit/examples.ts";
import type { Files } from "../protocol.ts";
import { defaults, readAddress, type SharedState, writeAddress } from "./address.ts";
import { keep, recall } from "./database.ts";
import { asConfig, asked, asModel, config, inspection, type ModelFile } from "./inspection.ts";
import {
  addToShelf,
  blend,
  choose,
  type Example,
  engine,
  examples,
  isOn,
  layer,
  mode,
  notice,
  opened,
  rank,
  report,
  shelf,
  strength,
  subject,
  symbols,
  training,
} from "./store.ts";
import { asStopped, curves, run, saved, stoppedAt } from "./teaching.ts";

interface KeptAdapter {
  readonly id: string;
  readonly name: string;
  readonly note: string;
  readonly files: Files;
}

/** How long to wait for more changes before an address is written. */
const settling = 200;

/** A larger model than this is not kept, and is opened again. */
const mostKept = 64_000_000;

/** Puts back what an earlier visit left, or what a link asks for; the link goes first. */
export async function restore(): Promise<void> {
  const kept = await recall("address");
  const text = location.hash.length > 1 ? location.hash : typeof kept === "string" ? kept : "";
  const { state, faults } = readAddress(text);
  const own = asExamples(await recall("examples"));
  const names = await recall("symbols");
  const stopped = asStopped(await recall("run"));
  batch(() => {
    apply(state);
    if (own !== null) examples.value = own;
    if (isSymbolNames(names)) symbols.value = names;
    if (stopped !== null) {
      run.value = stopped.run;
      curves.value = stopped.curves;
    }
  });
  tellFaults(faults);
}

function tellFaults(faults: readonly string[]): void {
  if (faults.length === 0) return;
  notice.value = {
    kind: "error",
    text: `The link could not be used whole: ${faults.join(", ")} ${faults.length === 1 ? "is" : "are"} out of range, and left as usual.`,
  };
}

/** The address as it is now, as state: for links that are pasted into an open page. */
export function listenToAddress(): void {
  addEventListener("hashchange", () => {
    const { state, faults } = readAddress(location.hash);
    if (writeAddress(state) !== writeAddress(current())) batch(() => apply(state));
    tellFaults(faults);
    leaveOutUnknown();
  });
}

function apply(state: SharedState): void {
  subject.value = state.subject;
  blend.value = state.blend;
  isOn.value = state.on;
  strength.value = state.strength;
  rank.value = state.rank;
  layer.value = state.layer;
  mode.value = state.mode;
  training.value = state.training;
}

function current(): SharedState {
  return {
    ...{ subject: subject.value, blend: blend.value, on: isOn.value, strength: strength.value, rank: rank.value },
    ...{ layer: layer.value, mode: mode.value, training: training.value },
  };
}

/** The model that was opened last, if it was small enough to be kept, and what was asked of it. */
export async function restoreModel(): Promise<ModelFile | null> {
  const [file, settings] = [asModel(await recall("model")), asConfig(await recall("model config"))];
  if (settings !== null) config.value = settings;
  return file;
}

/** The adapters that came with the page, and those that were made or opened on an earlier visit. */
export async function restoreShelf(): Promise<void> {
  const removed = await recall("removed");
  const gone = new Set(Array.isArray(removed) ? removed : []);
  const own = asAdapters(await recall("adapters"));
  for (const { id, name, wrong } of opened.value!.about.adapters) {
    if (gone.has(id)) continue;
    const share = 1 - wrong.reduce((sum, count) => sum + count, 0) / opened.value!.about.testedOn;
    const note = `came with the page; ${(100 * share).toFixed(1)} % of all test digits`;
    await addToShelf({ id, name, note, files: await engine.ask("readyFiles", { id }) });
  }
  for (const { id, name, note, files } of own) {
    // One damaged entry must not keep the page from opening.
    await addToShelf({ id, name, note, files }).catch(report);
  }
  leaveOutUnknown();
}

/** What only this browser can know of a link: which adapters there are, and how many digits to pick from. */
function leaveOutUnknown(): void {
  const looked = subject.value;
  if (looked.kind === "digit" && looked.index >= opened.value![looked.set].labels.length) {
    subject.value = defaults.subject;
    tellFaults(["d"]);
  }
  const known = new Set(shelf.value.map(({ id }) => id));
  const missing = blend.value.filter(({ id }) => !known.has(id));
  if (missing.length === 0) return;
  blend.value = blend.value.filter(({ id }) => known.has(id));
  if (blend.value.length === 0 && known.has("ready")) choose("ready");
  notice.value = {
    kind: "info",
    text: "The link names an adapter that is not in this browser: adapters do not travel in links. Take it home as a file where it was made, and open it here.",
  };
}

/** From now on every change is kept. */
export function keepState(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  effect(() => {
    const text = writeAddress(current());
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (location.hash.slice(1) !== text) history.replaceState(null, "", `#${text}`);
      void keep("address", text);
    }, settling);
  });
  effect(() => void keep("examples", examples.value));
  effect(() => void keep("symbols", symbols.value));
  effect(() => {
    const ready = new Set(opened.value?.about.adapters.map(({ id }) => id));
    const own = shelf.value.filter(({ id }) => !ready.has(id));
    void keep(
      "adapters",
      own.map(({ id, name, note, files }): KeptAdapter => ({ id, name, note, files })),
    );
    const present = new Set(shelf.value.map(({ id }) => id));
    void keep(
      "removed",
      [...ready].filter((id) => !present.has(id)),
    );
  });
  effect(() => {
    const state = run.value;
    if (state?.state === "running") return;
    void keep("run", state === null ? undefined : { run: state, curves: curves.peek() });
  });
  effect(() => {
    if (saved.value !== null) void keep("run", stoppedAt(saved.value));
  });
  effect(() => {
    // Only what could be read: a file that brings the page down must not do so at each visit.
    const file = inspection.value === null ? null : asked.value;
    if (file !== null) void keep("model", file.file.size <= mostKept ? file : undefined);
  });
  effect(() => void keep("model config", config.value));
}

/** What was kept as examples, if it still is what this version takes. */
function asExamples(value: unknown): Record<SharedState["mode"], Example[]> | null {
  if (typeof value !== "object" || value === null) return null;
  const { digits, symbols: own } = value as Record<string, unknown>;
  const read = (list: unknown): Example[] =>
    (Array.isArray(list) ? list : []).filter(
      (entry: Partial<Example>) =>
        entry.pixels instanceof Uint8Array &&
        entry.pixels.length === pixelCount &&
        Number.isInteger(entry.label) &&
        entry.label! >= 0 &&
        entry.label! < 10,
    );
  return { digits: read(digits), symbols: read(own) };
}

function asAdapters(value: unknown): readonly KeptAdapter[] {
  const isText = (part: unknown): boolean => typeof part === "string";
  return (Array.isArray(value) ? value : []).filter(
    (entry: Partial<KeptAdapter> | null) =>
      isText(entry?.id) && isText(entry?.name) && isText(entry?.note) && typeof entry?.files === "object",
  );
}
