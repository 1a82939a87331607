// Teach: examples of one's own, the settings of a LoRA, and a run in a worker that can be watched, stopped and resumed.
import { computed } from "@preact/signals";
import type { VNode } from "preact";
import { ownInBatch } from "../protocol.ts";
import { limits } from "../state/address.ts";
import { labels, mode, opened, prediction, status, training, truth, warmUpTrainer } from "../state/store.ts";
import { curves, obstacle, resumeTraining, run, startTraining, stopTraining } from "../state/teaching.ts";
import { Chart } from "../ui/chart.tsx";
import { count, decimal, largest, percent, shares } from "../ui/format.ts";
import { Collected, Labels } from "./examples.tsx";

export function Teach(): VNode {
  return (
    <section
      class="panel"
      id="teach"
      aria-labelledby="teach-title"
      onPointerEnter={warmUpTrainer}
      onFocusIn={warmUpTrainer}
    >
      <header>
        <p class="number">2</p>
        <h2 id="teach-title">Teach it your hand</h2>
        <p class="lede">
          Draw a digit on the board, then press what it is. Twenty examples are enough. Only A and B are trained, in a
          worker of this page: nothing that you draw leaves it.
        </p>
      </header>
      <Modes />
      <Labels />
      <Collected />
      <Options />
      <RunControls />
      <Curves />
      <LossOfDigit />
    </section>
  );
}

function Modes() {
  const choice = (value: "digits" | "symbols", text: string) => (
    <label>
      <input
        type="radio"
        name="mode"
        checked={mode.value === value}
        onChange={() => {
          mode.value = value;
        }}
      />
      <span>{text}</span>
    </label>
  );
  return (
    <fieldset class="segments">
      <legend class="visually-hidden">What to teach</legend>
      {choice("digits", "Digits in your hand")}
      {choice("symbols", "Symbols of your own")}
    </fieldset>
  );
}

type Numeric = "r" | "alpha" | "learningRate" | "steps" | "replay";

function set(name: Numeric, value: number): void {
  const { from, to } = limits[name];
  if (Number.isFinite(value)) training.value = { ...training.value, [name]: Math.min(to, Math.max(from, value)) };
}

const layerNames: Readonly<Record<string, string>> = {
  fc1: "fc1, 784 → 1000",
  fc2: "fc2, 1000 → 2000",
  fc3: "fc3, 2000 → 10",
};

