// Progress of a long loop on stderr: a bar that is redrawn in place on a terminal, else a plain line every few seconds,
// so that logs stay readable. The loop pays one look at the clock for each step. The bar is overwritten with spaces and
// carriage returns alone and never hides the cursor, so there is nothing to restore when the process is killed.
import { displayWidth, formatBytes, formatClock, formatCount } from "../runs/table.ts";
import { createStyle, type Env, type OutputStream, supportsUnicode } from "./terminal.ts";

export interface Progress {
  /** After each step: how many are done, and the running loss where there is one. */
  update(step: number, values?: { readonly loss?: number }): void;
  /** Ends with a last line: what was done, in how long. */
  done(): void;
  /** Takes the bar away, so that something else can be written; the next update draws it again. */
  clear(): void;
}

export interface ProgressOptions {
  /** What is going on: "base linear". */
  label: string;
  /** Steps in all. */
  total: number;
  /** Steps that were done before (a resumed run): not counted in the speed. Default 0. */
  start?: number;
  /** What is counted; "bytes" are shown as KiB, MiB. Default "steps". */
  unit?: string;
  stream?: OutputStream;
  /** Draw a bar; default: as the stream says. */
  isTTY?: boolean;
  env?: Env;
  /** Milliseconds, monotonic. */
  now?: () => number;
  /** Milliseconds between two drawings at least; default 100 for a bar, 5,000 for lines. */
  intervalMs?: number;
}

/** For `--quiet`: shows nothing. */
export const nullProgress: Progress = { update() {}, done() {}, clear() {} };

const longestBar = 40;
const shortestBar = 8;

/**
 * Progress on `stream` (stderr by default).
 *
 * @example
 * const progress = createProgress({ label: "base linear", total: 6_000 });
 * for (let step = 1; step <= 6_000; step++) progress.update(step, { loss: trainStep() });
 * progress.done();
 */
export function createProgress(options: ProgressOptions): Progress {
  const { label, total, start = 0, unit = "steps", stream = process.stderr, env = process.env } = options;
  const now = options.now ?? (() => performance.now());
  const isBar = options.isTTY ?? stream.isTTY === true;
  const intervalMs = options.intervalMs ?? (isBar ? 100 : 5_000);
  const draw = isBar ? createBar(label, stream, env) : null;
  const began = now();
  let next = began + intervalMs;
  let step = start;
  let loss: number | undefined;
  let ended = false;

  const status = (time: number, final: boolean): Status => {
    const seconds = (time - began) / 1000;
    return describe({ step, total, unit, loss, seconds, rate: (step - start) / seconds, final });
  };
  return {
    update(at, values) {
      step = at;
      loss = values?.loss;
      const time = now();
      if (time < next || ended) return;
      next = time + intervalMs;
      if (draw !== null) draw.show(status(time, false));
      else stream.write(`${plainLine(label, status(time, false))}\n`);
    },
    clear() {
      draw?.clear();
      if (draw !== null) next = Number.NEGATIVE_INFINITY;
    },
    done() {
      if (ended) return;
      ended = true;
      const last = status(now(), true);
      if (draw !== null) draw.show(last);
      stream.write(draw === null ? `${plainLine(label, last)}\n` : "\n");
    },
  };
}

/** What there is to show, each part as text; "" where there is nothing. */
interface Status {
  share: number; // 0 to 1
  percent: string;
  count: string;
  rate: string;
  loss: string;
  time: string;
}

interface Measured {
  step: number;
  total: number;
  unit: string;
  loss: number | undefined;
  seconds: number;
  /** Steps a second; not finite before the clock has moved. */
  rate: number;
  final: boolean;
}

