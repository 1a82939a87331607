// Numbers that stand in text between delimiters, read from a file's bytes by the kernel of kernels/numbers.as.ts: several times
// as fast as splitting the text and calling Number on each cell, and with the same values. Cells that it leaves unread (text, and
// numbers of more digits than a double has) are for the caller to read.
import { kernelModule, pageBytes } from "../webassembly.ts";
import { numbersWasm } from "./gen/numbers-wasm.ts";
import { lasting, type RowMemory } from "./row-memory.ts";
import type { Floats } from "./table.ts";

/** What the kernel takes at a time; its memory is there only as far as texts have reached. */
const mostBytes = 4 * 2 ** 20;
/** Each number has a byte at least, and each but the last a delimiter. */
const mostCells = mostBytes / 2 + 1;

/** The cells of one text; valid until the next text is read. */
export interface NumberCells {
  readonly count: number;
  /** Which cells were left unread; their numbers are NaN until they are set. */
  readonly unread: Uint32Array;
  /** Where a cell ends in the bytes that were opened. */
  endOf(cell: number): number;
  set(cell: number, number: number): void;
  /** A copy of the numbers: as float32 where that holds each of them exactly, else as float64. */
  numbers(memory?: RowMemory): Floats;
}

export interface NumberText {
  /** The cells of bytes[start, end) between delimiters; null when they are too many. */
  cells(start: number, end: number, delimiter: number): NumberCells | null;
}

/**
 * Opens bytes for reading numbers in them; null when they are more than 4 MiB. They are copied, into one memory: when others are
 * opened, cells can no longer be read from these.
 */
export function openNumberText(bytes: Uint8Array): NumberText | null {
  if (bytes.length > mostBytes) return null;
  const { kernel, memory } = machine();
  const { doubles, singles, ends, unread } = memory;
  memory.bytes.set(bytes, textAt);
  return {
    cells(start, end, delimiter) {
      const { readCells, unreadCells, longNumbers } = kernel;
      const count = readCells(textAt + start, textAt + end, delimiter, mostCells, ...outputs);
      if (count < 0) return null;
      let areSingle = longNumbers.value === 0;
      return {
        count,
        unread: unread.subarray(0, unreadCells.value),
        endOf: (cell) => ends[cell]! - textAt,
        set(cell, number) {
          doubles[cell] = number;
          singles[cell] = number;
          areSingle &&= isSingle(number);
        },
        numbers: (into = lasting) => (areSingle ? into.float32(singles, count) : into.float64(doubles, count)),
      };
    },
  };
}

/** A copy of numbers: as float32 where that holds each of them exactly, else as float64. */
export function compactNumbers(numbers: readonly number[], memory: RowMemory = lasting): Floats {
  return numbers.every(isSingle) ? memory.float32(numbers, numbers.length) : memory.float64(numbers, numbers.length);
}

function isSingle(number: number): boolean {
  return Object.is(Math.fround(number), number);
}

// Where things lie in the memory. The kernel's own constants are in the first page; it loads some bytes around its text.
const textAt = pageBytes;
const doublesAt = textAt + mostBytes + pageBytes;
const singlesAt = doublesAt + 8 * mostCells;
const endsAt = singlesAt + 4 * mostCells;
const unreadAt = endsAt + 4 * mostCells;
const outputs = [doublesAt, singlesAt, endsAt, unreadAt] as const;
const memoryPages = Math.ceil((unreadAt + 4 * mostCells) / pageBytes);

interface Machine {
  readonly kernel: {
    readonly unreadCells: { readonly value: number };
    readonly longNumbers: { readonly value: number };
    readonly readCells: (
      start: number,
      end: number,
      delimiter: number,
      most: number,
      ...outputs: readonly [doubles: number, singles: number, ends: number, unread: number]
    ) => number;
  };
  readonly memory: {
    readonly bytes: Uint8Array;
    readonly doubles: Float64Array;
    readonly singles: Float32Array;
    readonly ends: Uint32Array;
    readonly unread: Uint32Array;
  };
}

let made: Machine | undefined;

/** Made once, when it is first used. */
function machine(): Machine {
  made ??= makeMachine();
  return made;
}

function makeMachine(): Machine {
  const { exports, buffer } = kernelModule<Machine["kernel"]>(numbersWasm)({
    initial: memoryPages,
    maximum: memoryPages,
  });
  return {
    kernel: exports,
    memory: {
      bytes: new Uint8Array(buffer),
      doubles: new Float64Array(buffer, doublesAt, mostCells),
      singles: new Float32Array(buffer, singlesAt, mostCells),
      ends: new Uint32Array(buffer, endsAt, mostCells),
      unread: new Uint32Array(buffer, unreadAt, mostCells),
    },
  };
}