/** Each setting with one line on what it does. */
function Options() {
  const { r, alpha, targets } = training.value;
  const layers = opened.value?.layers ?? [];
  const chosen = layers.filter(({ path }) => (mode.value === "digits" ? targets.includes(path) : path !== "fc3"));
  const size = chosen.reduce((sum, { inFeatures, outFeatures }) => sum + r * (inFeatures + outFeatures), 0);
  const toggle = (path: string, isOn: boolean): void => {
    const next = layers.map((layer) => layer.path).filter((own) => (own === path ? isOn : targets.includes(own)));
    if (next.length > 0) training.value = { ...training.value, targets: next };
  };
  return (
    <details class="options" open>
      <summary>
        Settings{" "}
        <span class="summary-note">
          rank {r}, scale {decimal(alpha / r)}, {count(size)} numbers to train
        </span>
      </summary>
      <div class="option-grid">
        <NumberField name="r" label="Rank r" note="How many directions B A may have." isWhole />
        <NumberField name="alpha" label="Alpha" note={`The update is scaled by alpha / r = ${decimal(alpha / r)}.`} />
        <NumberField name="learningRate" label="Learning rate" note="Adam's step size." step={0.0001} />
        <NumberField name="steps" label="Steps" note={`Batches of up to ${ownInBatch} examples.`} isWhole />
        {mode.value === "digits" && (
          <NumberField
            name="replay"
            label="Replay"
            note="Training digits mixed in for each example: what keeps the others from being forgotten."
            step={0.5}
          />
        )}
        {mode.value === "digits" && (
          <fieldset class="field">
            <legend class="field-title">Layers</legend>
            {layers.map(({ path }) => (
              <label key={path} class="check">
                <input
                  type="checkbox"
                  checked={targets.includes(path)}
                  onChange={(event) => toggle(path, event.currentTarget.checked)}
                />
                {layerNames[path] ?? path}
              </label>
            ))}
          </fieldset>
        )}
      </div>
      {mode.value === "symbols" && (
        <p class="note">
          Symbols get a head of their own in the place of fc3, trained whole (PEFT's modules_to_save), and LoRA on fc1
          and fc2.
        </p>
      )}
    </details>
  );
}

interface NumberFieldProps {
  readonly name: Numeric;
  readonly label: string;
  readonly note: string;
  readonly step?: number;
  readonly isWhole?: boolean;
}

/** A number of the settings, kept within its limits. */
function NumberField({ name, label, note, step = 1, isWhole = false }: NumberFieldProps) {
  const { from, to } = limits[name];
  const id = `option-${name}`;
  return (
    <div class="field">
      <label class="field-title" htmlFor={id}>
        {label}
      </label>
      <input
        id={id}
        type="number"
        min={from}
        max={to}
        step={step}
        value={training.value[name]}
        aria-describedby={`${id}-note`}
        onChange={(event) => {
          const value = event.currentTarget.valueAsNumber;
          set(name, isWhole ? Math.round(value) : value);
        }}
      />
      <span class="note" id={`${id}-note`}>
        {note}
      </span>
    </div>
  );
}

function RunControls() {
  const current = run.value;
  const isRunning = current?.state === "running";
  const [last] = curves.value.evaluations.slice(-1);
  const isOther = current !== null && current.mode !== mode.value;
  return (
    <div class="run">
      <div class="tools">
        {isRunning ? (
          <button type="button" class="primary" onClick={stopTraining}>
            Stop
          </button>
        ) : (
          <button
            type="button"
            class="primary"
            disabled={obstacle.value !== null || status.value.kind !== "ready"}
            onClick={() => void startTraining()}
          >
            Train
          </button>
        )}
        {current?.state === "stopped" && !isOther && (
          <button type="button" onClick={() => void resumeTraining()}>
            Resume from step {current.step}
          </button>
        )}
        {isRunning && <progress aria-label="Steps taken" max={current.steps} value={current.step} />}
      </div>
      <p class="note" role="status" data-run={current?.state ?? "none"}>
        {obstacle.value ?? (current === null ? "Ready." : runText(current, last))}
      </p>
    </div>
  );
}

function runText(
  { state, step, steps, stepsPerSecond, seconds }: NonNullable<typeof run.value>,
  last: (typeof curves.value.evaluations)[number] | undefined,
): string {
  const reached =
    last === undefined
      ? ""
      : ` Your examples: ${percent(last.own)} right${last.kept === null ? "" : `, kept digits: ${percent(last.kept)}`}.`;
  if (state === "running") return `Step ${step} of ${steps}, ${Math.round(stepsPerSecond)} steps/s.${reached}`;
  const verb = state === "stopped" ? "Stopped" : "Done";
  return `${verb} after ${step} steps in ${decimal(seconds, 1)} s (${Math.round(step / Math.max(seconds, 0.001))} steps/s).${reached}`;
}

/** What training makes small, with the numbers of the digit on the board. */
function LossOfDigit() {
  const seen = prediction.value;
  const names = labels.value;
  if (seen === null || seen.adapted.length !== (names?.length ?? 10)) return null;
  const adapted = shares(seen.adapted);
  const at = truth.value ?? largest(adapted);
  const name = names?.[at] ?? String(at);
  const [before, after] = [shares(seen.base)[at], adapted[at]];
  return (
    <p class="formula">
      loss = −log <var>p</var>(what it is); each step moves A and B against its gradient
      {after !== undefined && (
        <span>
          The digit on the board as {name}: −log {decimal(after, 3)} = {decimal(-Math.log(after))}
          {names === null &&
            before !== undefined &&
            `; the base alone has −log ${decimal(before, 3)} = ${decimal(-Math.log(before))}`}
          .
        </span>
      )}
    </p>
  );
}

const losses = computed(() => curves.value.losses);
const evaluations = computed(() => curves.value.evaluations);
const hasRun = computed(() => run.value !== null);

/** Each chart by itself, so that a step draws that of the loss alone. They stay from one run to the next. */
function Curves() {
  if (!hasRun.value) return null;
  return (
    <div class="chart-pair">
      <LossCurve />
      <AccuracyCurve />
    </div>
  );
}

function LossCurve() {
  const values = losses.value;
  return (
    <div>
      <h3>Loss</h3>
      <Chart
        x={values.map((_, index) => index + 1)}
        xLabel="step"
        lines={[{ label: "loss of each batch", colour: "--accent", values }]}
        summary={
          values.length === 0
            ? "No step yet."
            : `The loss went from ${decimal(values[0]!)} to ${decimal(values.at(-1)!)} in ${values.length} steps.`
        }
      />
    </div>
  );
}

function AccuracyCurve() {
  const taken = evaluations.value;
  const last = taken.at(-1);
  return (
    <div>
      <h3>Accuracy</h3>
      <Chart
        x={taken.map(({ step }) => step)}
        xLabel="step"
        lines={[
          {
            label: "your examples",
            colour: "--accent",
            values: taken.map(({ own }) => own),
            isShare: true,
            points: true,
          },
          ...(last?.kept == null
            ? []
            : [
                {
                  label: "kept digits, all ten",
                  colour: "--base",
                  values: taken.map(({ kept }) => kept),
                  isShare: true,
                  points: true,
                },
              ]),
        ]}
        summary={
          last === undefined
            ? "Not measured yet."
            : `At step ${last.step}, ${percent(last.own)} of your examples are read right${last.kept === null ? "" : ` and ${percent(last.kept)} of the kept digits`}.`
        }
      />
    </div>
  );
}
