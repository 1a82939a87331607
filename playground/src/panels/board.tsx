// The board: draw with mouse, touch, pen or keys, open a picture, or take one of the digits that the base misreads.

import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { pixelCount, side } from "../digit/bytes.ts";
import type { Point, Stroke } from "../digit/drawing.ts";
import { digitOfFile } from "../digit/photo.ts";
import { fourBits, quantized } from "../state/address.ts";
import { labels, opened, pixels, prediction, report, subject, truth } from "../state/store.ts";
import { theme } from "../state/theme.ts";
import { largest, percent, shares } from "../ui/format.ts";
import { DigitCanvas } from "../ui/picture.tsx";
import { roam } from "../ui/roam.ts";

/** Points nearer than this, in pixels of the grid, are one. */
const nearest = 0.35;

/** Pixels of the canvas for one of the grid. */
const zoom = 20;

function strokes(): readonly Stroke[] {
  return subject.value.kind === "strokes" ? subject.value.strokes : [];
}

function setStrokes(list: readonly Stroke[]): void {
  subject.value = { kind: "strokes", strokes: list };
}

/** To an eighth of a pixel, as an address has it. */
function snapped({ x, y }: Point): Point {
  return { x: quantized(x) / 8, y: quantized(y) / 8 };
}

function extend(point: Point): void {
  const all = strokes();
  const last = all.at(-1) ?? [];
  const before = last.at(-1);
  const next = snapped(point);
  if (before !== undefined && Math.hypot(next.x - before.x, next.y - before.y) < nearest) return;
  setStrokes([...all.slice(0, -1), [...last, next]]);
}

export function Board(): VNode {
  const canvas = useRef<HTMLCanvasElement>(null);
  const cursor = useSignal<Point>({ x: side / 2, y: side / 2 });
  const isPenDown = useSignal(false);
  const hasFocus = useSignal(false);
  const said = useSignal("");
  const state = [subject.value, pixels.value, theme.value, cursor.value, isPenDown.value, hasFocus.value];
  useEffect(() => paint(canvas.current!, hasFocus.value ? cursor.value : null, isPenDown.value), state);

  const pointOf = (event: PointerEvent): Point => {
    const box = canvas.current!.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * side, y: ((event.clientY - box.top) / box.height) * side };
  };
  const start = (event: PointerEvent): void => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.current!.focus({ preventScroll: true, focusVisible: false } as FocusOptions);
    canvas.current!.setPointerCapture(event.pointerId);
    hasFocus.value = false;
    isPenDown.value = false;
    setStrokes([...strokes(), [snapped(pointOf(event))]]);
  };
  const move = (event: PointerEvent): void => {
    if (!canvas.current!.hasPointerCapture(event.pointerId)) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) extend(pointOf(part));
  };
  const press = (event: KeyboardEvent): void => {
    const step = arrows[event.key];
    hasFocus.value = true;
    if (step !== undefined) {
      const by = event.shiftKey ? 4 : 1;
      const next = { x: clamp(cursor.value.x + by * step.x), y: clamp(cursor.value.y + by * step.y) };
      cursor.value = next;
      if (isPenDown.value) extend(next);
    } else if (event.key === " " || event.key === "Enter") {
      isPenDown.value = !isPenDown.value;
      if (isPenDown.value) setStrokes([...strokes(), [snapped(cursor.value)]]);
      said.value = isPenDown.value ? "Pen down: arrows draw" : "Pen up: arrows move";
    } else if (event.key === "Backspace") undo();
    else if (event.key === "Delete") clear();
    else if (event.key === "Escape") isPenDown.value = false;
    else return;
    event.preventDefault();
  };
  const undo = (): void => setStrokes(strokes().slice(0, -1));
  const clear = (): void => {
    isPenDown.value = false;
    setStrokes([]);
    said.value = "The board is empty";
  };
  const openPicture = (event: Event): void => {
    const input = event.currentTarget as HTMLInputElement;
    const [file] = input.files ?? [];
    if (file === undefined) return;
    digitOfFile(file).then((found) => {
      subject.value = { kind: "photo", pixels: fourBits(found) };
    }, report);
    input.value = "";
  };
  const isEmpty = pixels.value === null;
  return (
    <section class="board" aria-labelledby="board-title">
      <div class="board-head">
        <h2 id="board-title">Draw a digit</h2>
        {truth.value !== null && <p class="truth">meant as {truth.value}</p>}
        <Readout />
      </div>
      <div class="canvas-frame">
        <canvas
          ref={canvas}
          class="canvas"
          width={side * zoom}
          height={side * zoom}
          tabIndex={0}
          role="application"
          aria-label="Drawing board of 28 by 28"
          aria-describedby="board-keys"
          onPointerDown={start}
          onPointerMove={move}
          onKeyDown={press}
          onBlur={() => {
            hasFocus.value = false;
            isPenDown.value = false;
          }}
        />
        {isEmpty && <p class="canvas-hint">Draw here, large or small</p>}
        <div
          class="seen"
          title="What the network gets: 28 by 28, its larger side scaled to 20, its centre of mass in the middle"
        >
          {pixels.value !== null && (
            <DigitCanvas pixels={pixels.value} label="The digit as the network gets it" class="seen-digit" />
          )}
        </div>
      </div>
      <p id="board-keys" class="hint">
        Keys: arrows move (Shift: by 4), Space puts the pen down or up, Backspace takes back, Delete clears.
      </p>
      <p class="visually-hidden" role="status">
        {said.value}
      </p>
      <div class="tools">
        <button type="button" onClick={clear} disabled={isEmpty}>
          Clear
        </button>
        <button type="button" onClick={undo} disabled={strokes().length === 0}>
          Undo
        </button>
        <label class="button">
          Open picture
          <input type="file" accept="image/*" onChange={openPicture} class="visually-hidden" />
        </label>
      </div>
      <Gallery />
    </section>
  );
}

