// Lines that are redrawn in place on a terminal; elsewhere only what is said once. The cursor is never hidden, so there is nothing
// to restore when the process is killed.
import { displayWidth } from "../runs/table.ts";
import type { OutputStream } from "./terminal.ts";

export interface LiveTable {
  /** Draws these lines in the place of those before; at most so often, the last are always drawn by `done`. */
  show(lines: () => readonly string[]): void;
  /** Takes the lines away, so that something else can be written. */
  clear(): void;
}

/** Milliseconds between two drawings. */
const drawEvery = 200;

export function createLiveTable(
  stream: OutputStream = process.stderr,
  now: () => number = () => performance.now(),
): LiveTable {
  if (stream.isTTY !== true) return { show() {}, clear() {} };
  let drawn = 0;
  let next = Number.NEGATIVE_INFINITY;
  const clear = (): void => {
    // Up over the lines, then erase to the end of the screen (ECMA-48: CUU, ED).
    if (drawn > 0) stream.write(`\r\u001b[${drawn}A\u001b[J`);
    drawn = 0;
    next = Number.NEGATIVE_INFINITY;
  };
  return {
    show(lines) {
      if (now() < next) return;
      clear();
      next = now() + drawEvery;
      const columns = (stream.columns || 80) - 1;
      const cut = lines()
        .flatMap((line) => line.split("\n"))
        .map((line) => cutTo(line, columns));
      drawn = cut.length;
      if (drawn > 0) stream.write(`${cut.join("\n")}\n`);
    },
    clear,
  };
}

/** A line that wraps would count for two. */
function cutTo(line: string, columns: number): string {
  let text = line;
  while (displayWidth(text) > columns) text = text.slice(0, -1);
  return text;
}