function describe({ step, total, unit, loss, seconds, rate, final }: Measured): Status {
  const share = total > 0 ? Math.min(1, Math.max(0, step / total)) : 1;
  const amount = unit === "bytes" ? formatBytes : formatCount;
  const known = Number.isFinite(rate) && rate > 0;
  return {
    share,
    // Rounded down: 100 % is said only when all is done.
    percent: `${total > 0 ? Math.min(100, Math.floor((100 * step) / total)) : 100} %`,
    count: `${amount(step)}/${amount(total)}`,
    rate: known ? `${formatRate(rate, unit)}/s` : "",
    loss: loss === undefined ? "" : `loss ${formatLoss(loss)}`,
    time: final ? `in ${formatClock(seconds)}` : known ? `ETA ${formatClock((total - step) / rate)}` : "",
  };
}

function formatRate(rate: number, unit: string): string {
  if (unit === "bytes") return formatBytes(rate);
  return `${rate < 9.995 ? rate.toFixed(2) : formatCount(rate)} ${unit}`;
}

function formatLoss(loss: number): string {
  const size = Math.abs(loss);
  const fits = size === 0 || (size >= 0.001 && size < 1000) || !Number.isFinite(loss);
  return fits ? loss.toFixed(3) : loss.toExponential(2);
}

function plainLine(label: string, { percent, count, rate, loss, time }: Status): string {
  return [label, percent, count, rate, loss, time].filter((part) => part !== "").join("  ");
}

type Part = "percent" | "count" | "rate" | "loss" | "time";

const parts: readonly Part[] = ["percent", "count", "rate", "loss", "time"];

/** What to leave out, step by step, until the line fits: the bar goes before the figures that nothing else shows. */
const dropOrder: readonly (Part | "bar")[] = ["count", "rate", "bar", "time", "loss"];

/** Draws one line over and over in the same place. */
function createBar(label: string, stream: OutputStream, env: Env): { show(status: Status): void; clear(): void } {
  const style = createStyle(stream, env);
  const glyphs = supportsUnicode(env) ? { full: "━", half: "╸", rest: "─" } : { full: "#", half: "-", rest: "-" };
  // Each part keeps the widest that it has been, so that the line does not jitter.
  const widest = new Map<Part, number>();
  let drawn = 0; // columns that the line on the screen takes

  const bar = (share: number, width: number): string => {
    const halves = Math.floor(2 * width * share);
    const filled = glyphs.full.repeat(halves >> 1) + (halves % 2 === 1 ? glyphs.half : "");
    return style("cyan", filled) + style("dim", glyphs.rest.repeat(width - filled.length));
  };
  const compose = (status: Status, columns: number): string => {
    const shown = new Set<Part | "bar">([...parts.filter((part) => status[part] !== ""), "bar"]);
    const padded = (part: Part): string => status[part].padStart(widest.get(part) ?? 0);
    const roomForBar = (): number => {
      const texts = [label, ...parts.filter((part) => shown.has(part)).map(padded)];
      return columns - texts.reduce((sum, text) => sum + displayWidth(text) + 2, 0);
    };
    for (const part of dropOrder) {
      if (roomForBar() >= (shown.has("bar") ? shortestBar : -2)) break;
      shown.delete(part);
    }
    const pieces = shown.has("bar") ? [bar(status.share, Math.min(longestBar, roomForBar()))] : [];
    const texts = parts.filter((part) => shown.has(part)).map(padded);
    const line = [label, ...pieces, ...texts].join("  ");
    return displayWidth(line) <= columns ? line : line.slice(0, Math.max(0, columns));
  };
  return {
    show(status) {
      for (const part of parts) widest.set(part, Math.max(widest.get(part) ?? 0, displayWidth(status[part])));
      // The last column stays free: a character there makes some terminals wrap. Some report 0 for unknown.
      const columns = (stream.columns || 80) - 1;
      const line = compose(status, columns);
      const width = displayWidth(line);
      stream.write(`\r${line}${" ".repeat(Math.max(0, Math.min(drawn, columns) - width))}`);
      drawn = width;
    },
    clear() {
      if (drawn > 0) stream.write(`\r${" ".repeat(drawn)}\r`);
      drawn = 0;
    },
  };
}
