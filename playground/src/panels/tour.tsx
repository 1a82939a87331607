// The way through the page for those who are here for the first time: five things to press, each of which shows something.
import { batch, type Signal, signal } from "@preact/signals";
import type { VNode } from "preact";
import { jump } from "../jump.ts";
import { choose, examples, isOn, mode, opened, report, shelf, subject } from "../state/store.ts";
import { run, startTraining } from "../state/teaching.ts";
import { misreadExamples } from "./examples.tsx";

interface Stop {
  readonly id: string;
  readonly text: () => string;
  readonly go: () => void;
}

const seen: Signal<ReadonlySet<string>> = signal<ReadonlySet<string>>(new Set());

const stops: readonly Stop[] = [
  {
    id: "off",
    text: () => (isOn.value ? "Switch the adapter off" : "Switch the adapter on"),
    go: () => {
      isOn.value = !isOn.value;
    },
  },
  {
    id: "draw",
    text: () => "Draw a digit of your own",
    go: () => {
      subject.value = { kind: "strokes", strokes: [] };
      document.querySelector<HTMLElement>(".canvas")?.focus();
    },
  },
  { id: "teach", text: () => "Let it learn 20 misread ones", go: learn },
  { id: "pay", text: () => "See what the others pay", go: pay },
  { id: "home", text: () => "Take it home", go: () => jump("home") },
];

export function Tour(): VNode {
  const isReady = opened.value !== null && shelf.value.length > 0;
  return (
    <nav class="tour" aria-label="Two minutes">
      <p>In two minutes:</p>
      <ol>
        {stops.map(({ id, text, go }) => (
          <li key={id}>
            <button
              type="button"
              class={seen.value.has(id) ? "seen-stop" : ""}
              disabled={!isReady}
              onClick={() => {
                seen.value = new Set([...seen.value, id]);
                go();
              }}
            >
              {text()}
              {seen.value.has(id) && <span class="visually-hidden">, done</span>}
            </button>
          </li>
        ))}
      </ol>
    </nav>
  );
}

/** Twenty digits that the base misreads, and a run on them. */
function learn(): void {
  jump("teach");
  if (run.value?.state === "running") return;
  batch(() => {
    mode.value = "digits";
    if (examples.value.digits.length === 0) examples.value = { ...examples.value, digits: misreadExamples() };
  });
  startTraining().catch(report);
}

/** The adapter that was tuned on one digit alone, if it is still there: it has forgotten the others. */
function pay(): void {
  if (shelf.value.some(({ id }) => id === "greedy")) choose("greedy");
  jump("pay");
}