/** What it reads, beside the board, where the bars are out of sight: on a phone. Screen readers have the sentence. */
function Readout() {
  const seen = prediction.value;
  if (seen === null) return null;
  const names = labels.value;
  const [base, adapted] = [shares(seen.base), shares(seen.adapted)];
  const [read, after] = [largest(base), largest(adapted)];
  return (
    <p class="readout" aria-hidden="true">
      <b class="base-text">{read}</b> {percent(base[read]!)} → <b class="accent-text">{names?.[after] ?? after}</b>{" "}
      {percent(adapted[after]!)}
    </p>
  );
}

const arrows: Readonly<Record<string, Point>> = {
  ArrowLeft: { x: -1, y: 0 },
  ArrowRight: { x: 1, y: 0 },
  ArrowUp: { x: 0, y: -1 },
  ArrowDown: { x: 0, y: 1 },
};

function clamp(value: number): number {
  return Math.min(side, Math.max(0, value));
}

/** Strokes as lines, other subjects as their pixels; the keyboard's cursor on top. */
function paint(canvas: HTMLCanvasElement, cursor: Point | null, isPenDown: boolean): void {
  const context = canvas.getContext("2d")!;
  const styles = getComputedStyle(document.documentElement);
  const ink = styles.getPropertyValue("--ink");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (subject.value.kind === "strokes") {
    context.strokeStyle = ink;
    context.lineWidth = 2.2 * zoom;
    context.lineCap = "round";
    context.lineJoin = "round";
    for (const stroke of subject.value.strokes) {
      context.beginPath();
      for (const { x, y } of stroke) context.lineTo(x * zoom, y * zoom);
      if (stroke.length === 1) context.lineTo(stroke[0]!.x * zoom, stroke[0]!.y * zoom + 0.01);
      context.stroke();
    }
  } else if (pixels.value !== null) {
    context.fillStyle = ink;
    for (const [at, value] of pixels.value.entries()) {
      if (value === 0) continue;
      context.globalAlpha = value / 255;
      context.fillRect((at % side) * zoom, Math.floor(at / side) * zoom, zoom, zoom);
    }
    context.globalAlpha = 1;
  }
  if (cursor === null) return;
  context.strokeStyle = styles.getPropertyValue("--accent");
  context.fillStyle = context.strokeStyle;
  context.lineWidth = 3;
  context.beginPath();
  context.arc(cursor.x * zoom, cursor.y * zoom, 0.8 * zoom, 0, 2 * Math.PI);
  if (isPenDown) context.fill();
  else context.stroke();
}

/** The misread ones first, then one of each digit that is kept for measuring. */
function Gallery() {
  const both = opened.value;
  if (both === null) return <div class="gallery-box" />;
  const kept = Array.from({ length: 10 }, (_, digit) => both.kept.labels.indexOf(digit)).filter((at) => at >= 0);
  const choices = [
    ...Array.from(both.misread.labels, (_, index) => ({ set: "misread" as const, index })),
    ...kept.map((index) => ({ set: "kept" as const, index })),
  ];
  const current = subject.value;
  const chosen =
    current.kind === "digit"
      ? choices.findIndex(({ set, index }) => set === current.set && index === current.index)
      : -1;
  return (
    <div class="gallery-box">
      <h3 id="gallery-title">
        Test digits, misread ones first<span class="visually-hidden">; arrow keys go through them</span>
      </h3>
      <ul class="gallery" aria-labelledby="gallery-title" onKeyDown={roam}>
        {choices.map(({ set, index }, at) => {
          const digits = both[set];
          const isChosen = at === chosen;
          return (
            <li key={`${set}${index}`}>
              <button
                type="button"
                class="thumb"
                tabIndex={at === Math.max(0, chosen) ? 0 : -1}
                aria-pressed={isChosen}
                aria-label={`${set === "misread" ? "Misread" : "Kept"} test digit ${index + 1}, a ${digits.labels[index]}`}
                onClick={() => {
                  subject.value = { kind: "digit", set, index };
                }}
              >
                <DigitCanvas pixels={digits.images.subarray(index * pixelCount, (index + 1) * pixelCount)} />
              </button>
            </li>
          );
        })}
      </ul>
    </div>
  );
}
